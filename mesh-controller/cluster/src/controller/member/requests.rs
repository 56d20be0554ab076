//! What a member asks to be signed, and answering it. However much it asks, it takes little room here, and no more than its share of
//! signatures.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{Api, Client, core::DeserializeGuard};
use mesh_api::{labels, read};
use mesh_core::plan::Action;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{Member, deliver, observe::terms_changed};
use crate::{
    controller::{
        look::{Terms, Wish},
        sign::{self, Answer, Bench, Bucket, Known, Verdict},
    },
    metrics::Judged,
    watches::{Filter, Key, Patience, Seen, follow},
};

/// Before a request that could not be answered is looked at again.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(2);
/// Most requests of a member that are looked at at a time. An agent has one or two open.
const OPEN_MAX: usize = 32;

/// Requests that wait for an answer.
#[derive(Debug, Default)]
struct Desk {
    open: BTreeMap<Key, CertificateSigningRequest>,
    /// There were more than fit: when these are answered, all are listed once more.
    overflown: bool,
}

impl Desk {
    fn see(&mut self, seen: Seen<CertificateSigningRequest>) {
        match seen {
            Seen::All { objects, .. } => {
                self.open.clear();
                self.overflown = false;
                for object in objects {
                    self.put(object);
                }
            }
            Seen::Applied(object) => self.put(object),
            Seen::Deleted(key) => {
                self.open.remove(&key);
            }
            Seen::Refused(_) | Seen::Interrupted { .. } => {}
        }
    }

    fn put(&mut self, object: CertificateSigningRequest) {
        let key = Key::of(&object);
        if sign::is_answered(&object) {
            self.open.remove(&key);
        } else if self.open.len() < OPEN_MAX || self.open.contains_key(&key) {
            self.open.insert(key, object);
        } else {
            self.overflown = true;
        }
    }

    /// All that fit are answered, and some did not fit.
    fn must_list(&self) -> bool {
        self.overflown && self.open.is_empty()
    }
}

impl Member {
    /// Follows requests for our signature and answers them, while this replica leads and the member has its place.
    pub(super) async fn answer_requests(&self, client: &Client) {
        let api: Api<DeserializeGuard<CertificateSigningRequest>> = Api::all(client.clone());
        let filter = Filter {
            fields: Some(format!("spec.signerName={}", labels::SIGNER)),
            labels: None,
        };
        let desk: Mutex<Desk> = Mutex::default();
        let asked = Notify::new();
        let mut bucket = Bucket::default();
        loop {
            let watching = follow(api.clone(), filter.clone(), Patience::SHORT, |seen| {
                desk.lock().see(seen);
                asked.notify_one();
            });
            tokio::select! {
                () = watching => return,
                () = self.answering(client, &desk, &asked, &mut bucket) => {}
            }
        }
    }

    /// Answers, until all are to be listed once more.
    async fn answering(
        &self,
        client: &Client,
        desk: &Mutex<Desk>,
        asked: &Notify,
        bucket: &mut Bucket,
    ) {
        let mut claim = self.common.claim.clone();
        let mut wish = self.wish.clone();
        loop {
            let failed = self.answer_all(client, desk, bucket).await;
            if desk.lock().must_list() {
                return;
            }
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
    }

    /// Answers what waits; says whether something is to be tried again.
    async fn answer_all(&self, client: &Client, desk: &Mutex<Desk>, bucket: &mut Bucket) -> bool {
        let wish = self.wish.borrow().clone();
        let Wish {
            action: Action::Deliver(delivery),
            terms: Some(terms),
            member: Some(member),
            ..
        } = &wish
        else {
            return false;
        };
        let requests: Vec<CertificateSigningRequest> = desk.lock().open.values().cloned().collect();
        if requests.is_empty() || !self.common.gate()() {
            return false;
        }
        let wanted = deliver::generations(&self.common, delivery, terms, member);
        let mut failed = false;
        for request in requests {
            // Each anew: what was just signed counts.
            let (known, held) = self.known(terms);
            let bench = Bench {
                terms,
                wanted: &wanted,
                held: &held,
                known: &known,
            };
            failed |= self
                .answer_one(client, &request, &bench, (desk, bucket))
                .await;
        }
        failed
    }

    /// Answers one; says whether it is to be tried again.
    async fn answer_one(
        &self,
        client: &Client,
        request: &CertificateSigningRequest,
        bench: &Bench<'_>,
        (desk, bucket): (&Mutex<Desk>, &mut Bucket),
    ) -> bool {
        let now = Timestamp::now();
        let verdict = sign::judge(request, bench, now);
        let key = Key::of(request);
        match &verdict {
            Verdict::Leave => {
                desk.lock().open.remove(&key);
                return false;
            }
            Verdict::Wait(why) => {
                tracing::debug!(member = %self.key, request = %key, why, "A request waits");
                self.common.metrics.judged(Judged::Waits);
                return true;
            }
            Verdict::Sign(_) | Verdict::Deny { .. } => {}
        }
        if !bucket.take(Instant::now()) {
            self.common.metrics.judged(Judged::Waits);
            tracing::warn!(member = %self.key, "Asks too often; the rest waits");
            return true;
        }
        let answer = match verdict {
            Verdict::Deny { reason, message } => Answer::Denied { reason, message },
            Verdict::Sign(order) => match sign::sign(&bench.terms.root, *order, now).await {
                Ok(issued) => Answer::Signed(Box::new(issued)),
                Err(why) => {
                    self.common.metrics.judged(Judged::Failed);
                    tracing::warn!(member = %self.key, reason = why.reason, why = why.message, "Cannot sign");
                    self.common
                        .index
                        .root_fails(bench.terms.mesh.as_str(), &why);
                    return true;
                }
            },
            Verdict::Leave | Verdict::Wait(_) => return false,
        };
        // What was signed is in the audit log also when it does not arrive.
        sign::audit(&self.key.to_string(), request, &answer, bench);
        match sign::answer(client, request, &answer, &self.common.gate()).await {
            Ok(judged) => {
                self.common.metrics.judged(judged);
                desk.lock().open.remove(&key);
                false
            }
            Err(error) => {
                self.common.metrics.judged(Judged::Failed);
                tracing::warn!(member = %self.key, why = mesh_core::text::chain(&error), "Failed to answer a request");
                true
            }
        }
    }

    /// What was certified in the mesh before, and what the member reports to hold.
    fn known(&self, terms: &Terms) -> (Known, BTreeMap<u32, Timestamp>) {
        let (anchors, keys, revoked, held) = self.common.index.read(|state| {
            let mesh = state.meshes.get(&Key::new("", terms.mesh.as_str()));
            let status = mesh.and_then(|mesh| mesh.status.as_ref());
            let recorded = status.map(read::revocations).unwrap_or_default();
            let wished = mesh.and_then(|mesh| read::mesh(mesh).ok());
            let mut revoked = wished.map(|rules| rules.revoked).unwrap_or_default();
            revoked.extend(recorded.iter().map(|known| known.serial.clone()));
            let keys: Vec<String> = recorded
                .into_iter()
                .filter_map(|known| known.found?.key)
                .collect();
            let seen = state.observed.get(&self.key);
            let held = seen.map(|seen| seen.held.clone()).unwrap_or_default();
            (state.certificates(terms.mesh.as_str()), keys, revoked, held)
        });
        let mut known = Known::default();
        for (cluster, anchor) in &anchors {
            known.certificate(&anchor.certificate, (cluster, anchor.generation), &revoked);
        }
        for key in &keys {
            known.revoked(key);
        }
        (known, held)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        ByteString, api::certificates::v1::CertificateSigningRequestStatus,
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    };

    use super::*;

    fn request(name: &str, answered: bool) -> CertificateSigningRequest {
        CertificateSigningRequest {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            status: answered.then(|| CertificateSigningRequestStatus {
                certificate: Some(ByteString(vec![1])),
                conditions: None,
            }),
            ..CertificateSigningRequest::default()
        }
    }

    #[test]
    fn a_storm_takes_little_room_and_is_answered_in_the_end() {
        let mut desk = Desk::default();
        for i in 0..5000 {
            desk.see(Seen::Applied(request(&format!("r{i}"), false)));
        }
        assert_eq!(desk.open.len(), OPEN_MAX);
        assert!(!desk.must_list(), "those that fit come first");
        let names: Vec<String> = desk.open.keys().map(|key| key.name.clone()).collect();
        for name in names {
            desk.see(Seen::Applied(request(&name, true)));
        }
        assert!(desk.open.is_empty(), "what is answered is forgotten");
        assert!(desk.must_list());
        let rest = (0..3).map(|i| request(&format!("r{i}"), i == 0)).collect();
        desk.see(Seen::All {
            objects: rest,
            refused: Vec::new(),
        });
        assert_eq!((desk.open.len(), desk.must_list()), (2, false));
    }
}
