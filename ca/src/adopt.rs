//! A look at a root that somebody else made, before it becomes the root of a mesh.

use jiff::{SignedDuration, Timestamp};

use crate::{
    Authority, CertFacts, Error, ExtendedUsage, KeyAlgorithm, PrivateKey, PublicKey, Usage,
    authority::may_sign, facts, facts::RSA_MIN,
};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Works now, will cost something later.
    Warning,
    /// Cannot be adopted.
    Refused,
}

/// One thing found in a root that is to be adopted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptionFinding {
    /// How much it matters.
    pub severity: Severity,
    /// What was found, for people.
    pub what: String,
    /// What it will cost, for people.
    pub costs: &'static str,
}

/// Object identifier of name constraints (RFC 5280 4.2.1.10).
const NAME_CONSTRAINTS: &str = "2.5.29.30";

/// A root with less left than this should be rotated before long: rotation waits for every member and every workload certificate.
const SOON: SignedDuration = SignedDuration::from_hours(24 * 90);

/// Looks at a root (certificate and key) and says what is wrong with it, worst first. With no finding of [`Severity::Refused`], [`Authority::load`]
/// takes it. An empty list means that there is nothing to say.
#[must_use]
pub fn adopt_check(cert_pem: &str, key_pem: &str, now: Timestamp) -> Vec<AdoptionFinding> {
    check(cert_pem, now, |_| {
        Authority::of(cert_pem, &PrivateKey::from_pem(key_pem)?).map(drop)
    })
}

/// [`adopt_check`] of a root whose key is in a token: the certificate, and the public key that the token shows.
#[must_use]
pub fn adopt_check_public(
    cert_pem: &str,
    public: &PublicKey,
    now: Timestamp,
) -> Vec<AdoptionFinding> {
    check(cert_pem, now, |root| {
        if root.key_fingerprint == public.fingerprint() {
            may_sign(cert_pem)
        } else {
            Err(Error::KeyMismatch {
                subject: root.subject.clone(),
            })
        }
    })
}

fn check(
    cert_pem: &str,
    now: Timestamp,
    load: impl FnOnce(&CertFacts) -> Result<(), Error>,
) -> Vec<AdoptionFinding> {
    let mut findings = Vec::new();
    match facts(cert_pem).as_deref() {
        Err(error) => findings.push(refused(&error, "nothing can be signed with it")),
        Ok([]) => findings.push(refused(
            &Error::NoCertificate,
            "nothing can be signed with it",
        )),
        Ok([root, above @ ..]) => {
            if let Some(costs) = unused(&root.key) {
                let what = format!("its key is of algorithm {}", root.key);
                findings.push(refused(&what, costs));
            } else if let Err(error) = load(root) {
                findings.push(refused(&error, "nothing can be signed with it"));
            }
            look(root, above.is_empty(), now, &mut findings);
        }
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// What it costs to sign with a key of a kind that is not used here.
fn unused(key: &KeyAlgorithm) -> Option<&'static str> {
    match key {
        used if used.is_used() => None,
        KeyAlgorithm::P521 => Some(
            "verifiers built on ring cannot verify what it signs, so some peers would refuse every chain; make a root on P-256 or P-384",
        ),
        KeyAlgorithm::Ed25519 => Some(
            "not every TLS library verifies what it signs, so some peers would refuse every chain; make a root on P-256 or P-384",
        ),
        KeyAlgorithm::Rsa(bits) if *bits < RSA_MIN => {
            Some("it can be broken, and peers refuse it; only 2048 to 4096 bits are used")
        }
        KeyAlgorithm::Rsa(_) => Some(
            "every handshake would pay for it, and some peers refuse it; only 2048 to 4096 bits are used",
        ),
        KeyAlgorithm::P256 | KeyAlgorithm::P384 | KeyAlgorithm::Other(_) => {
            Some("peers cannot verify with it; P-256, P-384 and RSA are used")
        }
    }
}

/// Object identifiers of signatures over MD2, MD4, MD5 or SHA-1, with RSA, DSA or ECDSA.
const BROKEN: [&str; 7] = [
    "1.2.840.113549.1.1.2",
    "1.2.840.113549.1.1.3",
    "1.2.840.113549.1.1.4",
    "1.2.840.113549.1.1.5",
    "1.3.14.3.2.29",
    "1.2.840.10040.4.3",
    "1.2.840.10045.4.1",
];

fn refused(what: &impl ToString, costs: &'static str) -> AdoptionFinding {
    AdoptionFinding {
        severity: Severity::Refused,
        what: what.to_string(),
        costs,
    }
}

fn look(root: &CertFacts, alone: bool, now: Timestamp, findings: &mut Vec<AdoptionFinding>) {
    let expired = root.not_after < now;
    let soon = !expired && root.not_after.duration_since(now) < SOON;
    let says = [
        (
            Severity::Refused,
            expired,
            format!("it expired at {}", root.not_after),
            "no peer believes anything below it",
        ),
        (
            Severity::Refused,
            now < root.not_before,
            format!("its life begins at {}", root.not_before),
            "no peer believes anything below it before; a clock is wrong, or it was made for later",
        ),
        (
            Severity::Refused,
            BROKEN.contains(&root.signature_algorithm.as_str()),
            format!(
                "it is signed with {}, over SHA-1 or MD5",
                root.signature_algorithm
            ),
            "Go, and with it istiod, and OpenSSL at its usual level refuse such signatures; make a new root, or sign this key's certificate again",
        ),
        (
            Severity::Warning,
            // The highest bit is the sign.
            root.serial
                .starts_with(|digit| ('8'..='f').contains(&digit)),
            format!("its serial number {} is negative", root.serial),
            "Go, and with it istiod and pilot-agent, cannot read it",
        ),
        (
            Severity::Warning,
            soon,
            format!("it expires at {}", root.not_after),
            "intermediates cannot outlive it; rotate to a new root now",
        ),
        (
            Severity::Note,
            matches!(root.key, KeyAlgorithm::Rsa(_)),
            format!("its key is {}", root.key),
            "longer chains and slower signatures than with P-256",
        ),
        (
            Severity::Note,
            !root.self_issued && alone,
            "it is not self-signed and comes without its issuer".to_owned(),
            "peers must accept it as an anchor by itself; OpenSSL does so only when told to",
        ),
    ];
    let extensions = extensions(root)
        .into_iter()
        .map(|(severity, holds, what, costs)| (severity, holds, what.to_owned(), costs));
    for (severity, holds, what, costs) in says.into_iter().chain(extensions) {
        if holds {
            findings.push(AdoptionFinding {
                severity,
                what,
                costs,
            });
        }
    }
}

/// What its extensions say: how much it matters, whether it is so, what, and what it costs.
fn extensions(root: &CertFacts) -> [(Severity, bool, &'static str, &'static str); 8] {
    let says_usage = !root.usages.is_empty();
    let both = [ExtendedUsage::ServerAuth, ExtendedUsage::ClientAuth]
        .iter()
        .all(|usage| root.extended.contains(usage));
    [
        (
            Severity::Refused,
            root.path_len == Some(0),
            "its path length is 0",
            "no intermediate can be signed, so no member can be enrolled",
        ),
        (
            Severity::Refused,
            root.further.contains_key(NAME_CONSTRAINTS),
            "it has name constraints",
            "rustls and with it ztunnel refuse every SPIFFE ID below URI constraints, and all chains below directory names",
        ),
        (
            Severity::Warning,
            root.path_len == Some(1),
            "its path length is 1",
            "OpenSSL will refuse chains through a cross-signed new root, so a rotation has to wait until every peer has the new bundle",
        ),
        (
            Severity::Warning,
            !says_usage,
            "it has no key usage",
            "RFC 5280 wants one in a CA; strict verifiers refuse it",
        ),
        (
            Severity::Warning,
            says_usage && !root.usages.contains(&Usage::CrlSign),
            "its key usage leaves out signing revocation lists",
            "an intermediate cannot be revoked, only outlived",
        ),
        (
            Severity::Warning,
            root.ski.is_none(),
            "it has no subject key identifier",
            "strict verifiers refuse it, and beside another root of the same name chains fail depending on the order of the bundle",
        ),
        (
            Severity::Warning,
            !root.extended.is_empty() && !both,
            "it has an extended key usage that leaves out TLS servers or clients",
            "some verifiers apply it to everything below",
        ),
        (
            Severity::Note,
            both,
            "it has an extended key usage",
            "a CA needs none; some verifiers apply it to everything below",
        ),
    ]
}

#[cfg(test)]
mod tests;
