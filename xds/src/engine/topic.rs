//! What one stream knows about one kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{DeltaRequest, DeltaResponse, Nack, blamed};
use crate::model::{Kind, Resource};

/// What the client said about a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    Sent,
    /// acknowledged, or named by the client itself when it connected.
    Acked,
    /// refused.
    Refused,
}

#[derive(Clone, Debug)]
struct Item {
    version: Arc<str>,
    verdict: Verdict,
    /// Of the response that brought it last; only the answer to that one counts.
    nonce: String,
}

impl Item {
    /// The client may have some version. This one fits nothing: it is sent again, or withdrawn.
    fn unsure() -> Self {
        Self {
            version: "".into(),
            verdict: Verdict::Acked,
            nonce: String::new(),
        }
    }
}

#[derive(Clone, Debug)]
struct Push {
    generation: u64,
    names: Vec<Arc<str>>,
}

/// Subscriptions, versions and open responses of one kind.
#[derive(Debug, Default)]
pub(super) struct Topic {
    /// The client asked for this kind at all.
    pub(super) started: bool,
    /// Refusals that still stand.
    pub(super) nacks: Vec<Nack>,
    wildcard: bool,
    answered: bool,
    names: BTreeSet<Arc<str>>,
    items: BTreeMap<Arc<str>, Item>,
    /// Names of which some version was acknowledged in this stream.
    known: BTreeSet<Arc<str>>,
    /// Names whose last answer was a refusal. They go out before others when they change: Envoy
    /// keeps a refused secret in mind and refuses good ones that are used together with it.
    ailing: BTreeSet<Arc<str>>,
    /// Names the client was told do not exist.
    told_absent: BTreeSet<Arc<str>>,
    open: BTreeMap<String, Push>,
}

impl Topic {
    /// Takes in an ACK or a NACK. A nonce that is not open is ignored.
    pub(super) fn answer(&mut self, kind: Kind, nonce: &str, error: Option<&str>) {
        let Some(push) = self.open.remove(nonce) else {
            return;
        };
        let Some(message) = error else {
            for name in &push.names {
                if self.judge(name, nonce, Verdict::Acked) {
                    self.pardon(name);
                    self.known.insert(Arc::clone(name));
                    if self.ailing.remove(name) {
                        self.retry_refused();
                    }
                }
            }
            self.forget_nacks();
            return;
        };
        let mut names = blamed(message, &push.names);
        if names.is_empty() {
            names.clone_from(&push.names);
        }
        for name in &push.names {
            if names.contains(name) {
                if self.judge(name, nonce, Verdict::Refused) {
                    self.ailing.insert(Arc::clone(name));
                } else {
                    // Replaced or withdrawn in the meantime: what it says is old.
                    names.retain(|refused| refused != name);
                }
            } else if let Some(item) = self.items.get_mut(name)
                && item.nonce == nonce
            {
                // Envoy may run it, but does not remember its version: send it again, alone.
                *item = Item::unsure();
            }
        }
        for name in &names {
            self.pardon(name);
        }
        if !names.is_empty() {
            self.nacks.push(Nack {
                kind,
                generation: push.generation,
                names,
                message: message.to_owned(),
            });
        }
    }

    /// One that was refused is healed, and others may have been refused because of it: they are
    /// sent once more. Ends, because each round heals one.
    fn retry_refused(&mut self) {
        for item in self.items.values_mut() {
            if item.verdict == Verdict::Refused {
                *item = Item::unsure();
            }
        }
    }

    /// Whether the last answer about this name was a refusal.
    pub(super) fn is_ailing(&self, name: &str) -> bool {
        self.ailing.contains(name)
    }

    fn judge(&mut self, name: &str, nonce: &str, verdict: Verdict) -> bool {
        match self.items.get_mut(name) {
            Some(item) if item.nonce == nonce => {
                item.verdict = verdict;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Takes a name out of the standing refusals.
    fn pardon(&mut self, name: &Arc<str>) {
        for nack in &mut self.nacks {
            nack.names.retain(|refused| refused != name);
        }
        self.nacks.retain(|nack| !nack.names.is_empty());
    }

    /// Nothing is refused any more: so no refusal stands.
    fn forget_nacks(&mut self) {
        if !self.items.values().any(|i| i.verdict == Verdict::Refused) {
            self.nacks.clear();
        }
    }

    /// Takes in what the request says about subscriptions; valid with any nonce.
    pub(super) fn subscriptions(&mut self, request: &DeltaRequest) {
        let first = !self.started;
        self.started = true;
        if first {
            self.wildcard = request.kind.has_wildcard() && request.subscribe.is_empty();
            self.answered = !request.initial.is_empty();
            for (name, version) in &request.initial {
                let name: Arc<str> = name.as_str().into();
                self.known.insert(Arc::clone(&name));
                let item = Item {
                    version: version.as_str().into(),
                    verdict: Verdict::Acked,
                    nonce: String::new(),
                };
                self.items.insert(name, item);
            }
        }
        for name in &request.subscribe {
            if name == "*" && request.kind.has_wildcard() {
                self.wildcard = true;
                continue;
            }
            let name: Arc<str> = name.as_str().into();
            if !(first && request.initial.contains_key(&*name)) {
                // The client may have forgotten it: it must be sent, whatever was sent before.
                self.items.remove(&name);
                self.told_absent.remove(&name);
            }
            self.names.insert(name);
        }
        for name in &request.unsubscribe {
            self.unsubscribe(name);
        }
        if !request.unsubscribe.is_empty() {
            self.forget_nacks();
        }
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == "*" {
            self.wildcard = false;
            let names = &self.names;
            self.items.retain(|name, _| names.contains(name));
        } else if self.names.remove(name) {
            self.items.remove(name);
            self.known.remove(name);
            self.ailing.remove(name);
            self.told_absent.remove(name);
            if self.wildcard {
                // It must be told what it still has under the wildcard.
                self.items.insert(name.into(), Item::unsure());
            }
        }
    }

    /// Whether the client asked for this name.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether this very version was not sent yet.
    pub(super) fn lacks(&self, resource: &Resource) -> bool {
        self.items
            .get(&resource.name)
            .is_none_or(|item| item.version != resource.version)
    }

    fn verdict(&self, resource: &Resource) -> Option<Verdict> {
        let item = self.items.get(&resource.name)?;
        (item.version == resource.version).then_some(item.verdict)
    }

    /// Whether this very version was acknowledged.
    pub(super) fn has_acked(&self, resource: &Resource) -> bool {
        self.verdict(resource) == Some(Verdict::Acked)
    }

    /// Whether this very version was refused.
    pub(super) fn refuses(&self, resource: &Resource) -> bool {
        self.verdict(resource) == Some(Verdict::Refused)
    }

    /// Sent, not answered, and no earlier version was ever acknowledged.
    pub(super) fn is_new_and_unsettled(&self, name: &str) -> bool {
        !self.known.contains(name)
            && self
                .items
                .get(name)
                .is_some_and(|item| item.verdict == Verdict::Sent)
    }

    /// Names of all the client may have.
    pub(super) fn held_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.items.keys()
    }

    /// No response waits for an answer.
    pub(super) fn idle(&self) -> bool {
        self.open.is_empty()
    }

    /// The client asked and got no answer of any kind yet, and brought nothing along.
    pub(super) fn unanswered(&self) -> bool {
        self.started && self.wildcard && !self.answered
    }

    /// Subscribed names that do not exist and of which the client was not told yet.
    pub(super) fn absent(&mut self, exists: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        self.told_absent.retain(|name| !exists(name));
        self.names
            .iter()
            .filter(|name| {
                !exists(name)
                    && !self.items.contains_key(*name)
                    && !self.told_absent.contains(*name)
            })
            .cloned()
            .collect()
    }

    /// Books a response that goes out now.
    pub(super) fn sent(&mut self, response: &DeltaResponse) {
        self.answered = true;
        for name in &response.removed {
            self.items.remove(name);
            self.known.remove(name);
            self.ailing.remove(name);
            self.pardon(name);
            if self.names.contains(name) {
                self.told_absent.insert(Arc::clone(name));
            }
        }
        for resource in &response.resources {
            self.told_absent.remove(&resource.name);
            let item = Item {
                version: Arc::clone(&resource.version),
                verdict: Verdict::Sent,
                nonce: response.nonce.clone(),
            };
            self.items.insert(Arc::clone(&resource.name), item);
        }
        let names = response.resources.iter().map(|r| Arc::clone(&r.name));
        let push = Push {
            generation: response.generation,
            names: names.collect(),
        };
        self.open.insert(response.nonce.clone(), push);
    }
}
