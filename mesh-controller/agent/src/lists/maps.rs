//! Revocation lists in every namespace, where Istio's sidecars look for them: `ConfigMap` `istio-ca-crl`.
//!
//! When istiod is the issuer it writes these maps itself, from `cacerts`. Otherwise we do: empty until something is revoked, as istiod does, since
//! sidecars look for the file once, when they are given roots. A map that istiod has taken over is left alone also then: an istiod that still
//! serves would write it again. A proxy goes on with the lists that it has read when the map is deleted, until
//! they end, and then refuses everybody; an empty text ends that at once. So a map is emptied first and deleted later.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use mesh_api::{agent::Workloads as Wish, labels, mesh::WorkloadIssuer};
use mesh_cluster::agent_io::{
    AgentIoError, Intent, MapDraft, MapSeen, NamespaceSeen, OwnCluster, Seen,
};
use mesh_core::{facts::Obstacle, revocation::proxies::Reader};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{Choice, Met, Same, Text, Worked, count, named};
use crate::{
    jitter,
    report::{Board, Draft, Lists, present},
    roots::{self, Roots, Todo},
    wanted::Wanted,
};

/// Name of the entry; Istio's.
pub(crate) const ENTRY: &str = "ca-crl.pem";
/// Longest sleep between two looks.
const LOOK: Duration = Duration::from_secs(30);
/// How long a map stays empty before it is deleted: kubelets bring it to pods within two minutes or so.
const FADE: Duration = Duration::from_mins(10);

/// Keeps the maps.
pub(crate) struct Keeper {
    cluster: OwnCluster,
    intents: watch::Receiver<Seen<Intent>>,
    wanted: watch::Receiver<Option<Arc<Wanted>>>,
    board: Board,
    met: Worked<(Same, Draft), Met>,
    empty_since: Option<Instant>,
}

/// What is to stand in namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    /// Whatever stands there; an empty text where nothing does, so that sidecars that start follow what comes.
    Leave,
    /// This, in every one.
    Text(String),
    /// Nothing of ours.
    Nothing,
}

fn goal(text: Text, standing: &str) -> Goal {
    match text {
        Text::Write(text) => Goal::Text(text),
        Text::Leave => Goal::Leave,
        Text::Keep => Goal::Text(standing.to_owned()),
        Text::Withdraw => Goal::Text(String::new()),
    }
}

fn draft(text: String, marks: &BTreeMap<String, String>) -> MapDraft {
    MapDraft {
        name: labels::CRL_CONFIG_MAP,
        entry: ENTRY,
        text,
        marks: marks.clone(),
    }
}

/// What stands: the text of one of ours that says something, of the one in the own namespace before all others.
fn standing<'a>(marks: &BTreeMap<String, String>, maps: &'a BTreeMap<String, MapSeen>) -> &'a str {
    maps.get(mesh_api::NAMESPACE)
        .into_iter()
        .chain(maps.values())
        .filter(|map| map.marks == *marks && !map.shared)
        .filter_map(|map| map.text.as_deref())
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

/// What is to be done for this text to stand in every namespace: also maps of ours that istiod has taken over are somebody else's.
fn spread(
    draft: &MapDraft,
    namespaces: &BTreeMap<String, NamespaceSeen>,
    maps: &BTreeMap<String, MapSeen>,
) -> Todo {
    let mut todo = roots::decide(draft, false, namespaces, maps);
    for namespace in namespaces.keys() {
        if maps.get(namespace).is_some_and(|map| map.shared) {
            todo.put.remove(namespace);
            if !todo.foreign.contains(namespace) {
                todo.foreign.push(namespace.clone());
            }
        }
    }
    todo
}

/// What is to be done while it cannot be said what should stand: maps are made where none are.
fn begin(
    empty: &MapDraft,
    namespaces: &BTreeMap<String, NamespaceSeen>,
    maps: &BTreeMap<String, MapSeen>,
) -> Todo {
    let mut todo = spread(empty, namespaces, maps);
    todo.put.retain(|_, uid| uid.is_none());
    todo
}

/// What is told of a text that is to stand in every namespace but these, when this kept it from it, or nothing did.
fn told(
    text: &str,
    foreign: Vec<String>,
    failure: Option<Obstacle>,
    why: Option<Obstacle>,
) -> Lists {
    let revoked = count(text);
    let stands = revoked > 0 && foreign.is_empty() && failure.is_none();
    let names: BTreeSet<&str> = foreign.iter().map(String::as_str).collect();
    let is_kept_out = !text.is_empty() && !foreign.is_empty();
    let kept_out = is_kept_out.then(|| {
        Obstacle::new(
            "ListsForeign",
            format!(
                "a certificate is revoked, but ConfigMap {} belongs to istiod or to somebody else and is left alone in {}: proxies there go by what is in it",
                labels::CRL_CONFIG_MAP,
                named(&names)
            ),
        )
    });
    Lists {
        revoked: stands.then_some(revoked),
        obstacle: failure.or(why).or(kept_out),
        foreign,
    }
}

/// Ours that say something are to be emptied; once all are empty, these are to be deleted. Whatever istiod has taken over is its own.
fn withdraw(
    empty: &MapDraft,
    maps: &BTreeMap<String, MapSeen>,
) -> (Todo, BTreeMap<String, String>) {
    let ours = || {
        maps.iter()
            .filter(|(_, map)| map.marks == empty.marks && !map.shared)
    };
    let hash = empty.hash();
    let put: BTreeMap<String, Option<String>> = ours()
        .filter(|(_, map)| map.hash != hash)
        .map(|(namespace, map)| (namespace.clone(), Some(map.uid.clone())))
        .collect();
    let gone = if put.is_empty() {
        ours()
            .map(|(namespace, map)| (namespace.clone(), map.uid.clone()))
            .collect()
    } else {
        BTreeMap::new()
    };
    let todo = Todo {
        put,
        ..Todo::default()
    };
    (todo, gone)
}

impl Keeper {
    pub(crate) fn new(beside: &Roots) -> Self {
        Self {
            cluster: beside.cluster.clone(),
            intents: beside.intents.clone(),
            wanted: beside.wanted.clone(),
            board: beside.board.clone(),
            met: Worked::default(),
            empty_since: None,
        }
    }

    /// Keeps them as long as anybody is to be given certificates.
    pub(crate) async fn keep(
        mut self,
        mut namespaces: watch::Receiver<Seen<NamespaceSeen>>,
        mut maps: watch::Receiver<Seen<MapSeen>>,
    ) {
        let mut failures = 0;
        loop {
            let Some(wanted) = self.wanted.borrow_and_update().clone() else {
                return;
            };
            let Some(wish) = wanted.spec.workloads.clone() else {
                return;
            };
            let there = namespaces.borrow_and_update().clone();
            let known = maps.borrow_and_update().clone();
            let mut pause = jitter::around(LOOK);
            if let (Some(there), Some(known), Some(_)) = (there, known, present(&mut self.intents))
                && let Some(choice) = self.choose(&wanted, &wish, &known)
            {
                let done = self.step(&wanted, choice, (&there, &known)).await;
                if done.obstacle.is_some() {
                    failures += 1;
                    pause = jitter::backoff(failures).min(pause);
                } else {
                    failures = 0;
                }
                self.board.lists(done);
            }
            let news = async {
                tokio::select! {
                    gone = self.wanted.changed() => gone,
                    gone = namespaces.changed() => gone,
                    gone = maps.changed() => gone,
                }
            };
            match timeout(pause, news).await {
                Ok(Ok(())) => tokio::time::sleep(roots::TOGETHER).await,
                Ok(Err(_closed)) => return,
                Err(_elapsed) => {}
            }
        }
    }

    /// What is to become of the text; nothing as long as the own intermediates are not known.
    fn choose(
        &mut self,
        wanted: &Arc<Wanted>,
        wish: &Wish,
        maps: &BTreeMap<String, MapSeen>,
    ) -> Option<(Goal, Option<Obstacle>)> {
        if wish.issuer == WorkloadIssuer::Istiod {
            return Some((Goal::Nothing, None));
        }
        let now = Timestamp::now();
        let said = self.board.said().about_own();
        if said.held().is_empty() {
            return None;
        }
        let from = (Same(Arc::clone(wanted)), said.clone());
        let met = self
            .met
            .get(from, now, || Met::new(&wanted.spec, wish, &said, now));
        let standing = standing(&wanted.marks, maps);
        Some(match met.choose(standing, Reader::Proxies, now) {
            Ok(Choice { text, obstacle }) => (goal(text, standing), obstacle),
            Err(why) => (Goal::Leave, Some(why)),
        })
    }

    async fn step(
        &mut self,
        wanted: &Wanted,
        (goal, why): (Goal, Option<Obstacle>),
        (there, known): (&BTreeMap<String, NamespaceSeen>, &BTreeMap<String, MapSeen>),
    ) -> Lists {
        let draft = |text| draft(text, &wanted.marks);
        if goal != Goal::Nothing {
            self.empty_since = None;
        }
        match goal {
            Goal::Leave => {
                let draft = draft(String::new());
                let todo = begin(&draft, there, known);
                let failure = self.put(&draft, &todo).await;
                told("", todo.foreign, failure, why)
            }
            Goal::Text(text) => {
                let draft = draft(text);
                let todo = spread(&draft, there, known);
                let failure = self.put(&draft, &todo).await;
                told(&draft.text, todo.foreign, failure, why)
            }
            Goal::Nothing => {
                let draft = draft(String::new());
                let (todo, gone) = withdraw(&draft, known);
                let failure = self.put(&draft, &todo).await.or(self.delete(gone).await);
                told("", Vec::new(), failure, why)
            }
        }
    }

    async fn put(&self, draft: &MapDraft, todo: &Todo) -> Option<Obstacle> {
        if todo.put.is_empty() {
            return None;
        }
        let (written, failure) = self.cluster.put_maps(draft, &todo.put).await;
        if written > 0 {
            let revoked = count(&draft.text);
            tracing::info!(written, revoked, "wrote revocation lists into namespaces");
        }
        Some(not_written(&failure?))
    }

    /// Deletes them, once they have been empty for long enough.
    async fn delete(&mut self, maps: BTreeMap<String, String>) -> Option<Obstacle> {
        if maps.is_empty() {
            self.empty_since = None;
            return None;
        }
        let since = *self.empty_since.get_or_insert_with(Instant::now);
        if since.elapsed() < FADE {
            return None;
        }
        tracing::info!(
            namespaces = maps.len(),
            "taking revocation lists back: istiod writes its own"
        );
        let failure = self.cluster.delete_maps(labels::CRL_CONFIG_MAP, &maps);
        Some(not_written(&failure.await?))
    }
}

fn not_written(error: &AgentIoError) -> Obstacle {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "failed to write revocation lists into namespaces"
    );
    Obstacle::new("ListsNotWritten", mesh_core::text::chain(error))
}

#[cfg(test)]
mod tests;
