//! Keeps the roots of all meshes open.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::Client;
use mesh_api::{
    mesh::RootStatus,
    read::{self, MeshRules},
};
use mesh_core::facts::Obstacle;
use tokio::{sync::Notify, time::Instant};

use super::index::{Index, State};
use crate::{apply::Gate, lease::Claim, vault, watches::Key};

/// Between attempts at a root that does not open.
const RETRY: Duration = Duration::from_secs(2);

/// Opens roots.
pub(crate) struct Roots {
    pub(crate) client: Client,
    pub(crate) namespace: String,
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
    secret: Option<String>,
    leads: bool,
}

impl Roots {
    /// Runs for ever.
    pub(crate) async fn run(self) {
        let claim = self.claim.clone();
        let gate: Gate = Arc::new(move || claim.is_current());
        let mut made: BTreeMap<String, (Attempt, Instant)> = BTreeMap::new();
        let mut claim = self.claim.clone();
        loop {
            let wanted = self.index.read(|state| self.attempts(state));
            made.retain(|name, _| wanted.contains_key(name));
            self.index.learn(|state| {
                let before = state.roots.len();
                state.roots.retain(|name, _| wanted.contains_key(name));
                state.roots.len() != before
            });
            for (name, attempt) in wanted {
                let open = self
                    .index
                    .read(|state| state.roots.get(&name).is_some_and(Result::is_ok));
                let due = made.get(&name).is_none_or(|(before, at)| {
                    *before != attempt || (!open && at.elapsed() >= RETRY)
                });
                if due {
                    self.attempt(&name, &attempt, &gate).await;
                    made.insert(name, (attempt, Instant::now()));
                }
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
        let attempt = |(key, mesh): (&Key, &Arc<mesh_api::mesh::Mesh>)| {
            let rules = read::mesh(mesh);
            let secret = rules.as_ref().ok().and_then(|rules| {
                state
                    .secrets
                    .get(&Key::new(&self.namespace, &rules.root_secret))
            });
            let attempt = Attempt {
                secret: secret.and_then(|secret| secret.metadata.resource_version.clone()),
                recorded: mesh.status.as_ref().and_then(|status| status.root.clone()),
                leads: self.claim.is_current(),
                rules,
            };
            (key.name.clone(), attempt)
        };
        state.meshes.iter().map(attempt).collect()
    }

    async fn attempt(&self, name: &str, attempt: &Attempt, gate: &Gate) {
        let opened = match &attempt.rules {
            Err(why) => Err(why.clone()),
            Ok(rules) => {
                vault::open(
                    &self.client,
                    &self.namespace,
                    rules,
                    attempt.recorded.as_ref(),
                    gate,
                )
                .await
            }
        };
        if let Err(why) = &opened {
            tracing::warn!(
                mesh = name,
                reason = why.reason,
                why = why.message,
                "The root does not open"
            );
        }
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
