//! `Mesh`: clusters that share one root.

#![expect(
    unreachable_pub,
    reason = "KubeSchema makes a private copy of each struct"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A mesh: clusters that trust one root. Members join it by a label on their lifecycle object.
#[derive(
    CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[x_kube(crates(kube_core = "kube_core"))]
#[kube(
    group = "mesh.kof.k0rdent.mirantis.com",
    version = "v1alpha1",
    kind = "Mesh",
    plural = "meshes",
    status = "MeshStatus",
    derive = "PartialEq",
    category = "kof",
    doc = "A mesh: clusters that trust one root and whose telemetry links kof-istio keeps.",
    printcolumn(
        name = "Trust domain",
        type_ = "string",
        json_path = ".spec.trustDomain"
    ),
    printcolumn(name = "Data plane", type_ = "string", json_path = ".status.dataPlane"),
    printcolumn(name = "Members", type_ = "integer", json_path = ".status.members"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyMembers"),
    printcolumn(
        name = "Root until",
        type_ = "string",
        json_path = ".status.root.notAfter"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    crates(kube_core = "kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct MeshSpec {
    /// SPIFFE trust domain of the mesh. In the `envoy` data plane each member has its own below it:
    /// `<cluster>.<trustDomain>`. It cannot be changed: every certificate carries it.
    #[serde(default = "trust_domain")]
    #[schemars(
        length(min = 1, max = 190),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message("trustDomain cannot be changed: every certificate carries it"))]
    pub trust_domain: String,
    /// Where the root comes from.
    pub root: RootSource,
    /// How long certificates live.
    #[serde(default)]
    pub lifetimes: Lifetimes,
    /// What carries the links.
    #[serde(default)]
    pub data_plane: DataPlane,
    /// What may cross gateways, in place of what kof 1.7 to 1.11 needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<Contract>,
    /// Namespaces, besides a ClusterDeployment's own, from which a Credential may take a kubeconfig Secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub credential_namespaces: Vec<String>,
    /// The agents in members.
    #[serde(default)]
    pub agent: AgentOptions,
}

fn trust_domain() -> String {
    "mesh.kof.internal".to_owned()
}

/// Where the root of a mesh comes from.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "kube_core"), validation = Rule::new("has(self.secretName) || (has(self.generate) && self.generate)").message("root needs secretName (an existing root) or generate: true"))]
pub struct RootSource {
    /// Make a root once, if none was ever recorded for this mesh. A recorded root that is missing is never
    /// replaced: restore its Secret.
    #[serde(default)]
    pub generate: bool,
    /// Secret in namespace istio-system with `tls.crt` and `tls.key`. Adopted when it exists; written when
    /// the root is generated. Default: `<mesh>-mesh-root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
}

/// How long certificates live, written like `90s`, `24h`, `365d`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lifetimes {
    /// A generated root.
    #[serde(default = "root_life")]
    #[schemars(regex(pattern = r"^([0-9]+[smhd])+$"))]
    pub root: String,
    /// The intermediate of a member.
    #[serde(default = "intermediate_life")]
    #[schemars(regex(pattern = r"^([0-9]+[smhd])+$"))]
    pub intermediate: String,
    /// A leaf; renewed at half of it.
    #[serde(default = "leaf_life")]
    #[schemars(regex(pattern = r"^([0-9]+[smhd])+$"))]
    pub leaf: String,
}

fn root_life() -> String {
    "3650d".to_owned()
}

fn intermediate_life() -> String {
    "365d".to_owned()
}

fn leaf_life() -> String {
    "24h".to_owned()
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            root: root_life(),
            intermediate: intermediate_life(),
            leaf: leaf_life(),
        }
    }
}

/// What carries the links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DataPlane {
    /// One plain Envoy per member, driven by the agent beside it.
    #[default]
    Envoy,
}

/// The agents in members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentOptions {
    /// Pods per member.
    #[serde(default = "replicas")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: i32,
}

fn replicas() -> i32 {
    2
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            replicas: replicas(),
        }
    }
}

/// What may cross gateways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Contract {
    /// Services of a region that its gateway forwards to.
    pub backends: Vec<Backend>,
    /// Who may ask what of them. Nothing else may be asked.
    pub grants: Vec<Grant>,
}

/// A Service of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Its name in the contract.
    pub name: String,
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Port of the Service.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
}

/// What a backend speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/2 without TLS.
    Grpc,
}

/// Leave to ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Who.
    pub caller: Caller,
    /// What the path must begin with, whole segments: `/a` grants `/a` and `/a/b`, not `/ab`.
    #[schemars(length(min = 2), regex(pattern = r"^/"))]
    pub prefix: String,
    /// Name of a backend.
    pub backend: String,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Caller {
    /// Collectors of children.
    Child,
    /// The management cluster.
    Management,
}

/// What the controller knows of a mesh.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(crates(kube_core = "kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct MeshStatus {
    /// Generation of the spec this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The data plane in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_plane: Option<DataPlane>,
    /// The root. Once recorded it is never replaced silently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootStatus>,
    /// Members, also those that leave.
    #[serde(default)]
    pub members: i32,
    /// Members that are ready.
    #[serde(default)]
    pub ready_members: i32,
    /// `RootReady`, `ContractValid` and `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RootStatus {
    /// Grows by one at each rotation.
    pub generation: u32,
    /// SHA-256 of the certificate, lower-case hex.
    pub fingerprint: String,
    /// When it ends, RFC 3339.
    pub not_after: String,
    /// Secret in namespace istio-system that holds it.
    pub secret_name: String,
}
