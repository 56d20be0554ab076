//! What is watched in a member: what its agent reports, where its gateway is, and what it asks to be signed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{certificates::v1::CertificateSigningRequest, core::v1::Service};
use kube::{Api, Client, ResourceExt as _, core::DeserializeGuard};
use mesh_api::{
    NAMESPACE,
    agent::MeshAgent,
    labels,
    member::Intermediate,
    read::{self},
};
use mesh_ca::{IntermediateSubject, recognise_intermediate};
use mesh_core::{facts::Anchor, plan::Action};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Bells, Member, deliver};
use crate::{
    controller::{
        look::Terms,
        sign::{self, Verdict},
    },
    metrics::Judged,
    watches::{Filter, Key, Patience, Seen, follow},
};

/// Before a request that could not be answered is looked at again.
const AGAIN: Duration = Duration::from_secs(2);

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
        let anchors: Vec<Anchor> = match (agent.and_then(|agent| agent.status.as_ref()), &terms) {
            (Some(status), Some(terms)) => status
                .intermediates
                .iter()
                .filter_map(|shown| self.recognised(shown, terms, now))
                .collect(),
            (_, _) => Vec::new(),
        };
        let facts = agent.map(read::agent);
        self.report(|seen| {
            seen.agent = facts;
            // An agent that shows nothing has lost its status, not its certificates; what was known holds until it ends.
            if !anchors.is_empty() {
                seen.anchors = Some(anchors);
            }
        });
    }

    fn recognised(&self, shown: &Intermediate, terms: &Terms, now: Timestamp) -> Option<Anchor> {
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
            Ok(facts) => Some(Anchor {
                generation: shown.generation,
                certificate: shown.certificate.clone(),
                fingerprint: facts.fingerprint,
                serial: facts.serial,
                not_after: facts.not_after,
            }),
            Err(error) => {
                tracing::warn!(member = %self.key, why = crate::call::chain(&error), "Does not recognise an intermediate");
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

    /// Follows requests for our signature and answers them, while this replica leads and the member has its place.
    pub(super) async fn answer_requests(&self, client: &Client) {
        let api: Api<DeserializeGuard<CertificateSigningRequest>> = Api::all(client.clone());
        let filter = Filter {
            fields: Some(format!("spec.signerName={}", labels::SIGNER)),
            labels: None,
        };
        let open: Mutex<BTreeMap<Key, CertificateSigningRequest>> = Mutex::default();
        let asked = Notify::new();
        let watching = follow(api, filter, Patience::SHORT, |seen| {
            let mut open = open.lock();
            match seen {
                Seen::All { objects, .. } => {
                    *open = objects.into_iter().map(|o| (Key::of(&o), o)).collect();
                }
                Seen::Applied(object) => {
                    open.insert(Key::of(&object), object);
                }
                Seen::Deleted(key) => {
                    open.remove(&key);
                }
                Seen::Refused(_) | Seen::Interrupted { .. } => {}
            }
            asked.notify_one();
        });
        let mut claim = self.common.claim.clone();
        let mut wish = self.wish.clone();
        let answering = async {
            loop {
                let failed = self.answer_all(client, &open).await;
                let again = async {
                    if failed {
                        tokio::time::sleep(AGAIN).await;
                    } else {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = asked.notified() => {}
                    () = claim.changed() => {}
                    () = terms_changed(&mut wish) => {}
                    () = again => {}
                }
            }
        };
        tokio::select! {
            () = watching => {}
            () = answering => {}
        }
    }

    /// Answers what waits; says whether something is to be tried again.
    async fn answer_all(
        &self,
        client: &Client,
        open: &Mutex<BTreeMap<Key, CertificateSigningRequest>>,
    ) -> bool {
        let wish = self.wish.borrow().clone();
        let (Action::Deliver(delivery), Some(terms), Some(member)) =
            (&wish.action, &wish.terms, &wish.member)
        else {
            return false;
        };
        let gate = self.common.gate();
        if !gate() {
            return false;
        }
        let generation = deliver::generation(&self.common, delivery, terms, member);
        let requests: Vec<CertificateSigningRequest> = open.lock().values().cloned().collect();
        let mut failed = false;
        for request in requests {
            let verdict = sign::judge(&request, terms, generation, Timestamp::now());
            failed |= matches!(verdict, Verdict::Wait(_));
            match sign::answer(client, &request, verdict, &gate).await {
                Ok(Some(judged)) => {
                    self.common.metrics.judged(judged);
                    open.lock().remove(&Key::new("", request.name_any()));
                }
                Ok(None) => {}
                Err(error) => {
                    failed = true;
                    self.common.metrics.judged(Judged::Failed);
                    tracing::warn!(member = %self.key, why = crate::call::chain(&error), "Failed to answer a request");
                }
            }
        }
        failed
    }
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
async fn terms_changed(wish: &mut tokio::sync::watch::Receiver<crate::controller::look::Wish>) {
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
