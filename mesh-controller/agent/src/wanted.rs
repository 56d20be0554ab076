//! The controller's wishes, read once at the door.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use mesh_api::agent::MeshAgentSpec;
use mesh_cluster::agent_io::Intent;
use mesh_core::{
    facts::Obstacle,
    names::{ClusterName, MeshName, SpiffeId},
};

/// What this member is to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    /// `metadata.generation` of the `MeshAgent`.
    pub(crate) generation: i64,
    /// Labels on everything made here.
    pub(crate) marks: BTreeMap<String, String>,
    /// The mesh.
    pub(crate) mesh: MeshName,
    /// This member.
    pub(crate) cluster: ClusterName,
    /// Who its gateway is.
    pub(crate) identity: SpiffeId,
    /// Who its gateway is to regions whose gateway is Istio's, where that is somebody else.
    pub(crate) shared: Option<SpiffeId>,
    /// What leaves live.
    pub(crate) leaf: SignedDuration,
    /// All of it, as written.
    pub(crate) spec: MeshAgentSpec,
}

impl Wanted {
    /// Reads a `MeshAgent`.
    ///
    /// # Errors
    ///
    /// What in it is not what it should be.
    pub(crate) fn read(intent: &Intent) -> Result<Self, Obstacle> {
        let spec = &intent.spec;
        let bad = |field: &str, why: &dyn std::fmt::Display| {
            Obstacle::new(
                "BadIntent",
                format!("MeshAgent istio-system/mesh, spec.{field}: {why}"),
            )
        };
        Ok(Self {
            generation: intent.generation,
            marks: intent.marks.clone(),
            mesh: spec.mesh.parse().map_err(|e| bad("mesh", &e))?,
            cluster: spec.cluster.parse().map_err(|e| bad("cluster", &e))?,
            identity: spec.identity.parse().map_err(|e| bad("identity", &e))?,
            shared: spec
                .shared_identity
                .as_ref()
                .map(|identity| identity.parse())
                .transpose()
                .map_err(|e| bad("sharedIdentity", &e))?,
            leaf: SignedDuration::from_secs(i64::from(spec.leaf_seconds.max(10))),
            spec: spec.clone(),
        })
    }
}
