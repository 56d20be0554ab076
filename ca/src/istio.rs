//! Texts in the layouts that Istio's programs read: the answer of `CreateCertificate`, and Secret `cacerts`.
//!
//! The same certificates always give the same bytes: pilot-agent and istiod compare bundles byte by byte and take every difference for a
//! change of trust.

use std::{collections::BTreeSet, fmt};

use jiff::Timestamp;
use mesh_core::names::SpiffeId;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::{
    Authority, CertFacts, Error, Issued, PrivateKey, VerifyError, bundle,
    facts::read_facts,
    merge_crls, pem, split_crls,
    verify::{believe, trial_leaf},
    verify_crl,
};

/// End of a block, where a chain is cut.
const END: &str = "-----END CERTIFICATE-----\n";

/// The `cert_chain` of an answer to `CreateCertificate`: the leaf, one certificate in each element after it, and last the whole bundle in one
/// element. Each ends with one line feed.
///
/// ztunnel reads only the first certificate of an element and takes the last element for its roots, whatever is in it; pilot-agent compares
/// the last element with the one before it. The roots stand in the order given: hand over what [`bundle`] made.
#[must_use]
pub fn answer(issued: &Issued, bundle_roots: &[String]) -> Vec<String> {
    let roots = bundle_roots
        .iter()
        .flat_map(|text| [text.trim_end(), "\n"])
        .collect();
    issued
        .chain_pem
        .split_inclusive(END)
        .map(str::to_owned)
        .chain([roots])
        .collect()
}

/// Judges an answer before it is given out, as pilot-agent, its Envoy and ztunnel will read it: the layout of [`answer`], exactly the
/// identity expected, and believed, in both directions of TLS, under at least one root of its last element, each tried alone.
///
/// # Errors
///
/// The first rule that it breaks.
pub fn verify_answer(
    answer: &[String],
    expected: &SpiffeId,
    now: Timestamp,
) -> Result<CertFacts, VerifyError> {
    let broken = |rule| VerifyError::Answer { rule };
    let (Some((last, chain)), true) = (answer.split_last(), answer.len() >= 2) else {
        return Err(broken("it holds a leaf and roots"));
    };
    let mut ders = Vec::new();
    for element in chain {
        let found = pem::certificates(element).map_err(VerifyError::ReadChain)?;
        let [one] = found.as_slice() else {
            return Err(broken("each element but the last holds one certificate"));
        };
        check_text(element, &found)?;
        ders.push(one.clone());
    }
    let roots = pem::certificates(last).map_err(VerifyError::ReadAnchors)?;
    check_text(last, &roots)?;
    let facts: Vec<CertFacts> = read_all(&ders).map_err(VerifyError::ReadChain)?;
    let anchors = read_all(&roots).map_err(VerifyError::ReadAnchors)?;
    let (Some((leaf, above)), Some((leaf_der, above_ders))) =
        (facts.split_first(), ders.split_first())
    else {
        return Err(broken("it holds a leaf and roots"));
    };
    if leaf.uris != [expected.as_str()] || !leaf.other_names.is_empty() {
        return Err(VerifyError::Identity {
            expected: expected.clone(),
            found: leaf.uris.iter().chain(&leaf.other_names).cloned().collect(),
        });
    }
    if leaf.is_ca {
        return Err(broken("its first certificate is no CA"));
    }
    if above.iter().any(|one| !one.is_ca || one.self_issued) {
        return Err(broken("between leaf and roots stand CAs, none self-signed"));
    }
    // An intermediate that slipped into the last place would be a root to everybody who reads it.
    let root = |one: &CertFacts| one.is_ca && one.path_len != Some(0);
    if !anchors.iter().all(root) {
        return Err(broken("its last element holds roots only"));
    }
    if above.iter().any(|one| one.not_after < leaf.not_after) {
        return Err(broken("a leaf ends before the CAs above it"));
    }
    if let Some(early) = facts.iter().find(|one| !one.is_valid_at(now)) {
        return Err(VerifyError::OutsideLife {
            subject: early.subject.clone(),
            not_before: early.not_before,
            not_after: early.not_after,
            now,
        });
    }
    let mut why = VerifyError::NoValidAnchor { now };
    for (root, der) in anchors.iter().zip(&roots) {
        // OpenSSL and BoringSSL go by the key identifiers, webpki does not look at them.
        let pointed = facts
            .iter()
            .any(|one| one.issuer == root.subject && (root.ski.is_none() || root.ski == one.aki));
        if !root.is_valid_at(now) || root.not_after < leaf.not_after || !pointed {
            continue;
        }
        match believe(leaf_der, above_ders, std::slice::from_ref(der), now) {
            Ok(()) => return Ok(leaf.clone()),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// An element is the text we write for what we read in it: nothing else stands in it, and it ends with one line feed.
fn check_text(element: &str, ders: &[CertificateDer<'_>]) -> Result<(), VerifyError> {
    if element == pem::write_chain(ders) {
        return Ok(());
    }
    Err(VerifyError::Answer {
        rule: "each element is text as we write it, and nothing else",
    })
}

fn read_all(ders: &[CertificateDer<'_>]) -> Result<Vec<CertFacts>, Error> {
    ders.iter()
        .enumerate()
        .map(|(index, der)| read_facts(der, index))
        .collect()
}

/// The answers of one authority under one bundle: what is the same in all of them is judged once, so that each costs next to nothing.
#[derive(Clone, Debug)]
pub struct Answers {
    tail: String,
    elements: Vec<String>,
    until: Timestamp,
}

impl Answers {
    /// Judges a trial answer of this authority with [`verify_answer`].
    ///
    /// # Errors
    ///
    /// When the bundle cannot be read, or the trial is not believed.
    pub fn new(
        authority: &Authority,
        bundle_pem: &str,
        now: Timestamp,
    ) -> Result<Self, VerifyError> {
        let bundle = bundle([bundle_pem]).map_err(VerifyError::ReadAnchors)?;
        let (issued, identity) = trial_leaf(authority, now).map_err(VerifyError::Trial)?;
        let trial = answer(&issued, std::slice::from_ref(&bundle));
        verify_answer(&trial, &identity, now)?;
        let until = roots_until(&trial, &identity, &bundle, now)?.min(authority.expires());
        Ok(Self {
            tail: authority.chain_pem().to_owned(),
            elements: trial.into_iter().skip(1).collect(),
            until,
        })
    }

    /// The last instant a leaf may live to: the earliest end in the chain, and the latest of the roots that believe it.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        self.until
    }

    /// The answer with this leaf. Its signature was verified when it was signed; here it is looked at whether it belongs to this chain, carries
    /// the identity expected, and ends in time.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn give(&self, issued: &Issued, expected: &SpiffeId) -> Result<Vec<String>, VerifyError> {
        let leaf = &issued.facts;
        if leaf.uris != [expected.as_str()] || !leaf.other_names.is_empty() {
            return Err(VerifyError::Identity {
                expected: expected.clone(),
                found: leaf.uris.iter().chain(&leaf.other_names).cloned().collect(),
            });
        }
        let above = issued.chain_pem.strip_prefix(&issued.cert_pem);
        let rules = [
            (!leaf.is_ca, "its first certificate is no CA"),
            (
                above == Some(&self.tail),
                "a leaf is sent with its own chain",
            ),
            (
                leaf.not_after <= self.until,
                "a leaf ends before the CAs above it",
            ),
        ];
        if let Some((_, rule)) = rules.into_iter().find(|(kept, _)| !kept) {
            return Err(VerifyError::Answer { rule });
        }
        let mut elements = Vec::with_capacity(self.elements.len() + 1);
        elements.push(issued.cert_pem.clone());
        elements.extend_from_slice(&self.elements);
        Ok(elements)
    }
}

/// The latest end of the roots that believe the trial.
fn roots_until(
    trial: &[String],
    identity: &SpiffeId,
    bundle: &str,
    now: Timestamp,
) -> Result<Timestamp, VerifyError> {
    let roots = pem::certificates(bundle).map_err(VerifyError::ReadAnchors)?;
    let mut until = now;
    for (index, root) in roots.iter().enumerate() {
        let mut alone = trial.to_vec();
        if let Some(last) = alone.last_mut() {
            *last = pem::write_chain([root]);
        }
        if verify_answer(&alone, identity, now).is_ok() {
            let facts = read_facts(root, index).map_err(VerifyError::ReadAnchors)?;
            until = until.max(facts.not_after);
        }
    }
    Ok(until)
}

/// The entries of Secret `cacerts` that istiod signs with. Holds a private key; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct CaCerts {
    ca_cert: String,
    ca_key: Zeroizing<String>,
    cert_chain: String,
    root_cert: String,
    ca_crl: Option<String>,
}

impl fmt::Debug for CaCerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaCerts")
            .field("cert_chain", &self.cert_chain)
            .field("root_cert", &self.root_cert)
            .field("ca_crl", &self.ca_crl)
            .finish_non_exhaustive()
    }
}

impl CaCerts {
    /// The entries, by name, in the order of their names.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("ca-cert.pem", Some(self.ca_cert.as_str())),
            ("ca-crl.pem", self.ca_crl.as_deref()),
            ("ca-key.pem", Some(self.ca_key.as_str())),
            ("cert-chain.pem", Some(self.cert_chain.as_str())),
            ("root-cert.pem", Some(self.root_cert.as_str())),
        ]
        .into_iter()
        .filter_map(|(name, text)| text.map(|text| (name, text)))
    }
}

/// The entries of Secret `cacerts` for an intermediate: `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem` (it and the CAs between it and the
/// roots; istiod sends them behind each leaf), `root-cert.pem` (the bundle) and, when lists are given, `ca-crl.pem`.
///
/// # Errors
///
/// What istiod, or Envoys behind it, would refuse: the key is another's, the chain is not believed under the bundle, lists are given but not
/// one for every CA of the chain and every living root.
pub fn cacerts(
    authority: &Authority,
    key: &PrivateKey,
    bundle_pem: &str,
    lists: Option<&str>,
    now: Timestamp,
) -> Result<CaCerts, VerifyError> {
    if key.public().fingerprint() != authority.certificate().key_fingerprint {
        return Err(VerifyError::Key);
    }
    if authority.certificate().self_issued {
        return Err(VerifyError::Profile {
            rule: "istiod is given an intermediate, never a root",
        });
    }
    let answers = Answers::new(authority, bundle_pem, now)?;
    let root_cert = answers.elements.last().cloned().unwrap_or_default();
    let ca_crl = lists
        .map(|lists| complete_lists(lists, authority.chain_pem(), &root_cert, now))
        .transpose()?;
    Ok(CaCerts {
        ca_cert: authority.cert_pem(),
        ca_key: key.pem().clone(),
        cert_chain: authority.chain_pem().to_owned(),
        root_cert,
        ca_crl,
    })
}

/// The lists as one text, if there is a good one for every CA of the chain and every living root.
fn complete_lists(
    text: &str,
    chain: &str,
    roots: &str,
    now: Timestamp,
) -> Result<String, VerifyError> {
    let merged = merge_crls([text]).map_err(VerifyError::ReadList)?;
    let lists = split_crls(&merged).map_err(VerifyError::ReadList)?;
    for text in [chain, roots] {
        for (index, ca) in pem::certificates(text)
            .map_err(VerifyError::ReadChain)?
            .iter()
            .enumerate()
        {
            let dead = read_facts(ca, index)
                .map_err(VerifyError::ReadChain)?
                .not_after
                < now;
            let ca = pem::write("CERTIFICATE", ca.to_vec());
            if !dead && !lists.iter().any(|list| verify_crl(list, &ca, now).is_ok()) {
                return Err(VerifyError::List {
                    rule: "there is a living one for every CA of the chain and every root",
                });
            }
        }
    }
    Ok(merged)
}

/// Whether a running istiod takes another `root-cert.pem`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleChange {
    /// It does, with `ISTIO_MULTIROOT_MESH=true`; without it, only the very same bytes.
    Allowed,
    /// It logs a warning and goes on with the old one, and with the old signing key.
    Refused,
}

/// istiod's rule for a new bundle: one of the two, taken as sets of certificates, must contain the other. So a root is replaced in two steps,
/// with both roots in between.
#[must_use]
pub fn bundle_change(old: &str, new: &str) -> BundleChange {
    if old == new {
        return BundleChange::Allowed;
    }
    let set = |text: &str| -> BTreeSet<Vec<u8>> {
        let found = pem::certificates(text).unwrap_or_default();
        found.iter().map(|der| der.to_vec()).collect()
    };
    let (old, new) = (set(old), set(new));
    let related = old.is_subset(&new) || new.is_subset(&old);
    if related && !old.is_empty() && !new.is_empty() {
        BundleChange::Allowed
    } else {
        BundleChange::Refused
    }
}

#[cfg(test)]
mod tests;
