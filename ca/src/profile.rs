//! What our certificates contain: every field of every kind, set here and nowhere else.
//!
//! rcgen's defaults are not ours (lives from 1975 to 4096, a name of its own, a serial number that repeats for one key, no authority key
//! identifier), so each profile sets every field of [`CertificateParams`]; a test lists them.

use aws_lc_rs::rand;
use jiff::{SignedDuration, Timestamp};
use mesh_core::names::{ClusterName, MeshName, SpiffeId};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyUsagePurpose, SanType, SerialNumber, string::Ia5String,
};
use time::OffsetDateTime;

use crate::{Error, KeyAlgorithm, PublicKey};

/// How far before the present the life of a CA certificate begins: the clocks of management and of a member may be apart by
/// tens of minutes before anything else in Kubernetes forgives it (service account tokens and leases do not), and a CA that looks
/// too young stops a whole member.
pub const CA_BACKDATE: SignedDuration = SignedDuration::from_hours(1);

/// How far before the present the life of a workload certificate begins: two members whose clocks are each ten minutes off, in opposite
/// directions, are twenty minutes apart; ten more are reserve. (Istio takes 2 minutes inside one cluster.) It never begins before its
/// issuer's life does.
///
/// The end cannot be stretched in the same way: a life shorter than twice the skew works between good clocks only.
pub const LEAF_BACKDATE: SignedDuration = SignedDuration::from_mins(30);

/// Who an intermediate is for. Becomes `O=<mesh>, OU=<cluster>, CN=intermediate g<generation> <key>`: unique per key, and
/// each part within the limits of X.520.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntermediateSubject {
    /// The mesh.
    pub mesh: MeshName,
    /// The member.
    pub cluster: ClusterName,
    /// Grows by one at each rotation of this member's intermediate.
    pub generation: u32,
}

/// First and last second of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
}

impl Life {
    /// `length` from `now` on, and `backdate` before it, cut to `bounds` on both sides.
    pub(crate) fn new(
        now: Timestamp,
        length: SignedDuration,
        backdate: SignedDuration,
        bounds: Self,
    ) -> Result<Self, Error> {
        let refusal = || Error::Lifetime {
            seconds: length.as_secs(),
            now,
        };
        if length.as_secs() < 1 {
            return Err(refusal());
        }
        let to = now
            .checked_add(length)
            .map_err(|_source| refusal())?
            .min(bounds.to);
        let from = now
            .checked_sub(backdate)
            .map_err(|_source| refusal())?
            .max(bounds.from);
        Ok(Self { from, to })
    }

    /// Everything a certificate can say.
    pub(crate) const ALWAYS: Self = Self {
        from: Timestamp::MIN,
        to: Timestamp::MAX,
    };
}

/// `O=<mesh>, CN=root g<generation> <key>`.
pub(crate) fn root(
    mesh: &MeshName,
    generation: u32,
    key: &PublicKey,
    life: Life,
) -> Result<CertificateParams, Error> {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, mesh.as_str());
    name.push(
        DnType::CommonName,
        format!("root g{generation} {}", short(key.fingerprint())),
    );
    // No path length: a cross-signed root adds a level, and OpenSSL enforces the limit of an anchor.
    let mut params = ca(name, BasicConstraints::Unconstrained, life)?;
    // A self-signed certificate has no issuer to point at (RFC 5280 4.2.1.1).
    params.use_authority_key_identifier_extension = false;
    Ok(params)
}

/// See [`IntermediateSubject`].
pub(crate) fn intermediate(
    subject: &IntermediateSubject,
    key: &PublicKey,
    life: Life,
) -> Result<CertificateParams, Error> {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, subject.mesh.as_str());
    name.push(DnType::OrganizationalUnitName, subject.cluster.as_str());
    name.push(
        DnType::CommonName,
        named_after(key.fingerprint(), subject.generation),
    );
    ca(name, BasicConstraints::Constrained(0), life)
}

/// `CN=` of an intermediate over the key with this fingerprint.
pub(crate) fn named_after(fingerprint: &str, generation: u32) -> String {
    format!("intermediate g{generation} {}", short(fingerprint))
}

/// The generation in such a name.
pub(crate) fn generation_in(name: &str) -> Option<u32> {
    let (generation, _) = name.strip_prefix("intermediate g")?.split_once(' ')?;
    generation.parse().ok()
}

/// The name in a leaf that is thrown away after a trial; its trust domain is one that nobody can have.
pub(crate) fn trial() -> Result<SpiffeId, Error> {
    "spiffe://trial.invalid/ns/trial/sa/trial"
        .parse()
        .map_err(|_source| Error::Judged {
            rule: "the name of a trial is a SPIFFE ID",
        })
}

/// The X.509-SVID of a workload: no subject, so the name it carries is critical.
pub(crate) fn leaf(
    identity: &SpiffeId,
    key: &PublicKey,
    life: Life,
) -> Result<CertificateParams, Error> {
    named(identity.as_str(), key, life)
}

/// A workload's that is also called by DNS names: each once, in the order given, and before the SPIFFE ID.
pub(crate) fn server(
    dns_names: &[&str],
    identity: &SpiffeId,
    key: &PublicKey,
    life: Life,
) -> Result<CertificateParams, Error> {
    let mut params = leaf(identity, key, life)?;
    let mut names = Vec::new();
    for name in dns_names {
        let refusal = || Error::DnsName {
            name: name.chars().take(DNS_MAX).collect(),
        };
        if !is_dns_name(name) {
            return Err(refusal());
        }
        let name = SanType::DnsName(Ia5String::try_from(*name).map_err(|_source| refusal())?);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() || names.len() > NAMES_MAX {
        return Err(Error::DnsNames { count: names.len() });
    }
    names.append(&mut params.subject_alt_names);
    params.subject_alt_names = names;
    Ok(params)
}

/// Longest DNS name in text form (RFC 1035 3.1).
const DNS_MAX: usize = 253;

/// Most DNS names of one server.
pub(crate) const NAMES_MAX: usize = 64;

/// A whole DNS name in lower case, without a dot at the end, wildcards, or the look of an IP address.
fn is_dns_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(fits)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = |label: &str| label.chars().all(|c| c.is_ascii_digit());
    name.len() <= DNS_MAX
        && name.split('.').all(label)
        && !name.rsplit('.').next().is_none_or(numeric)
}

fn named(uri: &str, key: &PublicKey, life: Life) -> Result<CertificateParams, Error> {
    let uri = Ia5String::try_from(uri).map_err(|source| Error::Crypto {
        action: "write the SPIFFE ID as a URI name",
        source,
    })?;
    let mut params = common(life)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.distinguished_name = DistinguishedName::new();
    // Present and empty (SPIFFE X509-SVID 4.1, SPIRE wants it there); it also brings the subject key identifier.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if matches!(key.algorithm(), KeyAlgorithm::Rsa(_)) {
        // TLS 1.2 without forward secrecy needs it, and Istio's own CA grants it.
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}

fn ca(
    name: DistinguishedName,
    constraints: BasicConstraints,
    life: Life,
) -> Result<CertificateParams, Error> {
    let mut params = common(life)?;
    params.subject_alt_names = Vec::new();
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = Vec::new();
    Ok(params)
}

fn common(life: Life) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.not_before = date(life.from);
    params.not_after = date(life.to);
    params.serial_number = Some(SerialNumber::from(serial()?.to_vec()));
    params.name_constraints = None;
    params.crl_distribution_points = Vec::new();
    params.custom_extensions = Vec::new();
    params.use_authority_key_identifier_extension = true;
    // A function of the key alone, so one key has one identifier for ever.
    params.key_identifier_method = KeyIdMethod::Sha256;
    Ok(params)
}

/// 16 random bytes, the highest bit 0 (positive) and the next 1 (always the same length): 126 random bits.
fn serial() -> Result<[u8; 16], Error> {
    let mut bytes = [0_u8; 16];
    rand::fill(&mut bytes).map_err(|_source| Error::Random)?;
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x3f) | 0x40;
    }
    Ok(bytes)
}

/// Eight characters that tell keys apart for people and keep subjects unique.
fn short(fingerprint: &str) -> String {
    fingerprint.chars().take(8).collect()
}

/// Whole seconds, cut downwards; years beyond 9999 do not occur in a [`Timestamp`].
pub(crate) fn date(instant: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(instant.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
