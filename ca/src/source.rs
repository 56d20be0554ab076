//! Roots as they lie in Secrets: each layout that is in the field, read into one form.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::{
    AdoptionFinding, Error, PublicKey, Severity,
    adopt::adopt_check_public,
    adopt_check,
    authority::issued_by,
    facts::{parse, read_facts},
    pem,
};

/// Which entries a root stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootLayout {
    /// `tls.crt`, `tls.key` and perhaps `ca.crt`: `kubernetes.io/tls`, as cert-manager writes it (`kof-istio-root`, `k0rdent-istio-root`), and
    /// as we do.
    Tls,
    /// `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`, `root-cert.pem`: what Istio calls `cacerts`.
    CaCerts,
    /// `ca-cert.pem` and `ca-key.pem` alone: the root that istiod made for itself, `istio-ca-secret`.
    SelfSigned,
}

/// A root as it was found, with all that is the matter with it.
#[derive(Clone)]
pub struct RootText {
    /// Where it stood.
    pub layout: RootLayout,
    /// Its certificate, then those above it as far as they are there: what [`crate::Authority::of`] takes.
    pub chain_pem: String,
    /// Its key; none when a token holds it.
    pub key_pem: Option<Zeroizing<String>>,
    /// What was found, worst first. One of [`Severity::Refused`] means that it cannot be the root of a mesh.
    pub findings: Vec<AdoptionFinding>,
}

impl fmt::Debug for RootText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootText")
            .field("layout", &self.layout)
            .field("chain_pem", &self.chain_pem)
            .field("findings", &self.findings)
            .finish_non_exhaustive()
    }
}

impl RootText {
    /// The worst that was found, if it cannot be the root of a mesh.
    #[must_use]
    pub fn refusal(&self) -> Option<&AdoptionFinding> {
        self.findings
            .iter()
            .find(|finding| finding.severity == Severity::Refused)
    }
}

/// Why the entries of a Secret hold no root that could be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// None of the layouts.
    #[error(
        "failed to find a root: neither tls.crt and tls.key nor ca-cert.pem and ca-key.pem are there"
    )]
    NoLayout,
    /// The layout lacks an entry.
    #[error("failed to find a root: {entry} is missing or empty")]
    Missing {
        /// Its name.
        entry: &'static str,
    },
    /// An entry is not text.
    #[error("failed to read {entry}: it is not text")]
    NotText {
        /// Its name.
        entry: &'static str,
    },
    /// An entry cannot be read as what it should be.
    #[error("failed to read {entry}")]
    Entry {
        /// Its name.
        entry: &'static str,
        /// What is wrong with it.
        #[source]
        source: Error,
    },
}

const TLS_CERT: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";
const TLS_CA: &str = "ca.crt";
const CA_CERT: &str = "ca-cert.pem";
const CA_KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";

/// Reads the entries of a Secret and looks at the root in them with [`adopt_check`]. With the public key of a token, the Secret holds the
/// certificate alone. Entries that are there but empty (istiod writes such) count as absent.
///
/// # Errors
///
/// When no layout fits, or an entry cannot be read. What can be read but not be used is a finding.
pub fn read_root(
    entries: &BTreeMap<&str, &[u8]>,
    token: Option<&PublicKey>,
    now: Timestamp,
) -> Result<RootText, SourceError> {
    let entries = Entries(entries);
    let layout = if entries.has(TLS_CERT) || entries.has(TLS_KEY) {
        RootLayout::Tls
    } else if entries.has(CA_CERT) || entries.has(CA_KEY) {
        if entries.has(CHAIN) || entries.has(ROOTS) {
            RootLayout::CaCerts
        } else {
            RootLayout::SelfSigned
        }
    } else {
        return Err(SourceError::NoLayout);
    };
    let (cert_entry, key_entry) = match layout {
        RootLayout::Tls => (TLS_CERT, TLS_KEY),
        RootLayout::CaCerts | RootLayout::SelfSigned => (CA_CERT, CA_KEY),
    };
    let own = entries.certificates(cert_entry)?;
    let mut findings = Vec::new();
    let key_pem = if token.is_none() {
        Some(Zeroizing::new(entries.text(key_entry)?.to_owned()))
    } else {
        None
    };
    if token.is_some() && entries.has(key_entry) {
        findings.push(finding(
            Severity::Warning,
            format!("a private key lies in {key_entry}, though a token holds the root's"),
            "who reads the Secret may have the key that the token guards; take it out",
        ));
    }
    let chain_pem = match layout {
        RootLayout::Tls => {
            entries.compare(&own, TLS_CA, &mut findings)?;
            pem::write_chain(&own)
        }
        RootLayout::SelfSigned => pem::write_chain(&own),
        RootLayout::CaCerts => entries.cacerts(&own, &mut findings)?,
    };
    findings.extend(match (&key_pem, token) {
        (Some(key), _) => adopt_check(&chain_pem, key, now),
        (None, Some(public)) => adopt_check_public(&chain_pem, public, now),
        (None, None) => return Err(SourceError::Missing { entry: key_entry }),
    });
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(RootText {
        layout,
        chain_pem,
        key_pem,
        findings,
    })
}

fn finding(severity: Severity, what: String, costs: &'static str) -> AdoptionFinding {
    AdoptionFinding {
        severity,
        what,
        costs,
    }
}

struct Entries<'a>(&'a BTreeMap<&'a str, &'a [u8]>);

impl Entries<'_> {
    fn has(&self, entry: &str) -> bool {
        self.0.get(entry).is_some_and(|bytes| !bytes.is_empty())
    }

    fn text(&self, entry: &'static str) -> Result<&str, SourceError> {
        let bytes = self
            .0
            .get(entry)
            .filter(|bytes| !bytes.is_empty())
            .ok_or(SourceError::Missing { entry })?;
        str::from_utf8(bytes).map_err(|_source| SourceError::NotText { entry })
    }

    fn certificates(
        &self,
        entry: &'static str,
    ) -> Result<Vec<CertificateDer<'static>>, SourceError> {
        pem::certificates(self.text(entry)?).map_err(|source| SourceError::Entry { entry, source })
    }

    fn optional(&self, entry: &'static str) -> Result<Vec<CertificateDer<'static>>, SourceError> {
        if self.has(entry) {
            self.certificates(entry)
        } else {
            Ok(Vec::new())
        }
    }

    /// What others were given as the root beside this one.
    fn compare(
        &self,
        own: &[CertificateDer<'_>],
        entry: &'static str,
        findings: &mut Vec<AdoptionFinding>,
    ) -> Result<(), SourceError> {
        let others = self.optional(entry)?;
        let (Some(root), false) = (own.first(), others.is_empty()) else {
            return Ok(());
        };
        if !others.iter().any(|other| own.contains(other)) {
            findings.push(finding(
                Severity::Warning,
                format!("{entry} holds other certificates than the root"),
                "they are left out; who was given them as roots does not trust this mesh",
            ));
        } else if others
            .iter()
            .any(|other| other != root && !own.contains(other))
        {
            findings.push(finding(
                Severity::Warning,
                format!("{entry} holds further roots"),
                "they are left out; certificates under them are not believed in this mesh",
            ));
        }
        Ok(())
    }

    /// The chain above Istio's signing certificate, put together from what lies beside it.
    fn cacerts(
        &self,
        own: &[CertificateDer<'static>],
        findings: &mut Vec<AdoptionFinding>,
    ) -> Result<String, SourceError> {
        let mut chain: Vec<_> = own.iter().take(1).cloned().collect();
        let mut above = self.optional(CHAIN)?;
        above.extend(self.optional(ROOTS)?);
        let read = |source| SourceError::Entry {
            entry: CA_CERT,
            source,
        };
        let Some(root) = chain.first() else {
            return Err(read(Error::NoCertificate));
        };
        let facts = read_facts(root, 0).map_err(read)?;
        if facts.self_issued {
            self.compare(&chain, ROOTS, findings)?;
        } else if facts.path_len == Some(0) {
            findings.push(finding(
                Severity::Refused,
                format!(
                    "{CA_CERT} is an intermediate that may have no CA below it, and the key of the root above it is not here"
                ),
                "a mesh needs an intermediate for each member; take the root that signed it, or one without path length",
            ));
        }
        while let Some(next) = issuer(&chain, &above).map_err(read)? {
            chain.push(next);
        }
        Ok(pem::write_chain(&chain))
    }
}

/// The one of the others that issued the last of the chain, and is not in it.
fn issuer(
    chain: &[CertificateDer<'static>],
    others: &[CertificateDer<'static>],
) -> Result<Option<CertificateDer<'static>>, Error> {
    let Some(last) = chain.last() else {
        return Ok(None);
    };
    let below = parse(last, 0)?;
    if below.subject().as_raw() == below.issuer().as_raw() {
        return Ok(None);
    }
    for (index, other) in others.iter().enumerate() {
        if !chain.contains(other) && issued_by(&below, &parse(other, index)?) {
            return Ok(Some(other.clone()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
