//! The real binary, used as its users use it: commands and their exit codes, what goes to which
//! stream, and how it ends.

mod commands;
mod connecting;
mod elsewhere;
mod ending;
mod live;
mod settings;
