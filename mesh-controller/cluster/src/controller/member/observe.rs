//! What is watched in a member: what its agent reports, and where its gateway is.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, core::DeserializeGuard};
use mesh_api::{
    NAMESPACE,
    agent::MeshAgent,
    labels,
    member::Intermediate,
    read::{self},
};
use mesh_ca::{CertFacts, IntermediateSubject, recognise_intermediate};
use mesh_core::{
    facts::{Anchor, Crl},
    plan::Action,
};
use parking_lot::Mutex;

use super::{Bells, Member};
use crate::{
    controller::look::Terms,
    watches::{Filter, Patience, Seen, follow},
};

impl Member {
    /// Follows the `MeshAgent`: its kind may come into being only when we make it.
    pub(super) async fn watch_agent(&self, client: &Client, bells: &Bells) {
        let api: Api<DeserializeGuard<MeshAgent>> = Api::namespaced(client.clone(), NAMESPACE);
        let known: Mutex<Option<Arc<MeshAgent>>> = Mutex::default();
        let absent = Mutex::new(false);
        let listed = Mutex::new(false);
        let mut wish = self.wish.clone();
        loop {
            let watching = follow(
                api.clone(),
                Filter::named(labels::MESH_AGENT),
                Patience::SHORT,
                |seen| {
                    *absent.lock() = matches!(seen, Seen::Interrupted { absent: true, .. });
                    if let Some(One(agent)) = one(seen) {
                        let generation = |agent: &Option<Arc<MeshAgent>>| {
                            agent.as_ref().and_then(|a| a.metadata.generation)
                        };
                        let agent = agent.map(Arc::new);
                        let mut known = known.lock();
                        let first = !std::mem::replace(&mut *listed.lock(), true);
                        if !first && generation(&known) != generation(&agent) {
                            bells.drift.notify_one();
                        }
                        *known = agent;
                        self.told_by(known.as_deref());
                    }
                },
            );
            tokio::select! {
                () = watching => return,
                // The kind may be there now.
                () = async { while { bells.written.notified().await; !*absent.lock() } {} } => {}
                () = terms_changed(&mut wish) => {
                    let known = known.lock().clone();
                    self.told_by(known.as_deref());
                }
            }
        }
    }

    /// Takes in what an agent reports. Its word about its certificates counts only as far as the root confirms it.
    fn told_by(&self, agent: Option<&MeshAgent>) {
        let terms = self.wish.borrow().terms.clone();
        let now = Timestamp::now();
        let shown: Vec<(Anchor, CertFacts)> =
            match (agent.and_then(|agent| agent.status.as_ref()), &terms) {
                (Some(status), Some(terms)) => status
                    .intermediates
                    .iter()
                    .filter_map(|shown| self.recognised(shown, terms, now))
                    .collect(),
                (_, _) => Vec::new(),
            };
        let known = self.known_lists();
        let reported = agent.map(read::lists).unwrap_or_default();
        let lists = believed(&reported, &shown, &known, now);
        let held = shown
            .iter()
            .map(|(anchor, facts)| (anchor.generation, half(facts)))
            .collect();
        let anchors: Vec<Anchor> = shown.into_iter().map(|(anchor, _)| anchor).collect();
        let facts = agent.map(read::agent);
        self.report(|seen| {
            seen.agent = facts;
            seen.held = held;
            // An agent that shows nothing has lost its status, not its certificates; what was known holds until it ends.
            if !anchors.is_empty() {
                seen.anchors = Some(anchors);
                seen.lists = Some(lists);
            }
        });
    }

    fn known_lists(&self) -> Vec<Crl> {
        self.common.index.read(|state| {
            let seen = state.observed.get(&self.key);
            seen.and_then(|seen| seen.lists.clone()).unwrap_or_default()
        })
    }

    fn recognised(
        &self,
        shown: &Intermediate,
        terms: &Terms,
        now: Timestamp,
    ) -> Option<(Anchor, CertFacts)> {
        let subject = IntermediateSubject {
            mesh: terms.mesh.clone(),
            cluster: terms.cluster.clone(),
            generation: shown.generation,
        };
        match recognise_intermediate(
            &shown.certificate,
            &terms.root.facts.certificate,
            &subject,
            now,
        ) {
            Ok(facts) => {
                let anchor = Anchor {
                    generation: shown.generation,
                    certificate: shown.certificate.clone(),
                    fingerprint: facts.fingerprint.clone(),
                    serial: facts.serial.clone(),
                    not_before: facts.not_before,
                    not_after: facts.not_after,
                };
                Some((anchor, facts))
            }
            Err(error) => {
                tracing::warn!(member = %self.key, why = mesh_core::text::chain(&error), "Does not recognise an intermediate");
                None
            }
        }
    }

    /// Follows the gateway's Service.
    pub(super) async fn watch_gateway(&self, client: &Client, bells: &Bells) {
        let api: Api<DeserializeGuard<Service>> = Api::namespaced(client.clone(), NAMESPACE);
        follow(
            api,
            Filter::named(labels::GATEWAY_NAME),
            Patience::SHORT,
            |seen| {
                let first = matches!(seen, Seen::All { .. });
                if let Some(One(service)) = one(seen) {
                    if !first {
                        bells.drift.notify_one();
                    }
                    // A Service that is gone will be made again; what was known holds until then.
                    if let Some(service) = service {
                        let gateway = read::gateway(&service);
                        self.report(|seen| seen.gateway = Some(gateway));
                    }
                }
            },
        )
        .await;
    }
}

/// When half of the life of a certificate is over.
fn half(facts: &CertFacts) -> Timestamp {
    let life = facts.not_after.duration_since(facts.not_before);
    facts
        .not_before
        .checked_add(life / 2)
        .unwrap_or(facts.not_after)
}

/// Of the lists that a member reports, those that are signed by an intermediate of its own; none that is older than one that was
/// believed before. Only the root revokes: one that names certificates would have lists switched on for all who meet this member.
fn believed(
    reported: &[mesh_api::agent::Crl],
    shown: &[(Anchor, CertFacts)],
    known: &[Crl],
    now: Timestamp,
) -> Vec<Crl> {
    let mut believed: Vec<Crl> = Vec::new();
    for (anchor, facts) in shown {
        let issuer = &facts.key_fingerprint;
        if believed.iter().any(|list| list.issuer == *issuer) {
            continue;
        }
        let before = known.iter().find(|list| list.issuer == *issuer);
        let newest = reported
            .iter()
            .filter(|list| list.issuer == *issuer)
            .filter(|list| before.is_none_or(|before| before.list != list.list))
            .filter_map(|list| {
                let facts = mesh_ca::verify_crl(&list.list, &anchor.certificate, now).ok()?;
                facts.serials.is_empty().then(|| Crl {
                    issuer: issuer.clone(),
                    number: facts.number,
                    until: Some(facts.next_update),
                    list: list.list.clone(),
                })
            })
            .filter(|list| before.is_none_or(|before| before.number < list.number))
            .max_by_key(|list| list.number);
        believed.extend(newest.or_else(|| before.cloned()));
    }
    believed
}

/// The one object of a watch that is narrowed to one name, or that it is not there.
struct One<K>(Option<K>);

/// What a watch of one object says about it, if anything.
fn one<K>(seen: Seen<K>) -> Option<One<K>> {
    match seen {
        Seen::All { objects, refused } => {
            refused.is_empty().then(|| One(objects.into_iter().next()))
        }
        Seen::Applied(object) => Some(One(Some(object))),
        Seen::Deleted(_) => Some(One(None)),
        Seen::Refused(_) | Seen::Interrupted { .. } => None,
    }
}

/// Returns when what is signed and recognised with is another, or something else is to be done.
pub(super) async fn terms_changed(
    wish: &mut tokio::sync::watch::Receiver<crate::controller::look::Wish>,
) {
    let key = |wish: &crate::controller::look::Wish| {
        (
            wish.terms.clone(),
            wish.member.clone(),
            matches!(wish.action, Action::Deliver(_)),
        )
    };
    let before = key(&wish.borrow_and_update());
    loop {
        if wish.changed().await.is_err() {
            return std::future::pending().await;
        }
        if key(&wish.borrow_and_update()) != before {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
