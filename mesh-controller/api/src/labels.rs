//! Every label, annotation, finalizer, field manager and well-known object name, once.

/// On everything we make: who made it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const MANAGED_BY_US: &str = "kof-istio";
/// On everything we make in a member: UID of the install (of namespace `kube-system` of management).
pub const INSTALL: &str = "mesh.kof.k0rdent.mirantis.com/install";
/// On everything we make in a member: UID of its `MeshMember`.
pub const MEMBER: &str = "mesh.kof.k0rdent.mirantis.com/member";
/// On the `WorkloadEntry` objects of a region's Service, which selects by it: the Service.
pub const SERVICE: &str = "mesh.kof.k0rdent.mirantis.com/service";
/// On each object we apply: hash of what we applied, so that what is equal is skipped.
pub const APPLIED: &str = "mesh.kof.k0rdent.mirantis.com/applied";
/// On the CRDs of management: the release that they are of.
pub const RELEASE: &str = "mesh.kof.k0rdent.mirantis.com/release";
/// On a `MeshMember`: `"true"` = do not wait for the member when it is removed.
pub const FORCE_REMOVAL: &str = "mesh.kof.k0rdent.mirantis.com/force-removal";
/// On a `MeshMember`: its finalizer, removed when nothing of ours is left in the member.
pub const FINALIZER: &str = "mesh.kof.k0rdent.mirantis.com/withdraw";

/// On a Secret that istiod is to take for a remote secret (Istio's name), with value `true`.
pub const MULTI_CLUSTER: &str = "istio/multiCluster";
/// On a remote secret: the cluster that it leads to (Istio's name).
pub const REMOTE_CLUSTER: &str = "networking.istio.io/cluster";
/// On a remote secret of ours: hash of what is in it but its token.
pub const REMOTE_SHAPE: &str = "mesh.kof.k0rdent.mirantis.com/remote-shape";
/// On a remote secret of ours: UID of the account that its token is of.
pub const REMOTE_READER: &str = "mesh.kof.k0rdent.mirantis.com/remote-reader";
/// On a remote secret of ours: when its token was issued.
pub const TOKEN_ISSUED: &str = "mesh.kof.k0rdent.mirantis.com/token-issued";
/// On a remote secret of ours: when its token ends.
pub const TOKEN_EXPIRES: &str = "mesh.kof.k0rdent.mirantis.com/token-expires";

/// On a kubeconfig Secret: enrols the cluster it leads to.
pub const ISTIO_ROLE: &str = "k0rdent.mirantis.com/istio-role";
/// On a `ClusterDeployment`: the mesh; absent = the default mesh.
pub const ISTIO_MESH: &str = "k0rdent.mirantis.com/istio-mesh";
/// `"true"`: has a gateway.
pub const ISTIO_GATEWAY: &str = "k0rdent.mirantis.com/istio-gateway";
/// `regional` or `child`.
pub const KOF_ROLE: &str = "k0rdent.mirantis.com/kof-cluster-role";
/// Names the region of a child.
pub const KOF_REGION: &str = "k0rdent.mirantis.com/kof-regional-cluster-name";

/// Field manager of the controller.
pub const CONTROLLER: &str = "kof-istio-controller";
/// Field manager of the agent.
pub const AGENT: &str = "kof-istio-agent";

/// Name of the agent's Deployment, ServiceAccount and roles.
pub const AGENT_NAME: &str = "mesh-agent";
/// Name of the Deployment, `ServiceAccount` and role of the pods that probe through a sidecar.
pub const PROBE_NAME: &str = mesh_core::istio::PROBE_ACCOUNT;
/// Name of the gateway's Service, and the service account in gateway identities.
pub const GATEWAY_NAME: &str = "mesh-gateway";
/// Name of the `MeshAgent`.
pub const MESH_AGENT: &str = "mesh";
/// Secret in a member that holds its intermediate; its key never leaves the member.
pub const INTERMEDIATE_SECRET: &str = "mesh-intermediate";
/// Name of the Service by which the CA is called.
pub const CA_NAME: &str = "mesh-ca";
/// Name of the agent's roles that it has for workload certificates.
pub const CA_ROLE: &str = "mesh-agent-ca";
/// `ConfigMap` with the roots, key `root-cert.pem`, in every namespace (Istio's name).
pub const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
/// `ConfigMap` with revocation lists, key `ca-crl.pem`, in every namespace (Istio's name).
pub const CRL_CONFIG_MAP: &str = "istio-ca-crl";
/// Secret that istiod signs with (Istio's name).
pub const CACERTS_SECRET: &str = "cacerts";
/// Signer name of certificate requests for intermediates.
pub const SIGNER: &str = "mesh.kof.k0rdent.mirantis.com/intermediate";
/// The user that agents are to their own API server.
pub const AGENT_USER: &str = "system:serviceaccount:istio-system:mesh-agent";
/// Name of the mesh that members without [`ISTIO_MESH`] are in.
pub const DEFAULT_MESH: &str = "default";
/// Name of the member that management itself is.
pub const MANAGEMENT: &str = "management";

/// How the names of requests for this generation of a member's intermediate begin.
#[must_use]
pub fn request_prefix(cluster: &str, generation: u32) -> String {
    format!("{INTERMEDIATE_SECRET}-{cluster}-g{generation}-")
}
