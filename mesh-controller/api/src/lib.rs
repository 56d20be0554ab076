//! Kubernetes objects and the words of `mesh-core`: types, readers (object to word) and renderers (word to
//! object). Nothing here talks to an API server.

pub mod agent;
pub mod foreign;
pub mod labels;
pub mod member;
pub mod mesh;
pub mod read;
pub mod render;

use kube_core::CustomResourceExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// API group of our objects.
pub const GROUP: &str = "mesh.kof.k0rdent.mirantis.com";

/// Namespace of our workloads, on management and in members.
pub const NAMESPACE: &str = "istio-system";

/// Namespace of the telemetry names.
pub const TELEMETRY_NAMESPACE: &str = "kof";

/// The CRDs that the chart installs on management. That of [`agent::MeshAgent`] is not among them: the
/// controller delivers it to each member, of which management is one.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![mesh::Mesh::crd(), member::MeshMember::crd()]
}
