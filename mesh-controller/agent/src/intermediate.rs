//! The intermediate of this member: what is in its Secret, what was asked for, and what to do next.
//!
//! The Secret `istio-system/mesh-intermediate` is the memory all replicas share. For each generation it holds
//! `g<N>.key`, made here and nowhere else, and `g<N>.crt`, the certificate that came back. The key is stored
//! before its request is posted, and the request's name follows from the key: so replicas and restarts agree
//! on one request without talking to each other.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use mesh_api::member::Intermediate;
use mesh_ca::{Authority, IntermediateSubject, PrivateKey};
use mesh_cluster::agent_io::{CsrDraft, CsrOutcome, CsrSeen, SecretSeen};
use mesh_core::facts::Obstacle;
use zeroize::Zeroizing;

use crate::wanted::Wanted;

/// Entries of the Secret.
pub(crate) type Entries = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// Something that signs leaves.
#[derive(Clone, Debug)]
pub(crate) struct Signer {
    /// Its generation.
    pub(crate) generation: u32,
    /// The intermediate.
    pub(crate) authority: Arc<Authority>,
}

impl Signer {
    pub(crate) fn fingerprint(&self) -> &str {
        &self.authority.certificate().fingerprint
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Nothing; whatever comes next comes from elsewhere.
    Nothing,
    /// Make a key for this entry and store it.
    MakeKey {
        /// Name of the entry.
        entry: String,
    },
    /// Ask for a certificate.
    Post(CsrDraft),
    /// Keep the certificate that came back.
    Store {
        /// Name of the entry.
        entry: String,
        /// The certificate and those above it, PEM.
        chain: String,
    },
}

/// Where the intermediate stands.
#[derive(Debug)]
pub(crate) struct Decision {
    /// What to do next.
    pub(crate) act: Act,
    /// What signs leaves now.
    pub(crate) signer: Option<Signer>,
    /// The intermediates that are held and alive, newest first.
    pub(crate) held: Vec<Intermediate>,
    /// What a person must look at.
    pub(crate) obstacle: Option<Obstacle>,
}

/// Decides from what is known.
pub(crate) fn decide(
    wanted: &Wanted,
    secret: Option<&SecretSeen>,
    requests: &BTreeMap<String, CsrSeen>,
    now: Timestamp,
) -> Decision {
    let shelf = Shelf { wanted, secret, now };
    let generation = wanted.spec.signer_generation;
    let (act, obstacle) = match shelf.next(generation, requests) {
        Ok(act) => (act, None),
        Err((act, why)) => (act, Some(why)),
    };
    let loaded = shelf.loaded();
    // A generation above the one wanted is not signed with: peers may not trust it yet.
    let signer = loaded.iter().find(|s| s.generation <= generation).cloned();
    let held = loaded.iter().map(told).collect();
    Decision { act, signer, held, obstacle }
}

fn told(signer: &Signer) -> Intermediate {
    let facts = signer.authority.certificate();
    Intermediate {
        generation: signer.generation,
        fingerprint: facts.fingerprint.clone(),
        not_after: facts.not_after.to_string(),
        certificate: signer.authority.cert_pem(),
    }
}

/// Name of the entry that holds a key.
pub(crate) fn key_entry(generation: u32) -> String {
    format!("g{generation}.key")
}

fn certificate_entry(generation: u32) -> String {
    format!("g{generation}.crt")
}

struct Shelf<'a> {
    wanted: &'a Wanted,
    secret: Option<&'a SecretSeen>,
    now: Timestamp,
}

type Step = Result<Act, (Act, Obstacle)>;

impl Shelf<'_> {
    fn text(&self, entry: &str) -> Option<&str> {
        let bytes = self.secret?.data.get(entry)?;
        std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty())
    }

    /// Everything in the Secret that can sign now, newest first.
    fn loaded(&self) -> Vec<Signer> {
        let mut signers: Vec<Signer> = self
            .secret
            .iter()
            .flat_map(|secret| secret.data.keys())
            .filter_map(|entry| entry.strip_prefix('g')?.strip_suffix(".crt")?.parse().ok())
            .filter_map(|generation| self.load(generation).ok().flatten())
            .filter(|signer| signer.authority.expires() > self.now)
            .collect();
        signers.sort_by_key(|signer| std::cmp::Reverse(signer.generation));
        signers
    }

    fn load(&self, generation: u32) -> Result<Option<Signer>, mesh_ca::Error> {
        let (Some(chain), Some(key)) = (self.text(&certificate_entry(generation)), self.text(&key_entry(generation)))
        else {
            return Ok(None);
        };
        let authority = Arc::new(Authority::load(chain, key)?);
        Ok(Some(Signer { generation, authority }))
    }

    fn next(&self, generation: u32, requests: &BTreeMap<String, CsrSeen>) -> Step {
        let entry = key_entry(generation);
        let Some(text) = self.text(&entry) else {
            return Ok(Act::MakeKey { entry });
        };
        let key = PrivateKey::from_pem(text).map_err(|error| {
            let advice = "delete the entry to have a new one made";
            (Act::Nothing, secret_obstacle("BadKey", &format!("entry {entry}: {}; {advice}", chain_of(&error))))
        })?;
        let subject = IntermediateSubject {
            mesh: self.wanted.mesh.clone(),
            cluster: self.wanted.cluster.clone(),
            generation,
        };
        let root = &self.wanted.spec.root.certificate;
        let judge = |chain: &str| mesh_ca::verify_intermediate(chain, root, &subject, &key, self.now);
        let held = self.text(&certificate_entry(generation));
        let mut blemish = None;
        let mut replaces = None;
        if let Some(chain) = held {
            match judge(chain) {
                Ok(facts) if !aged(facts.not_before, facts.not_after, self.now) => return Ok(Act::Nothing),
                Ok(facts) => replaces = Some(facts.fingerprint),
                Err(error) => {
                    let message = format!("entry {}: {}", certificate_entry(generation), chain_of(&error));
                    blemish = Some(secret_obstacle("BadIntermediate", &message));
                    replaces = mesh_ca::facts(chain).ok().and_then(|f| f.into_iter().next()).map(|f| f.fingerprint);
                }
            }
        }
        let step = self.request(generation, &key, replaces.as_deref(), requests, &judge);
        match (step, blemish) {
            // What is wrong with the certificate that is there stays said until another is there.
            (Ok(act @ (Act::Nothing | Act::Post(_) | Act::MakeKey { .. })), Some(why)) => Err((act, why)),
            (step, _) => step,
        }
    }

    fn request(
        &self,
        generation: u32,
        key: &PrivateKey,
        replaces: Option<&str>,
        requests: &BTreeMap<String, CsrSeen>,
        judge: &dyn Fn(&str) -> Result<mesh_ca::CertFacts, mesh_ca::VerifyError>,
    ) -> Step {
        let root = &self.wanted.spec.root.certificate;
        let root = mesh_ca::facts(root).ok().and_then(|f| f.into_iter().next()).ok_or_else(|| {
            (Act::Nothing, Obstacle::new("BadRoot", "MeshAgent istio-system/mesh, spec.root.certificate: no certificate can be read"))
        })?;
        let name = request_name(&self.wanted.cluster, generation, [key.public().fingerprint(), &root.fingerprint], replaces);
        let refused = |what: &str, reason: &str, message: &str| {
            let advice = "delete it to ask anew";
            let text = format!("CertificateSigningRequest {name} was {what}: {reason}: {message}; {advice}");
            Err((Act::Nothing, Obstacle::new(if what == "denied" { "RequestDenied" } else { "RequestFailed" }, text)))
        };
        let Some(seen) = requests.get(&name) else {
            let request = key.csr_pem().map_err(|error| (Act::Nothing, Obstacle::new("NoRequest", chain_of(&error))))?;
            let seconds = self.wanted.spec.intermediate_seconds;
            return Ok(Act::Post(CsrDraft { name, request, seconds, marks: self.wanted.marks.clone() }));
        };
        match &seen.outcome {
            CsrOutcome::Pending => Ok(Act::Nothing),
            CsrOutcome::Denied { reason, message } => refused("denied", reason, message),
            CsrOutcome::Failed { reason, message } => refused("not signed", reason, message),
            CsrOutcome::Issued(chain) => {
                let bad = |why: String| {
                    let text = format!("CertificateSigningRequest {name} came back with a certificate that is not used: {why}");
                    (Act::Nothing, Obstacle::new("BadCertificate", text))
                };
                let chain = std::str::from_utf8(chain).map_err(|error| bad(error.to_string()))?;
                judge(chain).map_err(|error| bad(chain_of(&error)))?;
                Ok(Act::Store { entry: certificate_entry(generation), chain: chain.to_owned() })
            }
        }
    }
}

/// One name for one wish: the same key under the same root, in place of the same certificate.
fn request_name(
    cluster: &mesh_core::names::ClusterName,
    generation: u32,
    prints: [&str; 2],
    replaces: Option<&str>,
) -> String {
    let short = |print: &str| print.chars().take(10).collect::<String>();
    let [key, root] = prints.map(short);
    let base = format!("mesh-intermediate-{cluster}-g{generation}-{key}-{root}");
    match replaces {
        None => base,
        Some(print) => format!("{base}-{}", short(print)),
    }
}

/// Two thirds of its life are over: time to ask for the next over the same key.
fn aged(from: Timestamp, to: Timestamp, now: Timestamp) -> bool {
    let life = to.duration_since(from).as_secs();
    now.duration_since(from).as_secs() >= life / 3 * 2
}

fn secret_obstacle(reason: &str, message: &str) -> Obstacle {
    Obstacle::new(reason, format!("Secret istio-system/mesh-intermediate, {message}"))
}

/// An error and its sources on one line.
pub(crate) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
