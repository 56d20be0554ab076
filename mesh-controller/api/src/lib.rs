//! Kubernetes objects and the words of `mesh-core`: types, readers (object to word) and renderers (word to
//! object). Nothing here talks to an API server.

#![expect(
    clippy::duplicated_attributes,
    reason = "printer columns of one type are no duplicates"
)]

pub mod agent;
pub mod foreign;
pub mod labels;
pub mod member;
pub mod mesh;
pub mod read;
pub mod render;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_core::CustomResourceExt;

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
    vec![crd::<mesh::Mesh>(), crd::<member::MeshMember>()]
}

/// The CRD of a kind of ours, in words that API servers know.
#[must_use]
pub fn crd<K: CustomResourceExt>() -> CustomResourceDefinition {
    let crd = K::crd();
    let mut plain = serde_json::to_value(&crd).unwrap_or_default();
    drop_unsigned_formats(&mut plain);
    serde_json::from_value(plain).unwrap_or(crd)
}

/// `uint16` and `uint32` are formats of schemars that Kubernetes warns about at each apply.
fn drop_unsigned_formats(schema: &mut serde_json::Value) {
    match schema {
        serde_json::Value::Object(fields) => {
            if fields
                .get("format")
                .and_then(serde_json::Value::as_str)
                .is_some_and(|f| f.starts_with("uint"))
            {
                fields.remove("format");
            }
            fields.values_mut().for_each(drop_unsigned_formats);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(drop_unsigned_formats),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => {}
    }
}
