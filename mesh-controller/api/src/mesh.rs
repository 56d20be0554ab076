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
    /// Members whose data plane is `istio`.
    #[serde(default)]
    pub istio: IstioOptions,
    /// Version of kof, 1.4 or later, which decides what may cross gateways. Default: what kof 1.7 to 1.11 needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kof_version: Option<String>,
    /// What may cross gateways, where no version of kof decides that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<Contract>,
    /// Namespaces, besides a ClusterDeployment's own, from which a Credential may take a kubeconfig Secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub credential_namespaces: Vec<String>,
    /// The agents in members.
    #[serde(default)]
    pub agent: AgentOptions,
    /// Regions that do not answer any more.
    #[serde(default)]
    pub dead_peer: DeadPeerOptions,
    /// Certificates for workloads of members. Absent: nobody but gateways is given any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadOptions>,
    /// Intermediates that nobody is to believe any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["serial".into()]))]
    pub revoked: Vec<Revoked>,
}

/// Certificates for workloads of members.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "kube_core"))]
pub struct WorkloadOptions {
    /// Who signs them: our agent, or the member's own istiod with an intermediate that the agent gives to it.
    #[serde(default)]
    pub issuer: WorkloadIssuer,
    /// How long they live when nothing else is asked for. Default: `lifetimes.leaf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]+[smhd])+$"))]
    pub lifetime: Option<String>,
    /// How long they live at most; more is refused.
    #[serde(default = "workload_most")]
    #[schemars(regex(pattern = r"^([0-9]+[smhd])+$"))]
    pub max_lifetime: String,
    /// Service accounts, `namespace/name`, that may ask for certificates of pods on their own node: ztunnel's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub node_accounts: Vec<String>,
    /// Services in members by which the CA is called besides `istio-system/mesh-ca`, in place of the software they are named after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub services: Vec<CaService>,
}

fn workload_most() -> String {
    "7d".to_owned()
}

impl Default for WorkloadOptions {
    fn default() -> Self {
        Self {
            issuer: WorkloadIssuer::default(),
            lifetime: None,
            max_lifetime: workload_most(),
            node_accounts: Vec::new(),
            services: Vec::new(),
        }
    }
}

/// Who signs workload certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadIssuer {
    /// Our agent, over `istio.v1.auth.IstioCertificateService`.
    #[default]
    Agent,
    /// The member's istiod, with an intermediate in Secret `istio-system/cacerts`.
    Istiod,
}

/// A Service by which installations of Istio call their CA.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum CaService {
    /// `cert-manager/cert-manager-istio-csr:443`.
    IstioCsr,
    /// `istio-system/istiod:15012`, for clusters without an istiod.
    Istiod,
}

/// An intermediate that nobody is to believe any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revoked {
    /// Its serial number, lower-case hex, as `MeshMember.status.intermediates` shows it.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[0-9a-f]+$"))]
    pub serial: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
}

fn trust_domain() -> String {
    "mesh.kof.internal".to_owned()
}

/// Where the root of a mesh comes from.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "kube_core"), validation = Rule::new("has(self.secretName) || has(self.pkcs11) || (has(self.generate) && self.generate)").message("root needs secretName (an existing root), pkcs11 (a key in a token) or generate: true"))]
pub struct RootSource {
    /// Make a root once, if none was ever recorded for this mesh. A recorded root that is missing is never
    /// replaced: restore its Secret.
    #[serde(default)]
    pub generate: bool,
    /// Secret in namespace istio-system, adopted when it exists as it is: `tls.crt` and `tls.key` (cert-manager), or
    /// `ca-cert.pem` and `ca-key.pem` (Istio's `istio-ca-secret`, or `cacerts` with a root in it). Written, as the first, when the root is
    /// generated. Default: `<mesh>-mesh-root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// The root's key is in a PKCS#11 token; `secretName` then names the Secret with its certificate alone (`tls.crt`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pkcs11: Option<Pkcs11>,
}

/// A key in a PKCS#11 token. Which module is loaded is the deployment's decision (`--pkcs11-module` of the controller).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pkcs11 {
    /// Label of the token.
    #[schemars(length(min = 1, max = 32))]
    pub token_label: String,
    /// Label (`CKA_LABEL`) of the key pair.
    #[schemars(length(min = 1, max = 256))]
    pub key_label: String,
    /// Secret in namespace istio-system whose entry `pin` opens the token.
    #[schemars(length(min = 1, max = 253))]
    pub pin_secret_name: String,
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
    /// The member's own Istio; all that is between clusters is kept here.
    Istio,
}

/// Members whose data plane is `istio`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "kube_core"))]
pub struct IstioOptions {
    /// Revision of istiod that is meant, where a cluster has several.
    #[serde(default = "revision")]
    #[schemars(length(min = 1, max = 63))]
    pub revision: String,
    /// How sidecars learn where regions are.
    #[serde(default)]
    pub discovery: Discovery,
    /// How long the tokens in remote secrets live. They are renewed at two thirds of it, in place. Where the istiod that reads them is
    /// older than 1.31, whose links suffer from each change, they live 30 days at least.
    #[serde(default = "token_life")]
    #[schemars(regex(pattern = r"^([0-9]+[smhd])+$"))]
    pub remote_token_lifetime: String,
    /// Whether the accounts that istiods read regions as may read Secrets there: all of a region, its keys among them. No istiod from 1.30 on
    /// reads a region for long without that, so `remoteSecrets` is refused to it otherwise.
    #[serde(default)]
    pub remote_read_secrets: bool,
    /// Which objects open the gateway of a region.
    #[serde(default)]
    pub gateway: GatewayFlavour,
    /// Extension provider of `MeshConfig` that sidecars in namespace kof send traces to. Absent: no Telemetry object is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tracing_provider: Option<String>,
    /// Service accounts that may call regions through their own sidecars. Members share one trust domain, so accounts of one name
    /// in several clusters are one to a region: give children and management different ones to tell them apart.
    #[serde(default)]
    pub callers: IstioCallers,
}

fn revision() -> String {
    mesh_core::istio::DEFAULT_REVISION.to_owned()
}

fn token_life() -> String {
    "24h".to_owned()
}

impl Default for IstioOptions {
    fn default() -> Self {
        Self {
            revision: revision(),
            discovery: Discovery::default(),
            remote_token_lifetime: token_life(),
            remote_read_secrets: false,
            gateway: GatewayFlavour::default(),
            tracing_provider: None,
            callers: IstioCallers::default(),
        }
    }
}

/// How sidecars learn where regions are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Discovery {
    /// From objects in their own cluster that name the region's gateway: no credential for the region, and none of its API server's outages.
    #[default]
    Static,
    /// From the region's API server, by a remote secret that istiod reads.
    RemoteSecrets,
}

/// Which objects open the gateway of a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum GatewayFlavour {
    /// A `networking.istio.io` Gateway on the pods of Istio's gateway chart.
    #[default]
    Classic,
    /// A `gateway.networking.k8s.io` Gateway of class `istio`, whose pods istiod makes.
    GatewayApi,
}

/// Service accounts, `namespace/name` or `namespace/*`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(crates(kube_core = "kube_core"))]
pub struct IstioCallers {
    /// Of children.
    #[serde(default = "all_of_kof")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub child: Vec<String>,
    /// Of management.
    #[serde(default = "all_of_kof")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub management: Vec<String>,
}

fn all_of_kof() -> Vec<String> {
    vec!["kof/*".to_owned()]
}

impl Default for IstioCallers {
    fn default() -> Self {
        Self {
            child: all_of_kof(),
            management: all_of_kof(),
        }
    }
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

/// What is done about a region that does not answer any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadPeerOptions {
    /// What is done.
    #[serde(default)]
    pub policy: DeadPeerPolicy,
    /// How long it must be silent without a break to be called dead, 10 s to a day.
    #[serde(default = "dead_after")]
    #[schemars(regex(pattern = r"^([0-9]+[smhd])+$"))]
    pub after: String,
    /// How long it must answer without a break to be alive again, 5 s to a day.
    #[serde(default = "dead_return_after")]
    #[schemars(regex(pattern = r"^([0-9]+[smhd])+$"))]
    pub return_after: String,
}

fn dead_after() -> String {
    "5m".to_owned()
}

fn dead_return_after() -> String {
    "30s".to_owned()
}

impl Default for DeadPeerOptions {
    fn default() -> Self {
        Self {
            policy: DeadPeerPolicy::default(),
            after: dead_after(),
            return_after: dead_return_after(),
        }
    }
}

/// What is done about a dead region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeadPeerPolicy {
    /// Nothing. Nobody is called dead; a path that does not work is told as ever.
    Keep,
    /// It is told: in the status of the path, by an event and by a metric.
    #[default]
    Mark,
    /// It is told, and its endpoints are taken away from its callers, who then fail at once, as long as another region answers them.
    Withdraw,
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
    /// How far revocations have come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub revocations: Vec<RevocationStatus>,
    /// The root's revocation list, PEM, as it was signed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl: Option<String>,
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
    /// What is the matter with it, and what that costs; worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<RootFinding>,
}

/// Something found in a root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RootFinding {
    /// `Warning` or `Note`.
    pub severity: String,
    /// What was found.
    pub what: String,
    /// What it costs.
    pub costs: String,
}

/// How far a revocation has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevocationStatus {
    /// The intermediate's serial number, lower-case hex.
    pub serial: String,
    /// Whose it is; absent: no member is known to have it. It is in the root's list all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Its generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// SHA-256 of its public key, lower-case hex: that key is never certified again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When the wish was seen, RFC 3339.
    pub since: String,
    /// Seconds from then until every Envoy of every member that believed it had let go of it, as the Envoys said; absent: not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_after_seconds: Option<u32>,
    /// Members that have not confirmed yet; at most ten are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
    /// When the certificate ends by itself, or at the latest, RFC 3339. Until then it stays revoked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub until: String,
    /// Something that a person should know: that `spec.revoked` does not name it any more, which changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
