//! An in-memory cache of encoded orders, bounded in bytes; it evicts the least recently used first.
//! Used by all stores.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use lru::LruCache;
use prost::Message as _;

use crate::pb::Order;

/// The size of an entry besides its key and its order, in bytes: its slots in the table and in the
/// list, two counters, and the allocator's rounding.
const OVERHEAD: usize = 224;

/// An encoded order, in the cache, on its way to a disk or to a caller. Clones share the bytes.
#[derive(Debug, Clone)]
pub struct Encoded {
    bytes: Arc<[u8]>,
    /// Whether the order is terminal.
    pub terminal: bool,
    /// When the state was observed, if that is a time.
    pub observed: Option<SystemTime>,
}

impl Encoded {
    /// Encodes an order.
    #[must_use]
    pub fn new(order: &Order) -> Self {
        let observed = order.observe_time.and_then(|time| SystemTime::try_from(time).ok());
        Self { bytes: order.encode_to_vec().into(), terminal: order.terminal, observed }
    }

    /// The encoded message.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Decodes the order.
    #[must_use]
    pub fn decode(&self) -> Order {
        // This cannot fail: `new` has encoded it.
        Order::decode(&*self.bytes).unwrap_or_default()
    }
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
    /// Creates an empty cache of `limit` bytes, including keys and overhead.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, entries: Mutex::new(Entries { orders: LruCache::unbounded(), bytes: 0 }) }
    }

    /// The number of bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.entries().bytes
    }

    /// Returns the order with that key, and marks it as the most recently used.
    pub(super) fn get(&self, key: &str) -> Option<Encoded> {
        self.entries().orders.get(key).cloned()
    }

    /// Returns the order with that key, without marking it as used.
    pub(super) fn look(&self, key: &str) -> Option<Encoded> {
        self.entries().orders.peek(key).cloned()
    }

    /// Returns the keys of the orders that are not terminal, of the `count` most recently used ones.
    pub(super) fn open_orders(&self, count: usize) -> Vec<Box<str>> {
        let entries = self.entries();
        let latest = entries.orders.iter().take(count);
        latest.filter(|(_, order)| !order.terminal).map(|(key, _)| key.clone()).collect()
    }

    /// Stores an order, replacing any other with the same key.
    pub(super) fn put(&self, key: &str, order: Encoded) {
        self.entries().put(key, order, self.limit);
    }

    /// Stores an order if there is none with that key, or if it wins over that one. Returns the order
    /// that the cache holds afterwards.
    pub(super) fn update(
        &self,
        key: &str,
        order: Order,
        wins: impl FnOnce(&Order, &Order) -> bool,
    ) -> Order {
        let mut entries = self.entries();
        let known = entries.orders.get(key).map(Encoded::decode);
        match known {
            Some(known) if !wins(&order, &known) => known,
            _ => {
                entries.put(key, Encoded::new(&order), self.limit);
                order
            }
        }
    }

    /// Returns the terminal orders, and their keys.
    pub(super) fn terminal(&self) -> Vec<(Box<str>, Encoded)> {
        let entries = self.entries();
        let terminal = entries.orders.iter().filter(|(_, order)| order.terminal);
        terminal.map(|(key, order)| (key.clone(), order.clone())).collect()
    }

    /// Removes the order with that key.
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

/// The size of an entry in bytes.
pub(super) fn size(key: &str, order: &Encoded) -> usize {
    key.len() + order.bytes.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(remark: &str) -> Order {
        Order { remark: remark.to_owned(), ..Order::default() }
    }

    fn put(cache: &Cache, key: &str, remark: &str) {
        cache.put(key, Encoded::new(&order(remark)));
    }

    fn get(cache: &Cache, key: &str) -> Option<Order> {
        cache.get(key).map(|order| order.decode())
    }

    #[test]
    fn the_least_recently_used_entries_are_evicted_and_every_byte_is_counted() {
        let one = size("a", &Encoded::new(&order("1")));
        let cache = Cache::new(2 * one);
        put(&cache, "a", "1");
        put(&cache, "b", "2");
        assert_eq!(cache.bytes(), 2 * one);
        assert_eq!(get(&cache, "a"), Some(order("1")));
        put(&cache, "c", "3");
        assert_eq!((get(&cache, "b"), cache.bytes()), (None, 2 * one));
        put(&cache, "a", "four");
        assert_eq!((get(&cache, "c"), cache.bytes()), (None, one + 3));
        cache.remove("b");
        cache.remove("a");
        assert_eq!((get(&cache, "a"), cache.bytes()), (None, 0));
        put(&cache, "a", &"x".repeat(2 * one));
        assert_eq!((get(&cache, "a"), cache.bytes()), (None, 0), "it is larger than all of it");
    }

    #[test]
    fn an_update_replaces_the_entry_only_if_it_wins() {
        let cache = Cache::new(1000);
        assert_eq!(cache.update("a", order("1"), |_, _| unreachable!()), order("1"));
        assert_eq!(cache.update("a", order("2"), |_, known| *known != order("1")), order("1"));
        assert_eq!(cache.update("a", order("2"), |_, known| *known == order("1")), order("2"));
        assert_eq!(get(&cache, "a"), Some(order("2")));
    }
}
