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
    let mut say = |severity, holds: bool, what: &str, costs| {
        if holds {
            findings.push(AdoptionFinding {
                severity,
                what: what.to_owned(),
                costs,
            });
        }
    };
    let expired = root.not_after < now;
    say(
        Severity::Refused,
        expired,
        &format!("it expired at {}", root.not_after),
        "no peer believes anything below it",
    );
    let young = now < root.not_before;
    say(
        Severity::Refused,
        young,
        &format!("its life begins at {}", root.not_before),
        "no peer believes anything below it before; a clock is wrong, or it was made for later",
    );
    let soon = !expired && root.not_after.duration_since(now) < SOON;
    say(
        Severity::Warning,
        soon,
        &format!("it expires at {}", root.not_after),
        "intermediates cannot outlive it; rotate to a new root now",
    );
    say(
        Severity::Refused,
        root.path_len == Some(0),
        "its path length is 0",
        "no intermediate can be signed, so no member can be enrolled",
    );
    say(
        Severity::Warning,
        root.path_len == Some(1),
        "its path length is 1",
        "OpenSSL will refuse chains through a cross-signed new root, so a rotation has to wait until every peer has the new bundle",
    );
    say(
        Severity::Warning,
        root.usages.is_empty(),
        "it has no key usage",
        "RFC 5280 wants one in a CA; strict verifiers refuse it",
    );
    say(
        Severity::Warning,
        !root.usages.is_empty() && !root.usages.contains(&Usage::CrlSign),
        "its key usage leaves out signing revocation lists",
        "an intermediate cannot be revoked, only outlived",
    );
    say(
        Severity::Warning,
        root.ski.is_none(),
        "it has no subject key identifier",
        "strict verifiers refuse it, and beside another root of the same name chains fail depending on the order of the bundle",
    );
    say(
        Severity::Warning,
        !root.extended.is_empty() && !both(root),
        "it has an extended key usage that leaves out TLS servers or clients",
        "some verifiers apply it to everything below",
    );
    say(
        Severity::Note,
        both(root),
        "it has an extended key usage",
        "a CA needs none; some verifiers apply it to everything below",
    );
    say(
        Severity::Note,
        matches!(root.key, KeyAlgorithm::Rsa(_)),
        &format!("its key is {}", root.key),
        "longer chains and slower signatures than with P-256",
    );
    say(
        Severity::Note,
        !root.self_issued && alone,
        "it is not self-signed and comes without its issuer",
        "peers must accept it as an anchor by itself; OpenSSL does so only when told to",
    );
}

fn both(root: &CertFacts) -> bool {
    root.extended.contains(&ExtendedUsage::ServerAuth)
        && root.extended.contains(&ExtendedUsage::ClientAuth)
}

#[cfg(test)]
mod tests;
