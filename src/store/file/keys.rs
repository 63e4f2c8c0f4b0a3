//! The keys of the orders in the file, so that a new order costs no look into it. Used by the file store
//! only.

use std::hash::RandomState;

use fastbloom::AtomicBloomFilter;

/// The size of the filter in bits: 4 MiB, however many orders there are. Beside a million orders it takes
/// one new key in 6,000 for one of theirs, beside ten million one in four.
const BITS: usize = 32 << 20;
const HASHES: u32 = 4;

/// A set of keys. It may take a key for one of its own, and never forgets one.
pub(super) struct Keys(AtomicBloomFilter<RandomState>);

impl Default for Keys {
    fn default() -> Self {
        let filter = AtomicBloomFilter::with_num_bits(BITS);
        // With a seed of its own, so that nobody can choose keys that it takes for others.
        Self(filter.hasher(RandomState::new()).hashes(HASHES))
    }
}

impl Keys {
    /// Adds a key.
    pub(super) fn insert(&self, key: &str) {
        self.0.insert(key);
    }

    /// Whether the key may be in the set. False only if it is not.
    pub(super) fn may_contain(&self, key: &str) -> bool {
        self.0.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_known_and_few_others_are() {
        let keys = Keys::default();
        let key = |number: u32| format!("[\"wechat\",\"shop\",\"{number}\"]");
        (0..100_000).for_each(|number| keys.insert(&key(number)));
        assert!((0..100_000).all(|number| keys.may_contain(&key(number))));
        let others = (100_000..200_000).filter(|number| keys.may_contain(&key(*number)));
        assert!(others.count() < 100);
    }
}
