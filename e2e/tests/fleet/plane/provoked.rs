//! What stands in the way of a path is told apart, in the status of who calls.

use anyhow::{Context as _, Result, ensure};
use mesh_e2e::{progress, scenario, wait_for};
use serde_json::json;

use super::{agents_say, set_gateway};
use crate::{Link, PODS, SOON};

/// Provokes them one after the other, each from a path that works and back to one.
pub(super) async fn each_class(link: &Link) -> Result<()> {
    link.whole().await?;
    // the node answers there, and has nothing behind that port
    answered_by(link, 15_443, "ConnectFailed")
        .await
        .context("nobody listens")?;
    // the region's API server: it speaks TLS, with a certificate of another authority
    answered_by(link, 6443, "TlsFailed")
        .await
        .context("somebody else's certificate")?;
    policy(link).await.context("a policy of somebody else")?;
    upstream(link).await.context("no storage")?;
    deadline(link).await.context("a storage that hangs")?;
    identity(link).await.context("another account")?;
    name(link).await.context("no name server")
}

/// Another port of the region's node stands for its gateway.
async fn answered_by(link: &Link, port: u16, reason: &str) -> Result<()> {
    set_gateway(link, Some((&link.region.node_address(), port))).await?;
    let told = told(link, reason).await;
    set_gateway(link, None).await?;
    told?;
    link.whole().await
}

/// Something in the region stands in the way while it is there.
async fn applied(link: &Link, object: &str, reason: &str) -> Result<()> {
    link.region.apply(object).await?;
    let told = told(link, reason).await;
    link.region.delete(object).await?;
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
    applied(link, &policy, "PathRefused").await
}

async fn upstream(link: &Link) -> Result<()> {
    scale(&link.region, ("kof", "victoria-metrics"), 0).await?;
    let told = told(link, "UpstreamFailed").await;
    scale(&link.region, ("kof", "victoria-metrics"), 1).await?;
    told?;
    link.whole().await
}

/// The region's own mesh holds each request to its storage back for longer than a probe waits.
async fn deadline(link: &Link) -> Result<()> {
    let host = "victoria-metrics.kof.svc.cluster.local";
    let slow = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": { "name": "slow", "namespace": "kof" },
        "spec": { "hosts": [host], "http": [{
            "fault": { "delay": { "percentage": { "value": 100 }, "fixedDelay": "30s" } },
            "route": [{ "destination": { "host": host } }],
        }] },
    })
    .to_string();
    applied(link, &slow, "DeadlineExceeded").await
}

/// Who answers behind the region's gateway becomes another account while no controller is there to say so.
async fn identity(link: &Link) -> Result<()> {
    let controller = ("istio-system", "mesh-controller");
    scale(&link.management, controller, 0).await?;
    let told = async {
        account(link, "somebody-else").await?;
        let refused = r#""reason":"ServerIdentityRefused""#;
        agents_say(&link.child, refused, PODS).await
    }
    .await;
    scale(&link.management, controller, 2).await?;
    told?;
    // the account is followed
    link.whole().await?;
    account(link, "vmauth-cluster").await?;
    link.whole().await
}

/// The account of the region's storage.
async fn account(link: &Link, name: &str) -> Result<()> {
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": "kof" } });
    link.region.apply(&account.to_string()).await?;
    let change = json!({ "spec": { "template": { "spec": { "serviceAccountName": name } } } });
    let change = change.to_string();
    let args = [
        "-n",
        "kof",
        "patch",
        "deployment",
        "vmauth-cluster",
        "-p",
        &change,
    ];
    link.region.kubectl(&args).await?;
    let done = [
        "-n",
        "kof",
        "rollout",
        "status",
        "deployment/vmauth-cluster",
        "--timeout=60s",
    ];
    link.region.kubectl(&done).await.map(drop)
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
