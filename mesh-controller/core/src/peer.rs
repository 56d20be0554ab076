//! When a region that does not answer is called dead, when its endpoints are taken away from those who call it, and when they come
//! back: `Mesh.spec.deadPeer`.
//!
//! Each pod of an agent judges each region by its own probes through the Envoy beside it. That way does not go by the endpoints of the
//! region's names, so the evidence is the same whether they are there or not: what was withdrawn can be seen to answer again. (A probe
//! through a sidecar goes by them, and has no voice here.)
//!
//! | rule | because |
//! |---|---|
//! | only silence is evidence of death: no address, no connection, somebody else at the address, no answer | a region that refuses is alive, and callers fail at once anyhow; what the own Envoy says of itself is about this side; a backend that is down is one of several |
//! | nothing is withdrawn unless another region has been answering for as long | else the own network may be the cause; hence never the last one, and a consumer of one region never loses it |
//! | what is withdrawn stays so, whatever becomes of the others, until it has answered for a while without a break | that others fail too does not make it answer: giving it back for that would only flap with them |
//! | a pod that starts takes over what stands written as agreed, and judges anew for all else | a restart neither withdraws anything nor gives anything back |
//! | where nobody looked for a while, the time before it does not count | a process that was stopped has seen nothing |
//! | all pods must agree ([`agreed`]) | one node's trouble is not the region's |

use jiff::{SignedDuration, Timestamp};

use crate::{
    lifetime::Lifetime,
    probe::{Class, DEADLINE_SECS, Failure, INTERVAL_SECS},
};

/// Shortest and longest that a region may be silent before it is called dead, in seconds: less than some probes would say nothing.
pub const AFTER: (u32, u32) = (10, 86_400);
/// Shortest and longest that it must answer before that is believed, in seconds.
pub const RETURN_AFTER: (u32, u32) = (5, 86_400);

/// Two looks that are further apart are not one observation: room for a probe that takes all its time, and for two that were late.
const GAP: SignedDuration = SignedDuration::from_secs(3 * (INTERVAL_SECS + DEADLINE_SECS) as i64);

/// What is done about a dead region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nothing; nobody is called dead.
    Keep,
    /// It is told.
    #[default]
    Mark,
    /// It is told, and its endpoints are taken away from its callers.
    Withdraw,
}

/// What was decided about dead regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What is done.
    pub policy: Policy,
    /// How long it must be silent without a break.
    pub after: Lifetime,
    /// How long it must answer without a break, to be alive again.
    pub return_after: Lifetime,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            after: Lifetime::from_secs(300),
            return_after: Lifetime::from_secs(30),
        }
    }
}

/// What a path shows of the region at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Requests come through.
    Answers,
    /// Nothing of the region is heard.
    Silent,
    /// They do not come through, and that says nothing about whether the region is there.
    Unclear,
}

impl From<&Result<(), Failure>> for Verdict {
    fn from(outcome: &Result<(), Failure>) -> Self {
        match outcome.as_ref().map_err(|failure| failure.class) {
            Ok(()) => Self::Answers,
            Err(Class::Name | Class::Connect | Class::Tls | Class::Server | Class::Deadline) => {
                Self::Silent
            }
            Err(
                Class::Intake | Class::Sidecar | Class::Identity | Class::Path | Class::Upstream,
            ) => Self::Unclear,
        }
    }
}

/// One look at a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// What its path shows.
    pub verdict: Verdict,
    /// Another region of the same consumer is alive now.
    pub beside: bool,
}

/// A region that is called dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Since when it is silent.
    pub since: Timestamp,
    /// Its endpoints are to be taken away.
    pub withdrawn: bool,
}

/// The same seen again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    since: Timestamp,
    last: Timestamp,
    /// Since when another region has been alive meanwhile.
    beside: Option<Timestamp>,
}

impl Run {
    fn begun(now: Timestamp, beside: bool) -> Self {
        Self {
            since: now,
            last: now,
            beside: beside.then_some(now),
        }
    }

    /// Seen once more.
    fn on(self, now: Timestamp, beside: bool) -> Self {
        if now.duration_since(self.last) > GAP {
            return Self::begun(now, beside);
        }
        Self {
            since: self.since,
            last: now,
            beside: beside.then(|| self.beside.unwrap_or(now)),
        }
    }

    fn lasts(&self, long: Lifetime) -> bool {
        self.last.duration_since(self.since) >= long.signed()
    }

    fn lasts_beside(&self, long: Lifetime) -> bool {
        self.beside
            .is_some_and(|since| self.last.duration_since(since) >= long.signed())
    }
}

/// What one pod holds of one region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peer {
    /// Nothing that counts was seen.
    #[default]
    Unknown,
    /// It answers.
    Alive,
    /// It is silent, not for long enough yet.
    Failing(Run),
    /// It is dead.
    Dead(Dead, Run),
    /// It was dead and answers, not for long enough yet.
    Returning(Dead, Run),
}

impl Peer {
    /// What a pod begins with: what all pods had agreed on before, if anything.
    #[must_use]
    pub fn start(agreed: Option<Dead>, now: Timestamp) -> Self {
        agreed.map_or(Self::Unknown, |dead| {
            Self::Dead(dead, Run::begun(now, false))
        })
    }

    /// What is told about it.
    #[must_use]
    pub const fn dead(&self) -> Option<Dead> {
        match self {
            Self::Dead(dead, _) | Self::Returning(dead, _) => Some(*dead),
            Self::Unknown | Self::Alive | Self::Failing(_) => None,
        }
    }

    /// Takes in one look.
    #[must_use]
    pub fn step(self, look: Look, now: Timestamp, rules: &Rules) -> Self {
        if rules.policy == Policy::Keep {
            return Self::Unknown;
        }
        let Look { verdict, beside } = look;
        let next = match (self, verdict) {
            (Self::Unknown | Self::Alive | Self::Failing(_), Verdict::Answers) => Self::Alive,
            (Self::Unknown | Self::Alive, Verdict::Silent) => {
                Self::Failing(Run::begun(now, beside))
            }
            (Self::Unknown | Self::Alive, Verdict::Unclear) => Self::Unknown,
            (Self::Failing(run), Verdict::Silent) => {
                let run = run.on(now, beside);
                if run.lasts(rules.after) {
                    let (since, withdrawn) = (run.since, false);
                    Self::Dead(Dead { since, withdrawn }, run)
                } else {
                    Self::Failing(run)
                }
            }
            (Self::Dead(dead, run), Verdict::Silent) => Self::Dead(dead, run.on(now, beside)),
            (same @ (Self::Failing(_) | Self::Dead(..)), Verdict::Unclear) => same,
            (Self::Dead(dead, _), Verdict::Answers) => {
                Self::Returning(dead, Run::begun(now, beside))
            }
            (Self::Returning(dead, run), Verdict::Answers) => {
                let run = run.on(now, beside);
                if run.lasts(rules.return_after) {
                    Self::Alive
                } else {
                    Self::Returning(dead, run)
                }
            }
            (Self::Returning(dead, _), Verdict::Silent | Verdict::Unclear) => {
                Self::Dead(dead, Run::begun(now, false))
            }
        };
        next.under(rules)
    }

    /// Whether its endpoints go.
    fn under(self, rules: &Rules) -> Self {
        let may = rules.policy == Policy::Withdraw;
        let put = |dead: Dead, withdrawn: bool| Dead { withdrawn, ..dead };
        match self {
            Self::Dead(dead, run) => {
                let enough = dead.withdrawn || run.lasts_beside(rules.after);
                Self::Dead(put(dead, may && enough), run)
            }
            Self::Returning(dead, run) => Self::Returning(put(dead, may && dead.withdrawn), run),
            Self::Unknown | Self::Alive | Self::Failing(_) => self,
        }
    }
}

/// What all pods say of one region: dead since all of them say so, and withdrawn if each says that. One that says nothing against it
/// is enough, nobody at all too.
pub fn agreed(words: impl IntoIterator<Item = Option<Dead>>) -> Option<Dead> {
    let both = |one: Dead, other: Dead| Dead {
        since: one.since.max(other.since),
        withdrawn: one.withdrawn && other.withdrawn,
    };
    let mut words = words.into_iter();
    let first = words.next()??;
    words.try_fold(first, |so_far, word| Some(both(so_far, word?)))
}

#[cfg(test)]
mod tests;
