//! The ledger of this replica: nothing is handed out before what stands in the API server speaks of its end.
//!
//! Two halves: what was asked for, and what is known to be written. Whoever signs looks at the second only. What is
//! asked for is written by [`crate::report`]; it is kept for the whole life of this process, so that it is written
//! again should it ever be missing.

use std::{fmt, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use mesh_api::agent::{LedgerEntry, Replica};
use mesh_ca::LEAF_BACKDATE;
use mesh_cluster::agent_io::Intent;
use mesh_core::ledger::{self, Burial, Clock, Ledger, Pair};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// When a line has no more than this left beyond a leaf, the next is asked for: nobody is to wait for it later.
const MARGIN: SignedDuration = SignedDuration::from_mins(30);

/// The ledger as the rooms of the agent share it.
#[derive(Clone)]
pub(crate) struct Book(Arc<Halves>);

#[derive(Debug, Default)]
struct Halves {
    asked: watch::Sender<Ledger>,
    written: watch::Sender<Ledger>,
    /// UID of the object that what is written stands in.
    object: watch::Sender<Option<String>>,
}

/// The API server did not confirm in time that the ledger speaks of a leaf: it may not be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the ledger could not be written: nothing says yet that leaves of signer generation {} with bundle generation {} live until {end}",
    pair.signer, pair.bundle
)]
pub struct NotWritten {
    /// Who would have signed it, and what would have gone with it.
    pub pair: Pair,
    /// Its end.
    pub end: Timestamp,
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Book {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Whether a leaf that ends at `end` may be handed out now.
    pub(crate) fn covers(&self, pair: Pair, end: Timestamp) -> bool {
        let until = self.0.written.borrow().until(pair);
        let Some(room) = until.map(|until| until.duration_since(end)) else {
            return false;
        };
        if room < MARGIN {
            let soon = end.saturating_add(MARGIN).unwrap_or(end);
            self.ask(pair, ledger::ahead(soon, life(end)));
        }
        !room.is_negative()
    }

    /// Has the ledger speak of a leaf that ends at `end`, and waits until it does.
    ///
    /// # Errors
    ///
    /// It was not confirmed in time.
    pub(crate) async fn cover(
        &self,
        pair: Pair,
        end: Timestamp,
        deadline: Instant,
    ) -> Result<(), NotWritten> {
        if self.covers(pair, end) {
            return Ok(());
        }
        let mut written = self.0.written.subscribe();
        self.ask(pair, ledger::ahead(end, life(end)));
        match timeout_at(deadline, written.wait_for(|it| it.covers(pair, end))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(NotWritten { pair, end }),
        }
    }

    /// Asks for the ledger to speak of leaves up to `until`. It never goes back.
    pub(crate) fn ask(&self, pair: Pair, until: Timestamp) {
        if self.0.asked.borrow().covers(pair, until) {
            return;
        }
        self.ask_all(&Ledger::from_iter([(pair, until)]));
    }

    /// The same for several lines.
    pub(crate) fn ask_all(&self, lines: &Ledger) {
        self.0.asked.send_if_modified(|asked| {
            let more = !asked.includes(lines);
            asked.add(lines);
            more
        });
    }

    /// Tells when something is asked for.
    pub(crate) fn wishes(&self) -> watch::Receiver<Ledger> {
        self.0.asked.subscribe()
    }

    /// Tells when something is known to be written.
    pub(crate) fn news(&self) -> watch::Receiver<Ledger> {
        self.0.written.subscribe()
    }

    /// What this replica is to write on top of what stands in its name.
    pub(crate) fn lines(&self, mine: Option<&Replica>, now: Timestamp) -> Vec<LedgerEntry> {
        let standing = mine.map(|mine| read(&mine.ledger)).unwrap_or_default();
        let asked = self.0.asked.borrow().clone();
        tell(&ledger::to_write(&standing, &asked, clock(now)))
    }

    /// Whether something is asked for that is not known to be written.
    pub(crate) fn is_behind(&self, now: Timestamp) -> bool {
        let asked = self.0.asked.borrow().alive(clock(now));
        !self.0.written.borrow().includes(&asked)
    }

    /// Takes note of what stands in the API server in the name of this replica.
    pub(crate) fn confirm(&self, mine: &Replica) {
        let lines = read(&mine.ledger);
        self.0.written.send_if_modified(|written| {
            let more = !written.includes(&lines);
            written.add(&lines);
            more
        });
        // Should it ever go missing, it is written again.
        self.ask_all(&lines);
    }

    /// Takes note of the object that the ledger stands in; none: there is none. What stood in another stands nowhere.
    pub(crate) fn stands_in(&self, object: Option<&str>) {
        let other = self.0.object.send_if_modified(|known| {
            let other = known.as_deref() != object;
            if other {
                *known = object.map(ToOwned::to_owned);
            }
            other
        });
        if other {
            self.0.written.send_replace(Ledger::default());
        }
    }

    /// Whether a replica that is no more may be forgotten. If not, its lines are asked for in the own name.
    pub(crate) fn may_forget(
        &self,
        dead: &Replica,
        mine: Option<&Replica>,
        now: Timestamp,
    ) -> bool {
        let mine = mine.map(|mine| read(&mine.ledger)).unwrap_or_default();
        match ledger::burial(&read(&dead.ledger), &mine, clock(now)) {
            Burial::Forget => true,
            Burial::TakeOver(lines) => {
                self.ask_all(&lines);
                false
            }
        }
    }
}

/// The ledgers of all replicas, as they stand in the object, and what this one may hand out or has asked for.
pub(crate) fn ledgers(intent: &Intent, own: &Book) -> Vec<Ledger> {
    let standing = intent.status.replicas.iter();
    standing
        .map(|replica| read(&replica.ledger))
        .chain([own.0.asked.borrow().clone(), own.0.written.borrow().clone()])
        .collect()
}

/// By the clocks of everybody who may judge a leaf.
pub(crate) fn clock(now: Timestamp) -> Clock {
    Clock::new(now, LEAF_BACKDATE)
}

/// What a leaf that ends at `end` has to live.
fn life(end: Timestamp) -> SignedDuration {
    end.duration_since(Timestamp::now())
}

/// A ledger as it stands in the status. An end that cannot be read is one that never comes.
pub(crate) fn read(entries: &[LedgerEntry]) -> Ledger {
    entries
        .iter()
        .map(|entry| {
            let pair = Pair {
                signer: entry.signer,
                bundle: entry.bundle,
            };
            (pair, entry.until.parse().unwrap_or(Timestamp::MAX))
        })
        .collect()
}

fn tell(ledger: &Ledger) -> Vec<LedgerEntry> {
    ledger
        .entries()
        .map(|(pair, until)| LedgerEntry {
            signer: pair.signer,
            bundle: pair.bundle,
            until: until.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests;
