//! Checks regularly whether the server evicts data that must stay when its memory is full, and logs
//! each change. The store starts this once its server is connected.

use std::sync::Weak;
use std::time::Duration;

use ::redis::{Value, cmd};

use super::connection::{Connection, Failure};

/// How often the server is asked: its settings can change at any time.
const INTERVAL: Duration = Duration::from_mins(1);

/// The policy that evicts nothing.
const KEEPS_ALL: &str = "noeviction";

/// Watches while the connection is in use, or until the server refuses the command.
pub(super) async fn watch(connection: Weak<Connection>) {
    let mut command = cmd("INFO");
    command.arg("memory");
    let mut known: Option<String> = None;
    while let Some(in_use) = connection.upgrade() {
        let answer = in_use.ask_aside(&command).await;
        drop(in_use);
        let is_refused = matches!(answer, Err(Failure::Refused(_)));
        if let Some(policy) = policy_in(answer)
            && known.as_ref() != Some(&policy)
        {
            log_policy(&policy, known.is_some());
            known = Some(policy);
        }
        if is_refused {
            // Redis would record each further attempt in its ACL log.
            return;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The policy in the answers: the first that evicts, if one does; empty if an answer has none. `None` if no
/// answer arrived.
fn policy_in(answers: Result<Vec<Value>, Failure>) -> Option<String> {
    let infos = match answers {
        Ok(infos) => infos,
        Err(Failure::Refused(_)) => return Some(String::new()),
        Err(_) => return None,
    };
    let policies = infos.into_iter().map(|info| {
        let info: String = ::redis::from_redis_value(info).unwrap_or_default();
        let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
        policy.unwrap_or_default().trim().to_owned()
    });
    policies.max_by_key(|policy| match policy.as_str() {
        KEEPS_ALL => 0,
        "" => 1,
        _ => 2,
    })
}

/// Logs the policy; `changed` if a different one was known before.
fn log_policy(policy: &str, changed: bool) {
    match policy {
        "" => tracing::info!(
            "the shared store does not report its maxmemory-policy; it must be noeviction"
        ),
        KEEPS_ALL if changed => {
            tracing::info!("the shared store evicts nothing again, by its maxmemory-policy");
        }
        KEEPS_ALL => {
            tracing::debug!("the shared store evicts nothing, by its maxmemory-policy");
        }
        _ => tracing::warn!(
            policy,
            "the shared store may evict spent calls and final orders when its memory is full, and \
             the vendors' limits then fail: set its maxmemory-policy to noeviction"
        ),
    }
}
