//! What is remembered between calls. `app` opens a store and hands it to the parts that need it.

mod memory;

pub use memory::Memory;
