//! The longer list of names that kof had up to 1.6.

use anyhow::{Result, ensure};
use mesh_e2e::scenario;
use serde_json::json;

use super::ask;
use crate::{Link, SOON};

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
    link.whole().await
}

async fn asked(link: &Link) -> Result<()> {
    link.whole().await?;
    for client in ["asker", "plain", "host"] {
        for (what, granted) in ASKED {
            let seen = ask(&link.child, client, &format!("http://region1-{what}")).await;
            let (yes, no) = (seen.contains("200 OK"), seen.contains("no such host"));
            ensure!(
                (yes, no) == (granted, !granted),
                "{client} asks {what}: {seen}"
            );
        }
        let seen = ask(&link.child, client, "http://region1-vmauth:8427/health").await;
        ensure!(
            !seen.contains("200 OK"),
            "{client} reaches a name of a later kof: {seen}"
        );
    }
    Ok(())
}

async fn version(link: &Link, version: Option<&str>) -> Result<()> {
    let change = json!({ "spec": { "kofVersion": version } }).to_string();
    let args = ["patch", "mesh", "default", "--type=merge", "-p", &change];
    link.management.kubectl(&args).await.map(drop)
}
