//! Which regions are dead, as this pod sees them, and whose endpoints are to go, as all pods agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};
use mesh_api::{
    agent::{Consume, Replica, Sidecars},
    read,
};
use mesh_cluster::agent_io::{Intent, Seen};
use mesh_core::{
    peer::{Dead, Look, Peer, Policy, Rules, Verdict, agreed},
    probe::State,
};
use parking_lot::Mutex;
use tokio::sync::watch;

/// What this pod holds of all regions.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    intents: watch::Receiver<Seen<Intent>>,
    held: Arc<Mutex<Held>>,
    /// When this began, by the wall and by the clock that nobody sets: a clock that is set must not age a silence.
    begun: (Timestamp, Instant),
}

#[derive(Debug, Default)]
struct Held {
    /// What all pods had agreed on when this one began to look; nothing before that was read.
    before: Option<BTreeMap<String, Dead>>,
    peers: BTreeMap<String, Peer>,
}

/// What all pods say of a region, as it stands in the `MeshAgent`. A pod that is gone has its say until it is forgotten.
fn said<'a>(replicas: &'a [Replica], region: &'a str) -> impl Iterator<Item = Option<Dead>> {
    let agents = replicas.iter().filter(|replica| !replica.sidecar);
    let paths = agents.flat_map(|replica| &replica.paths);
    let paths = paths.filter(move |path| path.region == region);
    paths.map(|path| path.dead.as_ref().and_then(read::dead))
}

/// What is done about a region: what istiod reads in the region itself is not ours to take away.
fn rules_of(intent: &Intent, consume: &Consume) -> Rules {
    let rules = read::dead_peer(intent.spec.dead_peer.as_ref());
    let theirs = consume.sidecars == Sidecars::Remote;
    match rules.policy {
        Policy::Withdraw if theirs => Rules {
            policy: Policy::Mark,
            ..rules
        },
        Policy::Keep | Policy::Mark | Policy::Withdraw => rules,
    }
}

impl Held {
    /// Takes over what was agreed on before, once.
    fn remember(&mut self, intent: &Intent) {
        if self.before.is_none() {
            let replicas = &intent.status.replicas;
            let consume = intent.spec.consume.iter();
            let dead = consume.filter_map(|consume| {
                let dead = agreed(said(replicas, &consume.region))?;
                Some((consume.region.clone(), dead))
            });
            self.before = Some(dead.collect());
        }
    }

    fn peer(&self, region: &str, now: Timestamp) -> Peer {
        let known = self.peers.get(region).copied();
        known.unwrap_or_else(|| {
            let before = self.before.as_ref();
            Peer::start(before.and_then(|before| before.get(region).copied()), now)
        })
    }

    /// What is told of it before and after one look.
    fn observe(
        &mut self,
        region: &str,
        verdict: Verdict,
        now: Timestamp,
        rules: &Rules,
    ) -> [Option<Dead>; 2] {
        let mut others = self.peers.iter().filter(|(other, _)| *other != region);
        let beside = others.any(|(_, peer)| *peer == Peer::Alive);
        let before = self.peer(region, now);
        let after = before.step(Look { verdict, beside }, now, rules);
        self.peers.insert(region.to_owned(), after);
        [before.dead(), after.dead()]
    }

    /// The regions whose endpoints are to go: all pods say so, by what stands written, so that all do the same. Of a region that nobody
    /// has written about, this pod's word counts, which at first is what all had agreed on before.
    fn withdrawn(&self, intent: &Intent, now: Timestamp) -> BTreeSet<String> {
        let withdrawn = |consume: &&Consume| {
            let mut said = said(&intent.status.replicas, &consume.region).peekable();
            let word = if said.peek().is_some() {
                agreed(said)
            } else {
                self.peer(&consume.region, now).dead()
            };
            rules_of(intent, consume).policy == Policy::Withdraw
                && word.is_some_and(|dead| dead.withdrawn)
        };
        let regions = intent.spec.consume.iter().filter(withdrawn);
        regions.map(|consume| consume.region.clone()).collect()
    }
}

impl Peers {
    pub(crate) fn new(intents: watch::Receiver<Seen<Intent>>) -> Self {
        Self {
            intents,
            held: Arc::default(),
            begun: (Timestamp::now(), Instant::now()),
        }
    }

    fn now(&self) -> Timestamp {
        let (wall, clock) = self.begun;
        let passed = SignedDuration::try_from(clock.elapsed()).unwrap_or_default();
        wall.saturating_add(passed).unwrap_or(wall)
    }

    /// Takes in what a path shows; what is to be told of its region then.
    pub(crate) fn observe(&self, region: &str, state: &State) -> Option<Dead> {
        let seen = self.intents.borrow().clone();
        let intent = seen.as_deref()?.values().next()?;
        let mut consume = intent.spec.consume.iter();
        let rules = rules_of(intent, consume.find(|consume| consume.region == region)?);
        let mut held = self.held.lock();
        held.remember(intent);
        let verdict = Verdict::from(&state.outcome);
        let [before, after] = held.observe(region, verdict, self.now(), &rules);
        drop(held);
        tell(region, before, after);
        after
    }

    /// Forgets a region that is not called any more.
    pub(crate) fn forget(&self, region: &str) {
        let mut held = self.held.lock();
        held.peers.remove(region);
        if let Some(before) = &mut held.before {
            before.remove(region);
        }
    }

    /// The regions whose endpoints are to go.
    pub(crate) fn withdrawn(&self, intent: &Intent) -> BTreeSet<String> {
        let mut held = self.held.lock();
        held.remember(intent);
        held.withdrawn(intent, self.now())
    }
}

fn tell(region: &str, before: Option<Dead>, after: Option<Dead>) {
    match (before, after) {
        (None, Some(dead)) => {
            tracing::warn!(region, since = %dead.since, withdrawn = dead.withdrawn, "the region is dead");
        }
        (Some(_), None) => tracing::info!(region, "the region is not called dead any more"),
        (Some(before), Some(dead)) if before.withdrawn != dead.withdrawn => {
            tracing::warn!(region, withdrawn = dead.withdrawn, "the region is dead");
        }
        (_, _) => {}
    }
}

#[cfg(test)]
mod tests;
