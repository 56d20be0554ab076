//! Noise, so that replicas and members do not act in step. Not for secrets.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

/// A number from 0 up to 1.
pub(crate) fn fraction() -> f64 {
    let noise = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(noise >> 32).unwrap_or_default()) / (f64::from(u32::MAX) + 1.0)
}

/// This long, or up to a fifth more or less.
pub(crate) fn around(middle: Duration) -> Duration {
    middle.mul_f64(0.8 + 0.4 * fraction())
}

/// How long to wait after so many failures in a row: from a tenth of a second, doubled, up to five seconds.
pub(crate) fn backoff(failures: u32) -> Duration {
    around(Duration::from_millis(100_u64 << failures.min(10)).min(Duration::from_secs(5)))
}
