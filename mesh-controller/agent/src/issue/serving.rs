//! The CA's own certificate, by which agents know it: made here from the intermediate, over a key of its own, and changed
//! under open connections without any of them noticing.

use std::{fmt, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use mesh_api::{NAMESPACE, labels};
use mesh_ca::{CertFacts, PrivateKey};
use mesh_core::ledger::Pair;
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{ledger::Covering, material::Material};
use crate::jitter;

/// How long it lives.
const LIFE: SignedDuration = SignedDuration::from_hours(24);
/// Longest sleep between two looks at the clock, which may be stepped.
const LOOK: Duration = Duration::from_secs(30);
/// Longest wait for the ledger.
const LEDGER: Duration = Duration::from_secs(5);

/// Why there is no certificate for the CA itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServingError {
    /// It could not be signed.
    #[error("failed to sign the CA's serving certificate")]
    Sign(#[source] mesh_ca::Error),
    /// What was signed cannot be served.
    #[error("failed to use the CA's serving certificate")]
    Use(#[source] rustls::Error),
    /// What was signed is no PEM.
    #[error("failed to read the CA's serving certificate")]
    Read(#[source] rustls_pki_types::pem::Error),
    /// The ledger does not speak of it yet.
    #[error(transparent)]
    Ledger(super::NotWritten),
}

/// A serving certificate.
pub struct Serving {
    key: Arc<CertifiedKey>,
    pub(crate) facts: CertFacts,
    pub(crate) signer: u32,
    made: Timestamp,
    names: Vec<String>,
    signed_by: String,
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl Serving {
    /// Makes one from this material.
    ///
    /// # Errors
    ///
    /// When the intermediate does not sign it.
    pub fn make(material: &Material, now: Timestamp) -> Result<Self, ServingError> {
        let key = PrivateKey::generate().map_err(ServingError::Sign)?;
        let identity = material
            .rules
            .trust_domain
            .workload(NAMESPACE, labels::AGENT_NAME);
        let names: Vec<&str> = material.names.iter().map(String::as_str).collect();
        let issued = material
            .authority
            .sign_server(&names, &identity, key.public(), LIFE, now)
            .map_err(ServingError::Sign)?;
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(ServingError::Read)?;
        let secret =
            PrivateKeyDer::from_pem_slice(key.pem().as_bytes()).map_err(ServingError::Read)?;
        let secret = any_supported_type(&secret).map_err(ServingError::Use)?;
        let key = CertifiedKey::new(chain, secret);
        key.keys_match().map_err(ServingError::Use)?;
        Ok(Self {
            key: Arc::new(key),
            facts: issued.facts,
            signer: material.pair.signer,
            made: now,
            names: material.names.clone(),
            signed_by: material.authority.certificate().fingerprint.clone(),
        })
    }

    /// It is still the one to serve: half of its life is not over, and it is made for the same.
    fn fits(&self, material: &Material, now: Timestamp) -> bool {
        let life = self.facts.not_after.duration_since(self.made);
        let half = self
            .made
            .saturating_add(life / 2)
            .unwrap_or(self.facts.not_after);
        self.names == material.names
            && self.signed_by == material.authority.certificate().fingerprint
            && now < half
            && now >= self.facts.not_before
    }
}

/// Hands the latest serving certificate to each handshake.
pub(super) struct Latest(pub(super) watch::Receiver<Option<Arc<Serving>>>);

impl fmt::Debug for Latest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latest").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Latest {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let serving = self.0.borrow().clone();
        serving.map(|serving| Arc::clone(&serving.key))
    }
}

/// Keeps a serving certificate fresh, for ever.
pub(super) async fn keep(
    mut material: watch::Receiver<Option<Arc<Material>>>,
    ledger: Arc<dyn Covering>,
    serving: watch::Sender<Option<Arc<Serving>>>,
) {
    let mut failures = 0;
    loop {
        let now = Timestamp::now();
        let current = material.borrow_and_update().clone();
        let mut pause = LOOK;
        if let Some(material) = &current {
            let fits = serving
                .borrow()
                .as_ref()
                .is_some_and(|s| s.fits(material, now));
            if !fits {
                match renew(material, ledger.as_ref(), now).await {
                    Ok(new) => {
                        failures = 0;
                        tracing::info!(serial = new.facts.serial, until = %new.facts.not_after, "made the CA's serving certificate");
                        serving.send_replace(Some(Arc::new(new)));
                    }
                    Err(error) => {
                        if failures == 0 {
                            tracing::warn!(
                                error = &error as &dyn std::error::Error,
                                "failed to make the CA's serving certificate"
                            );
                        }
                        failures += 1;
                        pause = jitter::backoff(failures);
                    }
                }
            }
        } else {
            serving.send_if_modified(|serving| serving.take().is_some());
        }
        tokio::select! {
            gone = material.changed() => if gone.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}

async fn renew(
    material: &Material,
    ledger: &dyn Covering,
    now: Timestamp,
) -> Result<Serving, ServingError> {
    let serving = Serving::make(material, now)?;
    // No bundle comes with it.
    let pair = Pair {
        signer: serving.signer,
        bundle: 0,
    };
    let end = serving.facts.not_after;
    if !ledger.covers(pair, end) {
        let deadline = Instant::now() + LEDGER;
        let covered = ledger.cover(pair, end, deadline).await;
        covered.map_err(ServingError::Ledger)?;
    }
    Ok(serving)
}
