//! What a stock istiod signs with: Secret `istio-system/cacerts`, when istiod is the issuer.
//!
//! It is given the intermediate that this agent holds. What istiod signs is not seen here, so the ledger speaks of all of it: until the
//! intermediate ends. That is written before istiod is given the key.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use mesh_api::{agent::Workloads as Wish, mesh::WorkloadIssuer};
use mesh_ca::{BundleChange, CaCerts, PrivateKey, bundle, bundle_change};
use mesh_cluster::agent_io::{AgentIoError, Intent, Made, OwnCluster, SecretSeen, Seen};
use mesh_core::{facts::Obstacle, ledger::Pair};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use zeroize::Zeroizing;

use crate::{
    intermediate::{Entries, Signer, chain_of, key_entry},
    jitter,
    report::{Board, present},
    wanted::Wanted,
};

/// Name of the entry with the roots; Istio's.
const ROOTS: &str = "root-cert.pem";
/// How often the Secret is looked at when nothing else happens.
const LOOK: Duration = Duration::from_secs(30);
/// How long to wait for the ledger.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the keeper of the Secret needs.
pub(crate) struct Keeper {
    pub(crate) cluster: OwnCluster,
    pub(crate) intents: watch::Receiver<Seen<Intent>>,
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(crate) signer: watch::Receiver<Option<Signer>>,
    pub(crate) board: Board,
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

fn decide(read: Option<&SecretSeen>, wanted: &Entries, marks: &BTreeMap<String, String>) -> Next {
    let Some(read) = read else {
        return Next::Write;
    };
    let object = "Secret istio-system/cacerts";
    let ours = |(key, value): (&String, &String)| read.labels.get(key) == Some(value);
    if !marks.iter().all(ours) {
        return Next::Refused(Obstacle::new(
            "CacertsForeign",
            format!(
                "{object} belongs to somebody else and is left alone; istiod signs with what is in it"
            ),
        ));
    }
    if read.data == *wanted {
        return Next::Nothing;
    }
    let text = |entries: &Entries| -> String {
        let bytes = entries.get(ROOTS).map(|bytes| bytes.as_slice());
        String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
    };
    let (old, new) = (text(&read.data), text(wanted));
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

fn obstacle(error: &dyn std::error::Error) -> Obstacle {
    Obstacle::new("CacertsNotWritten", chain_of(error))
}

impl Keeper {
    /// Keeps the Secret, for ever.
    pub(crate) async fn run(mut self) {
        let mut failures = 0;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let signer = self.signer.borrow_and_update().clone();
            let mut pause = jitter::around(LOOK);
            let wish = wanted.as_deref().and_then(|wanted| {
                let wish = wanted.spec.workloads.as_ref()?;
                (wish.issuer == WorkloadIssuer::Istiod).then_some((wanted, wish))
            });
            match (wish, &signer) {
                (None, _) => self.board.cacerts(None, None),
                (Some(_), None) => {}
                (Some((wanted, wish)), Some(signer)) => {
                    if present(&mut self.intents).is_some() {
                        match self.step((wanted, wish), signer).await {
                            Ok(true) => continue,
                            Ok(false) => {
                                failures = 0;
                                self.board.cacerts(Some(signer.generation), None);
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
                                self.board.cacerts(None, Some(why));
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

    /// One look and at most one write; whether to look again at once.
    async fn step(
        &self,
        (wanted, wish): (&Wanted, &Wish),
        signer: &Signer,
    ) -> Result<bool, Obstacle> {
        let io = |error: AgentIoError| obstacle(&error);
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
        let certs = mesh_ca::cacerts(&signer.authority, &key, &bundle, None, Timestamp::now())
            .map_err(|error| obstacle(&error))?;
        let entries = entries(&certs);
        let read = self.cluster.read_cacerts().await.map_err(io)?;
        match decide(read.as_ref(), &entries, &wanted.marks) {
            Next::Nothing => Ok(false),
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
                let made = writing.await.map_err(io)?;
                tracing::info!(
                    ?made,
                    generation = signer.generation,
                    "wrote what istiod signs with"
                );
                Ok(made == Made::Now || read.is_none())
            }
        }
    }
}

#[cfg(test)]
mod tests;
