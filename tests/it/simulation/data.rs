//! The data of a Redis server, and the commands that the store's scripts use on it.

use std::collections::BTreeMap;
use std::sync::Arc;

type Bytes = Vec<u8>;

/// What a command answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Nil,
    Int(i64),
    Bulk(Bytes),
    Status(&'static str),
    Array(Vec<Self>),
}

/// The keys.
#[derive(Debug, Clone, Default)]
pub struct Data(BTreeMap<Bytes, Arc<Entry>>);

#[derive(Debug, Clone)]
struct Entry {
    held: Held,
    /// When it expires, in milliseconds since 1970.
    until: Option<u64>,
}

#[derive(Debug, Clone)]
enum Held {
    Hash(BTreeMap<Bytes, Bytes>),
    /// By score, then by member.
    Sorted(Vec<(f64, Bytes)>),
}

const WRONG: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

type Answer = Result<Reply, String>;

impl Data {
    /// Runs a command at this time, in milliseconds since 1970.
    pub fn run(&mut self, command: &[Bytes], now: u64) -> Answer {
        let [name, key, rest @ ..] = command else { return Err(unknown(command)) };
        let name = String::from_utf8_lossy(name).into_owned();
        if self.0.get(key).is_some_and(|entry| entry.until.is_some_and(|until| until <= now)) {
            self.0.remove(key);
        }
        match name.as_str() {
            "TYPE" => Ok(Reply::Status(match self.0.get(key).map(|entry| &entry.held) {
                None => "none",
                Some(Held::Hash(_)) => "hash",
                Some(Held::Sorted(_)) => "zset",
            })),
            "DEL" => {
                let gone = command[1..].iter().filter(|key| self.0.remove(*key).is_some());
                Ok(count(gone.count()))
            }
            "PEXPIRE" => Ok(self.expire(key, whole(&rest[0])?, now)),
            "HSET" | "HMGET" | "HSTRLEN" | "HEXISTS" => self.hash(&name, key, rest),
            "ZADD" | "ZREM" | "ZREMRANGEBYSCORE" | "ZRANGE" | "ZCARD" | "ZSCORE" => {
                self.sorted(&name, key, rest)
            }
            _ => Err(unknown(command)),
        }
    }

    pub fn holds(&self, key: &str) -> bool {
        self.0.contains_key(key.as_bytes())
    }

    fn expire(&mut self, key: &Bytes, span: i64, now: u64) -> Reply {
        let until = now.checked_add_signed(span).filter(|until| *until > now);
        match (self.0.get_mut(key), until) {
            (None, _) => return Reply::Int(0),
            (Some(entry), Some(_)) => Arc::make_mut(entry).until = until,
            (Some(_), None) => drop(self.0.remove(key)),
        }
        Reply::Int(1)
    }

    fn hash(&mut self, name: &str, key: &Bytes, rest: &[Bytes]) -> Answer {
        let none = BTreeMap::new();
        let fields = match self.0.get(key).map(|entry| &entry.held) {
            None => &none,
            Some(Held::Hash(fields)) => fields,
            Some(Held::Sorted(_)) => return Err(WRONG.to_owned()),
        };
        let bulk = |field| fields.get(field).map_or(Reply::Nil, |it| Reply::Bulk(it.clone()));
        match name {
            "HMGET" => return Ok(Reply::Array(rest.iter().map(bulk).collect())),
            "HSTRLEN" => return Ok(count(fields.get(&rest[0]).map_or(0, Vec::len))),
            "HEXISTS" => return Ok(count(usize::from(fields.contains_key(&rest[0])))),
            _ => {}
        }
        let empty = || Arc::new(Entry { held: Held::Hash(BTreeMap::new()), until: None });
        let entry = Arc::make_mut(self.0.entry(key.clone()).or_insert_with(empty));
        let Held::Hash(fields) = &mut entry.held else { return Err(WRONG.to_owned()) };
        let pairs = rest.chunks_exact(2);
        let new = pairs.filter(|pair| fields.insert(pair[0].clone(), pair[1].clone()).is_none());
        Ok(count(new.count()))
    }

    fn sorted(&mut self, name: &str, key: &Bytes, rest: &[Bytes]) -> Answer {
        let none = Vec::new();
        let members = match self.0.get(key).map(|entry| &entry.held) {
            None => &none,
            Some(Held::Sorted(members)) => members,
            Some(Held::Hash(_)) => return Err(WRONG.to_owned()),
        };
        match name {
            "ZCARD" => return Ok(count(members.len())),
            "ZSCORE" => {
                let found = members.iter().find(|(_, member)| *member == rest[0]);
                return Ok(found.map_or(Reply::Nil, |(score, _)| Reply::Bulk(text(*score))));
            }
            "ZRANGE" => return range(members, rest),
            _ => {}
        }
        let empty = || Arc::new(Entry { held: Held::Sorted(Vec::new()), until: None });
        let entry = Arc::make_mut(self.0.entry(key.clone()).or_insert_with(empty));
        let Held::Sorted(members) = &mut entry.held else { return Err(WRONG.to_owned()) };
        let before = members.len();
        let answer = match name {
            "ZADD" => add(members, rest),
            "ZREM" => {
                members.retain(|(_, member)| !rest.contains(member));
                Ok(count(before - members.len()))
            }
            _ => {
                let (from, till) = (Bound::read(&rest[0])?, Bound::read(&rest[1])?);
                members.retain(|(score, _)| !(from.is_below(*score) && till.is_above(*score)));
                Ok(count(before - members.len()))
            }
        };
        if members.is_empty() {
            self.0.remove(key);
        }
        answer
    }
}

/// `ZADD` of one member.
fn add(members: &mut Vec<(f64, Bytes)>, rest: &[Bytes]) -> Answer {
    let options = rest.iter().take_while(|word| word.first().is_some_and(u8::is_ascii_uppercase));
    let options: Vec<&[u8]> = options.map(Vec::as_slice).collect();
    let [score, member] = &rest[options.len()..] else { return Err(unknown(rest)) };
    let score = number(score)?;
    let at = members.iter().position(|(_, other)| other == member);
    match at.map(|at| members[at].0) {
        None if options.contains(&&b"XX"[..]) => return Ok(Reply::Int(0)),
        Some(known)
            if options.contains(&&b"GT"[..]) && score <= known
                || options.contains(&&b"LT"[..]) && score >= known =>
        {
            return Ok(Reply::Int(0));
        }
        _ => {}
    }
    if let Some(at) = at {
        members.remove(at);
    }
    let later = |(other, name): &(f64, Bytes)| (*other, name) < (score, member);
    let place = members.partition_point(later);
    members.insert(place, (score, member.clone()));
    Ok(count(usize::from(at.is_none())))
}

/// `ZRANGE`, by rank or `BYSCORE`.
fn range(members: &[(f64, Bytes)], rest: &[Bytes]) -> Answer {
    let [from, till, options @ ..] = rest else { return Err(unknown(rest)) };
    let has = |option: &[u8]| options.iter().any(|word| word == option);
    let chosen: Vec<_> = if has(b"BYSCORE") {
        let (from, till) = (Bound::read(from)?, Bound::read(till)?);
        let within = |score| from.is_below(score) && till.is_above(score);
        members.iter().filter(|(score, _)| within(*score)).collect()
    } else {
        let length = i64::try_from(members.len()).unwrap();
        let index = |word: &Bytes| -> Result<i64, String> {
            let index = whole(word)?;
            Ok(if index < 0 { (length + index).max(0) } else { index })
        };
        let (from, till) = (index(from)?, if whole(till)? < -length { -1 } else { index(till)? });
        let inside = |at: usize| (from..=till).contains(&i64::try_from(at).unwrap());
        members.iter().enumerate().filter(|(at, _)| inside(*at)).map(|(_, it)| it).collect()
    };
    let mut answer = Vec::new();
    for (score, member) in chosen {
        answer.push(Reply::Bulk(member.clone()));
        if has(b"WITHSCORES") {
            answer.push(Reply::Bulk(text(*score)));
        }
    }
    Ok(Reply::Array(answer))
}

/// An end of a range of scores.
struct Bound {
    score: f64,
    excluded: bool,
}

impl Bound {
    fn read(word: &[u8]) -> Result<Self, String> {
        let excluded = word.first() == Some(&b'(');
        Ok(Self { score: number(&word[usize::from(excluded)..])?, excluded })
    }

    fn is_below(&self, score: f64) -> bool {
        if self.excluded { self.score < score } else { self.score <= score }
    }

    fn is_above(&self, score: f64) -> bool {
        if self.excluded { score < self.score } else { score <= self.score }
    }
}

/// A score as Redis writes it.
pub fn text(score: f64) -> Bytes {
    // Whole numbers have no point here either, and the scripts write no others.
    score.to_string().into_bytes()
}

fn number(word: &[u8]) -> Result<f64, String> {
    let number = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
    number.ok_or_else(|| "ERR value is not a valid float".to_owned())
}

fn whole(word: &[u8]) -> Result<i64, String> {
    let number = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
    number.ok_or_else(|| "ERR value is not an integer or out of range".to_owned())
}

fn count(number: usize) -> Reply {
    Reply::Int(i64::try_from(number).unwrap())
}

fn unknown(command: &[Bytes]) -> String {
    let words: Vec<_> = command.iter().map(|word| String::from_utf8_lossy(word)).collect();
    format!("ERR the model does not know {}", words.join(" "))
}
