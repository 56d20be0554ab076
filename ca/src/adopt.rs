//! A look at a root that somebody else made, before it becomes the root of a mesh.

use jiff::{SignedDuration, Timestamp};

use crate::{Authority, CertFacts, Error, ExtendedUsage, KeyAlgorithm, PrivateKey, Usage, facts};

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
    let mut findings = Vec::new();
    match facts(cert_pem).as_deref() {
        Err(error) => findings.push(refused(&error, "nothing can be signed with it")),
        Ok([]) => findings.push(refused(
            &Error::NoCertificate,
            "nothing can be signed with it",
        )),
        Ok([root, above @ ..]) => {
            let loaded =
                PrivateKey::from_pem(key_pem).and_then(|key| Authority::of(cert_pem, &key));
            if let Err(error) = loaded {
                findings.push(refused(&error, "nothing can be signed with it"));
            }
            look(root, above.is_empty(), now, &mut findings);
        }
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

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
