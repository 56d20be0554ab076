//! The custom resource definitions of management, brought up to date. Helm makes those of a chart when they are missing and never looks at
//! them again; the chart's hook calls this.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use mesh_api::labels;
use mesh_core::definitions::{Step, step};

use crate::call::{CallError, call};

/// Why the definitions are not up to date.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DefinitionError {
    /// A request failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Somebody deletes it: what is applied now would go with it.
    #[error(
        "CustomResourceDefinition {0} is being deleted, with every object of its kind; wait until it is gone"
    )]
    Leaving(String),
}

/// Applies each definition to its cluster, unless one of a later release is there. What others own of it is taken over: a schema has one owner.
///
/// # Errors
///
/// At the first that cannot be applied.
pub async fn upgrade(
    client: Client,
    definitions: &[CustomResourceDefinition],
) -> Result<(), DefinitionError> {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    let params = PatchParams::apply(labels::CONTROLLER).force();
    for definition in definitions {
        let name = definition.name_any();
        let object = format!("CustomResourceDefinition {name}");
        let there = call("get", &object, api.get_opt(&name)).await?;
        if there
            .as_ref()
            .is_some_and(|t| t.metadata.deletion_timestamp.is_some())
        {
            return Err(DefinitionError::Leaving(name));
        }
        let release = |d: &CustomResourceDefinition| d.annotations().get(labels::RELEASE).cloned();
        let theirs = there.as_ref().and_then(release);
        let ours = release(definition).unwrap_or_default();
        match step(theirs.as_deref(), &ours) {
            Step::Apply => {
                let patch = Patch::Apply(definition);
                call("apply", &object, api.patch(&name, &params, &patch)).await?;
                tracing::info!(name, from = theirs, to = ours, "definition is up to date");
            }
            Step::Leave => {
                tracing::warn!(
                    name,
                    there = theirs,
                    ours,
                    "definition is of a later release and is left as it is"
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::Fake;

    const MESHES: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/meshes.mesh.kof.k0rdent.mirantis.com";

    fn put(fake: &Fake, release: &str) {
        let mut crd = serde_json::to_value(&mesh_api::crds()[0]).unwrap();
        crd["metadata"]["annotations"][labels::RELEASE] = json!(release);
        crd["spec"]["versions"][0]["schema"] = Value::Null;
        fake.put(MESHES, crd);
    }

    fn writes(fake: &Fake) -> usize {
        let writes = fake.writes();
        assert!(writes.iter().all(|w| w.starts_with("PATCH ")), "{writes:?}");
        writes.len()
    }

    #[tokio::test]
    async fn missing_and_older_ones_are_applied_and_later_ones_left() {
        let fake = Fake::default();
        let crds = mesh_api::crds();
        upgrade(fake.client(), &crds).await.unwrap();
        assert_eq!(writes(&fake), 2);
        put(&fake, "0.0.1");
        upgrade(fake.client(), &crds).await.unwrap();
        assert_eq!(writes(&fake), 2);
        assert!(fake.get(MESHES).unwrap()["spec"]["versions"][0]["schema"].is_object());
        put(&fake, "99.0.0");
        upgrade(fake.client(), &crds).await.unwrap();
        assert_eq!(writes(&fake), 1, "the other one only");
        assert!(fake.get(MESHES).unwrap()["spec"]["versions"][0]["schema"].is_null());
    }

    #[tokio::test]
    async fn one_that_is_being_deleted_is_not_touched() {
        let fake = Fake::default();
        put(&fake, "0.0.1");
        fake.edit(MESHES, |crd| {
            crd["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        let error = upgrade(fake.client(), &mesh_api::crds()).await.unwrap_err();
        assert!(
            matches!(&error, DefinitionError::Leaving(name) if name.starts_with("meshes.")),
            "{error}"
        );
        assert_eq!(writes(&fake), 0);
    }
}
