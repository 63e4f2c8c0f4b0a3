//! A subscription to a channel, on a connection of its own: to the server that the calls use. Used by
//! `news`.

use std::time::Duration;

use ::redis::aio::{PubSubSink, PubSubStream};
use ::redis::{Client, IntoConnectionInfo as _, RedisResult};
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::super::refusals::Why;
use super::address::Route;
use super::{CONNECT_LIMIT, Connection, State};

/// How often the server must confirm the subscription: a connection can be cut without a word.
const CONFIRMED: Duration = Duration::from_secs(10);

/// A subscription to one channel.
pub(in super::super) struct Subscription {
    messages: PubSubStream,
    /// Ends once the server does not confirm the subscription.
    lost: BoxFuture<'static, ()>,
}

impl Subscription {
    /// The next message; `None` once the subscription is lost.
    pub(in super::super) async fn next(&mut self) -> Option<Vec<u8>> {
        tokio::select! {
            message = self.messages.next() => {
                message.map(|message| message.get_payload_bytes().to_vec())
            }
            () = &mut self.lost => None,
        }
    }
}

impl Connection {
    /// The generation of the present connection; `None` if there is none.
    pub(in super::super) fn generation(&self) -> Option<u64> {
        match &*self.state() {
            State::Up { number, .. } => Some(*number),
            _ => None,
        }
    }

    /// Subscribes to a channel. It affects no call, whatever its outcome.
    ///
    /// # Errors
    /// The server cannot be reached in time, or refuses.
    pub(in super::super) async fn subscribe(
        &self,
        channel: &'static str,
    ) -> Result<Subscription, Why> {
        let client = self.greeting_client().ok_or_else(|| Why::new("not connected"))?;
        let deadline = Instant::now() + CONNECT_LIMIT;
        let subscribed = timeout_at(deadline, subscribe(&client, channel)).await;
        let late = |_| Why::new("no answer in time");
        let (sink, messages) = subscribed.map_err(late)?.map_err(|error| Why::of(&error))?;
        Ok(Subscription { messages, lost: until_lost(sink, channel).boxed() })
    }

    /// A client of the server that the present connection leads to. The library has no other way to send
    /// the greeting before a subscription.
    fn greeting_client(&self) -> Option<Client> {
        let client = match &self.address.route {
            Route::Direct(client) => client.clone(),
            Route::Sentinels(sentinels) => {
                let (_, named) = self.named()?;
                sentinels.client(&named)?
            }
            // Each node hears all; another one each time, because one may be lost.
            Route::Cluster(cluster) => cluster.any_node()?.clone(),
        };
        let settings = self.address.settings.clone().set_skip_set_lib_name();
        let info = client.get_connection_info().clone().set_redis_settings(settings);
        Client::open(info.into_connection_info().ok()?).ok()
    }
}

async fn subscribe(client: &Client, channel: &str) -> RedisResult<(PubSubSink, PubSubStream)> {
    let (mut sink, messages) = client.get_async_pubsub().await?.split();
    sink.subscribe(channel).await?;
    Ok((sink, messages))
}

/// Subscribes again and again, which changes nothing but needs the server's answer and no further right.
async fn until_lost(mut sink: PubSubSink, channel: &'static str) {
    loop {
        sleep(CONFIRMED).await;
        if !matches!(timeout(CONNECT_LIMIT, sink.subscribe(channel)).await, Ok(Ok(()))) {
            return;
        }
    }
}
