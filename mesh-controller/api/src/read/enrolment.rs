//! Lifecycle objects to claims (reference: platform 2.1, 11.1).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ConfigMap;
use mesh_core::{
    facts::{Claim, Obstacle, Role, Target},
    names::ClusterName,
};

use super::obstacle;
use crate::{
    foreign::ClusterDeployment,
    labels,
    member::{self, Overrides},
};

/// What a lifecycle object asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Name of the mesh.
    pub mesh: String,
    /// Role of the cluster.
    pub role: member::Role,
    /// Region of a child, if known.
    pub region: Option<String>,
    /// The same, checked.
    pub claim: Result<Claim, Obstacle>,
}

/// Reads what a `ClusterDeployment` asks for; nothing when it asks for nothing: it carries no
/// `istio-role` of either dialect (`member` of kof 1.5 and later, `child` of earlier ones), it is being deleted, or
/// it is a dry run. `Ready` is not asked: our own services are among what it waits for.
#[must_use]
pub fn membership(
    deployment: &ClusterDeployment,
    child_config: Option<&ConfigMap>,
    overrides: Option<&Overrides>,
) -> Option<Membership> {
    let meta = &deployment.metadata;
    let label = |name: &str| {
        meta.labels
            .as_ref()
            .and_then(|labels| labels.get(name))
            .map(String::as_str)
    };
    let ours = matches!(label(labels::ISTIO_ROLE), Some("member" | "child"));
    if !ours || meta.deletion_timestamp.is_some() || deployment.spec.dry_run == Some(true) {
        return None;
    }
    let name = meta.name.clone().unwrap_or_default();
    let role = if label(labels::KOF_ROLE) == Some("regional") {
        member::Role::Region
    } else {
        member::Role::Child
    };
    let region = match role {
        member::Role::Child => label(labels::KOF_REGION)
            .map(str::to_owned)
            .or_else(|| region_of(child_config)),
        member::Role::Management | member::Role::Region => None,
    };
    let claim = claim(&name, role, region.as_deref(), overrides);
    let mesh = label(labels::ISTIO_MESH)
        .filter(|m| !m.is_empty())
        .unwrap_or(labels::DEFAULT_MESH)
        .to_owned();
    Some(Membership {
        mesh,
        role,
        region,
        claim,
    })
}

/// kof's own operator finds the region of a child and writes it here (kof 1.2 and later).
fn region_of(child_config: Option<&ConfigMap>) -> Option<String> {
    let data = child_config?.data.as_ref()?;
    data.get("regional_cluster_name")
        .filter(|name| !name.is_empty())
        .cloned()
}

/// Checks what a cluster claims to be.
///
/// # Errors
///
/// When a name in it cannot be used; said before anything is made.
pub fn claim(
    name: &str,
    role: member::Role,
    region: Option<&str>,
    overrides: Option<&Overrides>,
) -> Result<Claim, Obstacle> {
    let bad =
        |what: &str, e: mesh_core::names::NameError| obstacle("BadName", format!("{what}: {e}"));
    let cluster: ClusterName = name.parse().map_err(|e| bad("cluster", e))?;
    let region = region
        .map(str::parse::<ClusterName>)
        .transpose()
        .map_err(|e| bad("region", e))?;
    let role = match role {
        member::Role::Management => Role::Management,
        member::Role::Region => Role::Region,
        member::Role::Child => Role::Child,
    };
    if role == Role::Region {
        cluster.service().map_err(|e| bad("region", e))?;
    }
    let gateway_override: BTreeSet<Target> = overrides
        .iter()
        .flat_map(|overrides| &overrides.gateway)
        .map(|address| Target {
            host: address.host.clone(),
            port: address.port,
        })
        .collect();
    Ok(Claim {
        cluster,
        role,
        region,
        gateway_override,
        plane: overrides
            .and_then(|overrides| overrides.data_plane)
            .map(super::mesh::data_plane),
    })
}
