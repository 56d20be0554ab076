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
    mesh::{Backend, DataPlane, DeadPeerPolicy, Grant, Protocol, WorkloadIssuer},
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
    /// The identity by which its Envoy calls regions whose gateway is Istio's, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_identity: Option<String>,
    /// What carries its links.
    #[serde(default)]
    pub data_plane: DataPlane,
    /// The root that its intermediate must come from.
    pub root: Root,
    /// The generation of the intermediate it signs with.
    pub signer_generation: u32,
    /// A generation that is to be held besides, so that peers can learn to trust it before anything is signed with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare_generation: Option<u32>,
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
    /// What is done about regions that do not answer any more; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_peer: Option<DeadPeer>,
    /// Certificates for workloads of this cluster; absent: nobody here is given any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<Workloads>,
    /// Revocation lists of other CAs: the root's, and those of members whose certificates are seen here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["issuer".into()]))]
    pub crls: Vec<Crl>,
}

/// What is done about a region that does not answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadPeer {
    /// What is done.
    pub policy: DeadPeerPolicy,
    /// Seconds that it must be silent without a break to be called dead.
    #[schemars(range(min = 10))]
    pub after_seconds: u32,
    /// Seconds that it must answer without a break to be alive again.
    #[schemars(range(min = 5))]
    pub return_after_seconds: u32,
}

/// How workloads of this cluster get certificates.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct Workloads {
    /// Who signs them.
    pub issuer: WorkloadIssuer,
    /// Trust domain of their SPIFFE IDs.
    pub trust_domain: String,
    /// What they are to trust.
    pub bundle: Bundle,
    /// Seconds that a certificate lives when nothing else is asked for.
    #[schemars(range(min = 10))]
    pub default_seconds: u32,
    /// Seconds that a certificate lives at most; a request for more is refused.
    #[schemars(range(min = 10))]
    pub max_seconds: u32,
    /// Service accounts, `namespace/name`, that may ask for certificates of pods on their own node (ztunnel).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub node_accounts: Vec<String>,
    /// DNS names by which the CA is called: those on its serving certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub service_names: Vec<String>,
}

/// Roots that are trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    /// Grows by one whenever the roots change.
    pub generation: u32,
    /// The roots, PEM; order and bytes stay while the generation does.
    pub roots: Vec<String>,
}

/// A certificate revocation list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Crl {
    /// SHA-256 of the public key that signed it (`SubjectPublicKeyInfo`), lower-case hex: one list per key.
    pub issuer: String,
    /// The list, PEM.
    pub list: String,
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
    /// Another one whenever an intermediate of the caller was revoked: the connections it was let in by are drained then.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A region this member calls.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "kube_core"))]
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
    /// Where the region's gateway is Istio's: what is open there for this member. Then `sni` and `identity` are not used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["service".into()]))]
    pub hosts: Vec<Host>,
    /// How sidecars of this cluster reach it.
    #[serde(default)]
    pub sidecars: Sidecars,
}

/// How sidecars of a consumer reach a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Sidecars {
    /// As everybody does: through the Envoy beside the agent.
    #[default]
    Intake,
    /// Straight to the region's gateway, by `WorkloadEntry` objects that the agent keeps.
    Static,
    /// Straight to the region's gateway, by what their istiod learns from the region's API server.
    Remote,
}

/// A Service of a region that is open at Istio's gateway.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Its name, here and there, in namespace kof.
    pub service: String,
    /// Its port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// The SNI to call with.
    pub sni: String,
    /// The service accounts, in namespace kof, that answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub accounts: Vec<String>,
    /// The SPIFFE IDs that answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub identities: Vec<String>,
    /// The path prefixes that may be asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub prefixes: Vec<String>,
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
    /// The revocation lists of its own intermediates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub crls: Vec<Crl>,
    /// What workloads of this cluster are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadsStatus>,
    /// One entry per pod; each pod writes its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub replicas: Vec<Replica>,
}

/// What workloads of this cluster are given.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct WorkloadsStatus {
    /// The generation of the bundle that stands in every namespace, once it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<u32>,
    /// Namespaces whose root ConfigMap belongs to somebody else and is left alone; at most ten are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub foreign: Vec<String>,
    /// Generation of the intermediate in Secret istio-system/cacerts, when istiod signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cacerts: Option<u32>,
    /// How many certificates the revocation lists name that Istio's proxies are given (ca-crl.pem); absent: they are given none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u32>,
    /// Namespaces whose ConfigMap with revocation lists belongs to somebody else and is left alone; at most ten are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub foreign_lists: Vec<String>,
    /// What is not as it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<Obstacle>,
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
    /// It only probes, through a sidecar of its own: it has no Envoy of ours, and issues nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sidecar: bool,
    /// The generation of this object that Envoy accepted whole; of a pod that only probes, the one that it has read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_generation: Option<i64>,
    /// What Envoy refused last, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
    /// The ledger of this pod, written ahead: per generation of signer and bundle, the latest end of any leaf that it
    /// has handed out or will hand out before it writes this again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ledger: Vec<LedgerEntry>,
    /// Its probes and resolutions, one entry per region.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["region".into()]))]
    pub paths: Vec<ReplicaPath>,
    /// What the member's istiod says about the regions that it reads by remote secrets, one entry per region.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["region".into()]))]
    pub remotes: Vec<ReplicaRemote>,
}

/// What istiod says about one region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaRemote {
    /// ID of the region.
    pub region: String,
    /// `synced`, `syncing`, `timeout` or `absent`; `foreign` if it reads it by a Secret that is not ours; `unasked` if it could not be asked.
    pub state: String,
    /// The Secret that is not ours, or why it could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LedgerEntry {
    /// Generation of the intermediate that signed.
    pub signer: u32,
    /// Generation of the bundle that was handed out with the leaf.
    pub bundle: u32,
    /// No leaf of the two lives longer, RFC 3339.
    pub until: String,
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
    /// This pod calls the region dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<Dead>,
}

/// A region that is called dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dead {
    /// Since when it is silent, RFC 3339.
    pub since: String,
    /// Its endpoints are to be taken away. They are when all pods say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
}
