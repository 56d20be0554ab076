//! What a stock istiod signs with: Secret `istio-system/cacerts`, when istiod is the issuer.
//!
//! It is given the intermediate that this agent holds. What istiod signs is not seen here, so the ledger speaks of all of it: until the
//! intermediate ends. That is written before istiod is given the key.
//!
//! It is made only when istiod is to be the issuer. When that changes it is kept as it should be as long as it is there: an istiod that finds none
//! when it starts makes a root of its own, which nobody trusts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use mesh_api::{agent::Workloads as Wish, mesh::WorkloadIssuer};
use mesh_ca::{
    BundleChange, CaCerts, PrivateKey, VerifyError, bundle, bundle_change, was_intermediate,
};
use mesh_cluster::agent_io::{AgentIoError, Intent, OwnCluster, SecretSeen, Seen};
use mesh_core::{facts::Obstacle, ledger::Pair, revocation::proxies::Reader};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use zeroize::Zeroizing;

use crate::{
    intermediate::{Entries, Signer, key_entry},
    jitter,
    lists::{Choice, Met, Same, Text, Worked, count, maps::ENTRY as LISTS},
    report::{Board, Cacerts, Draft, present},
    wanted::Wanted,
};

/// Name of the entry with the intermediate; Istio's.
const CERTIFICATE: &str = "ca-cert.pem";
/// Name of the entry with the roots; Istio's.
const ROOTS: &str = "root-cert.pem";
/// How often the Secret is looked at when nothing else happens.
const LOOK: Duration = Duration::from_secs(30);
/// How soon it is looked whether the own intermediates are known.
const SOON: Duration = Duration::from_millis(300);
/// How long to wait for the ledger.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the keeper of the Secret needs.
pub(crate) struct Keeper {
    pub(crate) cluster: OwnCluster,
    pub(crate) intents: watch::Receiver<Seen<Intent>>,
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(crate) signer: watch::Receiver<Option<Signer>>,
    pub(crate) board: Board,
    pub(crate) met: Worked<(Same, Draft), Met>,
}

/// What is to be done about the Secret.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It is as it should be.
    Nothing,
    /// Write it.
    Write,
    /// It must not be written.
    Refused(Obstacle),
}

fn is_ours(read: &SecretSeen, marks: &BTreeMap<String, String>) -> bool {
    let ours = |(key, value): (&String, &String)| read.labels.get(key) == Some(value);
    marks.iter().all(ours)
}

/// The Secret as ours, where it was and does not say so any more: a cluster that was a member before is known again by the intermediate in
/// it. The mesh's root has made that for this member and nobody else, whatever the labels say.
fn taken_back(read: &SecretSeen, wanted: &Wanted) -> Option<SecretSeen> {
    let certificate = text(&read.data, CERTIFICATE);
    let root = &wanted.spec.root.certificate;
    if is_ours(read, &wanted.marks)
        || !was_intermediate(&certificate, root, (&wanted.mesh, &wanted.cluster))
    {
        return None;
    }
    let mut ours = read.clone();
    ours.labels.extend(wanted.marks.clone());
    Some(ours)
}

/// An entry as text.
fn text(entries: &Entries, name: &str) -> String {
    let bytes = entries.get(name).map(|bytes| bytes.as_slice());
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

/// What is to be done about what is there, which may just have been taken back: then its labels are to be written.
fn decide(
    (read, is_back): (Option<&SecretSeen>, bool),
    wanted: &Entries,
    marks: &BTreeMap<String, String>,
) -> Next {
    let Some(read) = read else {
        return Next::Write;
    };
    let object = "Secret istio-system/cacerts";
    if !is_ours(read, marks) {
        return Next::Refused(Obstacle::new(
            "CacertsForeign",
            format!(
                "{object} belongs to somebody else and is left alone; istiod signs with what is in it"
            ),
        ));
    }
    if read.data == *wanted && !is_back {
        return Next::Nothing;
    }
    let (old, new) = (text(&read.data, ROOTS), text(wanted, ROOTS));
    if old.is_empty() || bundle_change(&old, &new) == BundleChange::Allowed {
        return Next::Write;
    }
    Next::Refused(Obstacle::new(
        "BundleRefused",
        format!(
            "{object}: a running istiod takes other roots only when the old ones are among the new, or the new among the old; delete the Secret and restart istiod to go on"
        ),
    ))
}

fn entries(certs: &CaCerts) -> Entries {
    certs
        .entries()
        .map(|(name, text)| (name.to_owned(), Zeroizing::new(text.as_bytes().to_vec())))
        .collect()
}

fn obstacle(error: &(dyn std::error::Error + 'static)) -> Obstacle {
    Obstacle::new("CacertsNotWritten", mesh_core::text::chain(error))
}

/// What a look came to.
enum Looked {
    /// It changed, or is about to: to be looked at again at once.
    Again,
    /// It is as it should be.
    Rest(Cacerts),
}

impl Keeper {
    /// Keeps the Secret, for ever.
    pub(crate) async fn run(mut self) {
        let mut failures = 0;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let signer = self.signer.borrow_and_update().clone();
            let mut pause = jitter::around(LOOK);
            let wish = wanted
                .as_ref()
                .and_then(|wanted| Some((wanted, wanted.spec.workloads.as_ref()?)));
            match (wish, &signer) {
                (None, _) => self.board.cacerts(Cacerts::default()),
                (Some(_), None) => {}
                (Some(_), Some(signer)) if !self.knows(signer) => pause = SOON,
                (Some(wish), Some(signer)) => {
                    if present(&mut self.intents).is_some() {
                        match self.step(wish, signer).await {
                            Ok(Looked::Again) => continue,
                            Ok(Looked::Rest(found)) => {
                                failures = 0;
                                self.board.cacerts(found);
                            }
                            Err(why) => {
                                if failures == 0 {
                                    tracing::warn!(
                                        reason = why.reason,
                                        why = why.message,
                                        "cacerts is not written"
                                    );
                                }
                                failures += 1;
                                pause = jitter::backoff(failures);
                                let why = Some(why);
                                self.board.cacerts(Cacerts {
                                    why,
                                    ..Cacerts::default()
                                });
                            }
                        }
                    }
                }
            }
            tokio::select! {
                gone = self.wanted.changed() => if gone.is_err() { return },
                gone = self.signer.changed() => if gone.is_err() { return },
                () = sleep(pause) => {}
            }
        }
    }

    /// What is known of the own intermediates speaks of this one.
    fn knows(&self, signer: &Signer) -> bool {
        let said = self.board.said();
        let mut held = said.held().iter();
        held.any(|held| held.fingerprint == signer.fingerprint())
    }

    /// One look and at most one write.
    async fn step(
        &mut self,
        (wanted, wish): (&Arc<Wanted>, &Wish),
        signer: &Signer,
    ) -> Result<Looked, Obstacle> {
        let io = |error: AgentIoError| obstacle(&error);
        let read = self.cluster.read_cacerts().await.map_err(io)?;
        let back = read.as_ref().and_then(|read| taken_back(read, wanted));
        let is_back = back.is_some();
        let read = back.or(read);
        let is_wished = wish.issuer == WorkloadIssuer::Istiod;
        if !is_wished && !read.as_ref().is_some_and(|it| is_ours(it, &wanted.marks)) {
            return Ok(Looked::Rest(Cacerts::default()));
        }
        let bundle = bundle(wish.bundle.roots.iter().map(String::as_str))
            .map_err(|error| obstacle(&error))?;
        let held = self.cluster.read_secret().await.map_err(io)?;
        let key = held
            .as_ref()
            .and_then(|held| held.data.get(&key_entry(signer.generation)))
            .and_then(|key| std::str::from_utf8(key).ok())
            .ok_or_else(|| {
                Obstacle::new(
                    "NoKey",
                    "the key of the intermediate is not in Secret istio-system/mesh-intermediate",
                )
            })?;
        let key = PrivateKey::from_pem(key).map_err(|error| obstacle(&error))?;
        let now = Timestamp::now();
        let standing = read.as_ref().map(|read| text(&read.data, LISTS));
        let (lists, mut why) = self.lists((wanted, wish), &standing.unwrap_or_default(), now)?;
        let make =
            |lists: Option<&str>| mesh_ca::cacerts(&signer.authority, &key, &bundle, lists, now);
        let certs = match make(lists.as_deref()) {
            // istiod would refuse all of it for its lists.
            Err(VerifyError::List { .. }) => {
                why = why.or_else(|| Some(no_own_lists()));
                make(None)
            }
            certs => certs,
        };
        let entries = entries(&certs.map_err(|error| obstacle(&error))?);
        match decide((read.as_ref(), is_back), &entries, &wanted.marks) {
            Next::Nothing => {
                let lists = entries.contains_key(LISTS).then(|| text(&entries, LISTS));
                Ok(Looked::Rest(Cacerts {
                    generation: Some(signer.generation),
                    revoked: lists.map(|lists| count(&lists)),
                    why,
                }))
            }
            Next::Refused(why) => Err(why),
            Next::Write => {
                let pair = Pair {
                    signer: signer.generation,
                    bundle: wish.bundle.generation,
                };
                let end = signer.authority.expires();
                self.board
                    .ledger
                    .cover(pair, end, Instant::now() + PATIENCE)
                    .await
                    .map_err(|error| obstacle(&error))?;
                let writing = self
                    .cluster
                    .put_cacerts(read.as_ref(), &entries, &wanted.marks);
                let how = writing.await.map_err(io)?;
                tracing::info!(
                    ?how,
                    generation = signer.generation,
                    "wrote what istiod signs with"
                );
                Ok(Looked::Again)
            }
        }
    }

    /// The lists that istiod is to hand on to proxies, given those that it has.
    fn lists(
        &mut self,
        (wanted, wish): (&Arc<Wanted>, &Wish),
        standing: &str,
        now: Timestamp,
    ) -> Result<(Option<String>, Option<Obstacle>), Obstacle> {
        let said = self.board.said().about_own();
        let from = (Same(Arc::clone(wanted)), said.clone());
        let met = self
            .met
            .get(from, now, || Met::new(&wanted.spec, wish, &said, now));
        let Choice { text, obstacle } = met.choose(standing, Reader::Istiod, now)?;
        let lists = match text {
            Text::Write(text) => Some(text),
            Text::Keep => Some(standing.to_owned()),
            Text::Leave | Text::Withdraw => None,
        };
        Ok((lists, obstacle))
    }
}

fn no_own_lists() -> Obstacle {
    Obstacle::new(
        "ListsIncomplete",
        "Secret istio-system/cacerts is given no revocation lists: there is no living one of a CA of its own chain or of a root",
    )
}

#[cfg(test)]
mod tests;
