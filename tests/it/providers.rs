//! How each vendor's answers are mapped, and what each vendor is sent: end to end through a
//! real server, from the facts in `tests/fixtures/<vendor>/`.

mod bench;
mod contract;
mod counted;
mod errors;
mod fields;
mod gate;
mod page;
mod properties;
mod requests;
mod samples;
mod statuses;
mod tokens;
mod words;
