//! Kubernetes objects from YAML files of the tree.

use anyhow::{Context as _, Result};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client};

use crate::images::Images;

/// Field manager of everything the fleet applies.
pub const MANAGER: &str = "kof-fleet";

/// Replaces every `{{image:<short>}}` by the full name of that image.
pub fn render(text: &str, images: &Images) -> Result<String> {
    let mut out = text.to_owned();
    while let Some((before, rest)) = out.split_once("{{image:") {
        let (short, after) = rest
            .split_once("}}")
            .context("a placeholder is not closed")?;
        out = format!("{before}{}{after}", images.name(short)?);
    }
    Ok(out)
}

/// Parses all documents of a YAML text.
pub fn parse(text: &str) -> Result<Vec<DynamicObject>> {
    let documents: Vec<serde_json::Value> =
        serde_saphyr::from_multiple(text).context("failed to parse YAML")?;
    let objects = documents.into_iter().filter(|d| !d.is_null());
    objects
        .map(|d| serde_json::from_value(d).context("failed to read an object"))
        .collect()
}

/// Applies every document in order by server-side apply; what others own is taken over.
/// An object without a namespace whose kind has one goes to `default`.
pub async fn apply(client: &Client, text: &str) -> Result<()> {
    for object in parse(text)? {
        apply_one(client, &object).await?;
    }
    Ok(())
}

/// Applies one object by server-side apply, and returns it as it is then.
pub async fn apply_one(client: &Client, object: &DynamicObject) -> Result<DynamicObject> {
    let name = object
        .metadata
        .name
        .clone()
        .context("an object has no name")?;
    let api = api_of(client, object).await?;
    let params = PatchParams::apply(MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(object))
        .await
        .with_context(|| format!("failed to apply {} {name}", kind(object)))
}

/// Deletes every object of a YAML text, last one first; what is gone already is no error.
pub async fn delete(client: &Client, text: &str) -> Result<()> {
    for object in parse(text)?.iter().rev() {
        let name = object
            .metadata
            .name
            .clone()
            .context("an object has no name")?;
        match api_of(client, object)
            .await?
            .delete(&name, &kube::api::DeleteParams::default())
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => {
                drop(other.with_context(|| format!("failed to delete {} {name}", kind(object)))?);
            }
        }
    }
    Ok(())
}

/// The API of an object's kind, in its namespace.
async fn api_of(client: &Client, object: &DynamicObject) -> Result<Api<DynamicObject>> {
    let types = object.types.as_ref().context("an object has no kind")?;
    let (group, version) = types
        .api_version
        .split_once('/')
        .unwrap_or(("", &types.api_version));
    let gvk = GroupVersionKind::gvk(group, version, &types.kind);
    // a CRD that was applied a moment ago is not served yet
    let (resource, capabilities) = crate::wait_for(
        &format!("the API server to serve {}", types.kind),
        std::time::Duration::from_secs(20),
        || async { Ok(pinned_kind(client, &gvk).await.map_err(|e| e.to_string())) },
    )
    .await?;
    Ok(match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
    })
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("object", |t| &t.kind)
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::paths;

    #[test]
    fn every_manifest_of_the_tree_is_a_list_of_objects() {
        for folder in ["manifests", "stand-ins"] {
            for entry in std::fs::read_dir(paths::sources().join(folder)).unwrap() {
                let path = entry.unwrap().path();
                let objects = parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
                assert!(!objects.is_empty(), "{}", path.display());
                for object in objects {
                    assert!(
                        object.metadata.name.is_some() && object.types.is_some(),
                        "{}",
                        path.display()
                    );
                }
            }
        }
    }
}
