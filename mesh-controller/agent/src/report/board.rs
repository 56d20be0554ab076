//! What there is to report, as the rooms of the agent put it together.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use mesh_api::{
    agent::{
        self as api, Crl, LedgerEntry, MeshAgentStatus, Replica, ReplicaPath, ReplicaRemote,
        WorkloadsStatus,
    },
    member::Intermediate,
};
use mesh_cluster::agent_io::Shared;
use mesh_core::{facts::Obstacle, names::ClusterName, peer::Dead, probe, remote::Said};
use tokio::sync::watch;

use crate::ledger::Book;

/// Most namespaces that are named.
pub(super) const NAMED: usize = 10;

/// What this replica has to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Draft {
    /// It only probes, through a sidecar.
    pub(super) sidecar: bool,
    pub(super) accepted: Option<i64>,
    pub(super) rejected: Option<String>,
    pub(super) paths: BTreeMap<String, probe::State>,
    pub(super) dead: BTreeMap<String, Dead>,
    pub(super) unresolved: BTreeMap<String, Obstacle>,
    pub(super) remotes: BTreeMap<ClusterName, Said>,
    pub(super) looked: bool,
    pub(super) intermediates: Option<Vec<Intermediate>>,
    pub(super) obstacle: Option<Obstacle>,
    pub(super) unreadable: Option<Obstacle>,
    pub(super) workloads: Option<Workloads>,
    pub(super) crls: Option<Vec<Crl>>,
    pub(super) cacerts: Option<Cacerts>,
    pub(super) lists: Option<Lists>,
}

/// What istiod signs with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cacerts {
    /// The generation in the Secret.
    pub(crate) generation: Option<u32>,
    /// How many certificates the lists in it name, if there are any.
    pub(crate) revoked: Option<u32>,
    /// What is not as it should be.
    pub(crate) why: Option<Obstacle>,
}

/// The revocation lists that proxies are given.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lists {
    /// How many certificates they name, once they stand in every namespace.
    pub(crate) revoked: Option<u32>,
    /// Namespaces whose map belongs to somebody else.
    pub(crate) foreign: Vec<String>,
    /// What is not as it should be.
    pub(crate) obstacle: Option<Obstacle>,
}

/// What workloads are given; nothing of it is known before it was looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Workloads {
    /// Nobody is given anything.
    None,
    /// These roots stand in every namespace.
    Given {
        /// Generation of the bundle, once it stands everywhere.
        bundle: Option<u32>,
        /// Namespaces whose map belongs to somebody else.
        foreign: Vec<String>,
        /// What is not as it should be.
        obstacle: Option<Obstacle>,
    },
}

impl Workloads {
    /// What was not looked at yet stays as it stands.
    fn status(&self, draft: &Draft, before: Option<&WorkloadsStatus>) -> Option<WorkloadsStatus> {
        match self {
            Self::None => None,
            Self::Given {
                bundle,
                foreign,
                obstacle,
            } => {
                let (cacerts, lists) = (draft.cacerts.as_ref(), draft.lists.as_ref());
                let reasons = [
                    obstacle.as_ref(),
                    cacerts.and_then(|it| it.why.as_ref()),
                    lists.and_then(|it| it.obstacle.as_ref()),
                ];
                let named = |names: &[String]| names.iter().take(NAMED).cloned().collect();
                let revoked = || before?.revoked;
                Some(WorkloadsStatus {
                    bundle: *bundle,
                    foreign: named(foreign),
                    cacerts: match cacerts {
                        Some(cacerts) => cacerts.generation,
                        None => before.and_then(|before| before.cacerts),
                    },
                    revoked: match (cacerts, lists) {
                        // They do not stand everywhere.
                        (_, Some(lists)) if !lists.foreign.is_empty() => None,
                        (Some(cacerts), Some(lists)) => lists.revoked.or(cacerts.revoked),
                        (_, _) => revoked(),
                    },
                    foreign_lists: match (lists, before) {
                        (Some(lists), _) => named(&lists.foreign),
                        (None, Some(before)) => before.foreign_lists.clone(),
                        (None, None) => Vec::new(),
                    },
                    obstacle: reasons.into_iter().flatten().next().map(told),
                })
            }
        }
    }
}

/// Where every part of the agent puts what it has to say.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    pub(super) draft: Arc<watch::Sender<Draft>>,
    /// What may be handed out.
    pub(crate) ledger: Book,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            draft: Arc::new(watch::Sender::default()),
            ledger: Book::new(),
        }
    }

    /// Of a pod that only probes, through a sidecar.
    pub(crate) fn of_prober() -> Self {
        let board = Self::new();
        board.change(|draft| draft.sidecar = true);
        board
    }

    fn change(&self, change: impl FnOnce(&mut Draft)) {
        self.draft.send_if_modified(|draft| {
            let before = draft.clone();
            change(draft);
            *draft != before
        });
    }

    /// The generation that Envoy accepted whole, and what it refused last.
    pub(crate) fn envoy(&self, accepted: Option<i64>, rejected: Option<String>) {
        self.change(|draft| {
            draft.accepted = accepted.or(draft.accepted);
            draft.rejected = rejected;
        });
    }

    /// The generation of the `MeshAgent` that a pod has read that only probes.
    pub(crate) fn read(&self, generation: i64) {
        self.change(|draft| draft.accepted = Some(generation));
    }

    /// The state of one path.
    pub(crate) fn path(&self, region: &str, state: &probe::State) {
        self.change(|draft| {
            draft.paths.insert(region.to_owned(), state.clone());
        });
    }

    /// Whether a region is called dead.
    pub(crate) fn dead(&self, region: &str, dead: Option<Dead>) {
        self.change(|draft| match dead {
            Some(dead) => drop(draft.dead.insert(region.to_owned(), dead)),
            None => drop(draft.dead.remove(region)),
        });
    }

    /// Forgets all paths but those to these regions.
    pub(crate) fn only(&self, regions: &[String]) {
        self.change(|draft| {
            draft.paths.retain(|region, _| regions.contains(region));
            draft.dead.retain(|region, _| regions.contains(region));
        });
    }

    /// Gateways without an address, by region.
    pub(crate) fn unresolved(&self, unresolved: BTreeMap<String, Obstacle>) {
        self.change(|draft| draft.unresolved = unresolved);
    }

    /// What istiod says about the regions that it reads.
    pub(crate) fn remotes(&self, said: &BTreeMap<ClusterName, Said>) {
        self.change(|draft| draft.remotes.clone_from(said));
    }

    /// Tells when something new is said.
    pub(crate) fn news(&self) -> watch::Receiver<Draft> {
        self.draft.subscribe()
    }

    /// What in the `MeshAgent` cannot be read.
    pub(crate) fn unreadable(&self, why: Option<Obstacle>) {
        self.change(|draft| draft.unreadable = why);
    }

    /// The intermediates that are held, and what is the matter with them. When none is held, what was reported
    /// before stays: peers go on trusting it until there is another, since Envoy may still use it.
    pub(crate) fn intermediates(&self, held: &[Intermediate], obstacle: Option<&Obstacle>) {
        self.change(|draft| {
            if !held.is_empty() {
                draft.intermediates = Some(held.to_vec());
            }
            draft.looked = true;
            draft.obstacle = obstacle.cloned();
        });
    }

    /// The revocation lists of the intermediates. When there is none, those reported before stay.
    pub(crate) fn crls(&self, crls: &[Crl]) {
        self.change(|draft| {
            if !crls.is_empty() {
                draft.crls = Some(crls.to_vec());
            }
        });
    }

    /// What workloads are given.
    pub(crate) fn workloads(&self, workloads: Workloads) {
        self.change(|draft| draft.workloads = Some(workloads));
    }

    /// Nobody is given anything any more, lists neither.
    pub(crate) fn no_workloads(&self) {
        self.change(|draft| {
            draft.workloads = Some(Workloads::None);
            draft.lists = Some(Lists::default());
        });
    }

    /// What istiod signs with.
    pub(crate) fn cacerts(&self, cacerts: Cacerts) {
        self.change(|draft| draft.cacerts = Some(cacerts));
    }

    /// The revocation lists that proxies are given.
    pub(crate) fn lists(&self, lists: Lists) {
        self.change(|draft| draft.lists = Some(lists));
    }

    /// What this replica has to say now.
    pub(crate) fn said(&self) -> Draft {
        self.draft.borrow().clone()
    }

    /// What stands in the way of the intermediate, when nothing about it could be read.
    pub(crate) fn obstacle(&self, obstacle: Obstacle) {
        self.change(|draft| draft.obstacle = Some(obstacle));
    }
}

impl Draft {
    /// The intermediates that are held.
    pub(crate) fn held(&self) -> &[Intermediate] {
        self.intermediates.as_deref().unwrap_or_default()
    }

    /// Only what is said of the own intermediates and their lists.
    pub(crate) fn about_own(self) -> Self {
        Self {
            intermediates: self.intermediates,
            crls: self.crls,
            ..Self::default()
        }
    }

    /// Their revocation lists.
    pub(crate) fn crls(&self) -> &[Crl] {
        self.crls.as_deref().unwrap_or_default()
    }

    /// What all replicas say as one. What this one does not know yet stays as it stands: also the intermediates when
    /// none is held.
    pub(super) fn shared(&self, before: &MeshAgentStatus) -> Shared {
        let obstacle = self.unreadable.as_ref().or(self.obstacle.as_ref());
        let known = self.workloads.as_ref();
        Shared {
            intermediates: self
                .intermediates
                .clone()
                .unwrap_or_else(|| before.intermediates.clone()),
            obstacle: obstacle.map(told),
            crls: self.crls.clone().unwrap_or_else(|| before.crls.clone()),
            workloads: known.map_or_else(
                || before.workloads.clone(),
                |known| known.status(self, before.workloads.as_ref()),
            ),
        }
    }

    pub(super) fn replica(&self, pod: &str, version: &str, ledger: Vec<LedgerEntry>) -> Replica {
        Replica {
            pod: pod.to_owned(),
            version: version.to_owned(),
            sidecar: self.sidecar,
            accepted_generation: self.accepted,
            rejected: self.rejected.clone(),
            ledger,
            paths: self
                .paths
                .iter()
                .map(|(region, state)| self.path(region, state))
                .collect(),
            remotes: self
                .remotes
                .iter()
                .map(|(region, said)| remote(region, said))
                .collect(),
        }
    }

    fn path(&self, region: &str, state: &probe::State) -> ReplicaPath {
        let (ready, reason, message) = match &state.outcome {
            Ok(()) => (
                true,
                "Answered".to_owned(),
                "requests come through".to_owned(),
            ),
            Err(failure) => (
                false,
                failure.class.as_str().to_owned(),
                failure.message.clone(),
            ),
        };
        ReplicaPath {
            region: region.to_owned(),
            ready,
            reason,
            message,
            since: whole_second(state.since).to_string(),
            unresolved: self.unresolved.get(region).map(told),
            dead: self.dead.get(region).map(|dead| api::Dead {
                since: whole_second(dead.since).to_string(),
                withdrawn: dead.withdrawn,
            }),
        }
    }
}

fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn told(obstacle: &Obstacle) -> api::Obstacle {
    api::Obstacle {
        reason: obstacle.reason.clone(),
        message: obstacle.message.clone(),
    }
}

fn remote(region: &ClusterName, said: &Said) -> ReplicaRemote {
    ReplicaRemote {
        region: region.to_string(),
        state: said.state.as_str().to_owned(),
        message: said.note.clone(),
    }
}
