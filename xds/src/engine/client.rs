//! A reference model of the client: what Envoy does with delta xDS, as far as the rules go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::{DeltaRequest, DeltaResponse, Engine};
use crate::model::{Kind, Reference, Resource, Snapshot};

/// A body that starts with this is refused.
pub(super) const BAD: &[u8] = b"bad";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    version: String,
    refs: BTreeSet<Reference>,
}

/// What the client runs, and what it remembers.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// Resources in use.
    active: BTreeMap<(Kind, Arc<str>), Held>,
    /// Versions of responses that were acknowledged: what is told after a reconnect.
    recorded: BTreeMap<(Kind, Arc<str>), String>,
    subscribed: BTreeSet<(Kind, Arc<str>)>,
    /// Clusters that wait for endpoints, with the ACK that waits with them.
    warming: BTreeSet<Arc<str>>,
    /// The ACKs of clusters, held back while any cluster warms.
    late: VecDeque<DeltaRequest>,
    outbox: VecDeque<DeltaRequest>,
    inbox: VecDeque<DeltaResponse>,
    /// Every breach of a rule that was seen.
    pub(super) complaints: Vec<String>,
    /// How often each version was sent in this stream, except endpoints.
    sent: BTreeMap<(Kind, Arc<str>, String), u32>,
    pub(super) refusals: u32,
}

impl Client {
    /// A stream begins: what is recorded is told. A client that runs something else than it
    /// recorded starts from nothing: Envoy applies the good part of a response that it refuses
    /// without recording it, and when the stream breaks before that part was sent again, no server
    /// can know. That is the protocol's, not ours to mend.
    pub(super) fn connect(&mut self) {
        let honest = self
            .active
            .iter()
            .all(|(key, held)| self.recorded.get(key) == Some(&held.version));
        if !honest {
            self.active.clear();
            self.recorded.clear();
            self.subscribed.clear();
        }
        self.outbox.clear();
        self.inbox.clear();
        self.late.clear();
        self.warming.clear();
        self.sent.clear();
        for kind in Kind::ALL {
            let names: Vec<_> = self.names(kind).map(ToString::to_string).collect();
            if !kind.has_wildcard() && names.is_empty() {
                continue;
            }
            let recorded = self.recorded.iter().filter(|((k, _), _)| *k == kind);
            let mut request = DeltaRequest::of(kind);
            request.subscribe = names;
            request.initial = recorded
                .map(|((_, name), version)| (name.to_string(), version.clone()))
                .collect();
            self.outbox.push_back(request);
        }
    }

    fn names(&self, kind: Kind) -> impl Iterator<Item = &Arc<str>> {
        self.subscribed
            .iter()
            .filter_map(move |(k, name)| (*k == kind).then_some(name))
    }

    /// Moves one message: from the client when `talk`, else to it. False when there is none.
    pub(super) fn step(&mut self, engine: &mut Engine, talk: bool) -> bool {
        if talk && let Some(request) = self.outbox.pop_front() {
            let responses = engine.on_request(&request);
            self.deliver(responses);
            return true;
        }
        if let Some(response) = self.inbox.pop_front() {
            self.receive(response);
            return true;
        }
        !self.outbox.is_empty() && self.step(engine, true)
    }

    /// Lets both talk until they are silent; deadlines pass when nothing else happens.
    pub(super) fn settle(&mut self, engine: &mut Engine) -> u32 {
        let mut deadlines = 0;
        for _ in 0..10_000 {
            if self.step(engine, true) {
                continue;
            }
            let Some(epoch) = engine.waiting() else {
                return deadlines;
            };
            deadlines += 1;
            let responses = engine.on_deadline(epoch);
            self.deliver(responses);
        }
        self.complaints.push("they never fall silent".to_owned());
        deadlines
    }

    pub(super) fn deliver(&mut self, responses: Vec<DeltaResponse>) {
        self.inbox.extend(responses);
    }

    fn receive(&mut self, response: DeltaResponse) {
        let kind = response.kind;
        let mut seen = BTreeSet::new();
        for name in response
            .resources
            .iter()
            .map(|r| &r.name)
            .chain(&response.removed)
        {
            if !seen.insert(Arc::clone(name)) {
                self.complaints
                    .push(format!("{kind} {name} twice in one response"));
            }
        }
        let mut blamed = Vec::new();
        let mut good = Vec::new();
        for resource in &response.resources {
            self.count(kind, resource);
            if resource.body.starts_with(BAD) {
                blamed.push(resource.name.to_string());
                self.warmed(kind, &resource.name);
            } else {
                good.push(resource.clone());
            }
        }
        for name in &response.removed {
            self.remove(kind, name);
        }
        // What is not subscribed (any more) is dropped.
        let cares = |name: &Arc<str>| {
            kind.has_wildcard() || self.subscribed.contains(&(kind, Arc::clone(name)))
        };
        good.retain(|resource: &Resource| cares(&resource.name));
        let mut recorded = response.resources.clone();
        recorded.retain(|resource| cares(&resource.name));
        for resource in &good {
            self.take(kind, resource);
        }
        let mut answer = DeltaRequest::of(kind);
        answer.nonce = response.nonce;
        if blamed.is_empty() {
            for resource in &recorded {
                let key = (kind, Arc::clone(&resource.name));
                self.recorded.insert(key, resource.version.to_string());
            }
        } else {
            self.refusals += 1;
            answer.error = Some(format!(
                "Error adding/updating {}: no good",
                blamed.join(", ")
            ));
        }
        // The ACK of clusters comes when none is warming.
        if kind == Kind::Cds && !self.warming.is_empty() {
            self.late.push_back(answer);
        } else {
            self.outbox.push_back(answer);
        }
        self.subscribe();
        self.check_routes();
    }

    fn count(&mut self, kind: Kind, resource: &Resource) {
        if kind != Kind::Eds {
            let version = resource.version.to_string();
            let key = (kind, Arc::clone(&resource.name), version);
            *self.sent.entry(key).or_default() += 1;
        }
    }

    /// How often the same version of a name was sent, at most.
    pub(super) fn most_sent(&self) -> u32 {
        self.sent.values().copied().max().unwrap_or(0)
    }

    fn take(&mut self, kind: Kind, resource: &Resource) {
        let held = Held {
            version: resource.version.to_string(),
            refs: resource.refs.clone(),
        };
        let before = self
            .active
            .insert((kind, Arc::clone(&resource.name)), held.clone());
        if kind == Kind::Cds && before.as_ref() != Some(&held) {
            let needs = resource.refs.iter().filter(|(k, _)| *k == Kind::Eds);
            self.warming.extend(needs.map(|(_, name)| Arc::clone(name)));
        }
        self.warmed(kind, &resource.name);
    }

    /// Endpoints came, or were refused, or are not wanted any more: their cluster is done.
    fn warmed(&mut self, kind: Kind, name: &str) {
        if kind == Kind::Eds && self.warming.remove(name) && self.warming.is_empty() {
            self.outbox.append(&mut self.late);
        }
    }

    fn remove(&mut self, kind: Kind, name: &Arc<str>) {
        // A missing secret, route or endpoint stays in use; only its version is forgotten.
        self.recorded.remove(&(kind, Arc::clone(name)));
        if kind.has_wildcard() {
            self.active.remove(&(kind, Arc::clone(name)));
        }
    }

    /// Subscribes to what the active resources refer to, and to nothing else.
    fn subscribe(&mut self) {
        let mut wanted = BTreeSet::new();
        for (key, held) in &self.active {
            if key.0.has_wildcard() || self.subscribed.contains(key) {
                let named = held.refs.iter().filter(|(kind, _)| !kind.has_wildcard());
                wanted.extend(named.cloned());
            }
        }
        for kind in [Kind::Eds, Kind::Sds, Kind::Rds] {
            let of = |set: &BTreeSet<(Kind, Arc<str>)>, other: &BTreeSet<(Kind, Arc<str>)>| {
                let new = set.difference(other).filter(|(k, _)| *k == kind);
                new.map(|(_, name)| name.to_string()).collect::<Vec<_>>()
            };
            let mut request = DeltaRequest::of(kind);
            request.subscribe = of(&wanted, &self.subscribed);
            request.unsubscribe = of(&self.subscribed, &wanted);
            for name in &request.unsubscribe {
                let key = (kind, Arc::from(name.as_str()));
                self.active.remove(&key);
                self.recorded.remove(&key);
                self.warmed(kind, &key.1);
            }
            if !request.subscribe.is_empty() || !request.unsubscribe.is_empty() {
                self.outbox.push_back(request);
            }
        }
        self.subscribed = wanted;
    }

    /// A route must not lead to a cluster that is not there or still warming for the first time.
    fn check_routes(&mut self) {
        let mut broken = Vec::new();
        for ((kind, name), held) in &self.active {
            if !matches!(kind, Kind::Rds | Kind::Lds) {
                continue;
            }
            for key in held.refs.iter().filter(|(k, _)| *k == Kind::Cds) {
                if !self.active.contains_key(key) {
                    broken.push(format!("{kind} {name} leads to {} which is gone", key.1));
                }
            }
        }
        self.complaints.extend(broken);
    }

    /// Complains unless the client runs exactly what the snapshot gives to it.
    pub(super) fn check_runs(&mut self, target: &Snapshot) {
        let wanted: BTreeMap<_, _> = target
            .reachable()
            .into_iter()
            .filter_map(|(kind, name)| {
                let version = target.get(kind, &name)?.version.to_string();
                Some(((kind, name), version))
            })
            .collect();
        let runs: BTreeMap<_, _> = self
            .active
            .iter()
            .map(|(key, held)| (key.clone(), held.version.clone()))
            .collect();
        if wanted != runs {
            self.complaints
                .push(format!("wants {wanted:#?}\nbut runs {runs:#?}"));
        }
    }

    /// Whether this version is in use.
    pub(super) fn runs(&self, kind: Kind, resource: &Resource) -> bool {
        self.active
            .get(&(kind, Arc::clone(&resource.name)))
            .is_some_and(|held| *held.version == *resource.version)
    }
}
