//! Waiting for a condition with a deadline, and saying what was seen last when it never came.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Calls `look` again and again until it returns `Ok(Ok(value))` or the deadline has passed.
///
/// `Ok(Err(seen))` means "not yet", and says what is there instead: the last of it is part of the
/// error. An outer `Err` ends the waiting at once.
pub async fn wait_for<T, S, F, Fut>(what: &str, deadline: Duration, mut look: F) -> Result<T>
where
    S: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Result<T, S>>>,
{
    let started = Instant::now();
    let mut seen = String::from("nothing");
    loop {
        let left = deadline.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, look()).await {
            Ok(Ok(Ok(value))) => return Ok(value),
            Ok(Ok(Err(now))) => seen = now.to_string(),
            Ok(Err(fatal)) => return Err(fatal.context(format!("while waiting for {what}"))),
            Err(_) => seen = format!("{seen} (and the last look took too long)"),
        }
        if started.elapsed() >= deadline {
            bail!(
                "waited {:.0} s for {what}; last seen: {seen}",
                deadline.as_secs_f64()
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
