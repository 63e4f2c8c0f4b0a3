//! The orders that a store holds in memory, encoded, within a bound of bytes; the least recently used
//! go first. Used by all stores.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use prost::Message as _;

use crate::pb::Order;

/// What an entry takes besides its key and its order, in bytes: its place in the table and in the
/// list, two counters, and what the allocator rounds up.
const OVERHEAD: usize = 192;

/// An order as it is held, or on its way to a disk.
pub(super) type Encoded = Arc<[u8]>;

/// An order as it is held.
pub(super) fn encoded(order: &Order) -> Encoded {
    order.encode_to_vec().into()
}

/// Encoded orders by their key.
pub(super) struct Cache {
    limit: usize,
    entries: Mutex<Entries>,
}

struct Entries {
    orders: LruCache<Box<str>, Encoded>,
    bytes: usize,
}

impl Cache {
    /// An empty cache for `limit` bytes, keys and its own needs included.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, entries: Mutex::new(Entries { orders: LruCache::unbounded(), bytes: 0 }) }
    }

    /// How many bytes are held.
    pub(super) fn bytes(&self) -> usize {
        self.entries().bytes
    }

    /// The order of that key, which is the most recently used one from now on.
    pub(super) fn get(&self, key: &str) -> Option<Order> {
        let order = self.entries().orders.get(key).cloned();
        // Decoded once the lock is free. Only what was encoded here is held.
        order.and_then(|order| Order::decode(&*order).ok())
    }

    /// Holds an order in place of any other of its key.
    pub(super) fn put(&self, key: &str, order: Encoded) {
        self.entries().put(key, order, self.limit);
    }

    /// Holds an order where it wins over the one that is held, if there is one. The one that is held
    /// from now on.
    pub(super) fn update(
        &self,
        key: &str,
        order: Order,
        wins: impl FnOnce(&Order, &Order) -> bool,
    ) -> Order {
        let mut entries = self.entries();
        let known = entries.orders.get(key).and_then(|known| Order::decode(&**known).ok());
        match known {
            Some(known) if !wins(&order, &known) => known,
            _ => {
                entries.put(key, encoded(&order), self.limit);
                order
            }
        }
    }

    /// Holds no order of that key any more.
    pub(super) fn remove(&self, key: &str) {
        let mut entries = self.entries();
        if let Some((key, order)) = entries.orders.pop_entry(key) {
            entries.bytes -= size(&key, &order);
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn put(&mut self, key: &str, order: Encoded, limit: usize) {
        self.bytes += size(key, &order);
        if let Some((key, before)) = self.orders.push(key.into(), order) {
            self.bytes -= size(&key, &before);
        }
        while self.bytes > limit
            && let Some((key, oldest)) = self.orders.pop_lru()
        {
            self.bytes -= size(&key, &oldest);
        }
    }
}

/// How many bytes an entry takes.
pub(super) fn size(key: &str, order: &Encoded) -> usize {
    key.len() + order.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(remark: &str) -> Order {
        Order { remark: remark.to_owned(), ..Order::default() }
    }

    fn put(cache: &Cache, key: &str, remark: &str) {
        cache.put(key, encoded(&order(remark)));
    }

    #[test]
    fn the_least_recently_used_go_first_and_every_byte_is_counted() {
        let one = size("a", &encoded(&order("1")));
        let cache = Cache::new(2 * one);
        put(&cache, "a", "1");
        put(&cache, "b", "2");
        assert_eq!(cache.bytes(), 2 * one);
        assert_eq!(cache.get("a"), Some(order("1")));
        put(&cache, "c", "3");
        assert_eq!((cache.get("b"), cache.bytes()), (None, 2 * one));
        put(&cache, "a", "four");
        assert_eq!((cache.get("c"), cache.bytes()), (None, one + 3));
        cache.remove("b");
        cache.remove("a");
        assert_eq!((cache.get("a"), cache.bytes()), (None, 0));
        put(&cache, "a", &"x".repeat(2 * one));
        assert_eq!((cache.get("a"), cache.bytes()), (None, 0), "it is larger than all of it");
    }

    #[test]
    fn only_who_wins_takes_the_place() {
        let cache = Cache::new(1000);
        assert_eq!(cache.update("a", order("1"), |_, _| unreachable!()), order("1"));
        assert_eq!(cache.update("a", order("2"), |_, known| *known != order("1")), order("1"));
        assert_eq!(cache.update("a", order("2"), |_, known| *known == order("1")), order("2"));
        assert_eq!(cache.get("a"), Some(order("2")));
    }
}
