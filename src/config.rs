//! Reads the configuration, one TOML file, and reports every mistake at once, each with its path.
//! Depends on no other module but `certificate`; every module may use it to read its own settings (see
//! [`Section`]).

mod context;
mod file;
mod problem;
mod reload;
mod secret;
mod section;
mod value;

pub use context::Context;
pub use file::{PEM_LIMIT, read_file, read_pem};
pub use problem::{Problem, Problems};
pub use reload::{Look, Reload, Take};
pub use secret::{RotatingSecret, Secret, read_secret};
pub use section::{Section, is_name};
pub use value::{Ratio, Value};
