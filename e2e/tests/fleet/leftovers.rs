//! What other tools have left: told by what it is, under whatever name, and left alone.
//!
//! cert-manager is not here: its two kinds are STAND-INS, with its fields and nobody behind them.

use anyhow::{Result, ensure};
use mesh_e2e::{Cluster, scenario, wait_for};
use serde_json::{Value, json};

use crate::{Link, PODS, with_link};

/// The Secret that the default mesh has its root in.
const ROOT: &str = "default-mesh-root";
/// The names of all that is left here: they say nothing.
const NAME: &str = "left";

fn object(api: &str, kind: &str, more: &Value) -> Value {
    let mut object = json!({
        "apiVersion": api, "kind": kind,
        "metadata": { "name": NAME, "namespace": "istio-system" },
    });
    if let (Some(object), Some(more)) = (object.as_object_mut(), more.as_object()) {
        object.extend(more.clone());
    }
    object
}

/// A remote secret as istioctl makes it, but for its name and its annotation.
fn remote(cluster: &str) -> Value {
    let metadata = json!({
        "name": NAME, "namespace": "istio-system", "labels": { "istio/multiCluster": "true" },
    });
    let data = json!({ cluster: "apiVersion: v1" });
    object(
        "v1",
        "Secret",
        &json!({ "metadata": metadata, "stringData": data }),
    )
}

/// A kind of cert-manager, without its rules.
fn kind(kind: &str, plural: &str) -> Value {
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.cert-manager.io") },
        "spec": {
            "group": "cert-manager.io", "scope": "Namespaced", "names": { "kind": kind, "plural": plural },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }],
        },
    })
}

fn kinds() -> [Value; 2] {
    [
        kind("Issuer", "issuers"),
        kind("Certificate", "certificates"),
    ]
}

/// What hangs on the root in management, as the old tools made it.
fn authorities() -> [Value; 2] {
    let issuer = json!({ "spec": { "ca": { "secretName": ROOT } } });
    let certificate = json!({
        "spec": { "isCA": true, "secretName": "left-ca", "issuerRef": { "name": NAME, "kind": "Issuer" } },
    });
    [
        object("cert-manager.io/v1", "Issuer", &issuer),
        object("cert-manager.io/v1", "Certificate", &certificate),
    ]
}

async fn apply(cluster: &Cluster, objects: &[Value]) -> Result<()> {
    for object in objects {
        cluster.apply(&object.to_string()).await?;
    }
    Ok(())
}

/// Waits until a member's status names just these objects.
async fn told(link: &Link, member: &str, objects: &[&str]) -> Result<()> {
    let wanted: Vec<String> = objects
        .iter()
        .map(|kind| format!("{kind} istio-system/{NAME}"))
        .collect();
    wait_for(&format!("left-overs of {member}"), PODS, || async {
        let found = scenario::member(&link.management, member).await?;
        let left = found.status.unwrap_or_default().leftovers;
        let mut left: Vec<String> = left.into_iter().map(|left| left.object).collect();
        left.sort_unstable();
        Ok(if left == wanted {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        })
    })
    .await
}

#[test]
fn what_others_left_is_told_and_left_alone() -> Result<()> {
    with_link("leftovers", |link| async move {
        apply(&link.management, &kinds()).await?;
        wait_for("kinds of cert-manager", PODS, || async {
            let applied = apply(&link.management, &authorities()).await;
            Ok(applied.map_err(|e| format!("{e:#}")))
        })
        .await?;
        apply(&link.child, &[remote("region1")]).await?;
        apply(&link.region, &[remote("elsewhere")]).await?;
        let result = found(&link).await;
        for kind in kinds() {
            link.management.delete(&kind.to_string()).await?;
        }
        for cluster in [&link.child, &link.region] {
            cluster.delete_secret("istio-system", NAME).await?;
        }
        result?;
        link.whole().await
    })
}

async fn found(link: &Link) -> Result<()> {
    // Looked for when a controller comes to a member, and then ever so often.
    let pods = "app=mesh-controller";
    link.management.kill_pods("istio-system", pods).await?;
    told(link, "management", &["Certificate", "Issuer"]).await?;
    told(link, "child1", &["Secret"]).await?;
    told(link, "region1", &[]).await?;
    link.whole().await?;
    let there = ["-n", "istio-system", "get", "secret", NAME, "-o", "name"];
    let there = link.child.kubectl(&there).await?;
    ensure!(!there.is_empty(), "it is not ours to take away");
    Ok(())
}
