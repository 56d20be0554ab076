//! A certificate authority: a CA certificate, the chain above it, and the key that signs.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use mesh_core::names::{MeshName, SpiffeId};
use rcgen::{CertificateParams, Issuer};
use rustls_pki_types::CertificateDer;
use x509_parser::{prelude::FromDer as _, x509::SubjectPublicKeyInfo};
use zeroize::Zeroizing;

use crate::{
    CA_BACKDATE, CaKey, CertFacts, CheckedCsr, Error, IntermediateSubject, LEAF_BACKDATE,
    PrivateKey, PublicKey, Usage,
    facts::{facts_of, is_plain, parse, read_facts},
    key::Signer,
    pem,
    profile::{self, Life},
};

/// A root or an intermediate that can sign. Its `Debug` shows the certificate, never the key.
pub struct Authority {
    issuer: Issuer<'static, Signer>,
    own: CertificateDer<'static>,
    /// Its subject and its key as they stand in it, DER: what is signed here must name the one and verify under the other.
    subject: Vec<u8>,
    spki: Vec<u8>,
    facts: CertFacts,
    /// What is sent behind a certificate signed here: this authority and those above it, without self-signed ones.
    served: String,
    /// The shortest life of the chain.
    bounds: Life,
}

/// A new root as it is kept in a Secret (`tls.crt`, `tls.key`). The certificate is public, the key is not; `Debug` does not show it.
#[derive(Clone)]
pub struct RootMaterial {
    /// The self-signed certificate.
    pub cert_pem: String,
    /// The private key, overwritten when dropped.
    pub key_pem: Zeroizing<String>,
}

impl fmt::Debug for RootMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootMaterial")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
}

/// A certificate just signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// It alone.
    pub cert_pem: String,
    /// It, then every CA between it and the root: what is presented to a peer. The root is not in it.
    pub chain_pem: String,
    /// What it says.
    pub facts: CertFacts,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes the root of a mesh: a new key and a self-signed certificate. The life begins [`CA_BACKDATE`] before `now`.
    ///
    /// The caller decides whether a root *may* be made; an existing one must never be replaced by this.
    ///
    /// # Errors
    ///
    /// When `lifetime` is shorter than a second or ends beyond the calendar, or the library fails.
    pub fn generate_root(
        mesh: &MeshName,
        generation: u32,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<(Self, RootMaterial), Error> {
        let key = PrivateKey::generate()?;
        let root = Self::generate_root_with(&key, mesh, generation, lifetime, now)?;
        let material = RootMaterial {
            cert_pem: root.cert_pem(),
            key_pem: Zeroizing::new(key.pem().to_string()),
        };
        Ok((root, material))
    }

    /// [`Authority::generate_root`] over a key that is there already: one in a token.
    ///
    /// # Errors
    ///
    /// The same, and when the token does not sign.
    pub fn generate_root_with(
        key: impl Into<CaKey>,
        mesh: &MeshName,
        generation: u32,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let key = key.into();
        let life = Life::new(now, lifetime, CA_BACKDATE, Life::ALWAYS)?;
        let params = profile::root(mesh, generation, key.public(), life)?;
        let certificate = params
            .self_signed(key.signer())
            .map_err(|source| key.signer().refusal("sign the root", source))?;
        Self::of(&pem::write("CERTIFICATE", certificate.der().to_vec()), key)
    }

    /// Loads a root or an intermediate: its certificate first, then the ones above it, each issued by the next. A root at
    /// the end is allowed and not needed. The subject and key identifier of an adopted certificate stay as they are.
    ///
    /// Dates are not judged here but at each signature, so that an expired CA can still be shown.
    ///
    /// # Errors
    ///
    /// When certificate or key cannot be read, do not belong together, or the certificate may not sign certificates.
    pub fn load(chain_pem: &str, key_pem: &str) -> Result<Self, Error> {
        Self::of(chain_pem, &PrivateKey::from_pem(key_pem)?)
    }

    /// [`Authority::load`] with a key that was read before, or one in a token.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn of(chain_pem: &str, key: impl Into<CaKey>) -> Result<Self, Error> {
        let key = key.into();
        let (chain, all) = read_signer(chain_pem)?;
        let (Some(own), Some(facts)) = (chain.first(), all.first()) else {
            return Err(Error::NoCertificate);
        };
        if facts.key_fingerprint != key.public().fingerprint() {
            return Err(Error::KeyMismatch {
                subject: facts.subject.clone(),
            });
        }
        let issuer = issuer(own, facts, &key)?;
        let bounds = Life {
            from: all
                .iter()
                .map(|facts| facts.not_before)
                .max()
                .unwrap_or(Timestamp::MIN),
            to: all
                .iter()
                .map(|facts| facts.not_after)
                .min()
                .unwrap_or(Timestamp::MAX),
        };
        let served = pem::write_chain(
            chain
                .iter()
                .zip(&all)
                .filter(|(_, facts)| !facts.self_issued)
                .map(|(der, _)| der),
        );
        let parsed = parse(own, 0)?;
        Ok(Self {
            issuer,
            own: own.clone(),
            subject: parsed.subject().as_raw().to_vec(),
            spki: parsed.public_key().raw.to_vec(),
            facts: facts.clone(),
            served,
            bounds,
        })
    }

    /// What the certificate of this authority says.
    #[must_use]
    pub fn certificate(&self) -> &CertFacts {
        &self.facts
    }

    /// The certificate of this authority alone. In a mesh where each member is a trust domain of its own, this is what peers of a member
    /// trust.
    #[must_use]
    pub fn cert_pem(&self) -> String {
        pem::write("CERTIFICATE", self.own.to_vec())
    }

    /// What is sent behind a certificate signed here: this authority and those above it, without the self-signed root. Empty for a root.
    #[must_use]
    pub fn chain_pem(&self) -> &str {
        &self.served
    }

    /// The last instant a certificate signed here can live to: the earliest end in the chain.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.bounds.to
    }

    /// Signs the intermediate of a member: path length 0, life from [`CA_BACKDATE`] before `now` to `now + lifetime`, cut to the
    /// life of this chain.
    ///
    /// # Errors
    ///
    /// When this authority is not valid now or may have no CA below it, or the request carries its own key.
    pub fn sign_intermediate(
        &self,
        csr: &CheckedCsr,
        subject: &IntermediateSubject,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        if self.facts.path_len == Some(0) {
            return Err(Error::PathLength {
                subject: self.facts.subject.clone(),
            });
        }
        let life = self.life(lifetime, CA_BACKDATE, now)?;
        self.sign(&profile::intermediate(subject, csr.key(), life)?, csr.key())
    }

    /// Signs a workload certificate (X.509-SVID) for a key. Whether the holder of the key is that workload is decided before.
    /// Life from [`LEAF_BACKDATE`] before `now` to `now + lifetime`, cut to the life of this chain.
    ///
    /// # Errors
    ///
    /// When this authority is not valid now, or the key is its own.
    pub fn sign_leaf(
        &self,
        identity: &SpiffeId,
        key: &PublicKey,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        let life = self.life(lifetime, LEAF_BACKDATE, now)?;
        self.sign(&profile::leaf(identity, key, life)?, key)
    }

    /// Signs the certificate of a server: the names it is called by, and its own identity, which is what a peer that goes by SPIFFE IDs
    /// looks at. In all else it is a workload's.
    ///
    /// # Errors
    ///
    /// When there is no name, one is no DNS name, this authority is not valid now, or the key is its own.
    #[expect(
        clippy::too_many_arguments,
        reason = "one more than a workload's; each is what it is"
    )]
    pub fn sign_server(
        &self,
        dns_names: &[&str],
        identity: &SpiffeId,
        key: &PublicKey,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        let life = self.life(lifetime, LEAF_BACKDATE, now)?;
        self.sign(&profile::server(dns_names, identity, key, life)?, key)
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, Signer> {
        &self.issuer
    }

    pub(crate) fn key(&self) -> &Signer {
        self.issuer.key()
    }

    pub(crate) fn own(&self) -> &CertificateDer<'static> {
        &self.own
    }

    pub(crate) fn life(
        &self,
        lifetime: SignedDuration,
        backdate: SignedDuration,
        now: Timestamp,
    ) -> Result<Life, Error> {
        let subject = || self.facts.subject.clone();
        if now < self.bounds.from {
            return Err(Error::SignerNotYetValid {
                subject: subject(),
                not_before: self.bounds.from,
                now,
            });
        }
        if now >= self.bounds.to {
            return Err(Error::SignerExpired {
                subject: subject(),
                not_after: self.bounds.to,
                now,
            });
        }
        Life::new(now, lifetime, backdate, self.bounds)
    }

    fn sign(&self, params: &CertificateParams, key: &PublicKey) -> Result<Issued, Error> {
        if key.fingerprint() == self.facts.key_fingerprint {
            return Err(Error::OwnKey);
        }
        let certificate = params
            .signed_by(key.data(), &self.issuer)
            .map_err(|source| self.key().refusal("sign a certificate", source))?;
        let facts = self.judge(certificate.der(), key)?;
        let cert_pem = pem::write("CERTIFICATE", certificate.der().to_vec());
        let chain_pem = format!("{cert_pem}{}", self.served);
        Ok(Issued {
            cert_pem,
            chain_pem,
            facts,
        })
    }

    /// Reads back what was just signed: it must carry the key asked for, name this authority as its issuer in the very same bytes,
    /// and verify under its key.
    fn judge(&self, der: &CertificateDer<'_>, key: &PublicKey) -> Result<CertFacts, Error> {
        let leaf = parse(der, 0)?;
        let facts = facts_of(&leaf, der, 0)?;
        if facts.key_fingerprint != key.fingerprint() {
            return Err(Error::Judged {
                rule: "it carries the key asked for",
            });
        }
        let signed = |own: &SubjectPublicKeyInfo<'_>| leaf.verify_signature(Some(own)).is_ok();
        let own = SubjectPublicKeyInfo::from_der(&self.spki);
        if leaf.issuer().as_raw() != self.subject || !own.is_ok_and(|(_, own)| signed(&own)) {
            return Err(Error::Judged {
                rule: "it names its issuer and is signed by it",
            });
        }
        if self.facts.ski.is_some() && facts.aki != self.facts.ski {
            return Err(Error::Judged {
                rule: "it points at the key of its issuer",
            });
        }
        Ok(facts)
    }
}

/// A chain whose first certificate may sign certificates, and whose links hold.
fn read_signer(chain_pem: &str) -> Result<(Vec<CertificateDer<'static>>, Vec<CertFacts>), Error> {
    let chain = pem::certificates(chain_pem)?;
    let all = chain
        .iter()
        .enumerate()
        .map(|(index, der)| read_facts(der, index))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(own) = all.first() {
        check_may_sign(own)?;
    }
    check_links(&chain, &all)?;
    Ok((chain, all))
}

/// All that [`Authority::of`] looks at and needs no key for.
pub(crate) fn may_sign(chain_pem: &str) -> Result<(), Error> {
    let (chain, all) = read_signer(chain_pem)?;
    let (Some(own), Some(facts)) = (chain.first(), all.first()) else {
        return Err(Error::NoCertificate);
    };
    let refusal = || Error::ReproduceSubject {
        subject: facts.subject.clone(),
    };
    let parsed = parse(own, 0)?;
    if !is_plain(parsed.subject()) {
        return Err(refusal());
    }
    // Whether rcgen writes the name again as it stands there shows with any key.
    let action = "take over the CA's certificate";
    let key = PrivateKey::generate()?;
    let trial = Issuer::from_ca_cert_der(own, CaKey::from(&key).signer().clone())
        .and_then(|issuer| CertificateParams::default().signed_by(key.public().data(), &issuer))
        .map_err(|source| Error::Crypto { action, source })?;
    if parse(trial.der(), 0)?.issuer().as_raw() == parsed.subject().as_raw() {
        Ok(())
    } else {
        Err(refusal())
    }
}

fn check_may_sign(facts: &CertFacts) -> Result<(), Error> {
    let refusal = |reason| {
        Err(Error::NotACa {
            subject: facts.subject.clone(),
            reason,
        })
    };
    if !facts.is_ca {
        return refusal("it does not say CA:TRUE");
    }
    if !facts.usages.is_empty() && !facts.usages.contains(&Usage::CertSign) {
        return refusal("its key usage leaves out certificate signing");
    }
    if facts.subject.is_empty() {
        return refusal("its subject is empty");
    }
    Ok(())
}

/// Each certificate is issued by the next one, and self-signed ones by themselves.
fn check_links(chain: &[CertificateDer<'_>], all: &[CertFacts]) -> Result<(), Error> {
    let certificates: Vec<_> = chain.iter().zip(all).enumerate().collect();
    for (below, above) in certificates.iter().zip(certificates.iter().skip(1)) {
        check_link(below, above)?;
    }
    certificates
        .iter()
        .filter(|(_, (_, facts))| facts.self_issued)
        .try_for_each(|own| check_link(own, own))
}

type Placed<'a> = (usize, (&'a CertificateDer<'a>, &'a CertFacts));

fn check_link(
    (low, (lower, below)): &Placed<'_>,
    (high, (upper, above)): &Placed<'_>,
) -> Result<(), Error> {
    let pointed = below.aki.is_none() || above.ski.is_none() || below.aki == above.ski;
    if above.is_ca && pointed && issued_by(&parse(lower, *low)?, &parse(upper, *high)?) {
        return Ok(());
    }
    Err(Error::BrokenChain {
        subject: below.subject.clone(),
        issuer: above.subject.clone(),
    })
}

/// The lower names the upper in the very same bytes and is signed by its key.
pub(crate) fn issued_by(
    lower: &x509_parser::certificate::X509Certificate<'_>,
    upper: &x509_parser::certificate::X509Certificate<'_>,
) -> bool {
    lower.issuer().as_raw() == upper.subject().as_raw()
        && lower.verify_signature(Some(upper.public_key())).is_ok()
}

/// The issuer for rcgen. Its subject goes through rcgen's own model of a name, which does not hold every name there is; what does not
/// survive is refused now and not at the first handshake.
fn issuer(
    own: &CertificateDer<'_>,
    facts: &CertFacts,
    key: &CaKey,
) -> Result<Issuer<'static, Signer>, Error> {
    let subject = || facts.subject.clone();
    let parsed = parse(own, 0)?;
    if !is_plain(parsed.subject()) {
        return Err(Error::ReproduceSubject { subject: subject() });
    }
    let issuer =
        Issuer::from_ca_cert_der(own, key.signer().clone()).map_err(|source| Error::Crypto {
            action: "take over the CA's certificate",
            source,
        })?;
    let trial = CertificateParams::default()
        .signed_by(key.signer(), &issuer)
        .map_err(|source| key.signer().refusal("sign with the CA's key", source))?;
    if issued_by(&parse(trial.der(), 0)?, &parsed) {
        Ok(issuer)
    } else {
        Err(Error::ReproduceSubject { subject: subject() })
    }
}

#[cfg(test)]
mod tests;
