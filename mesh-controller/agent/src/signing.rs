//! Keeps the gateway's leaf fresh: from memory, whether or not the API server is there.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use mesh_core::{
    ledger::{Pair, far_ahead},
    names::SpiffeId,
};
use tokio::{sync::watch, time::sleep};

use crate::{
    intermediate::Signer,
    jitter,
    leaf::{Leaf, Wish},
    metrics::Metrics,
    report::Board,
    wanted::Wanted,
};

/// Longest sleep between two looks at the clock, which may be stepped.
const LOOK: Duration = Duration::from_secs(30);

/// Which leaf is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// That of the member's own gateway.
    Own,
    /// That which regions are shown whose gateway is Istio's, where it is another one.
    Shared,
}

/// What the signing task needs.
pub(crate) struct Signing {
    pub(crate) which: Which,
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
    /// Make one, once the ledger speaks of its end.
    Make,
}

fn next(leaf: Option<&Leaf>, wish: &Wish, noise: f64, now: Timestamp) -> Next {
    let Some(leaf) = leaf.filter(|leaf| leaf.wish == *wish) else {
        return Next::Make;
    };
    let due = leaf.renew_at(noise);
    // A clock that was stepped back behind the start of the leaf makes it useless too.
    if now >= due || now < leaf.facts.not_before {
        Next::Make
    } else {
        Next::Keep(due)
    }
}

/// The line of the ledger for a leaf that is made now: its pair, its end, and how far ahead the line is kept. No leaf
/// outlives what signs it, so no line does.
fn line(wish: &Wish, signer: &Signer, now: Timestamp) -> (Pair, Timestamp, Timestamp) {
    let pair = Pair {
        signer: signer.generation,
        bundle: 0,
    };
    let last = signer.authority.expires();
    let end = now.saturating_add(wish.life).unwrap_or(now).min(last);
    (pair, end, far_ahead(end, wish.life).min(last))
}

impl Signing {
    /// Keeps a leaf, for ever.
    pub(crate) async fn run(mut self) {
        let mut noise = jitter::fraction();
        let mut failures = 0;
        let ledger = self.board.ledger.clone();
        let mut news = ledger.news();
        loop {
            news.mark_unchanged();
            let wanted = self.wanted.borrow_and_update().clone();
            let signer = self.signer.borrow_and_update().clone();
            let mut pause = LOOK;
            let identity = wanted.as_ref().and_then(|wanted| self.identity(wanted));
            if wanted.is_some() && identity.is_none() {
                self.leaf.send_if_modified(|leaf| leaf.take().is_some());
            }
            if let (Some(wanted), Some(identity), Some(signer)) = (wanted, identity, signer) {
                let wish = Wish {
                    identity,
                    life: wanted.leaf,
                    signer: signer.fingerprint().to_owned(),
                };
                let now = Timestamp::now();
                let current = self.leaf.borrow().clone();
                let (pair, end, until) = line(&wish, &signer, now);
                // Also while nothing is to be made: the API server may be away when something is.
                ledger.ask(pair, until);
                match next(current.as_deref(), &wish, noise, now) {
                    Next::Keep(until) => pause = until_then(until, now),
                    Next::Make if !ledger.covers(pair, end) => pause = Duration::from_secs(1),
                    Next::Make => match Leaf::make(wish, &signer, now) {
                        Ok(leaf) if ledger.covers(pair, leaf.facts.not_after) => {
                            failures = 0;
                            noise = jitter::fraction();
                            self.publish(leaf);
                            continue;
                        }
                        Ok(leaf) => {
                            tracing::error!(until = %leaf.facts.not_after, "a leaf lives longer than the ledger says; it is thrown away");
                            pause = Duration::from_secs(1);
                        }
                        Err(error) => {
                            self.metrics.leaf_failures.inc();
                            if failures == 0 {
                                tracing::error!(
                                    error = mesh_core::text::chain(&error),
                                    "failed to make a leaf"
                                );
                            }
                            failures += 1;
                            pause = jitter::backoff(failures);
                        }
                    },
                }
            }
            tokio::select! {
                gone = self.wanted.changed() => if gone.is_err() { return },
                gone = self.signer.changed() => if gone.is_err() { return },
                gone = news.changed() => if gone.is_err() { return },
                () = sleep(pause) => {}
            }
        }
    }

    fn identity(&self, wanted: &Wanted) -> Option<SpiffeId> {
        match self.which {
            Which::Own => Some(wanted.identity.clone()),
            Which::Shared => wanted.shared.clone(),
        }
    }

    fn publish(&self, leaf: Leaf) {
        if self.which == Which::Own {
            self.metrics.leaf_renewals.inc();
            self.metrics
                .leaf_expiry
                .set(leaf.facts.not_after.as_second());
        }
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
