//! Progress for a person who waits: one line a step, with the time since the program started.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Time since the first call of this function in this process.
pub fn elapsed() -> Duration {
    START.get_or_init(Instant::now).elapsed()
}

/// Writes one line to standard error: `[ 12.3s] management: API server answers`.
pub fn step(what: impl AsRef<str>) {
    let line = format!("[{:6.1}s] {}\n", elapsed().as_secs_f64(), what.as_ref());
    write_to(&mut std::io::stderr(), &line);
}

/// Writes text to standard output as it is.
pub fn print(text: impl AsRef<str>) {
    write_to(&mut std::io::stdout(), text.as_ref());
}

/// A closed pipe at the other end is no reason to fail: whoever listened has gone.
fn write_to(to: &mut impl std::io::Write, text: &str) {
    drop(to.write_all(text.as_bytes()).and_then(|()| to.flush()));
}
