//! What the values do, as far as it can be read from the rendered objects.

use anyhow::{Context as _, Result, ensure};
use mesh_e2e::components::{ChartTools, Components};
use serde_json::Value;

use super::{Folder, Helm};

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const MONITORS: [&str; 2] = ["--api-versions", "monitoring.coreos.com/v1/ServiceMonitor"];
/// What can be switched off, the kind of it, and how many there are otherwise.
const SWITCHES: [(&str, &str, usize); 5] = [
    ("networkPolicy.enabled", "NetworkPolicy", 1),
    ("podDisruptionBudget.enabled", "PodDisruptionBudget", 1),
    ("serviceMonitor.enabled", "ServiceMonitor", 1),
    ("crds.upgrade", "Job", 1),
    ("defaultMesh.create", "Mesh", 1),
];

async fn objects(helm: &Helm, args: &[&str]) -> Result<Vec<Value>> {
    let text = helm.template(args).await?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    Ok(documents.into_iter().filter(|d| !d.is_null()).collect())
}

fn count(objects: &[Value], kind: &str) -> usize {
    let is = |o: &&Value| o.get("kind").is_some_and(|k| k == kind);
    objects.iter().filter(is).count()
}

/// The pods of an object, if it makes any.
fn pod(object: &Value) -> Option<&Value> {
    match object.get("kind")?.as_str()? {
        "Pod" => object.get("spec"),
        "Deployment" | "Job" => object.pointer("/spec/template/spec"),
        _ => None,
    }
}

#[test]
fn values_do_what_they_say() -> Result<()> {
    let (tools, components) = (ChartTools::ensure()?, Components::ensure()?);
    let folder = Folder::new()?;
    let work = async {
        for helm in Helm::both(&components, &tools, &folder.0) {
            let usual = objects(&helm, &MONITORS).await?;
            for (switch, kind, there) in SWITCHES {
                ensure!(count(&usual, kind) == there, "{kind}");
                let off = format!("{switch}=false");
                let args = [&MONITORS[..], &["--set", &off]].concat();
                let without = objects(&helm, &args).await?;
                ensure!(count(&without, kind) == 0, "{off}");
            }
            // a cluster that does not know the kind
            let without = objects(&helm, &[]).await?;
            ensure!(count(&without, "ServiceMonitor") == 0, "a ServiceMonitor");
            labelled(&helm).await?;
            pods(&helm).await?;
        }
        Ok(())
    };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build()?.block_on(work)
}

/// Every object of the chart, Istio's delivery included, has the common labels.
async fn labelled(helm: &Helm) -> Result<()> {
    let set = "commonLabels.team=mesh,istio.deliver=true,defaultMesh.spec.dataPlane=istio";
    let all = objects(helm, &[&MONITORS[..], &["--set", set]].concat()).await?;
    ensure!(all.len() > 25, "{}", all.len());
    for object in &all {
        let label = object.pointer("/metadata/labels/team");
        ensure!(label.is_some_and(|l| l == "mesh"), "{object}");
        if let Some(template) = object.pointer("/spec/selector/matchLabels") {
            ensure!(
                template.get("team").is_none(),
                "a selector changed: {object}"
            );
        }
    }
    Ok(())
}

/// Every pod of the chart gets what is said for pods.
async fn pods(helm: &Helm) -> Result<()> {
    let set = format!(
        "image.digest={DIGEST},imagePullSecrets={{mine}},nodeSelector.disk=fast,tolerations[0].operator=Exists,securityContext.runAsUser=7"
    );
    let mut seen = 0;
    for object in objects(helm, &["--set", &set]).await? {
        let Some(pod) = pod(&object) else { continue };
        seen += 1;
        for (path, value) in [
            ("/imagePullSecrets/0/name", "mine"),
            ("/nodeSelector/disk", "fast"),
            ("/tolerations/0/operator", "Exists"),
            ("/securityContext/seccompProfile/type", "RuntimeDefault"),
            ("/containers/0/securityContext/capabilities/drop/0", "ALL"),
        ] {
            ensure!(
                pod.pointer(path).is_some_and(|v| v == value),
                "{path}: {object}"
            );
        }
        let container = pod.pointer("/containers/0").context("no container")?;
        let security = container.get("securityContext").context("no context")?;
        ensure!(
            security.get("runAsUser").is_some_and(|u| u == 7),
            "{object}"
        );
        for (key, value) in [
            ("readOnlyRootFilesystem", true),
            ("allowPrivilegeEscalation", false),
        ] {
            ensure!(
                security.get(key).is_some_and(|v| *v == value),
                "{key}: {object}"
            );
        }
        let image = container.get("image").and_then(Value::as_str);
        ensure!(image.is_some_and(|i| i.ends_with(DIGEST)), "{object}");
    }
    ensure!(seen == 3, "{seen} kinds of pods");
    Ok(())
}
