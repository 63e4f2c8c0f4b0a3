//! Chance, from one source: ids, and spans that should differ between processes. Every module may use it.

use std::cell::Cell;

thread_local! {
    static SEEDED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// For simulations: from now on, this thread's chance follows from the seed; `None` ends that.
pub fn seed(seed: Option<u64>) {
    SEEDED.set(seed);
}

/// The next number that follows from the seed; `None` without one.
#[must_use]
pub fn seeded() -> Option<u64> {
    // SplitMix64.
    let state = SEEDED.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
    SEEDED.set(Some(state));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Some(mixed ^ (mixed >> 31))
}

/// A random part of a whole: from 0 to 1.
#[must_use]
pub fn part() -> f64 {
    /// Random numbers below this one are exact in an `f64`.
    const WHOLE: u32 = u32::MAX;
    match seeded().and_then(|number| u32::try_from(number >> 32).ok()) {
        Some(number) => f64::from(number) / f64::from(WHOLE),
        None => rand::random(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_chance() {
        let drawn = |from| {
            seed(Some(from));
            let parts = [part(), part(), part()].map(f64::to_bits);
            seed(None);
            parts
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        assert!(drawn(3).iter().all(|part| (0.0..=1.0).contains(&f64::from_bits(*part))));
        assert_eq!(seeded(), None);
    }
}
