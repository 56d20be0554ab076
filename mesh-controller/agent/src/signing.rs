//! Keeps the gateway's leaf fresh: from memory, whether or not the API server is there.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::{sync::watch, time::sleep};

use crate::{
    intermediate::{Signer, chain_of},
    jitter,
    leaf::{Leaf, Wish, ledger},
    metrics::Metrics,
    report::Board,
    wanted::Wanted,
};

/// Longest sleep between two looks at the clock, which may be stepped.
const LOOK: Duration = Duration::from_secs(30);

/// What the signing task needs.
pub(crate) struct Signing {
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(crate) signer: watch::Receiver<Option<Signer>>,
    pub(crate) leaf: watch::Sender<Option<Arc<Leaf>>>,
    pub(crate) board: Board,
    pub(crate) metrics: Metrics,
}

/// What to do about the leaf.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It is good until then.
    Keep(Timestamp),
    /// Make one; once the ledger speaks of its end, or at once.
    Make { ledger: Timestamp, urgent: bool },
}

fn next(leaf: Option<&Leaf>, wish: &Wish, noise: f64, now: Timestamp) -> Next {
    let make = |urgent| {
        let end = now.saturating_add(wish.life).unwrap_or(now);
        Next::Make {
            ledger: ledger(end, wish.life),
            urgent,
        }
    };
    match leaf {
        None => make(false),
        Some(leaf) if leaf.wish != *wish => make(now >= leaf.urgent_at()),
        Some(leaf) => {
            let due = leaf.renew_at(noise);
            // A clock that was stepped back behind the start of the leaf makes it useless too.
            if now >= due || now < leaf.facts.not_before {
                make(now >= leaf.urgent_at())
            } else {
                Next::Keep(due)
            }
        }
    }
}

impl Signing {
    /// Keeps a leaf, for ever.
    pub(crate) async fn run(mut self) {
        let mut noise = jitter::fraction();
        let mut failures = 0;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let signer = self.signer.borrow_and_update().clone();
            let mut pause = LOOK;
            if let (Some(wanted), Some(signer)) = (wanted, signer) {
                let wish = Wish {
                    identity: wanted.identity.clone(),
                    life: wanted.leaf,
                    signer: signer.fingerprint().to_owned(),
                };
                let now = Timestamp::now();
                let current = self.leaf.borrow().clone();
                match next(current.as_deref(), &wish, noise, now) {
                    Next::Keep(until) => pause = until_then(until, now),
                    Next::Make { ledger, urgent } => {
                        self.board.ledger(ledger);
                        if self.board.ledger_written() >= Some(ledger) || urgent {
                            match Leaf::make(wish, &signer, now) {
                                Ok(leaf) => {
                                    failures = 0;
                                    noise = jitter::fraction();
                                    self.publish(leaf);
                                    continue;
                                }
                                Err(error) => {
                                    self.metrics.leaf_failures.inc();
                                    if failures == 0 {
                                        tracing::error!(
                                            error = chain_of(&error),
                                            "failed to make a leaf"
                                        );
                                    }
                                    failures += 1;
                                    pause = jitter::backoff(failures);
                                }
                            }
                        } else {
                            pause = Duration::from_secs(1);
                        }
                    }
                }
            }
            let mut ledger = self.board.ledger_watch();
            tokio::select! {
                gone = self.wanted.changed() => if gone.is_err() { return },
                gone = self.signer.changed() => if gone.is_err() { return },
                gone = ledger.changed() => if gone.is_err() { return },
                () = sleep(pause) => {}
            }
        }
    }

    fn publish(&self, leaf: Leaf) {
        self.metrics.leaf_renewals.inc();
        self.metrics
            .leaf_expiry
            .set(leaf.facts.not_after.as_second());
        tracing::info!(identity = %leaf.wish.identity, serial = leaf.facts.serial, until = %leaf.facts.not_after, "made a leaf");
        self.leaf.send_replace(Some(Arc::new(leaf)));
    }
}

fn until_then(until: Timestamp, now: Timestamp) -> Duration {
    let wait = until
        .duration_since(now)
        .max(SignedDuration::from_millis(50));
    Duration::try_from(wait).map_or(LOOK, |wait| wait.min(LOOK))
}

#[cfg(test)]
mod tests;
