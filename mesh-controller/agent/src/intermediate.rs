//! The intermediate of this member: what is in its Secret, what was asked for, and what to do next.
//!
//! The Secret `istio-system/mesh-intermediate` is the memory all replicas share. For each generation it holds
//! `g<N>.key`, made here and nowhere else, and `g<N>.crt`, the certificate that came back. The key is stored
//! before its request is posted, and the request's name follows from the key: so replicas and restarts agree
//! on one request without talking to each other.
//!
//! A generation has one key for its whole life. When it ages, the controller wants the next one; the old key stays until
//! the ledger says that nothing it signed is alive.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use mesh_api::{agent::Crl, labels::request_prefix, member::Intermediate};
use mesh_ca::{
    Authority, CertFacts, IntermediateSubject, PrivateKey, VerifyError, crl_facts, next_crl_number,
    verify_crl,
};
use mesh_cluster::agent_io::{CsrDraft, CsrOutcome, CsrSeen, SecretSeen};
use mesh_core::{
    facts::Obstacle,
    ledger::{self, Ledger},
    text,
};
use zeroize::Zeroizing;

use crate::{ledger::clock, wanted::Wanted};

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
    /// Sign the revocation list of an intermediate and store it.
    SignList {
        /// Name of the entry.
        entry: String,
        /// Its intermediate.
        generation: u32,
        /// Number of the list.
        number: u64,
    },
    /// Delete what is of no use any more.
    Drop {
        /// Its generations.
        generations: BTreeSet<u32>,
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
    /// Their revocation lists.
    pub(crate) crls: Vec<Crl>,
    /// What a person must look at.
    pub(crate) obstacle: Option<Obstacle>,
}

/// Decides from what is known; `ledgers`: those of all replicas.
pub(crate) fn decide(
    wanted: &Wanted,
    secret: Option<&SecretSeen>,
    requests: &BTreeMap<String, CsrSeen>,
    ledgers: &[Ledger],
    now: Timestamp,
) -> Decision {
    let shelf = Shelf {
        wanted,
        secret,
        now,
    };
    let generation = wanted.spec.signer_generation;
    let (mut act, obstacle) = shelf
        .next(requests)
        .unwrap_or_else(|why| (Act::Nothing, Some(why)));
    let loaded = shelf.loaded();
    if act == Act::Nothing && obstacle.is_none() {
        let generations = shelf.useless(&loaded, ledgers);
        if !generations.is_empty() {
            act = Act::Drop { generations };
        }
    }
    let lists = shelf.lists(&loaded);
    if let (Act::Nothing, Some(due)) = (&act, lists.iter().find_map(|list| list.due.clone())) {
        act = due;
    }
    // A generation above the one wanted is not signed with: peers may not trust it yet.
    let signer = loaded.iter().find(|s| s.generation <= generation).cloned();
    let held = loaded.iter().map(told).collect();
    Decision {
        act,
        signer,
        held,
        crls: lists.into_iter().filter_map(|list| list.told).collect(),
        obstacle,
    }
}

/// The revocation list of one intermediate.
struct List {
    told: Option<Crl>,
    /// It is to be made, or made anew.
    due: Option<Act>,
}

/// What lists of intermediates live. They are renewed at half of it, so that a member may be away for three days.
pub(crate) const LIST_LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What can sign in a Secret, by its generation.
pub(crate) fn held(wanted: &Wanted, secret: &SecretSeen, generation: u32) -> Option<Signer> {
    let shelf = Shelf {
        wanted,
        secret: Some(secret),
        now: Timestamp::UNIX_EPOCH,
    };
    shelf.signer(generation)
}

/// As it is reported.
pub(crate) fn told(signer: &Signer) -> Intermediate {
    let facts = signer.authority.certificate();
    Intermediate {
        generation: signer.generation,
        fingerprint: facts.fingerprint.clone(),
        serial: facts.serial.clone(),
        not_before: facts.not_before.to_string(),
        not_after: facts.not_after.to_string(),
        certificate: signer.authority.cert_pem(),
    }
}

/// The generation that an entry of the Secret belongs to.
pub(crate) fn generation_of(entry: &str) -> Option<u32> {
    entry.strip_prefix('g')?.split_once('.')?.0.parse().ok()
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

impl Shelf<'_> {
    fn text(&self, entry: &str) -> Option<&str> {
        let bytes = self.secret?.data.get(entry)?;
        std::str::from_utf8(bytes)
            .ok()
            .filter(|text| !text.is_empty())
    }

    /// Everything in the Secret that can sign now, newest first.
    fn loaded(&self) -> Vec<Signer> {
        let mut signers: Vec<Signer> = self
            .secret
            .iter()
            .flat_map(|secret| secret.data.keys())
            .filter_map(|entry| generation_of(entry.strip_suffix("crt")?))
            .filter_map(|generation| self.load(generation).ok().flatten())
            .filter(|signer| signer.authority.expires() > self.now)
            .collect();
        signers.sort_by_key(|signer| std::cmp::Reverse(signer.generation));
        signers
    }

    fn load(&self, generation: u32) -> Result<Option<Signer>, mesh_ca::Error> {
        let (Some(chain), Some(key)) = (
            self.text(&certificate_entry(generation)),
            self.text(&key_entry(generation)),
        ) else {
            return Ok(None);
        };
        let authority = Arc::new(Authority::load(chain, key)?);
        Ok(Some(Signer {
            generation,
            authority,
        }))
    }

    /// The lists of all that can sign.
    fn lists(&self, loaded: &[Signer]) -> Vec<List> {
        let list = |signer: &Signer| {
            let entry = format!("g{}.crl", signer.generation);
            let text = self.text(&entry);
            let known = text.and_then(|text| crl_facts(text.as_bytes()).ok());
            let good = text
                .filter(|text| verify_crl(text, &signer.authority.cert_pem(), self.now).is_ok());
            let aged = known
                .as_ref()
                .is_none_or(|known| known.is_due(0.0, self.now));
            List {
                told: good.map(|list| Crl {
                    issuer: signer.authority.certificate().key_fingerprint.clone(),
                    list: list.to_owned(),
                }),
                due: (good.is_none() || aged).then(|| Act::SignList {
                    entry,
                    generation: signer.generation,
                    number: next_crl_number(known.map(|known| known.number), self.now),
                }),
            }
        };
        loaded.iter().map(list).collect()
    }

    /// The intermediate of this generation, if it is held.
    fn signer(&self, generation: u32) -> Option<Signer> {
        self.load(generation).ok().flatten()
    }

    /// Generations in the Secret that nobody needs: not wanted, and nothing is alive that they signed. As long as the one
    /// that is to sign is not there, everything is needed.
    fn useless(&self, loaded: &[Signer], ledgers: &[Ledger]) -> BTreeSet<u32> {
        let spec = &self.wanted.spec;
        let wanted = [Some(spec.signer_generation), spec.prepare_generation];
        let Some(secret) = self.secret.filter(|_| {
            let signs = |signer: &Signer| signer.generation == spec.signer_generation;
            loaded.iter().any(signs)
        }) else {
            return BTreeSet::new();
        };
        let clock = clock(self.now);
        let over = |generation: u32| {
            ledger::is_over(ledgers, generation, clock)
                || self
                    .signer(generation)
                    .is_some_and(|it| clock.is_past(it.authority.expires()))
        };
        let entries = secret.data.keys();
        entries
            .filter_map(|entry| generation_of(entry))
            .filter(|generation| !wanted.contains(&Some(*generation)) && over(*generation))
            .collect()
    }

    /// What to do about the generations that are wanted, and what a person must look at all the same.
    fn next(
        &self,
        requests: &BTreeMap<String, CsrSeen>,
    ) -> Result<(Act, Option<Obstacle>), Obstacle> {
        let spec = &self.wanted.spec;
        match (
            self.obtain(spec.signer_generation, requests)?,
            spec.prepare_generation,
        ) {
            ((Act::Nothing, None), Some(prepare)) => self.obtain(prepare, requests),
            (first, _) => Ok(first),
        }
    }

    /// What to do about one generation.
    fn obtain(
        &self,
        generation: u32,
        requests: &BTreeMap<String, CsrSeen>,
    ) -> Result<(Act, Option<Obstacle>), Obstacle> {
        let entry = key_entry(generation);
        let Some(text) = self.text(&entry) else {
            return Ok((Act::MakeKey { entry }, None));
        };
        let key = PrivateKey::from_pem(text).map_err(|error| {
            let advice = "delete the entry to have a new one made";
            secret_obstacle(
                "BadKey",
                &format!("entry {entry}: {}; {advice}", text::chain(&error)),
            )
        })?;
        let candidate = Candidate::new(self.wanted, (generation, key), self.now)?;
        let entry = certificate_entry(generation);
        let Some(held) = self.text(&entry) else {
            return Ok((candidate.obtain(None, requests)?, None));
        };
        match candidate.judge(held) {
            Ok(_) => Ok((Act::Nothing, None)),
            Err(error) => {
                // Said until another is there; what is asked for meanwhile may say more.
                let why = secret_obstacle(
                    "BadIntermediate",
                    &format!("entry {entry}: {}", text::chain(&error)),
                );
                let print = mesh_ca::facts(held)
                    .ok()
                    .and_then(|f| f.into_iter().next())
                    .map(|f| f.fingerprint);
                Ok((candidate.obtain(print.as_deref(), requests)?, Some(why)))
            }
        }
    }
}

/// The certificate that is wanted over one key.
struct Candidate<'a> {
    wanted: &'a Wanted,
    key: PrivateKey,
    root_print: String,
    subject: IntermediateSubject,
    now: Timestamp,
}

impl<'a> Candidate<'a> {
    fn new(
        wanted: &'a Wanted,
        (generation, key): (u32, PrivateKey),
        now: Timestamp,
    ) -> Result<Self, Obstacle> {
        let root = mesh_ca::facts(&wanted.spec.root.certificate)
            .ok()
            .and_then(|facts| facts.into_iter().next());
        let root = root.ok_or_else(|| {
            Obstacle::new(
                "BadRoot",
                "MeshAgent istio-system/mesh, spec.root.certificate: no certificate can be read",
            )
        })?;
        let subject = IntermediateSubject {
            mesh: wanted.mesh.clone(),
            cluster: wanted.cluster.clone(),
            generation,
        };
        Ok(Self {
            wanted,
            key,
            root_print: root.fingerprint,
            subject,
            now,
        })
    }

    fn judge(&self, chain: &str) -> Result<CertFacts, VerifyError> {
        mesh_ca::verify_intermediate(
            chain,
            &self.wanted.spec.root.certificate,
            &self.subject,
            &self.key,
            self.now,
        )
    }

    /// Asks for it, waits for it, or takes it; `replaces`: fingerprint of the one that is there.
    fn obtain(
        &self,
        replaces: Option<&str>,
        requests: &BTreeMap<String, CsrSeen>,
    ) -> Result<Act, Obstacle> {
        let generation = self.subject.generation;
        let prints = [self.key.public().fingerprint(), &self.root_print];
        let name = request_name(&self.wanted.cluster, generation, prints, replaces);
        let Some(seen) = requests.get(&name) else {
            let request = self
                .key
                .csr_pem()
                .map_err(|error| Obstacle::new("NoRequest", text::chain(&error)))?;
            let seconds = self.wanted.spec.intermediate_seconds;
            return Ok(Act::Post(CsrDraft {
                name,
                request,
                seconds,
                marks: self.wanted.marks.clone(),
            }));
        };
        let object = format!("CertificateSigningRequest {name}");
        let refused = |word: &str, what: &str, reason: &str, message: &str| {
            Obstacle::new(
                word,
                format!("{object} {what}: {reason}: {message}; delete it to ask anew"),
            )
        };
        match &seen.outcome {
            CsrOutcome::Pending => Ok(Act::Nothing),
            CsrOutcome::Denied { reason, message } => {
                Err(refused("RequestDenied", "was denied", reason, message))
            }
            CsrOutcome::Failed { reason, message } => {
                Err(refused("RequestFailed", "was not signed", reason, message))
            }
            CsrOutcome::Issued(chain) => {
                let bad = |why: String| {
                    Obstacle::new(
                        "BadCertificate",
                        format!("{object} brought a certificate that is not used: {why}"),
                    )
                };
                let chain = std::str::from_utf8(chain).map_err(|error| bad(error.to_string()))?;
                self.judge(chain)
                    .map_err(|error| bad(text::chain(&error)))?;
                Ok(Act::Store {
                    entry: certificate_entry(generation),
                    chain: chain.to_owned(),
                })
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
    let prefix = request_prefix(cluster.as_str(), generation);
    let base = format!("{prefix}{key}-{root}");
    match replaces {
        None => base,
        Some(print) => format!("{base}-{}", short(print)),
    }
}

fn secret_obstacle(reason: &str, message: &str) -> Obstacle {
    Obstacle::new(
        reason,
        format!("Secret istio-system/mesh-intermediate, {message}"),
    )
}

#[cfg(test)]
mod tests;
