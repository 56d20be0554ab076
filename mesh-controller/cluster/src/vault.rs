//! The root: adopted from its Secret, or made once. A root that was recorded and is missing is missed, never replaced.

mod layout;
mod token;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use mesh_api::{
    labels,
    mesh::{RootFinding, RootStatus},
    read::MeshRules,
    render::WARNING,
};
use mesh_ca::{AdoptionFinding, Authority, CertFacts, Severity, read_root};
use mesh_core::facts::{Obstacle, RootFacts};

use self::layout::{CERTIFICATE, KEY};
pub use self::token::TOKEN_PIN;
use crate::{
    apply::Gate,
    call::{call, call_opt},
};

/// Less than this before its end a root signs nothing: Kubernetes grants no request for less.
const SHORTEST: SignedDuration = SignedDuration::from_secs(600);
/// The first root of a mesh.
const FIRST: u32 = 1;

/// Reason while the leading replica makes or records the root: nothing a person need do.
pub const ROOT_PENDING: &str = "RootPending";

/// Reason while the token that holds the root's key does not sign. Members go on; nothing new is signed.
pub const TOKEN_AWAY: &str = "RootTokenUnavailable";

/// A root.
#[derive(Clone)]
pub struct Root {
    /// Signs; or why it cannot now: its token is away.
    pub signer: Result<Arc<Authority>, Obstacle>,
    /// SHA-256 of its public key, lower-case hex.
    pub key: String,
    /// When it ends.
    pub not_after: Timestamp,
    /// What members are told.
    pub facts: RootFacts,
    /// What is recorded.
    pub status: RootStatus,
}

impl Root {
    /// Why it cannot sign now, if it cannot.
    #[must_use]
    pub fn trouble(&self, now: Timestamp) -> Option<Obstacle> {
        if self.not_after <= now {
            let message = format!("the root ended at {}", self.not_after);
            return Some(Obstacle::new("RootExpired", message));
        }
        if self.not_after.duration_since(now) < SHORTEST {
            let message = format!(
                "the root ends at {}: too soon to sign anything",
                self.not_after
            );
            return Some(Obstacle::new("RootEnding", message));
        }
        self.signer.as_ref().err().cloned()
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Root {
    fn eq(&self, other: &Self) -> bool {
        let trouble = |root: &Self| root.signer.clone().err();
        self.facts == other.facts && self.status == other.status && trouble(self) == trouble(other)
    }
}

/// Where roots are.
#[derive(Clone)]
pub struct Vault {
    /// Management.
    pub client: Client,
    /// The namespace of the Secrets.
    pub namespace: String,
    /// The driver of PKCS#11 tokens, if there is one.
    pub module: Option<PathBuf>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("namespace", &self.namespace)
            .field("module", &self.module)
            .finish_non_exhaustive()
    }
}

/// Opens the root of a mesh: loads it, or makes it when the `Mesh` says `generate`, none was ever recorded, and the gate is open.
///
/// # Errors
///
/// An obstacle that says what is missing or wrong; never with a word of the key.
pub async fn open(
    vault: &Vault,
    rules: &MeshRules,
    recorded: Option<&RootStatus>,
    gate: &Gate,
) -> Result<Root, Obstacle> {
    let (client, namespace) = (&vault.client, vault.namespace.as_str());
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let name = rules.root_secret.as_str();
    let place = format!("Secret {namespace}/{name}");
    let now = Timestamp::now();
    if let Some(secret) = find(&api, &place, name).await? {
        if let Some(token) = &rules.root_token {
            let wanted = token::Wanted {
                token,
                module: vault.module.as_ref(),
                certificate: &secret,
                namespace,
                place: &place,
                name,
                recorded,
            };
            return token::open(&api, wanted).await;
        }
        return loaded(&secret, &place, name, recorded, now);
    }
    if let Some(recorded) = recorded {
        let message = format!(
            "{place} is gone, and it held the root {} that members trust; restore it from a backup (nothing replaces it)",
            recorded.fingerprint
        );
        return Err(Obstacle::new("RootMissing", message));
    }
    if !rules.generate_root {
        return Err(Obstacle::new(
            "RootMissing",
            format!("{place} does not exist, and spec.root.generate is not set"),
        ));
    }
    if !gate() {
        return Err(Obstacle::new(
            ROOT_PENDING,
            format!("{place} is to be made by the leading replica"),
        ));
    }
    let life = SignedDuration::from_secs(i64::from(rules.root_life.as_secs()));
    let (_, material) = Authority::generate_root(&rules.name, FIRST, life, now)
        .map_err(|e| Obstacle::new("RootFailed", format!("{place}: {e}")))?;
    let secret = secret(name, &material.cert_pem, &material.key_pem);
    match call(
        "create",
        &place,
        api.create(&PostParams::default(), &secret),
    )
    .await
    {
        Ok(_) => tracing::info!(secret = %name, "Made the root"),
        // Somebody was faster: his is the root.
        Err(error) if error.is_conflict() => {}
        Err(error) => return Err(error.obstacle()),
    }
    match find(&api, &place, name).await? {
        Some(secret) => loaded(&secret, &place, name, None, now),
        None => Err(Obstacle::new(
            "RootMissing",
            format!("{place} was made and is gone again"),
        )),
    }
}

async fn find(api: &Api<Secret>, place: &str, name: &str) -> Result<Option<Secret>, Obstacle> {
    call_opt("get", place, api.get_opt(name))
        .await
        .map(Option::flatten)
        .map_err(|error| error.obstacle())
}

fn secret(name: &str, certificate: &str, key: &str) -> Secret {
    let entry = |name: &str, text: &str| (name.to_owned(), ByteString(text.as_bytes().to_vec()));
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(
                [(
                    labels::MANAGED_BY.to_owned(),
                    labels::MANAGED_BY_US.to_owned(),
                )]
                .into(),
            ),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some([entry(CERTIFICATE, certificate), entry(KEY, key)].into()),
        ..Secret::default()
    }
}

fn loaded(
    secret: &Secret,
    place: &str,
    name: &str,
    recorded: Option<&RootStatus>,
    now: Timestamp,
) -> Result<Root, Obstacle> {
    let invalid = |why: String| Obstacle::new("RootInvalid", format!("{place}: {why}"));
    let read = read_root(&layout::entries(secret), None, now)
        .map_err(|error| invalid(mesh_core::text::chain(&error)))?;
    let findings = acceptable(&read.findings).map_err(invalid)?;
    let key = read
        .key_pem
        .ok_or_else(|| invalid("it holds no key".to_owned()))?;
    let authority = Authority::load(&read.chain_pem, &key).map_err(|e| invalid(e.to_string()))?;
    let facts = authority.certificate();
    let status = status(facts, name, recorded, findings)
        .map_err(|why| Obstacle::new(why.0, format!("{place} {}", why.1)))?;
    Ok(Root {
        key: facts.key_fingerprint.clone(),
        not_after: facts.not_after,
        facts: RootFacts {
            generation: status.generation,
            certificate: authority.cert_pem(),
            ends: Some(authority.expires()),
        },
        status,
        signer: Ok(Arc::new(authority)),
    })
}

/// What is recorded of a root, unless another one is recorded already.
fn status(
    facts: &CertFacts,
    name: &str,
    recorded: Option<&RootStatus>,
    findings: Vec<RootFinding>,
) -> Result<RootStatus, (&'static str, String)> {
    if let Some(recorded) = recorded.filter(|recorded| recorded.fingerprint != facts.fingerprint) {
        let message = format!(
            "holds the root {}, but members trust {}; put that one back",
            facts.fingerprint, recorded.fingerprint
        );
        return Err(("RootReplaced", message));
    }
    Ok(RootStatus {
        generation: recorded.map_or(FIRST, |recorded| recorded.generation),
        fingerprint: facts.fingerprint.clone(),
        not_after: facts.not_after.to_string(),
        secret_name: name.to_owned(),
        findings,
    })
}

/// What was found, worst first; or why it cannot work at all.
fn acceptable(findings: &[AdoptionFinding]) -> Result<Vec<RootFinding>, String> {
    let told = |finding: &AdoptionFinding| {
        let severity = match finding.severity {
            Severity::Refused => return Err(format!("{}; {}", finding.what, finding.costs)),
            Severity::Warning => WARNING,
            Severity::Note => "Note",
        };
        Ok(RootFinding {
            severity: severity.to_owned(),
            what: finding.what.clone(),
            costs: finding.costs.to_owned(),
        })
    };
    findings.iter().map(told).collect()
}

/// Lets a key sign, apart from the tasks of others and not for longer than this: one in a token may be far away.
///
/// # Errors
///
/// Why it does not sign.
pub(crate) async fn patiently<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> Result<T, mesh_ca::Error> + Send + 'static,
) -> Result<T, Obstacle> {
    let slow = || {
        let seconds = patience.as_secs();
        Obstacle::new(
            TOKEN_AWAY,
            format!("the root did not sign within {seconds} s"),
        )
    };
    match tokio::time::timeout(patience, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done.map_err(|error| trouble(&error)),
        Ok(Err(_)) => Err(Obstacle::new("RootFailed", "signing panicked")),
        Err(_elapsed) => Err(slow()),
    }
}

/// An error of the root as an obstacle.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "two errors have a remedy of their own; all others, also new ones, have none"
)]
fn trouble(error: &mesh_ca::Error) -> Obstacle {
    let reason = match error {
        mesh_ca::Error::Token(_) => TOKEN_AWAY,
        mesh_ca::Error::SignerExpired { .. } => "RootExpired",
        _ => "RootFailed",
    };
    Obstacle::new(reason, mesh_core::text::chain(error))
}

#[cfg(test)]
mod tests;
