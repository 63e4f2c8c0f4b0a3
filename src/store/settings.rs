//! The settings of the store. Used by `app`, which reads them and opens the store with them.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::{File, Redis};
use crate::config::{Secret, Section};

/// How many bytes of orders a store caches in memory: the allowed range, and the default.
const CACHE_BYTES: RangeInclusive<u32> = 1 << 20..=u32::MAX;
const DEFAULT_CACHE_BYTES: u32 = 64 << 20;

/// `[store]`
#[derive(Debug, Clone)]
pub struct Settings {
    /// `url`
    pub place: Place,
    /// How many bytes of orders are cached in memory.
    pub cache_bytes: usize,
}

/// Where state is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `memory:`: for the life of the process.
    Memory,
    /// `file:PATH`: on one machine, for one process at a time.
    File(PathBuf),
    /// `redis://…`, `redis-sentinel://…` or `redis-cluster://…`, or the same with `rediss`: for several
    /// replicas. The URL may hold passwords.
    Redis(Secret),
}

impl Settings {
    /// Reads `[store]`. What is wrong is recorded as a problem, as well as a file that could not be opened or
    /// created here.
    pub fn read(mut section: Section) -> Self {
        const FORMS: &str = "must be \"memory:\", \"file:PATH\", \"redis://HOST:PORT/0\", \
                             \"redis-sentinel://HOST:PORT,HOST:PORT/MASTER\", \
                             \"redis-cluster://HOST:PORT,HOST:PORT\" or the same with rediss";
        const REDIS: [&str; 6] = [
            "redis",
            "rediss",
            "redis-sentinel",
            "rediss-sentinel",
            "redis-cluster",
            "rediss-cluster",
        ];
        let url: Option<Secret> = section.take("url");
        if let Some(url) = &url {
            section.warn_of_unseen("url", url);
        }
        let path = url.as_ref().and_then(|url| url.expose().strip_prefix("file:"));
        let place = match url.as_ref().map(Secret::expose) {
            None | Some("memory:") => Place::Memory,
            Some(url) if url.split_once("://").is_some_and(|(it, _)| REDIS.contains(&it)) => {
                Place::Redis(Secret::from(url))
            }
            Some(_) => {
                let path = path.filter(|path| !path.is_empty());
                if path.is_none() {
                    section.problem("url", FORMS);
                }
                Place::File(section.resolve(path.unwrap_or_default()))
            }
        };
        let bytes = section.count("cache_bytes", CACHE_BYTES).unwrap_or(DEFAULT_CACHE_BYTES);
        // A file of another machine is not here.
        let usable = match &place {
            Place::File(path) if section.is_of_this_machine() => File::check(path),
            Place::Memory | Place::File(_) => Ok(()),
            Place::Redis(url) => Redis::check(url.expose()),
        };
        if let Err(text) = usable {
            section.problem("url", text);
        }
        section.finish();
        Self { place, cache_bytes: usize::try_from(bytes).unwrap_or(usize::MAX) }
    }
}
