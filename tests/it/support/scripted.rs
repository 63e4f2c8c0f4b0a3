//! A vendor's server that answers from a script, built on [`Played`].

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::http::Response;

use super::played::{Played, answer};

/// What the server answers.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl Reply {
    /// A reply without extra headers.
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    fn response(self) -> Response<Body> {
        let mut response = answer(self.status, self.body);
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    }
}

/// The replies to paths with this prefix. Each is given once, and the last one repeatedly.
struct Script {
    prefix: String,
    replies: VecDeque<Reply>,
}

/// The server.
pub struct Scripted {
    played: Played,
    scripts: Arc<Mutex<Vec<Script>>>,
}

impl Deref for Scripted {
    type Target = Played;

    fn deref(&self) -> &Played {
        &self.played
    }
}

impl Scripted {
    /// Starts with an empty object as the answer to everything.
    pub async fn start() -> Self {
        let scripts = Arc::new(Mutex::new(Vec::new()));
        let plays = Arc::clone(&scripts);
        let played = Played::start(move |asked| {
            let reply = next_reply(&mut plays.lock().unwrap(), asked.uri.path());
            async { reply.response() }
        })
        .await;
        let scripted = Self { played, scripts };
        scripted.answers(200, "{}");
        scripted
    }

    /// Sets the answer to every path without its own.
    pub fn answers(&self, status: u16, body: impl Into<Bytes>) {
        self.answers_at("", status, body);
    }

    /// Sets the answer to paths with this prefix. The longest matching prefix
    /// applies.
    pub fn answers_at(&self, prefix: &str, status: u16, body: impl Into<Bytes>) {
        self.replies_at(prefix, [Reply::new(status, body)]);
    }

    /// The same with full replies, given in turn; the last one repeats.
    pub fn replies_at(&self, prefix: &str, replies: impl IntoIterator<Item = Reply>) {
        let mut scripts = self.scripts.lock().unwrap();
        scripts.retain(|script| script.prefix != prefix);
        let script = Script { prefix: prefix.to_owned(), replies: replies.into_iter().collect() };
        scripts.push(script);
    }
}

fn next_reply(scripts: &mut [Script], path: &str) -> Reply {
    let fitting = scripts.iter_mut().filter(|script| path.starts_with(&script.prefix));
    let script = fitting.max_by_key(|script| script.prefix.len()).unwrap();
    if script.replies.len() > 1 {
        script.replies.pop_front().unwrap()
    } else {
        script.replies[0].clone()
    }
}
