//! The gateway's certificate: made here, for a key that exists only in this process and its Envoy.

use jiff::{SignedDuration, Timestamp};
use mesh_ca::{CertFacts, PrivateKey};
use mesh_core::names::SpiffeId;

use crate::intermediate::Signer;

/// A certificate with its key.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) key: PrivateKey,
    /// The leaf, then the intermediate and what is above it but the root, PEM.
    pub(crate) chain: String,
    pub(crate) facts: CertFacts,
    pub(crate) issued: Timestamp,
    /// What it was made for; another wish means another leaf.
    pub(crate) wish: Wish,
}

/// What a leaf is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) identity: SpiffeId,
    pub(crate) life: SignedDuration,
    /// Fingerprint of the signing certificate.
    pub(crate) signer: String,
}

/// Why a leaf could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeafError {
    /// The intermediate did not sign.
    #[error("failed to sign a leaf for {identity}")]
    Sign {
        identity: SpiffeId,
        #[source]
        source: mesh_ca::Error,
    },
    /// What was signed is not what peers would believe; it is thrown away.
    #[error("failed to verify the leaf for {identity}")]
    Verify {
        identity: SpiffeId,
        #[source]
        source: mesh_ca::VerifyError,
    },
}

impl Leaf {
    /// Makes a key and a certificate, and judges it as a peer would before anybody sees it.
    pub(crate) fn make(wish: Wish, signer: &Signer, now: Timestamp) -> Result<Self, LeafError> {
        let sign = |source| LeafError::Sign {
            identity: wish.identity.clone(),
            source,
        };
        let key = PrivateKey::generate().map_err(sign)?;
        let issued = signer
            .authority
            .sign_leaf(&wish.identity, key.public(), wish.life, now)
            .map_err(sign)?;
        let facts = mesh_ca::verify_leaf(
            &issued.chain_pem,
            &signer.authority.cert_pem(),
            &wish.identity,
            now,
        )
        .map_err(|source| LeafError::Verify {
            identity: wish.identity.clone(),
            source,
        })?;
        Ok(Self {
            key,
            chain: issued.chain_pem,
            facts,
            issued: now,
            wish,
        })
    }

    /// When the next is to be made: at half of its life, earlier by up to a tenth of it. `noise` is 0 to 1.
    pub(crate) fn renew_at(&self, noise: f64) -> Timestamp {
        let life = self.facts.not_after.duration_since(self.issued);
        let wait = life.as_secs_f64() * (0.5 - 0.1 * noise.clamp(0.0, 1.0));
        SignedDuration::try_from_secs_f64(wait).map_or(self.issued, |wait| {
            self.issued.saturating_add(wait).unwrap_or(self.issued)
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
