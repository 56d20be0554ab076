//! What stands in the way of a path is told apart, in status, by the pod that asks through a sidecar of its own.

use anyhow::{Context as _, Result, ensure};
use mesh_e2e::{progress, scenario, wait_for};
use serde_json::json;

use super::set_gateway;
use crate::{Link, PODS, SOON};

/// Provokes them one after the other, each from a path that works and back to one.
pub(super) async fn each_class(link: &Link) -> Result<()> {
    link.whole().await?;
    connect(link).await.context("nobody listens")?;
    tls(link).await.context("somebody else's certificate")?;
    policy(link).await.context("a policy of somebody else")?;
    upstream(link).await.context("no storage")?;
    name(link).await.context("no name server")
}

async fn connect(link: &Link) -> Result<()> {
    // the node answers there, and has nothing behind that port
    set_gateway(link, Some((&link.region.node_address(), 15_443))).await?;
    let told = told(link, "ConnectFailed").await;
    set_gateway(link, None).await?;
    told?;
    link.whole().await
}

async fn tls(link: &Link) -> Result<()> {
    // the region's API server: it speaks TLS, with a certificate of another authority
    set_gateway(link, Some((&link.region.node_address(), 6443))).await?;
    let told = told(link, "TlsFailed").await;
    set_gateway(link, None).await?;
    told?;
    link.whole().await
}

async fn policy(link: &Link) -> Result<()> {
    let policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "somebody-elses", "namespace": "kof" },
        "spec": { "action": "DENY", "rules": [{ "to": [{ "operation": { "paths": ["/vm/select/*"] } }] }] },
    })
    .to_string();
    link.region.apply(&policy).await?;
    let told = told(link, "PathRefused").await;
    link.region.delete(&policy).await?;
    told?;
    link.whole().await
}

async fn upstream(link: &Link) -> Result<()> {
    scale(&link.region, ("kof", "victoria-metrics"), 0).await?;
    let told = told(link, "UpstreamFailed").await;
    scale(&link.region, ("kof", "victoria-metrics"), 1).await?;
    told?;
    link.whole().await
}

async fn name(link: &Link) -> Result<()> {
    scale(&link.child, ("kube-system", "coredns"), 0).await?;
    let told = told(link, "NameUnresolved").await;
    scale(&link.child, ("kube-system", "coredns"), 1).await?;
    told?;
    link.whole().await
}

/// Waits for the reason in the child's path, and for the member to say so.
pub(super) async fn told(link: &Link, reason: &str) -> Result<()> {
    let message = wait_for(&format!("the path to say {reason}"), PODS, || async {
        let member = scenario::member(&link.management, "child1").await?;
        let paths = member.status.map(|s| s.paths).unwrap_or_default();
        let seen = paths.iter().find(|p| p.service == "region1-vmauth");
        Ok(match seen {
            Some(path) if path.ready == "False" && path.reason == reason => {
                ensure!(path.since.is_some(), "no time: {path:?}");
                Ok(path.message.clone())
            }
            other => Err(format!("{other:?}")),
        })
    })
    .await?;
    progress::step(format!("{reason}: {message}"));
    scenario::refused_any(&link.management, "child1", &[reason], SOON)
        .await
        .map(drop)
}

async fn scale(
    cluster: &mesh_e2e::Cluster,
    (namespace, deployment): (&str, &str),
    replicas: u8,
) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    let args = [
        "-n",
        namespace,
        "scale",
        "deployment",
        deployment,
        &replicas,
    ];
    cluster.kubectl(&args).await.map(drop)
}
