//! The ledger: for how long anything that was signed can still be alive. Written ahead, so that whatever happens between a
//! write and the next, it says too much and never too little.

use std::collections::BTreeMap;

use jiff::Timestamp;

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

    /// The latest end among the pairs that `which` picks.
    #[must_use]
    pub fn latest(&self, which: impl Fn(Pair) -> bool) -> Option<Timestamp> {
        self.entries()
            .filter(|(pair, _)| which(*pair))
            .map(|(_, until)| until)
            .max()
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
