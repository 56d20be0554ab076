//! Keeps the roots of all meshes open, and their revocation lists signed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use mesh_api::{
    mesh::{Mesh, RootStatus},
    read::{self, MeshRules},
};
use mesh_ca::{CrlFacts, RevokedSerial, Usage, crl_facts, next_crl_number, verify_crl};
use mesh_core::{
    facts::{Obstacle, plain_serial},
    revocation::{ListFacts, is_list_due},
};
use tokio::{sync::Notify, time::Instant};

use super::index::{Index, State};
use crate::{
    apply::Gate,
    lease::Claim,
    vault::{self, Root, TOKEN_AWAY, TOKEN_PIN, Vault},
    watches::Key,
};

/// Between attempts at a root that does not open.
const RETRY: Duration = Duration::from_secs(2);
/// The same, at most, for tokens: each attempt may cost a thread that waits for ever.
const RETRY_TOKEN: Duration = Duration::from_mins(5);
/// Between looks at a root that is open: what is found depends on the time.
const REFRESH: Duration = Duration::from_hours(1);
/// Life of a root's revocation list. The next one is signed when half of it is over.
const LIST_LIFE: SignedDuration = SignedDuration::from_hours(24 * 30);
/// How long a root may take to sign a list.
const PATIENCE: Duration = Duration::from_secs(35);

/// Opens roots.
pub(crate) struct Roots {
    pub(crate) vault: Vault,
    pub(crate) index: Arc<Index>,
    pub(crate) claim: Claim,
    /// Rung after each look.
    pub(crate) looked: Arc<Notify>,
}

/// What an attempt depends on: when none of it changed, it would end the same.
#[derive(Clone, Debug, PartialEq)]
struct Attempt {
    rules: Result<MeshRules, Obstacle>,
    recorded: Option<RootStatus>,
    /// Versions of the Secrets with the root and with the PIN.
    secrets: [Option<String>; 2],
    leads: bool,
}

/// An attempt that was made.
struct Made {
    attempt: Attempt,
    at: Instant,
    /// Failures in a row.
    failed: u32,
}

impl Made {
    fn is_due(&self, attempt: &Attempt, state: Option<&Result<Root, Obstacle>>) -> bool {
        if self.attempt != *attempt {
            return true;
        }
        let why = match state {
            Some(Ok(root)) => root.signer.as_ref().err(),
            Some(Err(why)) => Some(why),
            None => None,
        };
        let pause = match why.map(|why| why.reason.as_str()) {
            None if state.is_some() => REFRESH,
            // A PIN that was refused is not tried again: the token would lock itself.
            Some(TOKEN_PIN) => return false,
            Some(TOKEN_AWAY) => RETRY
                .saturating_mul(1 << self.failed.min(8))
                .min(RETRY_TOKEN),
            Some(_) | None => RETRY,
        };
        self.at.elapsed() >= pause
    }
}

impl Roots {
    /// Runs for ever.
    pub(crate) async fn run(self) {
        let claim = self.claim.clone();
        let gate: Gate = Arc::new(move || claim.is_current());
        let mut made: BTreeMap<String, Made> = BTreeMap::new();
        let mut claim = self.claim.clone();
        loop {
            let wanted = self.index.read(|state| self.attempts(state));
            made.retain(|name, _| wanted.contains_key(name));
            self.index.learn(|state| {
                let before = state.roots.len();
                state.roots.retain(|name, _| wanted.contains_key(name));
                state.signed.retain(|name, _| wanted.contains_key(name));
                state.roots.len() != before
            });
            let due: Vec<(&String, &Attempt)> = self.index.read(|state| {
                let due = |(name, attempt): &(&String, &Attempt)| {
                    made.get(*name)
                        .is_none_or(|made| made.is_due(attempt, state.roots.get(*name)))
                };
                wanted.iter().filter(due).collect()
            });
            // None waits for the token of another.
            let (this, gate) = (&self, &gate);
            let opened = join_all(due.into_iter().map(|(name, attempt)| async move {
                (name, attempt, this.attempt(name, attempt, gate).await)
            }));
            for (name, attempt, open) in opened.await {
                let failed = made.get(name).map_or(0, |made| made.failed);
                let made_now = Made {
                    attempt: attempt.clone(),
                    at: Instant::now(),
                    failed: if open { 0 } else { failed.saturating_add(1) },
                };
                made.insert(name.clone(), made_now);
            }
            if gate() {
                join_all(wanted.keys().map(|name| self.list(name))).await;
            }
            tokio::select! {
                () = self.looked.notified() => {}
                () = claim.changed() => {}
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    fn attempts(&self, state: &State) -> BTreeMap<String, Attempt> {
        if !state.is_warm() {
            return BTreeMap::new();
        }
        let version = |name: &str| {
            let secret = state.secrets.get(&Key::new(&self.vault.namespace, name))?;
            secret.metadata.resource_version.clone()
        };
        let attempt = |(key, mesh): (&Key, &Arc<Mesh>)| {
            let rules = read::mesh(mesh);
            let known = rules.as_ref().ok();
            let attempt = Attempt {
                secrets: [
                    known.and_then(|rules| version(&rules.root_secret)),
                    known
                        .and_then(|rules| rules.root_token.as_ref())
                        .and_then(|token| version(&token.pin_secret_name)),
                ],
                recorded: mesh.status.as_ref().and_then(|status| status.root.clone()),
                leads: self.claim.is_current(),
                rules,
            };
            (key.name.clone(), attempt)
        };
        state.meshes.iter().map(attempt).collect()
    }

    /// Opens a root; says whether it can sign.
    async fn attempt(&self, name: &str, attempt: &Attempt, gate: &Gate) -> bool {
        let opened = match &attempt.rules {
            Err(why) => Err(why.clone()),
            Ok(rules) => vault::open(&self.vault, rules, attempt.recorded.as_ref(), gate).await,
        };
        let why = match &opened {
            Ok(root) => root.signer.as_ref().err(),
            Err(why) => Some(why),
        };
        if let Some(why) = why {
            tracing::warn!(
                mesh = name,
                reason = why.reason,
                why = why.message,
                "The root does not open"
            );
        }
        let open = why.is_none();
        self.index.learn(|state| {
            let known = state.roots.get(name);
            // A root that was open stays open while nobody can be asked; one that is gone or another is closed.
            let asked = !matches!(&opened, Err(why) if is_transient(&why.reason));
            if known == Some(&opened) || (!asked && matches!(known, Some(Ok(_)))) {
                return false;
            }
            state.roots.insert(name.to_owned(), opened);
            true
        });
        open
    }

    /// Signs the list of a root, when it is due.
    async fn list(&self, name: &str) {
        let now = Timestamp::now();
        let Some(due) = self.index.read(|state| due_list(state, name, now)) else {
            return;
        };
        let Due {
            root,
            revoked,
            number,
        } = due;
        let Ok(authority) = root.signer.clone() else {
            return;
        };
        let entries = revoked.len();
        let signed = vault::patiently(PATIENCE, move || {
            authority.sign_crl(&revoked, number, LIST_LIFE, now)
        });
        match signed.await {
            Ok(signed) => {
                let facts = &signed.facts;
                tracing::info!(
                    target: "audit", event = "crl.signed", mesh = name, issuer = facts.issuer, key = root.key, number,
                    entries, fingerprint = facts.fingerprint, next_update = %facts.next_update, "Signed a revocation list"
                );
                self.index.learn(|state| {
                    state.signed.insert(name.to_owned(), signed.pem.into());
                    true
                });
            }
            Err(why) => {
                tracing::warn!(
                    mesh = name,
                    reason = why.reason,
                    why = why.message,
                    "Cannot sign the revocation list"
                );
                self.index.root_fails(name, &why);
            }
        }
    }
}

/// A list that is to be signed.
struct Due {
    root: Root,
    revoked: Vec<RevokedSerial>,
    number: u64,
}

fn due_list(state: &State, name: &str, now: Timestamp) -> Option<Due> {
    let root = state.roots.get(name)?.as_ref().ok()?;
    let authority = root.signer.as_ref().ok()?;
    if !authority.certificate().usages.contains(&Usage::CrlSign) {
        return None;
    }
    let status = state.meshes.get(&Key::new("", name))?.status.as_ref()?;
    if status.root.as_ref()?.fingerprint != root.status.fingerprint {
        return None;
    }
    let revoked: Vec<RevokedSerial> = read::revocations(status)
        .into_iter()
        // Zero is no serial number, and would keep all others out of the list.
        .filter(|known| !known.serial.is_empty())
        .map(|known| RevokedSerial {
            serial: known.serial,
            at: known.since,
            reason: None,
        })
        .collect();
    let signed = state.signed.get(name).map(AsRef::as_ref);
    let lists = [status.crl.as_deref(), signed];
    let lists = || lists.into_iter().flatten();
    let newest = lists()
        .filter_map(|list| verify_crl(list, &root.facts.certificate, now).ok())
        .max_by_key(|facts| facts.number)
        .map(|facts| list_facts(&root.key, &facts));
    let serials = revoked.iter().map(|one| one.serial.clone()).collect();
    if !is_list_due(newest.as_ref(), &root.key, &serials, now) {
        return None;
    }
    // Also of one that ended, or of another key: numbers never fall.
    let last = lists()
        .filter_map(|list| crl_facts(list.as_bytes()).ok())
        .map(|facts| facts.number)
        .max();
    Some(Due {
        root: root.clone(),
        revoked,
        number: next_crl_number(last, now),
    })
}

fn list_facts(issuer: &str, facts: &CrlFacts) -> ListFacts {
    ListFacts {
        issuer: issuer.to_owned(),
        from: facts.this_update,
        until: facts.next_update,
        serials: facts
            .serials
            .keys()
            .map(|serial| plain_serial(serial))
            .collect(),
    }
}

/// Nobody answered; that says nothing about the root.
fn is_transient(reason: &str) -> bool {
    matches!(
        reason,
        "Timeout"
            | "ConnectionRefused"
            | "ServerNameNotFound"
            | "Unreachable"
            | "CertificateInvalid"
            | "Unauthorized"
            | "ServerError"
    )
}

#[cfg(test)]
mod tests;
