//! The ledger: for how long anything that was signed can still be alive. Written ahead, so that whatever happens between a
//! write and the next, it says too much and never too little.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// The shortest stride in which the ledger is written ahead.
const STRIDE: SignedDuration = SignedDuration::from_hours(6);
/// The least that clocks are allowed to differ.
const SKEW: SignedDuration = SignedDuration::from_mins(10);

/// Under what a leaf was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// Generation of the intermediate that signed it.
    pub signer: u32,
    /// Generation of the bundle that came with it; 0: none did.
    pub bundle: u32,
}

/// The latest end of any leaf, by what it was handed out under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger(BTreeMap<Pair, Timestamp>);

/// The time, and how far the clocks of those who judge may be from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    now: Timestamp,
    skew: SignedDuration,
}

impl Clock {
    /// Certificates are dated back by `backdate`, so clocks of peers may be that far behind; twice of it is allowed for, and
    /// ten minutes at least.
    #[must_use]
    pub fn new(now: Timestamp, backdate: SignedDuration) -> Self {
        let skew = backdate.saturating_add(backdate).max(SKEW);
        Self { now, skew }
    }

    /// Whether something that ended at `end` has ended for everybody.
    #[must_use]
    pub fn is_past(&self, end: Timestamp) -> bool {
        end.saturating_add(self.skew)
            .is_ok_and(|end| end < self.now)
    }
}

impl Ledger {
    /// Whether a leaf that ends at `end` may be handed out.
    #[must_use]
    pub fn covers(&self, pair: Pair, end: Timestamp) -> bool {
        self.0.get(&pair).is_some_and(|until| *until >= end)
    }

    /// Notes that leaves under `pair` may live until `end`. What is noted is never taken back.
    pub fn note(&mut self, pair: Pair, end: Timestamp) {
        let until = self.0.entry(pair).or_insert(end);
        *until = (*until).max(end);
    }

    /// All entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = (Pair, Timestamp)> + '_ {
        self.0.iter().map(|(pair, until)| (*pair, *until))
    }

    /// The end that is noted for a pair.
    #[must_use]
    pub fn until(&self, pair: Pair) -> Option<Timestamp> {
        self.0.get(&pair).copied()
    }

    /// The latest end among the pairs that `which` picks.
    #[must_use]
    pub fn latest(&self, which: impl Fn(Pair) -> bool) -> Option<Timestamp> {
        self.entries()
            .filter(|(pair, _)| which(*pair))
            .map(|(_, until)| until)
            .max()
    }

    /// Notes all that the other has noted.
    pub fn add(&mut self, other: &Self) {
        for (pair, end) in other.entries() {
            self.note(pair, end);
        }
    }

    /// Whether every leaf that the other allows is allowed by this one too.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        other.entries().all(|(pair, end)| self.covers(pair, end))
    }

    /// What is not past.
    #[must_use]
    pub fn alive(&self, clock: Clock) -> Self {
        self.entries()
            .filter(|(_, until)| !clock.is_past(*until))
            .collect()
    }
}

impl FromIterator<(Pair, Timestamp)> for Ledger {
    fn from_iter<T: IntoIterator<Item = (Pair, Timestamp)>>(entries: T) -> Self {
        let mut ledger = Self::default();
        for (pair, end) in entries {
            ledger.note(pair, end);
        }
        ledger
    }
}

/// What the ledger must say before a leaf of this life is handed out that ends at `end`: the next boundary of a stride, so
/// that it is written seldom.
#[must_use]
pub fn ahead(end: Timestamp, life: SignedDuration) -> Timestamp {
    let stride = life.max(STRIDE).as_secs().max(1);
    let boundary = end
        .as_second()
        .div_euclid(stride)
        .saturating_add(1)
        .saturating_mul(stride);
    Timestamp::from_second(boundary).unwrap_or(Timestamp::MAX)
}

/// The same for a leaf that must be renewed also while nothing can be written: two lives further, and six hours at least.
#[must_use]
pub fn far_ahead(end: Timestamp, life: SignedDuration) -> Timestamp {
    let room = life.saturating_add(life).max(STRIDE);
    ahead(end.saturating_add(room).unwrap_or(Timestamp::MAX), life)
}

/// What a replica writes: what stands in its name, be it from an earlier life, and what it asks for; nothing of what is past.
#[must_use]
pub fn to_write(standing: &Ledger, asked: &Ledger, clock: Clock) -> Ledger {
    let mut whole = standing.clone();
    whole.add(asked);
    whole.alive(clock)
}

/// What is to be done about the ledger of a replica that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Burial {
    /// Nothing in it is alive that does not stand in the survivor's too.
    Forget,
    /// The survivor must have this written in its own name first.
    TakeOver(Ledger),
}

/// Decides about the ledger of a replica that is no more; both as they stand in the same version of the object.
#[must_use]
pub fn burial(dead: &Ledger, survivor: &Ledger, clock: Clock) -> Burial {
    let alive = dead.alive(clock);
    if survivor.includes(&alive) {
        Burial::Forget
    } else {
        Burial::TakeOver(alive)
    }
}

/// Whether nothing can be alive any more that this generation has signed, by the ledgers of all replicas.
#[must_use]
pub fn is_over(ledgers: &[Ledger], signer: u32, clock: Clock) -> bool {
    ledgers
        .iter()
        .filter_map(|ledger| ledger.latest(|pair| pair.signer == signer))
        .all(|until| clock.is_past(until))
}

#[cfg(test)]
mod tests;
