//! What a certificate says, in words of our own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use aws_lc_rs::digest;
use jiff::Timestamp;
use mesh_core::text::hex;
use rustls_pki_types::CertificateDer;
use x509_parser::{
    asn1_rs::Oid,
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension, X509Extension},
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
        OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
    },
    prelude::FromDer,
    public_key::PublicKey as ParsedKey,
    time::ASN1Time,
    x509::{AttributeTypeAndValue, SubjectPublicKeyInfo, X509Name},
};

use crate::{Error, pem};

/// What one certificate says. Says nothing about whether anybody should believe it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertFacts {
    /// Subject, as text for people; empty for a workload.
    pub subject: String,
    /// Issuer, as text for people.
    pub issuer: String,
    /// `O=` of the subject.
    pub organization: Option<String>,
    /// `OU=` of the subject.
    pub unit: Option<String>,
    /// `CN=` of the subject.
    pub common_name: Option<String>,
    /// Serial number, lower-case hex without separators.
    pub serial: String,
    /// First instant of its life.
    pub not_before: Timestamp,
    /// Last instant of its life.
    pub not_after: Timestamp,
    /// SHA-256 of the whole certificate, lower-case hex.
    pub fingerprint: String,
    /// SHA-256 of its public key (`SubjectPublicKeyInfo`), lower-case hex: two certificates of one key share it.
    pub key_fingerprint: String,
    /// Kind and size of its key.
    pub key: KeyAlgorithm,
    /// How it is signed: object identifier of the algorithm.
    pub signature_algorithm: String,
    /// Subject key identifier, lower-case hex.
    pub ski: Option<String>,
    /// Key identifier of the issuer, lower-case hex.
    pub aki: Option<String>,
    /// `CA:TRUE`.
    pub is_ca: bool,
    /// How many CAs may follow below this one; `None`: as many as there are.
    pub path_len: Option<u32>,
    /// What its key may be used for; empty: the certificate does not say.
    pub usages: BTreeSet<Usage>,
    /// What for, further; empty: the certificate does not say.
    pub extended: BTreeSet<ExtendedUsage>,
    /// URI names, in order.
    pub uris: Vec<String>,
    /// All other alternative names, as text for people, in order.
    pub other_names: Vec<String>,
    /// All other extensions, by object identifier: whether they are critical.
    pub further: BTreeMap<String, bool>,
    /// Subject and issuer are the same bytes.
    pub self_issued: bool,
}

impl CertFacts {
    /// It may be used at this instant.
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// One thing a key may be used for (RFC 5280 4.2.1.3), in the order of its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Usage {
    /// Sign handshakes.
    DigitalSignature,
    /// Sign what cannot be denied.
    NonRepudiation,
    /// Wrap keys (RSA key exchange).
    KeyEncipherment,
    /// Encrypt data directly.
    DataEncipherment,
    /// Agree on keys.
    KeyAgreement,
    /// Sign certificates.
    CertSign,
    /// Sign revocation lists.
    CrlSign,
    /// Only encipher while agreeing.
    EncipherOnly,
    /// Only decipher while agreeing.
    DecipherOnly,
}

impl Usage {
    const ALL: [Self; 9] = [
        Self::DigitalSignature,
        Self::NonRepudiation,
        Self::KeyEncipherment,
        Self::DataEncipherment,
        Self::KeyAgreement,
        Self::CertSign,
        Self::CrlSign,
        Self::EncipherOnly,
        Self::DecipherOnly,
    ];

    /// The usages of a bit string whose lowest bit is `digitalSignature`.
    pub(crate) fn from_flags(flags: u16) -> BTreeSet<Self> {
        Self::ALL
            .into_iter()
            .enumerate()
            .filter(|(bit, _)| (flags >> bit) & 1 == 1)
            .map(|(_, usage)| usage)
            .collect()
    }
}

/// A purpose of a key (RFC 5280 4.2.1.12).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExtendedUsage {
    /// TLS server.
    ServerAuth,
    /// TLS client.
    ClientAuth,
    /// Something else, by its name or its object identifier.
    Other(String),
}

/// Kind and size of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// RSA, with the length of its modulus in bits.
    Rsa(usize),
    /// Anything else, by its object identifier.
    Other(String),
}

impl KeyAlgorithm {
    /// One that we sign with and for. P-521 and Ed25519 are left out: not every peer takes them.
    pub(crate) fn is_used(&self) -> bool {
        match self {
            Self::P256 | Self::P384 => true,
            Self::Rsa(bits) => (RSA_MIN..=RSA_MAX).contains(bits),
            Self::P521 | Self::Ed25519 | Self::Other(_) => false,
        }
    }

    /// Of a public key as it stands in a certificate or request.
    pub(crate) fn of(spki: &SubjectPublicKeyInfo<'_>) -> Self {
        let algorithm = &spki.algorithm.algorithm;
        let curve: Option<Oid<'_>> = spki
            .algorithm
            .parameters
            .as_ref()
            .and_then(|any| any.as_oid().ok());
        if *algorithm == OID_PKCS1_RSAENCRYPTION {
            return match spki.parsed() {
                Ok(ParsedKey::RSA(rsa)) => Self::Rsa(bits(rsa.modulus)),
                Ok(_) | Err(_) => Self::Other(algorithm.to_id_string()),
            };
        }
        if *algorithm == OID_SIG_ED25519 {
            return Self::Ed25519;
        }
        match curve {
            Some(curve) if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY => match curve {
                curve if curve == OID_EC_P256 => Self::P256,
                curve if curve == OID_NIST_EC_P384 => Self::P384,
                curve if curve == OID_NIST_EC_P521 => Self::P521,
                curve => Self::Other(curve.to_id_string()),
            },
            _ => Self::Other(algorithm.to_id_string()),
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::P256 => f.write_str("P-256"),
            Self::P384 => f.write_str("P-384"),
            Self::P521 => f.write_str("P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Rsa(bits) => write!(f, "RSA-{bits}"),
            Self::Other(oid) => f.write_str(oid),
        }
    }
}

/// Shortest RSA modulus in bits (CA/Browser Forum baseline requirements 6.1.5).
pub(crate) const RSA_MIN: usize = 2048;

/// Longest RSA modulus in bits: longer ones only cost time at every handshake.
pub(crate) const RSA_MAX: usize = 4096;

/// Significant bits of a big-endian number.
fn bits(number: &[u8]) -> usize {
    let significant = number.iter().skip_while(|byte| **byte == 0);
    let leading = significant
        .clone()
        .next()
        .map_or(0, |byte| byte.leading_zeros() as usize);
    (significant.count() * 8).saturating_sub(leading)
}

/// What each certificate of a text says, in order.
///
/// # Errors
///
/// When the text is too large, holds no certificate, or one of them cannot be read.
pub fn facts(text: &str) -> Result<Vec<CertFacts>, Error> {
    pem::certificates(text)?
        .iter()
        .enumerate()
        .map(|(index, der)| read_facts(der, index))
        .collect()
}

/// The certificate behind the bytes; nothing may stand behind it.
pub(crate) fn parse<'a>(
    der: &'a CertificateDer<'_>,
    index: usize,
) -> Result<X509Certificate<'a>, Error> {
    let refusal = |reason: String| Error::ReadCertificate { index, reason };
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|source| refusal(source.to_string()))?;
    if !rest.is_empty() {
        return Err(refusal(format!("{} bytes stand behind it", rest.len())));
    }
    Ok(certificate)
}

/// What the certificate says; `index` only serves the error.
pub(crate) fn read_facts(der: &CertificateDer<'_>, index: usize) -> Result<CertFacts, Error> {
    facts_of(&parse(der, index)?, der, index)
}

/// The same of one that is parsed already.
pub(crate) fn facts_of(
    certificate: &X509Certificate<'_>,
    der: &CertificateDer<'_>,
    index: usize,
) -> Result<CertFacts, Error> {
    let refusal = |reason: String| Error::ReadCertificate { index, reason };
    let subject = certificate.subject();
    let mut facts = CertFacts {
        subject: subject.to_string(),
        issuer: certificate.issuer().to_string(),
        organization: first(subject.iter_organization()),
        unit: first(subject.iter_organizational_unit()),
        common_name: first(subject.iter_common_name()),
        serial: hex(certificate.raw_serial()),
        not_before: instant(certificate.validity().not_before),
        not_after: instant(certificate.validity().not_after),
        fingerprint: sha256(der),
        key_fingerprint: sha256(certificate.public_key().raw),
        key: KeyAlgorithm::of(certificate.public_key()),
        signature_algorithm: certificate.signature_algorithm.algorithm.to_id_string(),
        ski: None,
        aki: None,
        is_ca: false,
        path_len: None,
        usages: BTreeSet::new(),
        extended: BTreeSet::new(),
        uris: Vec::new(),
        other_names: Vec::new(),
        further: BTreeMap::new(),
        self_issued: subject.as_raw() == certificate.issuer().as_raw(),
    };
    let mut seen = BTreeSet::new();
    for extension in certificate.extensions() {
        let oid = extension.oid.to_id_string();
        if !seen.insert(oid.clone()) {
            return Err(refusal(format!("the extension {oid} stands in it twice")));
        }
        facts.take(extension, &oid).map_err(refusal)?;
    }
    Ok(facts)
}

impl CertFacts {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all that is not read is listed, and so is what the parser learns later"
    )]
    fn take(&mut self, extension: &X509Extension<'_>, oid: &str) -> Result<(), String> {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => self.ski = Some(hex(id.0)),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.aki = id.key_identifier.as_ref().map(|id| hex(id.0));
            }
            ParsedExtension::BasicConstraints(basic) => {
                self.is_ca = basic.ca;
                self.path_len = basic.path_len_constraint;
            }
            ParsedExtension::KeyUsage(usage) => self.usages = Usage::from_flags(usage.flags),
            ParsedExtension::ExtendedKeyUsage(usage) => self.extended = extended_usages(usage),
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    if let GeneralName::URI(uri) = name {
                        self.uris.push((*uri).to_owned());
                    } else {
                        self.other_names.push(name.to_string());
                    }
                }
            }
            ParsedExtension::ParseError { error } => {
                return Err(format!("the extension {oid} is broken: {error}"));
            }
            _ => {
                self.further.insert(oid.to_owned(), extension.critical);
            }
        }
        Ok(())
    }
}

/// The purposes of an extended key usage extension.
pub(crate) fn extended_usages(
    usage: &x509_parser::extensions::ExtendedKeyUsage<'_>,
) -> BTreeSet<ExtendedUsage> {
    let named = [
        (usage.server_auth, ExtendedUsage::ServerAuth),
        (usage.client_auth, ExtendedUsage::ClientAuth),
        (usage.any, ExtendedUsage::Other("any".to_owned())),
        (
            usage.code_signing,
            ExtendedUsage::Other("code signing".to_owned()),
        ),
        (
            usage.email_protection,
            ExtendedUsage::Other("email protection".to_owned()),
        ),
        (
            usage.time_stamping,
            ExtendedUsage::Other("time stamping".to_owned()),
        ),
        (
            usage.ocsp_signing,
            ExtendedUsage::Other("OCSP signing".to_owned()),
        ),
    ];
    let others = usage
        .other
        .iter()
        .map(|oid| ExtendedUsage::Other(oid.to_id_string()));
    named
        .into_iter()
        .filter_map(|(set, usage)| set.then_some(usage))
        .chain(others)
        .collect()
}

fn first<'a>(mut values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Option<String> {
    values
        .next()
        .and_then(|value| value.as_str().ok())
        .map(str::to_owned)
}

/// Every relative name of the subject has exactly one attribute, of a kind whose identifier can be written again: rcgen panics at one that
/// begins with more than 2, or with 0 or 1 and more than 39 behind it.
pub(crate) fn is_plain(name: &X509Name<'_>) -> bool {
    let written = |kind: &Oid<'_>| {
        let mut arcs = kind.iter().into_iter().flatten();
        match (arcs.next(), arcs.next()) {
            (Some(0 | 1), Some(second)) => second < 40,
            (Some(2), Some(_)) => true,
            _ => false,
        }
    };
    name.iter().all(|relative| {
        let mut attributes = relative.iter();
        attributes
            .next()
            .is_some_and(|one| written(one.attr_type()))
            && attributes.next().is_none()
    })
}

/// A time of X.509 (whole seconds) as ours; one beyond our calendar (`99991231235959Z` is "no end", RFC 5280 4.1.2.5) becomes its last
/// instant.
pub(crate) fn instant(time: ASN1Time) -> Timestamp {
    let seconds = time.timestamp();
    Timestamp::from_second(seconds).unwrap_or(if seconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

/// Lower-case hex of the SHA-256 of something.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests;
