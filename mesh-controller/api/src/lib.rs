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
/// controller delivers it to each member, of which management is one. They say which release they are of.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![crd::<mesh::Mesh>(), crd::<member::MeshMember>()];
    for crd in &mut crds {
        let annotations = crd.metadata.annotations.get_or_insert_default();
        annotations.insert(
            labels::RELEASE.to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
        );
    }
    crds
}

/// The CRD of a kind of ours, in words that API servers know.
#[must_use]
pub fn crd<K: CustomResourceExt>() -> CustomResourceDefinition {
    let crd = K::crd();
    let mut plain = serde_json::to_value(&crd).unwrap_or_default();
    drop_unsigned_formats(&mut plain);
    serde_json::from_value(plain).unwrap_or(crd)
}

/// The schema of `Mesh.spec` as the chart's values have it: JSON Schema, in which a field that does not exist is an error. An API server would
/// drop such a field, and nobody would see it.
#[must_use]
pub fn mesh_values() -> serde_json::Value {
    let crd = serde_json::to_value(crd::<mesh::Mesh>()).unwrap_or_default();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let mut schema = crd.pointer(spec).cloned().unwrap_or_default();
    strict(&mut schema, true);
    schema
}

/// Takes away what only Kubernetes understands, and closes objects, but for those parts of a schema that only add to another.
fn strict(schema: &mut serde_json::Value, whole: bool) {
    let Some(keywords) = schema.as_object_mut() else {
        return;
    };
    let open = "x-kubernetes-preserve-unknown-fields";
    let closed = whole && keywords.contains_key("properties") && !keywords.contains_key(open);
    keywords.retain(|k, _| {
        !k.starts_with("x-kubernetes-") && !["description", "default", "format"].contains(&&**k)
    });
    if keywords.remove("nullable").is_some()
        && let Some(kind) = keywords.get_mut("type")
    {
        *kind = serde_json::json!([kind.take(), "null"]);
    }
    if closed && !keywords.contains_key("additionalProperties") {
        keywords.insert("additionalProperties".to_owned(), false.into());
    }
    for (keyword, value) in keywords.iter_mut() {
        match keyword.as_str() {
            "properties" => {
                let fields = value.as_object_mut().into_iter();
                fields
                    .flat_map(serde_json::Map::values_mut)
                    .for_each(|field| strict(field, whole));
            }
            "items" | "additionalProperties" => strict(value, whole),
            "not" => strict(value, false),
            "allOf" | "anyOf" | "oneOf" => {
                let parts = value.as_array_mut().into_iter().flatten();
                parts.for_each(|part| strict(part, false));
            }
            _ => {}
        }
    }
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
