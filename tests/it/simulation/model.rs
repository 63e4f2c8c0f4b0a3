//! A Redis server without a process: it runs the very scripts that a real one runs. Its time, its
//! replication id and its losses are the test's.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "the scripts' numbers are whole and below 2^53"
)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use mlua::{Function, Lua, MultiValue, Table};
use redis::{Arg, Cmd, Value};

use super::data::{Data, Reply, text};

/// A server.
#[derive(Clone, Default)]
pub struct Model {
    pub data: Arc<Data>,
    /// The hashes of the scripts that it knows.
    pub scripts: BTreeSet<String>,
    /// Its replication id.
    pub id: String,
    /// Its time, in microseconds since 1970.
    pub now: u64,
}

/// A command to run a script.
pub struct Run {
    pub hash: String,
    /// The code, if the command brings it.
    pub code: Option<String>,
    pub keys: Vec<Vec<u8>>,
    pub arguments: Vec<Vec<u8>>,
}

impl Run {
    pub fn read(command: &Cmd) -> Self {
        let words = command.args_iter().map(|word| match word {
            Arg::Simple(word) => word.to_vec(),
            _ => unreachable!("no script has a cursor"),
        });
        let words: Vec<Vec<u8>> = words.collect();
        let text = |at: usize| String::from_utf8(words[at].clone()).unwrap();
        let (hash, code) = match text(0).as_str() {
            "EVALSHA" => (text(1), None),
            "EVAL" => (hash_of(&words[1]), Some(text(1))),
            other => unreachable!("the store sends no {other}"),
        };
        let end = 3 + text(2).parse::<usize>().unwrap();
        Self { hash, code, keys: words[3..end].to_vec(), arguments: words[end..].to_vec() }
    }
}

impl Model {
    /// Runs a script.
    pub fn run(&mut self, run: &Run) -> Value {
        if run.code.is_none() && !self.scripts.contains(&run.hash) {
            return refusal("NOSCRIPT No matching script.");
        }
        if run.code.is_some() {
            self.scripts.insert(run.hash.clone());
        }
        HOST.with(|host| host.run(self, run))
    }
}

thread_local! {
    static HOST: Host = Host::new();
}

/// The interpreter. It keeps nothing of a server but its scripts.
struct Host {
    lua: Lua,
    scripts: RefCell<BTreeMap<String, Function>>,
    /// The server whose script runs.
    current: Rc<RefCell<Model>>,
}

impl Host {
    fn new() -> Self {
        let lua = Lua::new();
        let current = Rc::new(RefCell::new(Model::default()));
        let host = Self { lua, scripts: RefCell::default(), current };
        host.offer().unwrap();
        host
    }

    /// Gives the scripts `redis`.
    fn offer(&self) -> mlua::Result<()> {
        let table = self.lua.create_table()?;
        let current = Rc::clone(&self.current);
        let call = self.lua.create_function(move |lua, words: MultiValue| {
            let answer = current.borrow_mut().command(&words);
            into_lua(lua, answer.map_err(mlua::Error::RuntimeError)?)
        })?;
        table.set("call", call)?;
        let current = Rc::clone(&self.current);
        let pcall = self.lua.create_function(move |lua, words: MultiValue| {
            let answer = current.borrow_mut().command(&words);
            answer.map_or_else(|error| error_table(lua, &error), |answer| into_lua(lua, answer))
        })?;
        table.set("pcall", pcall)?;
        let error = |lua: &Lua, text: String| error_table(lua, &text);
        table.set("error_reply", self.lua.create_function(error)?)?;
        let sha1 = |_: &Lua, text: mlua::LuaString| Ok(hash_of(&text.as_bytes()));
        table.set("sha1hex", self.lua.create_function(sha1)?)?;
        self.lua.globals().set("redis", table)
    }

    fn run(&self, model: &mut Model, run: &Run) -> Value {
        std::mem::swap(&mut *self.current.borrow_mut(), model);
        let answer = self.answer(run);
        std::mem::swap(&mut *self.current.borrow_mut(), model);
        answer.unwrap_or_else(|error| {
            let text = error.to_string();
            let text = text.trim_start_matches("runtime error: ");
            refusal(text.lines().next().unwrap_or_default())
        })
    }

    fn answer(&self, run: &Run) -> mlua::Result<Value> {
        let function = self.scripts.borrow().get(&run.hash).cloned();
        let function = match (function, &run.code) {
            (Some(function), _) => function,
            (None, Some(code)) => {
                let code = mistaken(code);
                let function = self.lua.load(code).set_name("script").into_function()?;
                self.scripts.borrow_mut().insert(run.hash.clone(), function.clone());
                function
            }
            (None, None) => unreachable!("a known script came with its code"),
        };
        let table = |words: &[Vec<u8>]| -> mlua::Result<Table> {
            let words = words.iter().map(|word| self.lua.create_string(word));
            self.lua.create_sequence_from(words.collect::<mlua::Result<Vec<_>>>()?)
        };
        self.lua.globals().set("KEYS", table(&run.keys)?)?;
        self.lua.globals().set("ARGV", table(&run.arguments)?)?;
        from_lua(function.call(())?)
    }
}

impl Model {
    /// Runs a script's command.
    fn command(&mut self, words: &MultiValue) -> Result<Reply, String> {
        let words = words.iter().map(|word| match word {
            mlua::Value::String(text) => Ok(text.as_bytes().to_vec()),
            mlua::Value::Integer(number) => Ok(number.to_string().into_bytes()),
            mlua::Value::Number(number) => Ok(text(*number)),
            _ => Err("ERR Lua redis lib command arguments must be strings or integers".to_owned()),
        });
        let words = words.collect::<Result<Vec<_>, _>>()?;
        match words[0].as_slice() {
            b"TIME" => {
                let parts = [self.now / 1_000_000, self.now % 1_000_000];
                Ok(Reply::Array(parts.map(|part| Reply::Bulk(part.to_string().into())).to_vec()))
            }
            b"INFO" => Ok(Reply::Bulk(
                format!("# Replication\r\nrole:master\r\nmaster_replid:{}\r\n", self.id).into(),
            )),
            // Nobody has subscribed.
            b"PUBLISH" => Ok(Reply::Int(0)),
            _ => Data::run(&mut self.data, &words, self.now / 1000),
        }
    }
}

fn into_lua(lua: &Lua, reply: Reply) -> mlua::Result<mlua::Value> {
    Ok(match reply {
        Reply::Nil => mlua::Value::Boolean(false),
        Reply::Int(number) => mlua::Value::Number(number as f64),
        Reply::Bulk(text) => mlua::Value::String(lua.create_string(text)?),
        Reply::Status(text) => {
            mlua::Value::Table(lua.create_table_from([("ok", lua.create_string(text)?)])?)
        }
        Reply::Array(all) => {
            let all = all.into_iter().map(|one| into_lua(lua, one));
            let all = all.collect::<mlua::Result<Vec<_>>>()?;
            mlua::Value::Table(lua.create_sequence_from(all)?)
        }
    })
}

fn error_table(lua: &Lua, text: &str) -> mlua::Result<mlua::Value> {
    Ok(mlua::Value::Table(lua.create_table_from([("err", lua.create_string(text)?)])?))
}

fn from_lua(value: mlua::Value) -> mlua::Result<Value> {
    Ok(match value {
        mlua::Value::Boolean(true) => Value::Int(1),
        mlua::Value::Integer(number) => Value::Int(number),
        mlua::Value::Number(number) => Value::Int(number as i64),
        mlua::Value::String(text) => Value::BulkString(text.as_bytes().to_vec()),
        mlua::Value::Table(table) => {
            if let Some(error) = table.get::<Option<String>>("err")? {
                return Ok(refusal(&error));
            }
            if let Some(status) = table.get::<Option<String>>("ok")? {
                return Ok(Value::SimpleString(status));
            }
            let all = table.sequence_values::<mlua::Value>();
            Value::Array(all.map(|one| from_lua(one?)).collect::<mlua::Result<_>>()?)
        }
        _ => Value::Nil,
    })
}

/// The script with the mistake that `make simulate-mistakes` plants in it, if any.
fn mistaken(code: &str) -> String {
    let given = |name| std::env::var(name).unwrap_or_default();
    let (from, to) = (given("MISTAKE_FROM"), given("MISTAKE_TO"));
    if from.is_empty() { code.to_owned() } else { code.replace(&from, &to) }
}

/// The error as the library reads it.
fn refusal(text: &str) -> Value {
    redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap()
}

fn hash_of(text: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text);
    hash.as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}
