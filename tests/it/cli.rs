//! The real binary as users run it: commands and exit codes, which output goes to which stream, and
//! how it stops.

mod commands;
mod connecting;
mod elsewhere;
mod ending;
mod live;
mod settings;
