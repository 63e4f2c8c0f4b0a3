//! What a node knows of the cluster: the lines of `CLUSTER NODES`.

/// The cluster as one node sees it.
pub struct View(Vec<Row>);

/// One node in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub id: String,
    pub is_primary: bool,
    /// More than half of the primaries say so.
    pub is_dead: bool,
    /// Neither dead nor suspected nor unknown.
    pub is_sound: bool,
    /// The id of its primary; empty for a primary.
    pub follows: String,
    /// Of two that claim a slot, the one with the higher epoch has it.
    pub epoch: u64,
    /// Its slots, from first to last.
    slots: Vec<(u16, u16)>,
}

impl View {
    /// Reads an answer.
    pub fn read(answer: &str) -> Self {
        Self(answer.lines().map(Row::read).collect())
    }

    /// The node with this id.
    pub fn row(&self, id: &str) -> Option<&Row> {
        self.0.iter().find(|row| row.id == id)
    }

    /// The nodes with these ids, in this order.
    pub fn about(&self, ids: &[&str]) -> Vec<Row> {
        // A copy learns its primary's epoch late.
        let plain = |row: &Row| Row { epoch: 0, ..row.clone() };
        ids.iter().filter_map(|id| self.row(id)).map(plain).collect()
    }
}

impl Row {
    fn read(line: &str) -> Self {
        let words: Vec<_> = line.split_whitespace().collect();
        let flags: Vec<_> = words[2].split(',').collect();
        let is = |flag: &str| flags.contains(&flag);
        // An open slot is in brackets.
        let slots = words[8..].iter().filter(|word| !word.starts_with('['));
        Self {
            id: words[0].to_owned(),
            is_primary: is("master"),
            is_dead: is("fail"),
            is_sound: !["fail", "fail?", "handshake", "noaddr"].into_iter().any(is),
            follows: words[3].trim_matches('-').to_owned(),
            epoch: words[6].parse().unwrap(),
            slots: slots.copied().map(range_of).collect(),
        }
    }

    /// Whether it has the slot.
    pub fn has(&self, slot: u16) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }

    /// How many slots it has.
    pub fn count(&self) -> u16 {
        self.slots.iter().map(|(first, last)| last - first + 1).sum()
    }
}

/// `7` or `7-9`.
fn range_of(range: &str) -> (u16, u16) {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    (first.parse().unwrap(), last.parse().unwrap())
}
