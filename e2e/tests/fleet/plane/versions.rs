//! The longer list of names that kof had up to 1.6.

use anyhow::{Result, ensure};
use mesh_e2e::{scenario, wait_for};
use serde_json::json;

use super::{QUERY, ask};
use crate::{Link, PODS, SOON};

const SERVICES: &str = include_str!("../../../manifests/kof-1.6.yaml");
/// What a child asks of each name, and whether it may: what it may not ask has no name there.
const ASKED: [(&str, bool); 5] = [
    ("vminsert:8480/insert/0/prometheus/api/v1/write", true),
    (
        "vmselect:8481/select/0/prometheus/api/v1/query?query=1",
        true,
    ),
    ("logs-insert:9481/insert/opentelemetry/v1/logs", true),
    ("logs-select:9471/select/logsql/query", false),
    ("jaeger-collector:4318/v1/traces", true),
];

/// A mesh of kof 1.6 has all of its names, and no others; then it is as before.
pub(super) async fn kof_1_6(link: &Link) -> Result<()> {
    link.region.apply(SERVICES).await?;
    version(link, Some("1.x")).await?;
    let why = scenario::refused_any(&link.management, "child1", &["InvalidMesh"], SOON).await?;
    ensure!(
        why.contains("spec.kofVersion") && why.contains("1.x"),
        "{why}"
    );
    version(link, Some("1.6")).await?;
    let asked = asked(link).await;
    version(link, None).await?;
    link.region.delete(SERVICES).await?;
    asked?;
    let url = format!("http://region1-vmauth:8427{QUERY}");
    answered(link, "asker", &url, |seen| seen.contains("200 OK")).await?;
    link.whole().await
}

async fn asked(link: &Link) -> Result<()> {
    for client in ["asker", "plain", "host"] {
        for (what, granted) in ASKED {
            let url = format!("http://region1-{what}");
            let right = if granted { "200 OK" } else { "no such host" };
            answered(link, client, &url, |seen| seen.contains(right)).await?;
        }
        // a name of a later kof
        let url = "http://region1-vmauth:8427/health";
        answered(link, client, url, |seen| !seen.contains("200 OK")).await?;
    }
    link.whole().await
}

/// Waits until a pod of the child is told what is right.
async fn answered(
    link: &Link,
    client: &str,
    url: &str,
    right: impl Fn(&str) -> bool + Send + Sync,
) -> Result<()> {
    wait_for(&format!("what {client} is told by {url}"), PODS, || async {
        let seen = ask(&link.child, client, url).await;
        Ok(if right(&seen) { Ok(()) } else { Err(seen) })
    })
    .await
}

async fn version(link: &Link, version: Option<&str>) -> Result<()> {
    let change = json!({ "spec": { "kofVersion": version } }).to_string();
    let args = ["patch", "mesh", "default", "--type=merge", "-p", &change];
    link.management.kubectl(&args).await.map(drop)
}
