//! Judging a chain: by rustls-webpki for signatures, dates and constraints, and by ourselves for what it does not look at.

use jiff::{SignedDuration, Timestamp};
use mesh_core::names::{ClusterName, MeshName, SpiffeId};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::{
    Authority, CertFacts, Error, IntermediateSubject, Issued, PrivateKey, Usage,
    authority::issued_by,
    facts::{parse, read_facts},
    pem,
    profile::{self, generation_in, named_after},
};

/// Life of a certificate that is thrown away after a trial.
const TRIAL: SignedDuration = SignedDuration::from_mins(1);

/// Why a chain is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The chain cannot be read.
    #[error("failed to read the chain")]
    ReadChain(#[source] Error),
    /// The anchors cannot be read.
    #[error("failed to read the anchors")]
    ReadAnchors(#[source] Error),
    /// The revocation list cannot be read.
    #[error("failed to read the revocation list")]
    ReadList(#[source] Error),
    /// The revocation list breaks a rule.
    #[error("failed to accept the revocation list: {rule}")]
    List {
        /// The rule.
        rule: &'static str,
    },
    /// An answer to `CreateCertificate`, or a leaf for one, breaks a rule.
    #[error("failed to accept the answer: {rule}")]
    Answer {
        /// The rule.
        rule: &'static str,
    },
    /// The anchors are all outside their lives. (webpki does not look at an anchor's dates, Envoy does.)
    #[error("failed to find an anchor that is valid at {now}")]
    NoValidAnchor {
        /// The time given.
        now: Timestamp,
    },
    /// A certificate of the chain is outside its life.
    #[error("failed to believe {subject:?} at {now}: it lives from {not_before} to {not_after}")]
    OutsideLife {
        /// Its subject; empty for a workload.
        subject: String,
        /// Start of its life.
        not_before: Timestamp,
        /// End of its life.
        not_after: Timestamp,
        /// The time given.
        now: Timestamp,
    },
    /// The certificate does not carry exactly the identity expected.
    #[error("failed to find {expected} and nothing else among the names {found:?}")]
    Identity {
        /// What was expected.
        expected: SpiffeId,
        /// All names it carries.
        found: Vec<String>,
    },
    /// The certificate is for somebody else, or an older one.
    #[error(
        "failed to recognise the intermediate: its subject is {found:?}, expected is {expected:?}"
    )]
    Subject {
        /// What was expected.
        expected: String,
        /// What it says.
        found: String,
    },
    /// The certificate is over another key.
    #[error("failed to match the intermediate with the key that asked for it")]
    Key,
    /// The certificate breaks a rule of its kind.
    #[error("failed to accept the certificate: {rule}")]
    Profile {
        /// The rule.
        rule: &'static str,
    },
    /// webpki does not believe it.
    #[error("failed to verify the chain as a {usage}")]
    Chain {
        /// `server` or `client`.
        usage: &'static str,
        /// What webpki said.
        #[source]
        source: webpki::Error,
    },
    /// The key cannot sign below the intermediate.
    #[error("failed to sign a trial certificate below the intermediate")]
    Trial(#[source] Error),
}

/// Judges a workload's chain (leaf first) as a peer would: believed by one of the anchors now, as a TLS server and as a client, with exactly
/// the identity expected. An intermediate may be an anchor, as Envoy allows too.
///
/// # Errors
///
/// The first rule that the chain breaks.
pub fn verify_leaf(
    chain_pem: &str,
    anchors_pem: &str,
    expected: &SpiffeId,
    now: Timestamp,
) -> Result<CertFacts, VerifyError> {
    let chain = pem::certificates(chain_pem).map_err(VerifyError::ReadChain)?;
    let (leaf, facts) = read_chain(&chain, now)?;
    if facts.uris != [expected.as_str()] || !facts.other_names.is_empty() {
        let found = facts
            .uris
            .iter()
            .chain(&facts.other_names)
            .cloned()
            .collect();
        return Err(VerifyError::Identity {
            expected: expected.clone(),
            found,
        });
    }
    if facts.is_ca {
        return Err(VerifyError::Profile {
            rule: "a workload's certificate is no CA",
        });
    }
    let above = chain.get(1..).unwrap_or_default();
    let anchors = pem::certificates(anchors_pem).map_err(VerifyError::ReadAnchors)?;
    believe(leaf, above, &anchors, now)?;
    Ok(facts)
}

/// Judges an intermediate (first in the chain) that came back for a request of ours, before anything is signed with it: made for
/// this member and generation, over this key, within the profile, and believed by one of the roots, which is tried with a certificate signed below it.
///
/// # Errors
///
/// The first rule that it breaks.
pub fn verify_intermediate(
    chain_pem: &str,
    roots_pem: &str,
    expected: &IntermediateSubject,
    own_key: &PrivateKey,
    now: Timestamp,
) -> Result<CertFacts, VerifyError> {
    let chain = pem::certificates(chain_pem).map_err(VerifyError::ReadChain)?;
    let (_, facts) = read_chain(&chain, now)?;
    check_subject(&facts, expected, own_key)?;
    check_profile(&facts)?;
    let authority = Authority::of(chain_pem, own_key).map_err(VerifyError::Trial)?;
    let (trial, _) = trial_leaf(&authority, now).map_err(VerifyError::Trial)?;
    let trial = pem::certificates(&trial.chain_pem).map_err(VerifyError::Trial)?;
    let (leaf, above) = trial
        .split_first()
        .ok_or(VerifyError::Trial(Error::NoCertificate))?;
    let roots = pem::certificates(roots_pem).map_err(VerifyError::ReadAnchors)?;
    believe(leaf, above, &roots, now)?;
    check_pointer(&chain, roots_pem)?;
    Ok(facts)
}

/// Judges an intermediate that a member shows as its own, before peers of the member are told to trust it: made for this member and
/// generation, within the profile, alive, and signed by this root. (Whether the member holds its key shows at the first handshake.)
///
/// # Errors
///
/// The first rule that it breaks.
pub fn recognise_intermediate(
    certificate_pem: &str,
    root_pem: &str,
    expected: &IntermediateSubject,
    now: Timestamp,
) -> Result<CertFacts, VerifyError> {
    let certificates = pem::certificates(certificate_pem).map_err(VerifyError::ReadChain)?;
    let [certificate] = certificates.as_slice() else {
        return Err(VerifyError::Profile {
            rule: "an intermediate is shown alone",
        });
    };
    // Peers are handed the text as it is, and their Envoys read more of it than we do (blocks of other names), or refuse it.
    if certificate_pem != pem::write("CERTIFICATE", certificate.to_vec()) {
        return Err(VerifyError::Profile {
            rule: "an intermediate is shown as one block of text, as we write it, and nothing else",
        });
    }
    let (_, facts) = read_chain(&certificates, now)?;
    let name = named_after(&facts.key_fingerprint, expected.generation);
    check_name(&facts, expected, &name)?;
    check_profile(&facts)?;
    if !facts.key.is_used() {
        return Err(VerifyError::Profile {
            rule: "an intermediate's key is one that peers take",
        });
    }
    let own = parse(certificate, 0).map_err(VerifyError::ReadChain)?;
    let roots = pem::certificates(root_pem).map_err(VerifyError::ReadAnchors)?;
    let mut alive = false;
    for (index, root) in roots.iter().enumerate() {
        let above = read_facts(root, index).map_err(VerifyError::ReadAnchors)?;
        if !above.is_ca || !above.is_valid_at(now) {
            continue;
        }
        alive = true;
        let pointed = above.ski.is_none() || above.ski == facts.aki;
        let root = parse(root, index).map_err(VerifyError::ReadAnchors)?;
        if pointed && issued_by(&own, &root) {
            return Ok(facts);
        }
    }
    if !alive {
        return Err(VerifyError::NoValidAnchor { now });
    }
    Err(VerifyError::Profile {
        rule: "an intermediate is signed by the root",
    })
}

/// Whether this root has made a certificate as an intermediate of this member, of whatever generation; it may have ended since.
#[must_use]
pub fn was_intermediate(
    certificate_pem: &str,
    root_pem: &str,
    (mesh, cluster): (&MeshName, &ClusterName),
) -> bool {
    let facts = crate::facts(certificate_pem).unwrap_or_default();
    let Some(facts) = facts.first() else {
        return false;
    };
    let name = facts.common_name.as_deref();
    let Some(generation) = name.and_then(generation_in) else {
        return false;
    };
    let subject = IntermediateSubject {
        mesh: mesh.clone(),
        cluster: cluster.clone(),
        generation,
    };
    recognise_intermediate(certificate_pem, root_pem, &subject, facts.not_before).is_ok()
}

fn check_subject(
    facts: &CertFacts,
    expected: &IntermediateSubject,
    own_key: &PrivateKey,
) -> Result<(), VerifyError> {
    if facts.key_fingerprint != own_key.public().fingerprint() {
        return Err(VerifyError::Key);
    }
    let name = named_after(own_key.public().fingerprint(), expected.generation);
    check_name(facts, expected, &name)
}

fn check_name(
    facts: &CertFacts,
    expected: &IntermediateSubject,
    name: &str,
) -> Result<(), VerifyError> {
    let same = facts.organization.as_deref() == Some(expected.mesh.as_str())
        && facts.unit.as_deref() == Some(expected.cluster.as_str())
        && facts.common_name.as_deref() == Some(name);
    if same {
        return Ok(());
    }
    let expected = format!("O={}, OU={}, CN={name}", expected.mesh, expected.cluster);
    Err(VerifyError::Subject {
        expected,
        found: facts.subject.clone(),
    })
}

fn check_profile(facts: &CertFacts) -> Result<(), VerifyError> {
    let rules = [
        (facts.is_ca, "an intermediate is a CA"),
        (
            facts.path_len == Some(0),
            "an intermediate has path length 0",
        ),
        (
            facts.usages == [Usage::CertSign, Usage::CrlSign].into(),
            "an intermediate signs certificates and revocation lists and nothing else",
        ),
        (
            facts.extended.is_empty(),
            "an intermediate has no extended key usage",
        ),
        (
            facts.ski.is_some() && facts.aki.is_some(),
            "an intermediate has key identifiers of itself and its issuer",
        ),
        (!facts.self_issued, "an intermediate is not self-signed"),
    ];
    match rules.into_iter().find(|(kept, _)| !kept) {
        None => Ok(()),
        Some((_, rule)) => Err(VerifyError::Profile { rule }),
    }
}

/// OpenSSL and `BoringSSL` refuse a chain whose top does not point at the key identifier of the root; webpki does not look.
fn check_pointer(chain: &[CertificateDer<'_>], roots_pem: &str) -> Result<(), VerifyError> {
    let top = chain.iter().enumerate().next_back();
    let Some((index, top)) = top else {
        return Ok(());
    };
    let top = read_facts(top, index).map_err(VerifyError::ReadChain)?;
    let roots = crate::facts(roots_pem).map_err(VerifyError::ReadAnchors)?;
    let points = |root: &CertFacts| {
        root.subject == top.issuer && (root.ski.is_none() || root.ski == top.aki)
    };
    if top.self_issued || roots.iter().any(points) {
        Ok(())
    } else {
        Err(VerifyError::Profile {
            rule: "the top of the chain points at the key identifier of a root",
        })
    }
}

/// A certificate of no workload that lives for a minute, with its chain, and the name in it: shows that what is signed here is believed.
pub(crate) fn trial_leaf(
    authority: &Authority,
    now: Timestamp,
) -> Result<(Issued, SpiffeId), Error> {
    let key = PrivateKey::generate()?;
    let identity = profile::trial()?;
    let issued = authority.sign_leaf(&identity, key.public(), TRIAL, now)?;
    Ok((issued, identity))
}

/// The first certificate of the chain and what it says; all of them must be inside their lives.
fn read_chain<'a, 'b>(
    chain: &'a [CertificateDer<'b>],
    now: Timestamp,
) -> Result<(&'a CertificateDer<'b>, CertFacts), VerifyError> {
    let mut own = None;
    for (index, der) in chain.iter().enumerate() {
        let facts = read_facts(der, index).map_err(VerifyError::ReadChain)?;
        if !facts.is_valid_at(now) {
            return Err(VerifyError::OutsideLife {
                subject: facts.subject,
                not_before: facts.not_before,
                not_after: facts.not_after,
                now,
            });
        }
        own.get_or_insert((der, facts));
    }
    own.ok_or(VerifyError::ReadChain(Error::NoCertificate))
}

/// webpki's word, for both directions of TLS.
pub(crate) fn believe(
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    anchors: &[CertificateDer<'_>],
    now: Timestamp,
) -> Result<(), VerifyError> {
    let anchors = valid_anchors(anchors, now)?;
    let chain_error = |usage| move |source| VerifyError::Chain { usage, source };
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let entity = EndEntityCert::try_from(leaf).map_err(chain_error("workload"))?;
    for (usage, name) in [
        (KeyUsage::server_auth(), "server"),
        (KeyUsage::client_auth(), "client"),
    ] {
        entity
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                above,
                time,
                usage,
                None,
                None,
            )
            .map_err(chain_error(name))?;
    }
    Ok(())
}

fn valid_anchors<'a>(
    ders: &'a [CertificateDer<'_>],
    now: Timestamp,
) -> Result<Vec<TrustAnchor<'a>>, VerifyError> {
    let mut anchors = Vec::new();
    for (index, der) in ders.iter().enumerate() {
        let facts = read_facts(der, index).map_err(VerifyError::ReadAnchors)?;
        if !facts.is_ca {
            let refusal = Error::NotACa {
                subject: facts.subject,
                reason: "it does not say CA:TRUE",
            };
            return Err(VerifyError::ReadAnchors(refusal));
        }
        if facts.is_valid_at(now) {
            anchors.push(
                anchor_from_trusted_cert(der).map_err(|source| VerifyError::Chain {
                    usage: "anchor",
                    source,
                })?,
            );
        }
    }
    if anchors.is_empty() {
        Err(VerifyError::NoValidAnchor { now })
    } else {
        Ok(anchors)
    }
}

#[cfg(test)]
mod tests;
