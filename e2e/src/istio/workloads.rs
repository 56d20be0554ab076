//! Telemetry's workloads with and without sidecars.

use anyhow::Result;

use crate::Cluster;

/// Clients that differ in how they reach a Service.
const CLIENTS: &str = include_str!("../../manifests/clients.yaml");
/// The telemetry namespace.
const TELEMETRY: &str = "kof";
/// Which pods the namespace lets in; `restricted` ones only, unless it says otherwise.
const LEVEL: &str = "pod-security.kubernetes.io/enforce";
/// Where the level from before is kept meanwhile.
const BEFORE: &str = "kof.test/pod-security";

/// Gives every pod in namespace `kof` a sidecar, unless its labels refuse one. Pods that are there start anew.
///
/// The init container of a sidecar needs rights that a `restricted` namespace does not give, so the level is lowered.
pub async fn inject(cluster: &Cluster) -> Result<()> {
    let level = level(cluster, LEVEL).await?;
    let before = format!("{BEFORE}={level}");
    // only the first time: the second it would keep its own
    if level != "privileged" {
        let args = ["annotate", "namespace", TELEMETRY, "--overwrite", &before];
        cluster.kubectl(&args).await?;
    }
    let lowered = format!("{LEVEL}=privileged");
    let args = [
        "label",
        "namespace",
        TELEMETRY,
        "--overwrite",
        "istio-injection=enabled",
        &lowered,
    ];
    cluster.kubectl(&args).await?;
    restart(cluster).await
}

/// Takes the sidecars away again, and everything of [`clients`].
pub async fn eject(cluster: &Cluster) -> Result<()> {
    cluster.delete(CLIENTS).await?;
    let args = [
        "get",
        "namespace",
        TELEMETRY,
        "-o",
        "jsonpath={.metadata.annotations.kof\\.test/pod-security}",
    ];
    let before = cluster.kubectl(&args).await?;
    let level = match before.trim() {
        "" => format!("{LEVEL}-"),
        before => format!("{LEVEL}={before}"),
    };
    let args = [
        "label",
        "namespace",
        TELEMETRY,
        "--overwrite",
        "istio-injection-",
        &level,
    ];
    cluster.kubectl(&args).await?;
    let kept = format!("{BEFORE}-");
    let args = ["annotate", "namespace", TELEMETRY, &kept];
    cluster.kubectl(&args).await?;
    restart(cluster).await
}

/// Starts clients in namespace `kof`, and waits for them: `asker` and `stranger` (each with a service account of its
/// own, and with a sidecar where [`inject`] was called), `plain` (never with a sidecar), `host` (in the node's network).
pub async fn clients(cluster: &Cluster) -> Result<()> {
    cluster.apply(CLIENTS).await?;
    ready(cluster).await
}

async fn level(cluster: &Cluster, label: &str) -> Result<String> {
    let path = format!(
        "jsonpath={{.metadata.labels.{}}}",
        label.replace('.', "\\.")
    );
    let args = ["get", "namespace", TELEMETRY, "-o", &path];
    Ok(cluster.kubectl(&args).await?.trim().to_owned())
}

/// Deletes all pods, rather than to have Deployments rolled out: that would leave an annotation in them.
async fn restart(cluster: &Cluster) -> Result<()> {
    let args = [
        "-n",
        TELEMETRY,
        "delete",
        "pods",
        "--all",
        "--grace-period=1",
    ];
    cluster.kubectl(&args).await?;
    ready(cluster).await
}

async fn ready(cluster: &Cluster) -> Result<()> {
    let args = ["-n", TELEMETRY, "get", "deployments", "-o", "name"];
    let named = cluster.kubectl(&args).await?;
    for deployment in named.lines() {
        let args = [
            "-n",
            TELEMETRY,
            "rollout",
            "status",
            deployment,
            super::ROLLOUT,
        ];
        cluster.kubectl(&args).await?;
    }
    Ok(())
}
