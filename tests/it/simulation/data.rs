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

/// The keys. Copies share what does not change.
#[derive(Debug, Clone, Default)]
pub struct Data(BTreeMap<Arc<[u8]>, Arc<Entry>>);

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
    /// Runs a command at this time, in milliseconds since 1970. Only one that writes copies shared data.
    pub fn run(data: &mut Arc<Self>, command: &[Bytes], now: u64) -> Answer {
        let [name, key, rest @ ..] = command else { return Err(unknown(command)) };
        let held = data.held(key, now);
        match name.as_slice() {
            b"TYPE" => Ok(Reply::Status(match held {
                None => "none",
                Some(Held::Hash(_)) => "hash",
                Some(Held::Sorted(_)) => "zset",
            })),
            b"HMGET" | b"HSTRLEN" | b"HEXISTS" => read_hash(name, held, rest),
            b"ZRANGE" | b"ZCARD" | b"ZSCORE" => read_sorted(name, held, rest),
            b"ZREM" | b"ZREMRANGEBYSCORE" if held.is_none() => Ok(Reply::Int(0)),
            b"DEL" if held.is_none() && rest.is_empty() => Ok(Reply::Int(0)),
            _ => Arc::make_mut(data).write(name, key, rest, now),
        }
    }

    /// What a key holds that has not expired.
    fn held(&self, key: &[u8], now: u64) -> Option<&Held> {
        let entry = self.0.get(key).filter(|entry| entry.until.is_none_or(|until| until > now));
        entry.map(|entry| &entry.held)
    }

    fn write(&mut self, name: &[u8], key: &Bytes, rest: &[Bytes], now: u64) -> Answer {
        if self.held(key, now).is_none() {
            self.0.remove(key.as_slice());
        }
        match name {
            b"DEL" => {
                let keys = [key].into_iter().chain(rest);
                Ok(count(keys.filter(|key| self.0.remove(key.as_slice()).is_some()).count()))
            }
            b"PEXPIRE" => Ok(self.expire(key, whole(&rest[0])?, now)),
            b"HSET" => self.set(key, rest),
            b"ZADD" | b"ZREM" | b"ZREMRANGEBYSCORE" => self.sort(name, key, rest),
            _ => Err(unknown(&[name.to_vec(), key.clone()])),
        }
    }

    pub fn holds(&self, key: &str) -> bool {
        self.0.contains_key(key.as_bytes())
    }

    fn expire(&mut self, key: &[u8], span: i64, now: u64) -> Reply {
        let until = now.checked_add_signed(span).filter(|until| *until > now);
        match (self.0.get_mut(key), until) {
            (None, _) => return Reply::Int(0),
            (Some(entry), Some(_)) => Arc::make_mut(entry).until = until,
            (Some(_), None) => drop(self.0.remove(key)),
        }
        Reply::Int(1)
    }

    /// What a key holds, or this if there is nothing.
    fn held_or(&mut self, key: &[u8], held: Held) -> &mut Held {
        let new = || Arc::new(Entry { held, until: None });
        &mut Arc::make_mut(self.0.entry(key.into()).or_insert_with(new)).held
    }

    fn set(&mut self, key: &[u8], pairs: &[Bytes]) -> Answer {
        let Held::Hash(fields) = self.held_or(key, Held::Hash(BTreeMap::new())) else {
            return Err(WRONG.to_owned());
        };
        let pairs = pairs.chunks_exact(2);
        let new = pairs.filter(|pair| fields.insert(pair[0].clone(), pair[1].clone()).is_none());
        Ok(count(new.count()))
    }

    fn sort(&mut self, name: &[u8], key: &[u8], rest: &[Bytes]) -> Answer {
        let Held::Sorted(members) = self.held_or(key, Held::Sorted(Vec::new())) else {
            return Err(WRONG.to_owned());
        };
        let before = members.len();
        let answer = match name {
            b"ZADD" => add(members, rest),
            b"ZREM" => {
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

fn read_hash(name: &[u8], held: Option<&Held>, rest: &[Bytes]) -> Answer {
    let none = BTreeMap::new();
    let fields = match held {
        None => &none,
        Some(Held::Hash(fields)) => fields,
        Some(Held::Sorted(_)) => return Err(WRONG.to_owned()),
    };
    let bulk = |field| fields.get(field).map_or(Reply::Nil, |it| Reply::Bulk(it.clone()));
    Ok(match name {
        b"HMGET" => Reply::Array(rest.iter().map(bulk).collect()),
        b"HSTRLEN" => count(fields.get(&rest[0]).map_or(0, Vec::len)),
        _ => count(usize::from(fields.contains_key(&rest[0]))),
    })
}

fn read_sorted(name: &[u8], held: Option<&Held>, rest: &[Bytes]) -> Answer {
    let members: &[_] = match held {
        None => &[],
        Some(Held::Sorted(members)) => members,
        Some(Held::Hash(_)) => return Err(WRONG.to_owned()),
    };
    match name {
        b"ZCARD" => Ok(count(members.len())),
        b"ZSCORE" => {
            let found = members.iter().find(|(_, member)| *member == rest[0]);
            Ok(found.map_or(Reply::Nil, |(score, _)| Reply::Bulk(text(*score))))
        }
        _ => range(members, rest),
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
