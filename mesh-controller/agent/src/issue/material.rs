//! What answers are made of: signer, chain, roots and rules, put together once and handed round as one, so that no answer
//! mixes generations.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use mesh_api::{agent::Workloads, mesh::WorkloadIssuer};
use mesh_ca::{Answers, Authority, VerifyError};
use mesh_core::{issuance::Rules, ledger::Pair, names::ClusterName};

use tokio::{sync::watch, time::sleep};

use crate::{intermediate::Signer, wanted::Wanted};

/// How soon it is tried again when it did not work: a certificate may not have been valid yet.
const AGAIN: Duration = Duration::from_secs(2);
/// How often it is looked at when nothing changes.
const LOOK: Duration = Duration::from_mins(10);

/// What answers are made of.
#[derive(Debug)]
pub struct Material {
    pub(super) authority: Arc<Authority>,
    pub(super) pair: Pair,
    /// What stands behind each leaf.
    pub(super) answers: Answers,
    /// The roots as they were given.
    roots: Vec<String>,
    pub(super) rules: Rules,
    pub(super) names: Vec<String>,
}

/// Why there is nothing to make answers of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaterialError {
    /// What would be given out would not be believed.
    #[error("failed to believe what would be given to workloads")]
    Untrusted(#[source] VerifyError),
    /// The trust domain is none.
    #[error("failed to read the trust domain")]
    TrustDomain(#[source] mesh_core::names::NameError),
}

impl Material {
    /// Puts it together: what signs, with the generation of its key, and how the mesh wants it.
    ///
    /// # Errors
    ///
    /// When the trust domain cannot be read, or peers with these roots would not believe what is signed.
    pub fn new(
        authority: Arc<Authority>,
        signer: u32,
        cluster: &ClusterName,
        wish: &Workloads,
        now: Timestamp,
    ) -> Result<Self, MaterialError> {
        let seconds = |seconds: u32| SignedDuration::from_secs(i64::from(seconds.max(10)));
        let roots = wish.bundle.roots.clone();
        let text: String = roots
            .iter()
            .flat_map(|root| [root.trim_end(), "\n"])
            .collect();
        let answers = Answers::new(&authority, &text, now).map_err(MaterialError::Untrusted)?;
        Ok(Self {
            authority,
            answers,
            roots,
            pair: Pair {
                signer,
                bundle: wish.bundle.generation,
            },
            rules: Rules {
                trust_domain: wish
                    .trust_domain
                    .parse()
                    .map_err(MaterialError::TrustDomain)?,
                cluster: cluster.clone(),
                usual: seconds(wish.default_seconds),
                longest: seconds(wish.max_seconds),
                node_accounts: wish.node_accounts.iter().cloned().collect::<BTreeSet<_>>(),
            },
            names: wish.service_names.clone(),
        })
    }

    /// The material for what is wanted; nothing if the agent is not to issue, or has nothing to sign with.
    pub(super) fn of(
        wanted: Option<&Wanted>,
        signer: Option<&Signer>,
        now: Timestamp,
    ) -> Result<Option<Self>, MaterialError> {
        let (Some(wanted), Some(signer)) = (wanted, signer) else {
            return Ok(None);
        };
        let Some(wish) = issues(wanted) else {
            return Ok(None);
        };
        let authority = Arc::clone(&signer.authority);
        Self::new(authority, signer.generation, &wanted.cluster, wish, now).map(Some)
    }

    /// They make the same answers.
    pub(super) fn same(&self, other: &Self) -> bool {
        let print = |material: &Self| material.authority.certificate().fingerprint.clone();
        self.pair == other.pair
            && self.roots == other.roots
            && self.rules == other.rules
            && self.names == other.names
            && print(self) == print(other)
    }
}

/// What is wished of workload certificates, if this agent is to issue them.
pub(super) fn issues(wanted: &Wanted) -> Option<&Workloads> {
    let wish = wanted.spec.workloads.as_ref()?;
    (wish.issuer == WorkloadIssuer::Agent).then_some(wish)
}

/// Puts it together anew whenever what is wanted or what signs changes, for ever.
pub(super) async fn keep(
    mut wanted: watch::Receiver<Option<Arc<Wanted>>>,
    mut signer: watch::Receiver<Option<Signer>>,
    material: watch::Sender<Option<Arc<Material>>>,
) {
    let mut failing = false;
    loop {
        let new = {
            let wanted = wanted.borrow_and_update().clone();
            let signer = signer.borrow_and_update().clone();
            Material::of(wanted.as_deref(), signer.as_ref(), Timestamp::now())
        };
        let failed = new.is_err();
        let first = failed && !failing;
        failing = failed;
        match new {
            Ok(None) => {
                material.send_if_modified(|known| known.take().is_some());
            }
            Ok(Some(new)) => {
                material.send_if_modified(|known| {
                    if known.as_ref().is_some_and(|known| known.same(&new)) {
                        return false;
                    }
                    tracing::info!(
                        signer = new.pair.signer,
                        bundle = new.pair.bundle,
                        "giving certificates to workloads"
                    );
                    *known = Some(Arc::new(new));
                    true
                });
            }
            // What was good before stays: a signer and a bundle may come one after the other.
            Err(error) if first => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to put together what workloads are given"
            ),
            Err(_) => {}
        }
        let pause = if failed { AGAIN } else { LOOK };
        tokio::select! {
            gone = wanted.changed() => if gone.is_err() { return },
            gone = signer.changed() => if gone.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}
