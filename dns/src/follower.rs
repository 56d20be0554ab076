//! Follows the names of gateways: asks at the pace their answers set, and publishes when something changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::IpAddr,
    sync::Arc,
};

use jiff::Timestamp;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    Answer, Change, Family, HostName, Known, NameServer, Pace, StartError, State, Target,
    ask::Asker,
};

/// Where a gateway is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Its addresses; empty when there is none (yet), `state` says why.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses of its name that are never used.
    pub refused: BTreeSet<IpAddr>,
    /// How good they are.
    pub state: State,
}

/// All gateways that are followed. Changes when a meaning changes, not when time passes.
pub type Gateways = BTreeMap<Target, Resolved>;

/// Follows a changing set of gateways. Made first and run then, by whoever keeps the handle of the task; dropping the future stops everything it
/// began.
#[derive(Debug)]
pub struct Follower {
    asker: Asker,
    targets: watch::Receiver<BTreeSet<Target>>,
    gateways: watch::Sender<Arc<Gateways>>,
    pace: Pace,
    names: BTreeMap<HostName, Name>,
    asked: JoinSet<Round>,
}

/// A name that is followed.
#[derive(Debug)]
struct Name {
    known: Known,
    /// When to ask again; `None` while a question is open.
    due: Option<Instant>,
}

/// Both families of one name, asked at once.
#[derive(Debug)]
struct Round {
    name: HostName,
    v4: Answer,
    v6: Answer,
}

impl Follower {
    /// Sets up the resolver. Nothing is asked before [`Follower::run`].
    ///
    /// # Errors
    ///
    /// When the system's resolver configuration cannot be used.
    pub fn new(
        server: NameServer,
        pace: Pace,
        targets: watch::Receiver<BTreeSet<Target>>,
    ) -> Result<(Self, watch::Receiver<Arc<Gateways>>), StartError> {
        let (gateways, published) = watch::channel(Arc::new(Gateways::new()));
        let asker = Asker::new(server)?;
        let names = BTreeMap::new();
        Ok((
            Self {
                asker,
                targets,
                gateways,
                pace,
                names,
                asked: JoinSet::new(),
            },
            published,
        ))
    }

    /// Follows until nobody can change the targets any more (their sender is gone) or nobody listens.
    pub async fn run(mut self) {
        self.take_targets();
        loop {
            self.ask_due(Instant::now());
            let next = self.names.values().filter_map(|name| name.due).min();
            tokio::select! {
                changed = self.targets.changed() => match changed {
                    Ok(()) => self.take_targets(),
                    Err(_gone) => return,
                },
                Some(round) = self.asked.join_next() => match round {
                    Ok(round) => self.take(round),
                    // A question that panicked: ask all open ones again.
                    Err(error) => self.lost(&error),
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                () = self.gateways.closed() => return,
            }
        }
    }

    fn take_targets(&mut self) {
        let wanted = self.targets.borrow_and_update().clone();
        let names: BTreeSet<HostName> = wanted
            .iter()
            .filter_map(|target| match target {
                Target::Name(name) => Some(name.clone()),
                Target::Address(_) => None,
            })
            .collect();
        self.names.retain(|name, _| names.contains(name));
        let now = Instant::now();
        for name in names {
            self.names.entry(name).or_insert_with(|| Name {
                known: Known::default(),
                due: Some(now),
            });
        }
        self.publish(&wanted);
    }

    fn ask_due(&mut self, now: Instant) {
        for (name, followed) in &mut self.names {
            if followed.due.is_some_and(|due| due <= now) {
                followed.due = None;
                let (asker, name) = (self.asker.clone(), name.clone());
                self.asked.spawn(async move {
                    let (v4, v6) =
                        tokio::join!(asker.ask(&name, Family::V4), asker.ask(&name, Family::V6));
                    Round { name, v4, v6 }
                });
            }
        }
    }

    fn take(&mut self, Round { name, v4, v6 }: Round) {
        // A name that was dropped while its question was open is no longer here; one that came back meanwhile has asked again, and
        // this answer serves it as well.
        let Some(followed) = self.names.get_mut(&name) else {
            return;
        };
        let now = Timestamp::now();
        let before = followed.known.state();
        let changes = [
            followed.known.observe(Family::V4, v4, now),
            followed.known.observe(Family::V6, v6, now),
        ];
        followed.due = Instant::now().checked_add(followed.known.next_refresh(self.pace, jitter()));
        if changes.into_iter().all(|change| change == Change::Nothing) {
            return;
        }
        tell(&name, before, &followed.known);
        let wanted = self.targets.borrow().clone();
        self.publish(&wanted);
    }

    fn lost(&mut self, error: &tokio::task::JoinError) {
        tracing::error!(%error, "failed to finish a question; asking again");
        let due = Instant::now().checked_add(self.pace.retry);
        for name in self.names.values_mut().filter(|name| name.due.is_none()) {
            name.due = due;
        }
    }

    fn publish(&self, wanted: &BTreeSet<Target>) {
        let resolved = |target: &Target| match target {
            Target::Address(address) => {
                let addresses = [*address].into();
                Some(Resolved {
                    addresses,
                    refused: BTreeSet::new(),
                    state: State::Fresh,
                })
            }
            Target::Name(name) => self.names.get(name).map(|name| Resolved {
                addresses: name.known.addresses(),
                refused: name.known.refused(),
                state: name.known.state(),
            }),
        };
        let now: Gateways = wanted
            .iter()
            .filter_map(|target| Some((target.clone(), resolved(target)?)))
            .collect();
        self.gateways.send_if_modified(|before| {
            let differs = **before != now;
            if differs {
                *before = Arc::new(now);
            }
            differs
        });
    }
}

fn tell(name: &HostName, before: State, known: &Known) {
    let (addresses, refused, state) = (known.addresses(), known.refused(), known.state());
    match state {
        State::Unresolved(_) | State::Stale { .. } if state != before => {
            tracing::warn!(%name, ?addresses, ?refused, ?state, "the gateway's name is not answered");
        }
        State::Unresolved(_) | State::Stale { .. } | State::Unknown | State::Fresh => {
            tracing::info!(%name, ?addresses, ?refused, ?state, "the gateway's name has another answer");
        }
    }
}

/// Between 0 and 1, different for each call and process. Good enough to spread questions, for nothing else.
fn jitter() -> f64 {
    let word = RandomState::new().build_hasher().finish();
    f64::from((word >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
