//! Random numbers for jitter and for unique names: unpredictable enough that no other process falls
//! into step with this one. Not for secrets. Every module may use it.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

/// A random number, from the standard library's own random keys.
#[must_use]
pub fn number() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A random number from 0 to 1.
#[must_use]
pub fn fraction() -> f64 {
    u32::try_from(number() >> u32::BITS).map_or(1.0, |half| f64::from(half) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_spread() {
        let fractions: Vec<_> = (0..1000).map(|_| fraction()).collect();
        for tenth in 0..10 {
            let [from, to] = [tenth, tenth + 1].map(|n| f64::from(n) / 10.0);
            let count = fractions.iter().filter(|number| (from..to).contains(*number)).count();
            assert!((40..=200).contains(&count), "{count} of 1000 from {from} to {to}");
        }
    }
}
