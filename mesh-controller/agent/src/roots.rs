//! The roots in every namespace, where Istio's proxies look for them: `ConfigMap` `istio-ca-root-cert`.
//!
//! Only what is missing is made, and only what is ours is mended. What belongs to somebody else is left alone and told. They are
//! taken back by the controller, together with the right to make them. Beside them, [`crate::lists::maps`] keeps revocation lists.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh_api::{agent::Workloads as Wish, labels, mesh::WorkloadIssuer};
use mesh_cluster::agent_io::{Intent, MapDraft, MapSeen, NamespaceSeen, OwnCluster, Seen};
use mesh_core::facts::Obstacle;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    jitter, lists,
    report::{Board, Workloads, present},
    wanted::Wanted,
};

/// Name of the entry; Istio's.
const ENTRY: &str = "root-cert.pem";
/// Namespaces that come this close together are written as one.
pub(crate) const TOGETHER: Duration = Duration::from_millis(20);
/// Longest sleep between two looks.
const LOOK: Duration = Duration::from_secs(30);

/// What the keeper of the roots needs.
pub(crate) struct Roots {
    pub(crate) cluster: OwnCluster,
    pub(crate) intents: watch::Receiver<Seen<Intent>>,
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(crate) board: Board,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Todo {
    /// Namespaces in which the map is to be made, or (with its UID) mended.
    pub(crate) put: BTreeMap<String, Option<String>>,
    /// Namespaces whose map is somebody else's.
    pub(crate) foreign: Vec<String>,
}

/// Decides. With `yields`, istiod writes the same map, and whatever it has taken over is its own.
pub(crate) fn decide(
    draft: &MapDraft,
    yields: bool,
    namespaces: &BTreeMap<String, NamespaceSeen>,
    maps: &BTreeMap<String, MapSeen>,
) -> Todo {
    let mut todo = Todo::default();
    let hash = draft.hash();
    for (namespace, seen) in namespaces {
        match maps.get(namespace) {
            None if seen.leaving => {}
            None => drop(todo.put.insert(namespace.clone(), None)),
            Some(map) if map.marks != draft.marks => {
                if !yields {
                    todo.foreign.push(namespace.clone());
                }
            }
            Some(map) if map.hash == hash || seen.leaving || (yields && map.shared) => {}
            Some(map) => drop(todo.put.insert(namespace.clone(), Some(map.uid.clone()))),
        }
    }
    todo
}

fn draft(wanted: &Wanted, wish: &Wish) -> MapDraft {
    let roots = wish.bundle.roots.iter().map(|root| root.trim_end());
    MapDraft {
        name: labels::ROOT_CONFIG_MAP,
        entry: ENTRY,
        text: roots.flat_map(|root| [root, "\n"]).collect(),
        marks: wanted.marks.clone(),
    }
}

impl Roots {
    /// Keeps the roots, for ever.
    pub(crate) async fn run(mut self) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            if let Some(wanted) = wanted {
                if wanted.spec.workloads.is_some() {
                    let (to_namespaces, namespaces) = watch::channel(None);
                    let (to_maps, maps) = watch::channel(None);
                    let (to_lists, lists) = watch::channel(None);
                    let cluster = self.cluster.clone();
                    let keeper = lists::maps::Keeper::new(&self);
                    tokio::select! {
                        () = cluster.follow_namespaces(to_namespaces) => {}
                        () = cluster.follow_maps(labels::ROOT_CONFIG_MAP, ENTRY, to_maps) => {}
                        () = cluster.follow_maps(labels::CRL_CONFIG_MAP, lists::maps::ENTRY, to_lists) => {}
                        () = keeper.keep(namespaces.clone(), lists) => {}
                        () = self.keep(namespaces, maps) => {}
                    }
                    continue;
                }
                self.board.no_workloads();
            }
            if self.wanted.changed().await.is_err() {
                return;
            }
        }
    }

    /// Keeps them as long as anybody is to be given certificates.
    async fn keep(
        &mut self,
        mut namespaces: watch::Receiver<Seen<NamespaceSeen>>,
        mut maps: watch::Receiver<Seen<MapSeen>>,
    ) {
        let mut failures = 0;
        loop {
            let Some(wanted) = self.wanted.borrow_and_update().clone() else {
                return;
            };
            let Some(wish) = &wanted.spec.workloads else {
                return;
            };
            let there = namespaces.borrow_and_update().clone();
            let known = maps.borrow_and_update().clone();
            let mut pause = jitter::around(LOOK);
            // Without a MeshAgent we are being taken away: nothing is made that would be left behind.
            if let (Some(there), Some(known), Some(_)) = (there, known, present(&mut self.intents))
            {
                let draft = draft(&wanted, wish);
                let yields = wish.issuer == WorkloadIssuer::Istiod;
                let todo = decide(&draft, yields, &there, &known);
                let failure = self.put(&draft, &todo).await;
                if failure.is_some() {
                    failures += 1;
                    pause = jitter::backoff(failures);
                } else {
                    failures = 0;
                }
                self.board.workloads(Workloads::Given {
                    bundle: failure.is_none().then_some(wish.bundle.generation),
                    foreign: todo.foreign,
                    obstacle: failure,
                });
            }
            let news = async {
                tokio::select! {
                    gone = self.wanted.changed() => gone,
                    gone = namespaces.changed() => gone,
                    gone = maps.changed() => gone,
                }
            };
            match timeout(pause, news).await {
                Ok(Ok(())) => sleep(TOGETHER).await,
                Ok(Err(_closed)) => return,
                Err(_elapsed) => {}
            }
        }
    }

    async fn put(&self, draft: &MapDraft, todo: &Todo) -> Option<Obstacle> {
        if todo.put.is_empty() {
            return None;
        }
        let (written, failure) = self.cluster.put_maps(draft, &todo.put).await;
        if written > 0 {
            tracing::info!(written, name = draft.name, "wrote roots into namespaces");
        }
        let error = failure?;
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "failed to write roots into namespaces"
        );
        Some(Obstacle::new(
            "RootsNotWritten",
            mesh_core::text::chain(&error),
        ))
    }
}

#[cfg(test)]
mod tests;
