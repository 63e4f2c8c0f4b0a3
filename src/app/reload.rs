//! Polls the files that may change while the server runs, and applies their changes. Used by `app` only.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{Look, Reload};
use crate::telemetry::metrics::Metrics;

/// How often the files are read.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long a change must be stable before it is applied: a writer may be halfway through a file.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// The outcome of a reload, as a metric label.
const OK: &str = "ok";
const ERROR: &str = "error";

/// Polls for changes until it is canceled.
pub(super) async fn watch(mut reloads: Vec<Reload>, clock: Arc<dyn Clock>, metrics: Metrics) {
    for setting in reloads.iter().map(Reload::path) {
        // Create each series at 0: `increase()` misses the first event of a series born at 1.
        for outcome in [OK, ERROR] {
            let _ = metrics.reloads.with([setting, outcome]);
        }
    }
    let mut wait = INTERVAL;
    loop {
        clock.sleep_until(clock.now() + wait).await;
        let check = move || {
            let looks: Vec<_> = reloads.iter_mut().map(Reload::check).collect();
            (reloads, looks)
        };
        let Ok((checked, looks)) = tokio::task::spawn_blocking(check).await else {
            tracing::error!(
                "changed files are no longer reloaded: the task that looks for changes panicked"
            );
            return;
        };
        reloads = checked;
        wait = if looks.contains(&Look::Changing) { SECOND_LOOK } else { INTERVAL };
        for (reload, look) in reloads.iter().zip(looks) {
            let Look::Changed(outcome) = look else { continue };
            let path = reload.path();
            metrics.reloads.with([path, if outcome.is_ok() { OK } else { ERROR }]).inc();
            match outcome {
                Ok(()) => tracing::info!(path, "reloaded"),
                Err(problem) => {
                    tracing::warn!(path, problem, "reload failed; still using the previous files");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Mutex;

    use tokio::time::sleep;

    use super::*;
    use crate::clock::SystemClock;
    use crate::config::Section;

    /// A secret in a file, and the values applied so far.
    struct Fixture {
        folder: tempfile::TempDir,
        used: Arc<Mutex<Vec<String>>>,
    }

    impl Fixture {
        /// Starts to poll the file.
        fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let used = Arc::default();
            let fixture = Self { folder, used };
            fixture.write("first-token");
            let mut section =
                Section::parse("token.file = \"token\"", fixture.folder.path()).unwrap();
            let used = Arc::clone(&fixture.used);
            let take = move |token: crate::config::Secret| {
                used.lock().unwrap().push(token.expose().to_owned());
                Ok(())
            };
            section.secret_into("token", take).unwrap();
            let metrics = Metrics::default();
            tokio::spawn(watch(section.reloads(), Arc::new(SystemClock), metrics));
            fixture
        }

        fn file(&self) -> PathBuf {
            self.folder.path().join("token")
        }

        fn write(&self, text: &str) {
            fs::write(self.file(), text).unwrap();
        }

        fn assert_used(&self, expected: &[&str]) {
            assert_eq!(*self.used.lock().unwrap(), expected);
        }
    }

    async fn pass(millis: u64) {
        sleep(Duration::from_millis(millis)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_applied_a_second_after_it_is_detected() {
        let fixture = Fixture::start();
        pass(4900).await;
        fixture.write("second-token");
        pass(1000).await;
        fixture.assert_used(&["first-token"]);
        pass(200).await;
        fixture.assert_used(&["first-token", "second-token"]);
        // After a change, the poll interval is the long one again.
        fixture.write("third-token");
        pass(5800).await;
        fixture.assert_used(&["first-token", "second-token"]);
        pass(200).await;
        fixture.assert_used(&["first-token", "second-token", "third-token"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_not_applied_while_it_is_being_written() {
        let fixture = Fixture::start();
        pass(4950).await;
        for written in ["", "se", "second", "second-to", "second-token"] {
            fixture.write(written);
            fixture.assert_used(&["first-token"]);
            pass(1000).await;
        }
        fixture.assert_used(&["first-token"]);
        pass(100).await;
        fixture.assert_used(&["first-token", "second-token"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_briefly_missing_file_counts_as_unchanged() {
        let fixture = Fixture::start();
        pass(4950).await;
        fs::remove_file(fixture.file()).unwrap();
        pass(100).await;
        fixture.write("first-token");
        pass(60_000).await;
        fixture.assert_used(&["first-token"]);
    }
}
