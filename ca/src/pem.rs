//! Text into certificates and back, within limits.

use pem::{EncodeConfig, LineEnding, Pem};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{Error, facts::read_facts};

/// Most bytes of certificate text that are read: a Kubernetes Secret or `ConfigMap` holds at most 1 MiB, and the longest
/// chain and bundle of a mesh in rotation stay far below this.
pub const PEM_MAX: usize = 256 * 1024;

/// Most certificates that are read from one text. A bundle in rotation holds three roots; rustls-webpki gives up
/// after 100 signature checks.
pub const CERTIFICATES_MAX: usize = 64;

/// The certificates of a text, in order. Other blocks between them are skipped, as OpenSSL does.
pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    if text.len() > PEM_MAX {
        return Err(Error::PemTooLarge {
            size: text.len(),
            max: PEM_MAX,
        });
    }
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        if found.len() == CERTIFICATES_MAX {
            return Err(Error::TooManyCertificates {
                max: CERTIFICATES_MAX,
            });
        }
        found.push(certificate.map_err(|source| Error::ReadPem {
            reason: pem_reason(&source),
        })?);
    }
    if found.is_empty() {
        Err(Error::NoCertificate)
    } else {
        Ok(found)
    }
}

/// What the PEM reader says, without the text it read (which may hold a key).
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the reader may learn new errors"
)]
pub(crate) fn pem_reason(error: &rustls_pki_types::pem::Error) -> &'static str {
    use rustls_pki_types::pem::Error as Reader;
    match error {
        Reader::MissingSectionEnd { .. } => "a block has no end line",
        Reader::IllegalSectionStart { .. } => "a begin line is broken",
        Reader::Base64Decode(_) => "a block is not base64",
        Reader::NoItemsFound => "there is no block of the kind looked for",
        _ => "the text is not PEM",
    }
}

/// A block of text: 64 characters a line, line feeds, one at the end. The same bytes give the same text on every machine;
/// Istio's agents compare bundles byte by byte.
pub(crate) fn write(label: &str, der: impl Into<Vec<u8>>) -> String {
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_config(&Pem::new(label, der), config)
}

/// Several certificates as one text.
pub(crate) fn write_chain<'a>(chain: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> String {
    chain
        .into_iter()
        .map(|der| write("CERTIFICATE", der.to_vec()))
        .collect()
}

/// One text of the CA certificates of several: each once, in the order of their fingerprints, so that the same set gives the same bytes
/// wherever it is put together.
///
/// # Errors
///
/// When a text cannot be read, or one certificate in it is no CA.
pub fn bundle<'a, T>(texts: T) -> Result<String, Error>
where
    T: IntoIterator<Item = &'a str>,
{
    let mut found = std::collections::BTreeMap::new();
    for text in texts {
        for (index, der) in certificates(text)?.into_iter().enumerate() {
            let facts = read_facts(&der, index)?;
            if !facts.is_ca {
                return Err(Error::NotACa {
                    subject: facts.subject,
                    reason: "it does not say CA:TRUE",
                });
            }
            found.insert(facts.fingerprint, der);
        }
    }
    if found.is_empty() {
        Err(Error::NoCertificate)
    } else {
        Ok(write_chain(found.values()))
    }
}

#[cfg(test)]
mod tests;
