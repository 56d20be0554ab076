//! `MeshAgent`: everything the agent in a member serves, and what it observed.

#![expect(
    unreachable_pub,
    reason = "KubeSchema makes a private copy of each struct"
)]

use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    member::{Address, Intermediate, Role},
    mesh::{Backend, Grant},
};

/// What the agent of this member is to serve. Written by the controller; lives in the member, so that the
/// member works while management is away.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "kube_core"))]
#[kube(
    group = "mesh.kof.k0rdent.mirantis.com",
    version = "v1alpha1",
    kind = "MeshAgent",
    namespaced,
    status = "MeshAgentStatus",
    derive = "PartialEq",
    category = "kof",
    doc = "What the agent in this cluster serves (spec, written by the controller in management) and what it observed (status).",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(
        name = "Intermediate until",
        type_ = "string",
        json_path = ".status.intermediates[0].notAfter"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    crates(kube_core = "kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct MeshAgentSpec {
    /// Name of the mesh.
    pub mesh: String,
    /// ID of this cluster in the mesh.
    pub cluster: String,
    /// Its role.
    pub role: Role,
    /// Its own trust domain.
    pub trust_domain: String,
    /// The identity of its gateway.
    pub identity: String,
    /// The root that its intermediate must come from.
    pub root: Root,
    /// The generation of the intermediate it signs with.
    pub signer_generation: u32,
    /// Seconds that a leaf lives.
    #[schemars(range(min = 10))]
    pub leaf_seconds: u32,
    /// Seconds that its intermediate is asked to live.
    #[schemars(range(min = 600))]
    pub intermediate_seconds: u32,
    /// The certificates other members are trusted by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cluster".into()]))]
    pub trusts: Vec<Trust>,
    /// Who may call this member's gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["caller".into()]))]
    pub serve: Vec<Serve>,
    /// The Services that the gateway forwards to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// The regions this member calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["region".into()]))]
    pub consume: Vec<Consume>,
}

/// A root certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// Its generation.
    pub generation: u32,
    /// The certificate, PEM.
    pub certificate: String,
}

/// How another member is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// Its ID.
    pub cluster: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Its intermediates, PEM, newest first.
    pub certificates: Vec<String>,
}

/// Leave to call this member's gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Serve {
    /// ID of the calling member.
    pub caller: String,
    /// The SNI it calls with.
    pub sni: String,
    /// The SPIFFE IDs it may call as.
    pub identities: Vec<String>,
    /// What it may ask.
    pub grants: Vec<Grant>,
}

/// A region this member calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Consume {
    /// Its ID.
    pub region: String,
    /// Name of the Service in namespace kof by which workloads call it; the agent keeps its EndpointSlice.
    pub service: String,
    /// The SNI to call with.
    pub sni: String,
    /// The SPIFFE ID of its gateway.
    pub identity: String,
    /// Where its gateway is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// The path that probes ask.
    pub probe: String,
}

/// What the agent observed.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct MeshAgentStatus {
    /// The intermediates it holds, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub intermediates: Vec<Intermediate>,
    /// Why there is no intermediate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<Obstacle>,
    /// One entry per pod; each pod writes its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub replicas: Vec<Replica>,
}

/// Something that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Obstacle {
    /// One `CamelCase` word.
    pub reason: String,
    /// For a person.
    pub message: String,
}

/// What one pod of the agent observed.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Name of the pod.
    pub pod: String,
    /// Version of the agent.
    pub version: String,
    /// The generation of this object that Envoy accepted whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_generation: Option<i64>,
    /// What Envoy refused last, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
    /// Latest end of any leaf this pod has handed out or will hand out before it writes this again
    /// (the ledger, written ahead), RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves_until: Option<String>,
    /// Its probes and resolutions, one entry per region.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["region".into()]))]
    pub paths: Vec<ReplicaPath>,
}

/// What one pod sees of one region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaPath {
    /// ID of the region.
    pub region: String,
    /// Whether requests come through.
    pub ready: bool,
    /// One word: `Answered`, or the class of the failure.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// Why the gateway has no address, if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unresolved: Option<Obstacle>,
}
