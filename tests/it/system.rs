//! The whole service at once, as it is deployed: its memory, several replicas, restarts, secrets, and a siege.

mod losses;
mod memory;
mod replicas;
mod restarts;
mod secrets;
mod siege;
