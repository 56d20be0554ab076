//! The delta xDS protocol of one ADS stream, as a state machine.
//!
//! Requests, snapshots and a passed deadline go in, responses come out. There is no clock, no
//! network and no task here, so every rule can be tested by itself. One engine lives as long as
//! one stream: nonces and subscriptions end with it, versions do not, because they are hashes of
//! the content.
//!
//! # Order
//!
//! Additions and changes go out as clusters, endpoints, secrets, listeners, routes, without
//! waiting for an ACK between clusters and endpoints: Envoy ACKs a cluster only after it got its
//! endpoints, also when those did not change, so endpoints are sent again with every cluster that
//! is added or changed. A listener or route that needs a cluster which is new to this Envoy waits
//! until that cluster is acknowledged or refused. What is no longer wanted goes last, after the
//! listeners and routes that could still use it are settled. Nothing waits longer than the
//! deadline that the shell sets when [`Engine::waiting`] says that something waits.
//!
//! # Refusals
//!
//! A NACK is a request with an error. Envoy applies the good part of a refused response but does
//! not remember its versions; so those that the error names are marked refused and not sent again
//! until they change, and the others are sent again by themselves, once. Endpoints, secrets and
//! routes go out one to a response, because Envoy's words about a refused secret name none. When
//! a refused one is healed, the others that are refused are tried once more: Envoy keeps a bad
//! secret in mind and refuses good ones that are used together with it. While anything is refused
//! nothing is withdrawn (listeners excepted: closing a door never waits for that).
//!
//! Without a snapshot nothing is answered at all: an agent that just started must not tell a
//! running Envoy that its configuration is gone.

mod topic;

#[cfg(test)]
mod client;
#[cfg(test)]
mod props;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Kind, Resource, Snapshot};
use topic::Topic;

/// A delta request, as far as this server looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaRequest {
    /// Which type it is about.
    pub kind: Kind,
    /// The nonce of the response that is acknowledged or refused; empty when it answers none.
    pub nonce: String,
    /// Names to subscribe to; `*` is all.
    pub subscribe: Vec<String>,
    /// Names to unsubscribe from.
    pub unsubscribe: Vec<String>,
    /// What the client has since an earlier stream, name to version.
    pub initial: BTreeMap<String, String>,
    /// Why the client refuses the response, in its own words.
    pub error: Option<String>,
}

impl DeltaRequest {
    /// A request of this type that says nothing: the first one of a wildcard subscription.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            nonce: String::new(),
            subscribe: Vec::new(),
            unsubscribe: Vec::new(),
            initial: BTreeMap::new(),
            error: None,
        }
    }
}

/// A delta response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaResponse {
    /// Which type it is about.
    pub kind: Kind,
    /// Unique in the stream.
    pub nonce: String,
    /// Generation of the snapshot that it is made from.
    pub generation: u64,
    /// Added or changed, no name twice.
    pub resources: Vec<Resource>,
    /// Gone, or never there.
    pub removed: Vec<Arc<str>>,
}

/// What a client refused, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Which type was refused.
    pub kind: Kind,
    /// Generation of the snapshot it came from.
    pub generation: u64,
    /// The resources that the message blames, or all of the response when it names none.
    pub names: Vec<Arc<str>>,
    /// The message of the client.
    pub message: String,
}

/// How far one stream is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamStatus {
    /// Generation that is being delivered.
    pub sent: Option<u64>,
    /// Last generation of which the client acknowledged every part.
    pub acked: Option<u64>,
    /// What is refused now; a name is in at most one entry of its kind.
    pub nacks: Vec<Nack>,
}

/// The protocol state of one stream.
#[derive(Debug, Default)]
pub struct Engine {
    target: Option<Arc<Snapshot>>,
    topics: BTreeMap<Kind, Topic>,
    /// Endpoints that must be sent again because their cluster was sent.
    owed: BTreeSet<Arc<str>>,
    next_nonce: u64,
    epoch: u64,
    overdue: bool,
    held: bool,
    acked: Option<u64>,
}

impl Engine {
    /// The engine of a new stream. Give it the snapshot, if there is one, before the first request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what the client says. Total: any request in any state is fine.
    pub fn on_request(&mut self, request: &DeltaRequest) -> Vec<DeltaResponse> {
        let topic = self.topics.entry(request.kind).or_default();
        if !request.nonce.is_empty() {
            topic.answer(request.kind, &request.nonce, request.error.as_deref());
        }
        topic.subscriptions(request);
        self.pump()
    }

    /// Takes in a new wanted state. The same state again sends nothing.
    pub fn on_snapshot(&mut self, snapshot: Arc<Snapshot>) -> Vec<DeltaResponse> {
        self.target = Some(snapshot);
        self.epoch = self.epoch.wrapping_add(1);
        self.overdue = false;
        self.pump()
    }

    /// Something waits for the client: the shell should call [`Self::on_deadline`] with this
    /// value after a while.
    pub fn waiting(&self) -> Option<u64> {
        (self.held && !self.overdue).then_some(self.epoch)
    }

    /// The client had its time: what waits goes out. Ignored when `epoch` is no longer current.
    pub fn on_deadline(&mut self, epoch: u64) -> Vec<DeltaResponse> {
        if self.waiting() != Some(epoch) {
            return Vec::new();
        }
        self.overdue = true;
        self.pump()
    }

    /// How far the client is.
    pub fn status(&self) -> StreamStatus {
        StreamStatus {
            sent: self.target.as_ref().map(|target| target.generation),
            acked: self.acked,
            nacks: self.refusals(),
        }
    }

    /// Standing refusals of what is still wanted.
    fn refusals(&self) -> Vec<Nack> {
        let Some(target) = &self.target else {
            return Vec::new();
        };
        let mut nacks: Vec<_> = self
            .topics
            .values()
            .flat_map(|topic| topic.nacks.iter().cloned())
            .collect();
        for nack in &mut nacks {
            nack.names
                .retain(|name| target.get(nack.kind, name).is_some());
        }
        nacks.retain(|nack| !nack.names.is_empty());
        nacks
    }

    /// Sends all that may be sent now.
    fn pump(&mut self) -> Vec<DeltaResponse> {
        let Some(target) = self.target.clone() else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for kind in [Kind::Cds, Kind::Eds, Kind::Sds] {
            let adds = self.additions(kind, &target);
            let gone = self.never_used(kind, &target);
            out.extend(self.send(kind, &target, adds, gone));
        }
        let waits = self.push_listeners(&target, &mut out);
        let stale = self.withdraw(&target, &mut out);
        self.held = waits || stale;
        self.answer_first(&target, &mut out);
        if !self.held && self.complete(&target) {
            self.acked = Some(target.generation);
        }
        out
    }

    /// What of this kind the client wants and does not have, plus endpoints that are owed.
    fn additions(&self, kind: Kind, target: &Snapshot) -> Vec<Resource> {
        let Some(topic) = self.topics.get(&kind) else {
            return Vec::new();
        };
        let mut wanted: Vec<_> = target
            .iter(kind)
            .filter(|resource| topic.wants(&resource.name))
            .filter(|resource| {
                topic.lacks(resource) || (kind == Kind::Eds && self.owed.contains(&resource.name))
            })
            .cloned()
            .collect();
        wanted.sort_by_key(|resource| !topic.is_ailing(&resource.name));
        wanted
    }

    /// Listeners and routes, unless they need a cluster that the client is still warming for the
    /// first time. Returns whether something waits.
    fn push_listeners(&mut self, target: &Snapshot, out: &mut Vec<DeltaResponse>) -> bool {
        let mut waits = false;
        for kind in [Kind::Lds, Kind::Rds] {
            let (now, later): (Vec<_>, Vec<_>) = self
                .additions(kind, target)
                .into_iter()
                .partition(|resource| self.overdue || !self.needs_new_cluster(resource));
            waits |= !later.is_empty();
            let gone = if kind == Kind::Lds && later.is_empty() {
                self.stale(kind, target)
            } else {
                Vec::new()
            };
            out.extend(self.send(kind, target, now, gone));
        }
        waits
    }

    fn needs_new_cluster(&self, resource: &Resource) -> bool {
        let clusters = self.topics.get(&Kind::Cds);
        resource
            .refs
            .iter()
            .filter(|(kind, _)| *kind == Kind::Cds)
            .any(|(_, name)| clusters.is_some_and(|topic| topic.is_new_and_unsettled(name)))
    }

    /// What the client has and should not have any more.
    fn stale(&self, kind: Kind, target: &Snapshot) -> Vec<Arc<str>> {
        self.topics.get(&kind).map_or_else(Vec::new, |topic| {
            topic
                .held_names()
                .filter(|name| target.get(kind, name).is_none() && topic.wants(name))
                .cloned()
                .collect()
        })
    }

    /// Clusters that are no longer wanted and that nothing was led to yet. They go at once: still
    /// warming, they would hold back the ACK of all others.
    fn never_used(&self, kind: Kind, target: &Snapshot) -> Vec<Arc<str>> {
        let mut gone = Vec::new();
        if kind == Kind::Cds
            && let Some(topic) = self.topics.get(&kind)
        {
            gone = self.stale(kind, target);
            gone.retain(|name| topic.is_new_and_unsettled(name));
        }
        gone
    }

    /// Withdraws routes, clusters, endpoints and secrets once nothing can use them any more.
    /// Returns whether something waits for that moment.
    fn withdraw(&mut self, target: &Snapshot, out: &mut Vec<DeltaResponse>) -> bool {
        let kinds = [Kind::Rds, Kind::Cds, Kind::Eds, Kind::Sds];
        let gone: Vec<_> = kinds.map(|kind| (kind, self.stale(kind, target))).into();
        if gone.iter().all(|(_, names)| names.is_empty()) {
            return false;
        }
        if self.frozen(target) {
            return false;
        }
        if !self.overdue && !self.doors_settled(target) {
            return true;
        }
        for (kind, names) in gone {
            out.extend(self.send(kind, target, Vec::new(), names));
        }
        false
    }

    /// Something that is still wanted as it is was refused.
    fn frozen(&self, target: &Snapshot) -> bool {
        self.topics
            .iter()
            .any(|(kind, topic)| target.iter(*kind).any(|r| topic.refuses(r)))
    }

    /// All listeners and routes of the target are acknowledged and none is on its way.
    fn doors_settled(&self, target: &Snapshot) -> bool {
        let started = self.topics.get(&Kind::Lds).is_some_and(|t| t.started);
        let idle = |kind| self.topics.get(&kind).is_none_or(Topic::idle);
        started
            && idle(Kind::Lds)
            && idle(Kind::Rds)
            && target
                .reachable()
                .iter()
                .filter(|(kind, _)| matches!(kind, Kind::Lds | Kind::Rds))
                .all(|(kind, name)| self.has_acked(*kind, name, target))
    }

    fn has_acked(&self, kind: Kind, name: &str, target: &Snapshot) -> bool {
        let topic = self.topics.get(&kind);
        target
            .get(kind, name)
            .is_some_and(|r| topic.is_some_and(|t| t.has_acked(r)))
    }

    /// The client acknowledged all of the target and has nothing else.
    fn complete(&self, target: &Snapshot) -> bool {
        let roots = [Kind::Cds, Kind::Lds];
        roots
            .iter()
            .all(|kind| self.topics.get(kind).is_some_and(|t| t.started))
            && roots.iter().all(|k| self.stale(*k, target).is_empty())
            && self.topics.values().all(Topic::idle)
            && target
                .reachable()
                .iter()
                .all(|(kind, name)| self.has_acked(*kind, name, target))
    }

    /// Tells at once that a subscribed name is not there, and ends the wait of a client whose
    /// first question has an empty answer.
    fn answer_first(&mut self, target: &Snapshot, out: &mut Vec<DeltaResponse>) {
        for kind in Kind::ALL {
            let Some(topic) = self.topics.get_mut(&kind) else {
                continue;
            };
            let absent = topic.absent(|name| target.get(kind, name).is_some());
            let silent = topic.unanswered() && self.additions(kind, target).is_empty();
            if silent || !absent.is_empty() {
                out.push(self.respond(kind, target, Vec::new(), absent));
            }
        }
    }

    /// Clusters and listeners go out together, anything else one by one.
    fn send(
        &mut self,
        kind: Kind,
        target: &Snapshot,
        resources: Vec<Resource>,
        removed: Vec<Arc<str>>,
    ) -> Vec<DeltaResponse> {
        match kind {
            Kind::Cds => self.owe_endpoints(&resources),
            Kind::Eds => {
                for resource in &resources {
                    self.owed.remove(&resource.name);
                }
            }
            Kind::Sds | Kind::Lds | Kind::Rds => {}
        }
        let parts = if kind.has_wildcard() {
            vec![(resources, removed)]
        } else {
            let alone = resources.into_iter().map(|r| (vec![r], Vec::new()));
            alone.chain([(Vec::new(), removed)]).collect()
        };
        parts
            .into_iter()
            .filter(|(resources, removed)| !(resources.is_empty() && removed.is_empty()))
            .map(|(resources, removed)| self.respond(kind, target, resources, removed))
            .collect()
    }

    fn owe_endpoints(&mut self, clusters: &[Resource]) {
        for cluster in clusters {
            let endpoints = cluster.refs.iter().filter(|(kind, _)| *kind == Kind::Eds);
            self.owed
                .extend(endpoints.map(|(_, name)| Arc::clone(name)));
        }
    }

    fn respond(
        &mut self,
        kind: Kind,
        target: &Snapshot,
        resources: Vec<Resource>,
        removed: Vec<Arc<str>>,
    ) -> DeltaResponse {
        self.next_nonce = self.next_nonce.wrapping_add(1);
        let response = DeltaResponse {
            kind,
            nonce: format!("{:x}", self.next_nonce),
            generation: target.generation,
            resources,
            removed,
        };
        self.topics.entry(kind).or_default().sent(&response);
        response
    }
}

/// Finds which of `names` a message of Envoy blames. A name counts where it is not a part of a
/// longer name.
fn blamed(message: &str, names: &[Arc<str>]) -> Vec<Arc<str>> {
    let blames = |name: &Arc<str>| {
        !name.is_empty()
            && message.match_indices(&**name).any(|(at, found)| {
                let before = message.get(..at).unwrap_or_default();
                let after = message.get(at + found.len()..).unwrap_or_default();
                !before.ends_with(name_part) && !continues(after)
            })
    };
    names.iter().filter(|name| blames(name)).cloned().collect()
}

/// Characters that names are made of.
fn name_part(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '/' | '.')
}

/// Whether a name goes on here; a full stop at the end of a sentence does not count.
fn continues(rest: &str) -> bool {
    rest.strip_prefix('.')
        .unwrap_or(rest)
        .starts_with(name_part)
}
