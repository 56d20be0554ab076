//! The root: adopted from its Secret, or made once. A root that was recorded and is missing is missed, never replaced.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use mesh_api::{labels, mesh::RootStatus, read::MeshRules};
use mesh_ca::{Authority, Severity, adopt_check};
use mesh_core::facts::{Obstacle, RootFacts};
use zeroize::Zeroizing;

use crate::{
    apply::Gate,
    call::{call, call_opt},
};

/// Keys of a Secret of type `kubernetes.io/tls`.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// The first root of a mesh.
const FIRST: u32 = 1;

/// Reason while the leading replica makes or records the root: nothing a person need do.
pub const ROOT_PENDING: &str = "RootPending";

/// A root that can sign.
#[derive(Clone)]
pub struct Root {
    /// Signs.
    pub authority: Arc<Authority>,
    /// What members are told.
    pub facts: RootFacts,
    /// What is recorded.
    pub status: RootStatus,
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
        self.facts == other.facts && self.status == other.status
    }
}

/// Opens the root of a mesh: loads it, or makes it when the `Mesh` says `generate`, none was ever recorded, and the gate is open.
///
/// # Errors
///
/// An obstacle that says what is missing or wrong; never with a word of the key.
pub async fn open(
    client: &Client,
    namespace: &str,
    rules: &MeshRules,
    recorded: Option<&RootStatus>,
    gate: &Gate,
) -> Result<Root, Obstacle> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let name = rules.root_secret.as_str();
    let place = format!("Secret {namespace}/{name}");
    let now = Timestamp::now();
    if let Some(secret) = find(&api, &place, name).await? {
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
    let none = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&none);
    let text = |key: &str| {
        let bytes = data
            .get(key)
            .ok_or_else(|| invalid(format!("it has no {key}")))?;
        let text = String::from_utf8(bytes.0.clone())
            .map_err(|_e| invalid(format!("{key} is not text")))?;
        Ok::<_, Obstacle>(Zeroizing::new(text))
    };
    let (certificate, key) = (text(CERTIFICATE)?, text(KEY)?);
    let findings = adopt_check(&certificate, &key, now);
    if let Some(worst) = findings
        .iter()
        .find(|finding| finding.severity == Severity::Refused)
    {
        return Err(invalid(format!("{}; {}", worst.what, worst.costs)));
    }
    let authority = Authority::load(&certificate, &key).map_err(|e| invalid(e.to_string()))?;
    let facts = authority.certificate();
    if let Some(recorded) = recorded.filter(|recorded| recorded.fingerprint != facts.fingerprint) {
        let message = format!(
            "{place} holds the root {}, but members trust {}; put that one back",
            facts.fingerprint, recorded.fingerprint
        );
        return Err(Obstacle::new("RootReplaced", message));
    }
    let generation = recorded.map_or(FIRST, |recorded| recorded.generation);
    let status = RootStatus {
        generation,
        fingerprint: facts.fingerprint.clone(),
        not_after: facts.not_after.to_string(),
        secret_name: name.to_owned(),
        findings: Vec::new(),
    };
    let facts = RootFacts {
        generation,
        certificate: authority.cert_pem(),
    };
    Ok(Root {
        authority: Arc::new(authority),
        facts,
        status,
    })
}

#[cfg(test)]
mod tests;
