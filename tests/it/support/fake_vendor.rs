//! A vendor's module without a vendor: a function of the test gives its answers, and each call goes through
//! the gate as every vendor's does.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use order_query::accounts::{Account, Accounts};
use order_query::clock::Clock;
use order_query::config::Secret;
use order_query::error::Error;
use order_query::orders::Orders;
use order_query::outbound::Delivery;
use order_query::pb::{Order, Provider};
use order_query::providers::{self, LiveCheck, Query, Resources, Rules, TokenStore};
use order_query::store::{Memory, Store};

use super::CACHE_BYTES;

type Answer = BoxFuture<'static, Result<Order, Error>>;

/// The module.
pub struct FakeVendor {
    rules: Rules,
    check: fn(&str),
    /// How far a failing call got.
    failed: Delivery,
    answer: Box<dyn Fn(Query) -> Answer + Send + Sync>,
}

impl FakeVendor {
    /// The account's name, where the vendor stands alone.
    pub const ACCOUNT: &str = "fake";

    /// The provider of the account: any, since the vendor is not called.
    pub const PROVIDER: Provider = Provider::Haoka;

    /// No limits, and every request goes to the vendor.
    pub const RULES: Rules = Rules {
        freshness: Duration::ZERO,
        calls_per_minute: None,
        calls_per_order_per_day: None,
        longest_call: Duration::from_secs(10),
    };

    /// A vendor that answers each call so.
    pub fn new<F>(answer: impl Fn(Query) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Order, Error>> + Send + 'static,
    {
        let answer = Box::new(move |query| Box::pin(answer(query)) as Answer);
        Self { rules: Self::RULES, check: |_| {}, failed: Delivery::Unknown, answer }
    }

    /// With these rules.
    pub fn ruled(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// With a check of ids, which may panic.
    pub fn checking(self, check: fn(&str)) -> Self {
        Self { check, ..self }
    }

    /// Its failing calls never reach the vendor.
    pub fn never_reached(self) -> Self {
        Self { failed: Delivery::NotSent, ..self }
    }

    /// The use case over an account at this vendor alone.
    pub fn orders(self, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Orders {
        let account = Account::new(Self::ACCOUNT, Self::PROVIDER, true, Box::new(self));
        Orders::new(Accounts::new(vec![account]), store, clock)
    }

    /// The same, with a store in memory.
    pub fn orders_in_memory(self, clock: Arc<dyn Clock>) -> Orders {
        let store = Arc::new(Memory::new(CACHE_BYTES, Arc::clone(&clock)));
        self.orders(store, clock)
    }
}

#[async_trait]
impl providers::Provider for FakeVendor {
    fn identity(&self) -> String {
        "fake".to_owned()
    }
    fn secrets(&self) -> Vec<Secret> {
        Vec::new()
    }
    fn check_id(&self, id: &str) -> Result<(), Error> {
        (self.check)(id);
        Ok(())
    }
    fn rules(&self) -> Rules {
        self.rules
    }
    async fn live_check(&self, _: Option<&dyn TokenStore>) -> Result<LiveCheck, Error> {
        unreachable!("nobody asks for proof")
    }
    async fn get_order(&self, query: &Query, resources: Resources<'_>) -> Result<Order, Error> {
        let call = resources.gate.enter().await?;
        let outcome = (self.answer)(query.clone()).await;
        let delivery = if outcome.is_ok() { Delivery::Answered } else { self.failed };
        resources.gate.leave(call, delivery).await;
        outcome
    }
}
