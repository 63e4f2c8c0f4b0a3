//! The whole of several replicas, their Redis server and a vendor in one process, in simulated time: what
//! happens follows from a seed. `make simulate` runs thousands of them.

mod data;
mod equal;
mod model;
