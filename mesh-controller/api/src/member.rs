//! `MeshMember`: a cluster enrolled in a mesh.

#![expect(
    unreachable_pub,
    reason = "KubeSchema makes a private copy of each struct"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    agent::Crl,
    mesh::{DataPlane, Protocol},
};

/// A cluster enrolled in a mesh, made from its lifecycle object and removed with it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "kube_core"))]
#[kube(
    group = "mesh.kof.k0rdent.mirantis.com",
    version = "v1alpha1",
    kind = "MeshMember",
    namespaced,
    status = "MeshMemberStatus",
    derive = "PartialEq",
    shortname = "mm",
    category = "kof",
    doc = "A cluster enrolled in a mesh. Made from its lifecycle object; only spec.overrides is yours to edit.",
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Region", type_ = "string", json_path = ".spec.region"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Paths", type_ = "string", json_path = ".status.pathsReady"),
    printcolumn(
        name = "Gateway",
        type_ = "string",
        json_path = ".status.gateway",
        priority = 1
    ),
    printcolumn(name = "Why", type_ = "string", json_path = ".status.why"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    crates(kube_core = "kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct MeshMemberSpec {
    /// Name of the mesh.
    pub mesh: String,
    /// ID of the cluster in the mesh: the name of its lifecycle object.
    #[x_kube(validation = Rule::new("self == oldSelf").message("cluster cannot be changed: it is the member's identity"))]
    pub cluster: String,
    /// What the cluster is to kof.
    pub role: Role,
    /// The region a child sends to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The lifecycle object it was made from.
    pub source: Source,
    /// What a person knows better. Yours to edit; the controller never writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Overrides>,
}

/// What a cluster is to kof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Queries all regions.
    Management,
    /// Stores.
    Region,
    /// Sends to its region.
    Child,
}

/// A lifecycle object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Its kind: `ClusterDeployment`, or `Management` for the management cluster itself.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: another object of the same name is another cluster.
    pub uid: String,
}

/// What a person knows better.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct Overrides {
    /// Where peers reach this member's gateway, in place of what its Service reports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<Address>,
    /// What carries this member's links, in place of what its mesh says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_plane: Option<DataPlane>,
    /// URL of the API server as peers see it, in place of that in the kubeconfig. Only of a region whose peers read it (`spec.istio.discovery: remoteSecrets` of the mesh).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https://"))]
    pub api_server: Option<String>,
}

/// Where a gateway is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// An IP address or a host name.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// A TCP port.
    #[serde(default = "gateway_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

fn gateway_port() -> u16 {
    mesh_core::contract::GATEWAY_PORT
}

/// What the controller knows of a member.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct MeshMemberStatus {
    /// Generation of the spec this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The first condition that is not true, in one line; empty when all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Paths that work, of all: `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths_ready: Option<String>,
    /// UID of the cluster (of its namespace kube-system); a kubeconfig that leads elsewhere is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<String>,
    /// SPIFFE ID of the member's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The member's gateway, `host:port`, as last known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Where the member's gateway is reached, as last known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// What is open at its gateway where that is Istio's, as last known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["backend".into()]))]
    pub hosts: Vec<Host>,
    /// Its intermediates, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intermediates: Vec<Intermediate>,
    /// Their revocation lists, as peers are told them. Kept here for the same reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crls: Vec<Crl>,
    /// The generation of its intermediate that it signs with; absent: the first. It never goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer_generation: Option<u32>,
    /// The paths that begin in this member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["region".into()]))]
    pub paths: Vec<Path>,
    /// In order; the first that is not true is the answer to "why".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What is open at Istio's gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// The backend of the contract.
    pub backend: String,
    /// The Service in namespace kof.
    pub service: String,
    /// Its port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// The service accounts, in namespace kof, that answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<String>,
}

/// An intermediate, as peers know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Intermediate {
    /// Grows by one at each rotation.
    pub generation: u32,
    /// SHA-256 of the certificate, lower-case hex.
    pub fingerprint: String,
    /// Its serial number, lower-case hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// When it begins, RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub not_before: String,
    /// When it ends, RFC 3339.
    pub not_after: String,
    /// The certificate, PEM. Kept here so that peers can go on trusting a member that cannot be asked.
    pub certificate: String,
}

/// A directed link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// The region at its other end.
    pub region: String,
    /// The Service it is called by, in namespace kof.
    pub service: String,
    /// `True`, `False` or `Unknown`.
    pub ready: String,
    /// One word: what stands in the way, or `Answered`.
    pub reason: String,
    /// The same for a person.
    pub message: String,
    /// Since when, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The region is called dead, and silent since then, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_since: Option<String>,
    /// Its endpoints are taken away from this member's workloads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
}
