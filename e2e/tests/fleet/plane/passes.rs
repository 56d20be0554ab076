//! What passes between the meshes, and what does not.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_e2e::provider::Hurt;
use mesh_e2e::{istio, progress, scenario, wait_for};
use serde_json::{Value, json};

use super::{QUERY, ask, ask_in, logged};
use crate::{Link, PODS, SOON};

/// The door of the region, as Istio's gateway knows it.
pub(super) const SNI: &str = "outbound_.8427_._.region1-vmauth.kof.svc.cluster.local";

/// The region's name leads there from every kind of pod; pods with a sidecar go by themselves, others through the Envoy beside the agent.
pub(super) async fn names(link: &Link) -> Result<()> {
    for client in ["asker", "plain", "host"] {
        for name in [
            "region1-vmauth",
            "region1-vmauth.kof",
            "region1-vmauth.kof.svc",
            "region1-vmauth.kof.svc.cluster.local",
        ] {
            let seen = ask(&link.child, client, &format!("http://{name}:8427{QUERY}")).await;
            ensure!(seen.contains("200 OK"), "{client} asks {name}: {seen}");
        }
    }
    logged(
        link,
        &[
            SNI,
            "peer=spiffe://mesh.kof.internal/ns/kof/sa/asker",
            "code=200",
        ],
    )
    .await?;
    logged(link, &[SNI, "sa/mesh-gateway.child1", "code=200"]).await
}

/// The child's metric is stored in the region, and queried by management, which is in the other plane.
pub(super) async fn metric(link: &Link) -> Result<()> {
    stored(link).await?;
    logged(link, &[SNI, "sa/mesh-gateway.management", "code=200"]).await
}

/// Management reads a metric of the child in the region, one that is newer than this question.
pub(super) async fn stored(link: &Link) -> Result<()> {
    let asked = link.management.on_node(&["date", "+%s"]).await?;
    let asked = asked.trim();
    wait_for("the child's metric in management", SOON, || async {
        let metric =
            format!(r#"timestamp(process_start_time_seconds{{cluster="child1"}}) >= {asked}"#);
        let found = scenario::query(&link.management, "region1", &metric).await;
        let found = found.map_err(|e| format!("{e:#}"));
        Ok(found.and_then(|found| found.get(0).map(drop).ok_or_else(|| "no sample".to_owned())))
    })
    .await
}

/// What is not granted is refused by the region, whatever the way.
pub(super) async fn refusals(link: &Link) -> Result<()> {
    for client in ["asker", "plain"] {
        let seen = ask(
            &link.child,
            client,
            "http://region1-vmauth:8427/vls/select/logsql/query",
        )
        .await;
        ensure!(
            seen.contains("403 Forbidden") && !seen.contains("200 OK"),
            "{client} reads logs: {seen}"
        );
    }
    // Only accounts of namespace kof are guests: another one knows the name, and that is all.
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "elsewhere", "labels": { "istio-injection": "enabled", "pod-security.kubernetes.io/enforce": "privileged" } },
    });
    link.child.apply(&namespace.to_string()).await?;
    let result = elsewhere(link).await;
    link.child
        .kubectl(&["delete", "namespace", "elsewhere"])
        .await?;
    result
}

async fn elsewhere(link: &Link) -> Result<()> {
    let client = include_str!("../../../manifests/client.yaml");
    let client = client.replace("namespace: default", "namespace: elsewhere");
    link.child.apply(&client).await?;
    let url = format!("http://region1-vmauth.kof:8427{QUERY}");
    wait_for("a stranger to be refused", PODS, || async {
        let seen = ask_in(&link.child, "elsewhere", ("client", "shell"), &url).await;
        ensure!(!seen.contains("200 OK"), "a stranger is answered: {seen}");
        Ok(if seen.contains("403") && seen.contains("RBAC") {
            Ok(())
        } else {
            Err(seen)
        })
    })
    .await
}

/// Istio's gateway leads to the host of the contract and to no other.
pub(super) async fn door(link: &Link) -> Result<()> {
    let listeners = istio::envoy(
        &link.region,
        "istio-system",
        "deploy/istio-eastwestgateway",
        "config_dump?resource=dynamic_listeners",
    )
    .await?;
    let listeners: Value = serde_json::from_str(&listeners)?;
    let text = listeners.to_string();
    ensure!(
        text.contains(SNI),
        "the host of the contract is not open: {text}"
    );
    for closed in [
        "vmauth-cluster.kof.svc",
        "victoria-metrics.kof.svc",
        "echo.kof.svc",
    ] {
        let open = text.contains(&format!("_.{closed}"));
        ensure!(!open, "{closed} is open: {text}");
    }
    Ok(())
}

/// The child's istiod starts anew while the region's API server is away: nothing is lost.
pub(super) async fn restart(link: &Link) -> Result<()> {
    let (mut asked, mut lost) = (0_u32, Vec::new());
    let away = Hurt::Stopped("kube-apiserver".to_owned());
    link.region.hurt(&away).await?;
    let restarted = async {
        let args = [
            "-n",
            "istio-system",
            "rollout",
            "restart",
            "deployment/istiod",
        ];
        link.child.kubectl(&args).await?;
        let args = [
            "-n",
            "istio-system",
            "rollout",
            "status",
            "deployment/istiod",
            "--timeout=90s",
        ];
        let mut rolled = Box::pin(link.child.kubectl(&args));
        loop {
            let url = format!("http://region1-vmauth:8427{QUERY}");
            let seen = ask(&link.child, "asker", &url).await;
            asked += 1;
            if !seen.contains("200 OK") {
                lost.push(seen);
            }
            if let Ok(done) = tokio::time::timeout(Duration::from_millis(100), &mut rolled).await {
                done?;
                return anyhow::Ok(());
            }
        }
    }
    .await;
    link.region.mend(&away).await?;
    restarted?;
    for _ in 0..20 {
        let seen = ask(
            &link.child,
            "asker",
            &format!("http://region1-vmauth:8427{QUERY}"),
        )
        .await;
        asked += 1;
        if !seen.contains("200 OK") {
            lost.push(seen);
        }
    }
    progress::step(format!(
        "{asked} requests while istiod restarted without the region's API server, {} lost",
        lost.len()
    ));
    ensure!(lost.is_empty(), "{lost:?}");
    Ok(())
}
