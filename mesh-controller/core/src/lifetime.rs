//! Lengths of time as people write them in objects: `90s`, `24h`, `30d`, `1h30m`.

use std::{fmt, str::FromStr};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

/// A positive length of time, whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lifetime(u32);

/// Why a text is not a [`Lifetime`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a length of time; write it like 90s, 24h, 30d or 1h30m")]
pub struct LifetimeError {
    text: String,
}

impl Lifetime {
    /// From seconds.
    #[must_use]
    pub const fn from_secs(seconds: u32) -> Self {
        Self(seconds)
    }

    /// In seconds.
    #[must_use]
    pub const fn as_secs(self) -> u32 {
        self.0
    }

    /// As a jiff duration.
    #[must_use]
    pub fn signed(self) -> SignedDuration {
        SignedDuration::from_secs(i64::from(self.0))
    }
}

impl FromStr for Lifetime {
    type Err = LifetimeError;

    fn from_str(text: &str) -> Result<Self, LifetimeError> {
        let refusal = || LifetimeError {
            text: text.to_owned(),
        };
        let mut total: u32 = 0;
        let mut number: Option<u32> = None;
        for c in text.chars() {
            if let Some(digit) = c.to_digit(10) {
                let so_far = number.unwrap_or(0).checked_mul(10).ok_or_else(refusal)?;
                number = Some(so_far.checked_add(digit).ok_or_else(refusal)?);
                continue;
            }
            let unit: u32 = match c {
                's' => 1,
                'm' => 60,
                'h' => 3600,
                'd' => 86_400,
                _ => return Err(refusal()),
            };
            let part = number
                .take()
                .and_then(|n| n.checked_mul(unit))
                .ok_or_else(refusal)?;
            total = total.checked_add(part).ok_or_else(refusal)?;
        }
        if number.is_some() || total == 0 {
            return Err(refusal());
        }
        Ok(Self(total))
    }
}

impl TryFrom<String> for Lifetime {
    type Error = LifetimeError;

    fn try_from(text: String) -> Result<Self, LifetimeError> {
        text.parse()
    }
}

impl From<Lifetime> for String {
    fn from(lifetime: Lifetime) -> Self {
        lifetime.to_string()
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        for (unit, name) in [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')] {
            let (count, left) = (rest / unit, rest % unit);
            if count > 0 {
                write!(f, "{count}{name}")?;
            }
            rest = left;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, seconds) in [
            ("90s", 90),
            ("24h", 86_400),
            ("30d", 2_592_000),
            ("1h30m", 5400),
        ] {
            assert_eq!(text.parse::<Lifetime>().unwrap().as_secs(), seconds);
        }
        for bad in [
            "",
            "0s",
            "5",
            "h",
            "-1h",
            "1.5h",
            "1w",
            "99999999999d",
            "1h5",
        ] {
            assert!(bad.parse::<Lifetime>().is_err(), "{bad:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(seconds in 1_u32..) {
            let lifetime = Lifetime::from_secs(seconds);
            prop_assert_eq!(lifetime.to_string().parse::<Lifetime>().unwrap(), lifetime);
        }
    }
}
