//! Judging a certificate request (PKCS#10). A request proves possession of a key; everything else in it is a wish, and the only wish that
//! is tolerated is the identity its sender has proven elsewhere.

use std::collections::BTreeSet;

use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{
    asn1_rs::{Header, Oid},
    certification_request::{X509CertificationRequest, X509CertificationRequestInfo},
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension, X509Extension},
    oid_registry::{
        OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
    },
    prelude::FromDer,
    public_key::PublicKey as ParsedKey,
    x509::SubjectPublicKeyInfo,
};

use mesh_core::names::SpiffeId;

use crate::{
    ExtendedUsage, KeyAlgorithm, PublicKey, Usage,
    facts::{RSA_MAX, RSA_MIN, extended_usages},
};

/// Most bytes of a request. An RSA-4096 request with one SPIFFE ID of the greatest length needs less than 4 KiB.
pub const CSR_MAX: usize = 16 * 1024;

/// What a request may say beyond its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested<'a> {
    /// Nothing: what our own agents send for an intermediate.
    Nothing,
    /// This identity or nothing, with the key usages of a workload: what Istio's agents send.
    Identity(&'a SpiffeId),
}

/// A request that may be signed. All that is kept of it is its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedCsr {
    key: PublicKey,
}

impl CheckedCsr {
    /// The key whose possession was proven.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// Why a request is not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrRefusal {
    /// Longer than [`CSR_MAX`].
    #[error("the request has {size} bytes, at most {CSR_MAX} are read")]
    TooLarge {
        /// Bytes given.
        size: usize,
    },
    /// Text without a `CERTIFICATE REQUEST` block, or a broken one.
    #[error("the request is neither DER nor a PEM block CERTIFICATE REQUEST")]
    NotPem,
    /// Which of them would be meant?
    #[error("the request holds more than one PEM block")]
    SeveralBlocks,
    /// Not PKCS#10.
    #[error("the request is not PKCS#10: {reason}")]
    Malformed {
        /// What the parser said.
        reason: String,
    },
    /// Something follows the request.
    #[error("{size} bytes stand behind the request")]
    TrailingBytes {
        /// How many.
        size: usize,
    },
    /// PKCS#10 has one version only.
    #[error("the request has version {version}, only 0 exists")]
    Version {
        /// The version.
        version: u32,
    },
    /// A key that is not signed here.
    #[error("the request holds a key of algorithm {algorithm}; P-256, P-384 and RSA are signed")]
    KeyAlgorithm {
        /// Its algorithm.
        algorithm: String,
    },
    /// Too weak, or too slow for everyone who must verify it.
    #[error("the request holds an RSA key of {bits} bits; {RSA_MIN} to {RSA_MAX} are signed")]
    RsaSize {
        /// Bits of its modulus.
        bits: usize,
    },
    /// Small or even exponents are how weak RSA keys look.
    #[error("the request holds an RSA key with an exponent other than 65537")]
    RsaExponent,
    /// A compressed point, surplus parameters and the like.
    #[error("the request holds a key in an unusual encoding")]
    KeyEncoding,
    /// SHA-1 and friends.
    #[error(
        "the request is signed with algorithm {oid}; SHA-256 or stronger with ECDSA or RSA is wanted"
    )]
    SignatureAlgorithm {
        /// Its object identifier.
        oid: String,
    },
    /// The sender does not hold the key, or the request was changed on its way.
    #[error("the request is not signed by the key it holds")]
    ProofOfPossession,
    /// Names are the signer's to give.
    #[error("the request names a subject: {subject:?}")]
    Subject {
        /// It.
        subject: String,
    },
    /// An attribute that is not a request for extensions.
    #[error("the request carries the attribute {oid}")]
    Attribute {
        /// Its object identifier.
        oid: String,
    },
    /// Two lists of extensions: which one would count?
    #[error("the request carries two lists of extensions")]
    RepeatedAttribute,
    /// One extension twice: which one would count?
    #[error("the request carries the extension {oid} twice")]
    RepeatedExtension {
        /// Its object identifier.
        oid: String,
    },
    /// An extension that cannot be read.
    #[error("the request carries a broken extension {oid}")]
    BrokenExtension {
        /// Its object identifier.
        oid: String,
    },
    /// An extension nobody may ask for.
    #[error("the request carries the extension {oid}")]
    Extension {
        /// Its object identifier.
        oid: String,
    },
    /// CA:TRUE, or a path length.
    #[error("the request asks to be a CA")]
    AsksToBeCa,
    /// A name other than the proven identity.
    #[error("the request asks for the name {name:?}")]
    ForeignName {
        /// It.
        name: String,
    },
    /// More than one name.
    #[error("the request asks for {count} names, at most one is given")]
    SeveralNames {
        /// How many.
        count: usize,
    },
    /// A use that workloads do not have.
    #[error("the request asks for the key usage {usage:?}")]
    KeyUsage {
        /// The first such.
        usage: Usage,
    },
    /// A purpose that workloads do not have.
    #[error("the request asks for the extended key usage {usage:?}")]
    ExtendedKeyUsage {
        /// The first such.
        usage: ExtendedUsage,
    },
}

/// Judges a request, DER or PEM.
///
/// A subject is refused unless it is empty or made of empty values (Istio's agent sends `O=""`).
///
/// # Errors
///
/// The first rule that the request breaks.
pub fn check_csr(request: &[u8], allowed: Requested<'_>) -> Result<CheckedCsr, CsrRefusal> {
    if request.len() > CSR_MAX {
        return Err(CsrRefusal::TooLarge {
            size: request.len(),
        });
    }
    let der = to_der(request)?;
    let (rest, csr) =
        X509CertificationRequest::from_der(&der).map_err(|source| CsrRefusal::Malformed {
            reason: shown(&source.to_string()),
        })?;
    if !rest.is_empty() {
        return Err(CsrRefusal::TrailingBytes { size: rest.len() });
    }
    let info = &csr.certification_request_info;
    if info.version.0 != 0 {
        return Err(CsrRefusal::Version {
            version: info.version.0,
        });
    }
    let key = check_key(&info.subject_pki)?;
    let algorithm = &csr.signature_algorithm.algorithm;
    if !signature_algorithms().contains(algorithm) {
        return Err(CsrRefusal::SignatureAlgorithm {
            oid: algorithm.to_id_string(),
        });
    }
    csr.verify_signature()
        .map_err(|_source| CsrRefusal::ProofOfPossession)?;
    check_subject(info)?;
    check_attributes(info, allowed)?;
    Ok(CheckedCsr { key })
}

fn to_der(request: &[u8]) -> Result<CertificateSigningRequestDer<'_>, CsrRefusal> {
    // A DER SEQUENCE begins with 0x30 ('0'), which no PEM text does before its first line.
    if request.first() == Some(&0x30) {
        return Ok(request.into());
    }
    let mut blocks = CertificateSigningRequestDer::pem_slice_iter(request);
    let der = blocks
        .next()
        .and_then(Result::ok)
        .ok_or(CsrRefusal::NotPem)?;
    match blocks.next() {
        None => Ok(der),
        Some(_) => Err(CsrRefusal::SeveralBlocks),
    }
}

fn signature_algorithms() -> [Oid<'static>; 5] {
    [
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
    ]
}

fn check_key(spki: &SubjectPublicKeyInfo<'_>) -> Result<PublicKey, CsrRefusal> {
    let algorithm = KeyAlgorithm::of(spki);
    match &algorithm {
        KeyAlgorithm::P256 | KeyAlgorithm::P384 => {}
        KeyAlgorithm::Rsa(bits) => {
            if !(RSA_MIN..=RSA_MAX).contains(bits) {
                return Err(CsrRefusal::RsaSize { bits: *bits });
            }
            // 65537 as DER writes it.
            if !matches!(spki.parsed(), Ok(ParsedKey::RSA(rsa)) if rsa.exponent == [1, 0, 1]) {
                return Err(CsrRefusal::RsaExponent);
            }
        }
        KeyAlgorithm::P521 | KeyAlgorithm::Ed25519 | KeyAlgorithm::Other(_) => {
            return Err(CsrRefusal::KeyAlgorithm {
                algorithm: algorithm.to_string(),
            });
        }
    }
    PublicKey::from_spki(spki.raw).map_err(|_source| CsrRefusal::KeyEncoding)
}

fn check_subject(info: &X509CertificationRequestInfo<'_>) -> Result<(), CsrRefusal> {
    let blank = info
        .subject
        .iter_attributes()
        .all(|attribute| attribute.attr_value().data.is_empty());
    if blank {
        Ok(())
    } else {
        Err(CsrRefusal::Subject {
            subject: shown(&info.subject.to_string()),
        })
    }
}

fn check_attributes(
    info: &X509CertificationRequestInfo<'_>,
    allowed: Requested<'_>,
) -> Result<(), CsrRefusal> {
    let mut lists = 0_u32;
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(list) = attribute.parsed_attribute() else {
            return Err(CsrRefusal::Attribute {
                oid: attribute.oid.to_id_string(),
            });
        };
        lists += 1;
        if lists > 1 {
            return Err(CsrRefusal::RepeatedAttribute);
        }
        if !is_alone(attribute.value) {
            return Err(CsrRefusal::Malformed {
                reason: "something follows the list of extensions in its attribute".to_owned(),
            });
        }
        let mut seen = BTreeSet::new();
        for extension in &list.extensions {
            let oid = extension.oid.to_id_string();
            if !seen.insert(oid.clone()) {
                return Err(CsrRefusal::RepeatedExtension { oid });
            }
            check_extension(extension, oid, allowed)?;
        }
    }
    Ok(())
}

/// Whether these bytes are one element and nothing else. The parser does not look behind the first one, and of a set it keeps what it has read.
fn is_alone(bytes: &[u8]) -> bool {
    let Ok((content, header)) = Header::from_der(bytes) else {
        return false;
    };
    header.length().definite() == Ok(content.len())
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not named here is refused, and so is what the parser learns later"
)]
fn check_extension(
    extension: &X509Extension<'_>,
    oid: String,
    allowed: Requested<'_>,
) -> Result<(), CsrRefusal> {
    if !is_alone(extension.value) {
        return Err(CsrRefusal::BrokenExtension { oid });
    }
    match extension.parsed_extension() {
        ParsedExtension::BasicConstraints(basic)
            if basic.ca || basic.path_len_constraint.is_some() =>
        {
            Err(CsrRefusal::AsksToBeCa)
        }
        ParsedExtension::BasicConstraints(_) => Ok(()),
        ParsedExtension::SubjectAlternativeName(names) => {
            check_names(&names.general_names, allowed)
        }
        ParsedExtension::KeyUsage(usage) => {
            let fits =
                |usage: &Usage| matches!(usage, Usage::DigitalSignature | Usage::KeyEncipherment);
            let foreign = Usage::from_flags(usage.flags)
                .into_iter()
                .find(|usage| !fits(usage));
            foreign.map_or(Ok(()), |usage| Err(CsrRefusal::KeyUsage { usage }))
        }
        ParsedExtension::ExtendedKeyUsage(usage) => {
            let fits = |usage: &ExtendedUsage| {
                matches!(usage, ExtendedUsage::ServerAuth | ExtendedUsage::ClientAuth)
            };
            let foreign = extended_usages(usage)
                .into_iter()
                .find(|usage| !fits(usage));
            foreign.map_or(Ok(()), |usage| Err(CsrRefusal::ExtendedKeyUsage { usage }))
        }
        ParsedExtension::ParseError { .. } => Err(CsrRefusal::BrokenExtension { oid }),
        _ => Err(CsrRefusal::Extension { oid }),
    }
}

fn check_names(names: &[GeneralName<'_>], allowed: Requested<'_>) -> Result<(), CsrRefusal> {
    for name in names {
        let proven = match (name, allowed) {
            (GeneralName::URI(uri), Requested::Identity(identity)) => *uri == identity.as_str(),
            _ => false,
        };
        if !proven {
            return Err(CsrRefusal::ForeignName {
                name: shown(&name.to_string()),
            });
        }
    }
    if names.len() > 1 {
        Err(CsrRefusal::SeveralNames { count: names.len() })
    } else {
        Ok(())
    }
}

/// A stranger's text, short enough for a status.
fn shown(text: &str) -> String {
    const MOST: usize = 120;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars()
        .take(MOST)
        .chain(std::iter::once('…'))
        .collect()
}

#[cfg(test)]
mod tests;
