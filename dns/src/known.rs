//! What is known of one host name. Pure: answers and times go in, a state comes out.
//!
//! IPv4 and IPv6 are judged apart (an A that fails beside an AAAA that is honestly empty is how a resolver that judges them together
//! throws its addresses away), and no failure takes an address away at once:
//!
//! * an answer with addresses replaces the family's addresses at once;
//! * silence (time-out, SERVFAIL, REFUSED and the like) takes nothing away, however long it lasts: a name server that is down says nothing about
//!   the gateway, and mutual TLS guards against an address that went to somebody else;
//! * "there is none" (NXDOMAIN, an empty answer, or one with refused addresses only) takes the family's addresses away [`GIVE_UP`] after it was first said,
//!   if there was no good answer since. An empty answer for one family while the other has a good one is believed after [`STALE_AFTER`] in a row.

use std::{collections::BTreeSet, fmt, net::IpAddr, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::target::check_address;

/// Misses in a row after which addresses count as stale.
pub const STALE_AFTER: u32 = 3;

/// How long addresses are kept against the word of the name server.
pub const GIVE_UP: SignedDuration = SignedDuration::from_hours(24);

/// The kind of address asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// What the name server said about one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These addresses, good for this long. Addresses of the other family and refused ones are left out by [`Known::observe`].
    Addresses {
        /// As they came.
        addresses: BTreeSet<IpAddr>,
        /// The shortest of the records.
        ttl: Duration,
    },
    /// None.
    Miss(Miss),
}

/// An answer without a usable address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Miss {
    /// The name does not exist.
    NxDomain,
    /// The name exists and has no address of this family.
    NoData,
    /// All addresses are refused ([`crate::check_address`]).
    Refused,
    /// The name server could not or would not say (SERVFAIL, REFUSED and others).
    ServFail,
    /// No answer in time, or no way to ask.
    Timeout,
}

impl Miss {
    /// The name server said that there is no such address, rather than nothing.
    fn denies(self) -> bool {
        match self {
            Self::NxDomain | Self::NoData | Self::Refused => true,
            Self::ServFail | Self::Timeout => false,
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NxDomain => "the name does not exist",
            Self::NoData => "the name has no address",
            Self::Refused => "the name has only addresses that are refused",
            Self::ServFail => "the name server failed to answer",
            Self::Timeout => "the name server did not answer in time",
        })
    }
}

/// What an observation changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// Nothing anybody needs to hear.
    Nothing,
    /// Only the state or the refused addresses.
    State,
    /// The addresses.
    Addresses,
}

/// How good the addresses of a name are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nothing was answered yet.
    Unknown,
    /// No address, and why.
    Unresolved(Miss),
    /// Good ones.
    Fresh,
    /// Kept ones: not confirmed since then, and why.
    Stale {
        /// The first miss.
        since: Timestamp,
        /// The last one.
        miss: Miss,
    },
}

/// How often to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The shortest time between two questions while there is an answer.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
    /// After the first miss, doubled with each further one up to `min` (with addresses in hand) or `max` (with none).
    pub retry: Duration,
}

impl Default for Pace {
    /// 30 s to 300 s, retries from 2 s on.
    fn default() -> Self {
        Self {
            min: Duration::from_secs(30),
            max: Duration::from_mins(5),
            retry: Duration::from_secs(2),
        }
    }
}

/// What is known of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Side {
    addresses: BTreeSet<IpAddr>,
    refused: BTreeSet<IpAddr>,
    ttl: Option<Duration>,
    misses: Option<Misses>,
}

/// Misses in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Misses {
    since: Timestamp,
    count: u32,
    last: Miss,
    /// How many of the last ones were [`Miss::NoData`].
    empty: u32,
    /// The first one that said "there is none".
    denied: Option<Timestamp>,
}

/// What is known of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    v4: Side,
    v6: Side,
}

impl Known {
    /// Takes an answer in.
    pub fn observe(&mut self, family: Family, answer: Answer, now: Timestamp) -> Change {
        let before = (self.addresses(), self.state(), self.refused());
        let other_is_good = self.side(other(family)).is_good();
        let side = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        match answer {
            Answer::Addresses { addresses, ttl } => side.answered(family, addresses, ttl, now),
            Answer::Miss(miss) => side.missed(miss, now),
        }
        side.give_up(other_is_good, now);
        if self.addresses() != before.0 {
            Change::Addresses
        } else if (self.state(), self.refused()) != (before.1, before.2) {
            Change::State
        } else {
            Change::Nothing
        }
    }

    /// All usable addresses.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.v4
            .addresses
            .union(&self.v6.addresses)
            .copied()
            .collect()
    }

    /// Addresses of the last answers that are never used.
    #[must_use]
    pub fn refused(&self) -> BTreeSet<IpAddr> {
        self.v4.refused.union(&self.v6.refused).copied().collect()
    }

    /// How good they are.
    #[must_use]
    pub fn state(&self) -> State {
        let sides = [&self.v4, &self.v6];
        let misses = || sides.into_iter().filter_map(|side| side.misses);
        if self.addresses().is_empty() {
            // Of two reasons the one that tells more: "refused" before "no address" before silence.
            return misses()
                .map(|misses| misses.last)
                .max_by_key(|miss| weight(*miss))
                .map_or(State::Unknown, State::Unresolved);
        }
        let kept = sides
            .into_iter()
            .filter(|side| !side.addresses.is_empty())
            .filter_map(|side| side.misses);
        let stale = kept
            .filter(|misses| misses.count >= STALE_AFTER)
            .min_by_key(|misses| misses.since);
        stale.map_or(State::Fresh, |misses| State::Stale {
            since: misses.since,
            miss: misses.last,
        })
    }

    /// How long to wait before asking again; `jitter` between 0 and 1 spreads the askers over a tenth of that.
    #[must_use]
    pub fn next_refresh(&self, pace: Pace, jitter: f64) -> Duration {
        let none = self.addresses().is_empty();
        let wait = [&self.v4, &self.v6]
            .into_iter()
            .filter_map(|side| side.wait(pace, none))
            .min()
            .unwrap_or(pace.min);
        let jitter = if jitter.is_finite() {
            jitter.clamp(0.0, 1.0)
        } else {
            0.0
        };
        wait.saturating_add(wait.mul_f64(jitter / 10.0))
    }

    fn side(&self, family: Family) -> &Side {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

/// How much a miss tells when there is no address at all.
fn weight(miss: Miss) -> u8 {
    match miss {
        Miss::NoData => 0,
        Miss::NxDomain => 1,
        Miss::Timeout => 2,
        Miss::ServFail => 3,
        Miss::Refused => 4,
    }
}

impl Side {
    /// It has addresses and the last answer confirmed them.
    fn is_good(&self) -> bool {
        !self.addresses.is_empty() && self.misses.is_none()
    }

    fn answered(
        &mut self,
        family: Family,
        addresses: BTreeSet<IpAddr>,
        ttl: Duration,
        now: Timestamp,
    ) {
        let ours = addresses
            .into_iter()
            .filter(|address| address.is_ipv4() == (family == Family::V4));
        let (usable, refused): (BTreeSet<_>, BTreeSet<_>) =
            ours.partition(|address| check_address(*address).is_ok());
        let miss = if refused.is_empty() {
            Miss::NoData
        } else {
            Miss::Refused
        };
        if usable.is_empty() {
            self.missed(miss, now);
            self.refused = refused;
        } else {
            *self = Self {
                addresses: usable,
                refused,
                ttl: Some(ttl),
                misses: None,
            };
        }
    }

    fn missed(&mut self, miss: Miss, now: Timestamp) {
        let before = self.misses.unwrap_or(Misses {
            since: now,
            count: 0,
            last: miss,
            empty: 0,
            denied: None,
        });
        let empty = if miss == Miss::NoData {
            before.empty.saturating_add(1)
        } else {
            0
        };
        let denied = before.denied.or_else(|| miss.denies().then_some(now));
        self.misses = Some(Misses {
            since: before.since,
            count: before.count.saturating_add(1),
            last: miss,
            empty,
            denied,
        });
        if miss != Miss::Refused {
            self.refused.clear();
        }
    }

    fn give_up(&mut self, other_is_good: bool, now: Timestamp) {
        let Some(misses) = self.misses else { return };
        let denied_for = misses.denied.map(|since| now.duration_since(since));
        let too_long =
            misses.last.denies() && denied_for.is_some_and(|denied_for| denied_for >= GIVE_UP);
        let moved_away = other_is_good && misses.empty >= STALE_AFTER;
        if too_long || moved_away {
            self.addresses.clear();
            self.ttl = None;
        }
    }

    /// When this side wants to be asked again; `None`: whenever the other does. `none`: the name has no address at all.
    fn wait(&self, pace: Pace, none: bool) -> Option<Duration> {
        match (self.misses, self.ttl) {
            (None, None) => None,
            (None, Some(ttl)) => Some(ttl.max(pace.min).min(pace.max)),
            // A family that never had an address and is honestly empty is asked along with the other.
            (
                Some(Misses {
                    last: Miss::NoData, ..
                }),
                None,
            ) if !none => None,
            (Some(misses), _) => {
                let most = if none { pace.max } else { pace.min };
                let doubled = 2_u32
                    .checked_pow(misses.count.saturating_sub(1))
                    .unwrap_or(u32::MAX);
                Some(pace.retry.saturating_mul(doubled).min(most))
            }
        }
    }
}

#[cfg(test)]
mod tests;
