//! Remembers for the life of the process. Holds one token for each account, so its size is
//! bounded by the configuration.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use crate::error::Error;
use crate::providers::{Token, TokenStore};

/// A store in memory.
#[derive(Default)]
pub struct Memory {
    tokens: Mutex<HashMap<String, Token>>,
}

impl Memory {
    fn with_tokens<T>(&self, work: impl FnOnce(&mut HashMap<String, Token>) -> T) -> T {
        work(&mut self.tokens.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl TokenStore for Memory {
    async fn load(&self, identity: &str) -> Result<Option<Token>, Error> {
        Ok(self.with_tokens(|tokens| tokens.get(identity).cloned()))
    }

    async fn save(&self, identity: &str, token: &Token) -> Result<(), Error> {
        self.with_tokens(|tokens| tokens.insert(identity.to_owned(), token.clone()));
        Ok(())
    }

    async fn drop_if(&self, identity: &str, token: &Token) -> Result<(), Error> {
        self.with_tokens(|tokens| {
            if tokens.get(identity).is_some_and(|kept| kept.value == token.value) {
                tokens.remove(identity);
            }
        });
        Ok(())
    }
}
