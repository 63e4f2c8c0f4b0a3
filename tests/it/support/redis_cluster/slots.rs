//! Who has a slot, and how it moves to another primary.

use super::RedisCluster;

/// How long the keys of a slot may take to move, in milliseconds.
const MIGRATE_LIMIT: &str = "10000";

impl RedisCluster {
    /// The slot of a key.
    pub fn slot_of(&self, key: &str) -> u16 {
        self.say(self.any(), &["CLUSTER", "KEYSLOT", key])
    }

    /// The running primary of a slot.
    pub fn primary_of(&self, slot: u16) -> usize {
        let claims = self.running().map(|node| (self.own_row(node), node));
        let claim = claims.filter(|(row, _)| row.has(slot)).max_by_key(|(row, _)| row.epoch);
        claim.unwrap_or_else(|| panic!("no running node has slot {slot}")).1
    }

    /// A primary that does not have the slot.
    pub fn other_than(&self, slot: u16) -> usize {
        let owner = self.primary_of(slot);
        self.running().find(|node| *node != owner && self.is_primary(*node)).unwrap()
    }

    /// Moves a slot with its keys to another primary, as `redis-cli --cluster reshard` does, and waits
    /// until all running nodes know.
    pub async fn move_slot(&self, slot: u16, to: usize) {
        self.open_slot(slot, to);
        loop {
            let keys = self.keys_in(slot);
            if keys.is_empty() {
                break;
            }
            self.move_keys(slot, to, &keys.iter().map(String::as_str).collect::<Vec<_>>());
        }
        self.close_slot(slot, to).await;
    }

    /// Begins to move a slot. From here on its primary answers `ASK` for a key that it does not have, and
    /// `TRYAGAIN` for several of which it has some.
    pub fn open_slot(&self, slot: u16, to: usize) {
        let from = self.primary_of(slot);
        self.set_slot(to, slot, &["IMPORTING", &self.nodes[from].id]);
        self.set_slot(from, slot, &["MIGRATING", &self.nodes[to].id]);
    }

    /// Some of the keys in a slot, as its primary has them.
    pub fn keys_in(&self, slot: u16) -> Vec<String> {
        let words = ["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "100"];
        self.say(self.primary_of(slot), &words)
    }

    /// Moves these keys of an open slot.
    pub fn move_keys(&self, slot: u16, to: usize, keys: &[&str]) {
        let port = self.port(to).to_string();
        let words = ["MIGRATE", "127.0.0.1", &port, "", "0", MIGRATE_LIMIT, "KEYS"];
        let answer: String = self.say(self.primary_of(slot), &[&words[..], keys].concat());
        assert_eq!(answer, "OK");
    }

    /// Ends the move of an open slot that has no more keys, and waits until all running nodes know.
    pub async fn close_slot(&self, slot: u16, to: usize) {
        let primaries: Vec<_> = self.running().filter(|node| self.is_primary(*node)).collect();
        // The new primary first: were it not to hear, no slot would be without one.
        for node in [to].into_iter().chain(primaries.into_iter().filter(|node| *node != to)) {
            self.set_slot(node, slot, &["NODE", &self.nodes[to].id]);
        }
        let id = &self.nodes[to].id;
        let knows = |node: usize| {
            self.view(node).is_some_and(|view| view.row(id).is_some_and(|row| row.has(slot)))
        };
        self.until(&format!("slot {slot} is at node {to}"), || self.running().all(knows)).await;
    }

    /// Leaves an open slot, and the keys that have moved, where they are.
    pub fn abandon_slot(&self, slot: u16, to: usize) {
        for node in [to, self.primary_of(slot)] {
            self.set_slot(node, slot, &["STABLE"]);
        }
    }

    fn set_slot(&self, node: usize, slot: u16, rest: &[&str]) {
        let slot = slot.to_string();
        let () = self.say(node, &[&["CLUSTER", "SETSLOT", &slot], rest].concat());
    }

    /// A node that runs.
    fn any(&self) -> usize {
        self.running().next().expect("a node runs")
    }
}
