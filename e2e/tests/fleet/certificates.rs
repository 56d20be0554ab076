//! Certificates on real clusters: what revoking one does.

use anyhow::{Context as _, Result, ensure};
use mesh_api::member::Intermediate;
use mesh_e2e::{progress, provider::Hurt, scenario, wait_for};
use serde_json::{Value, json};

use crate::{Link, PODS, SOON, with_link};

/// Calls that the region's Envoy has no filter chain for: their SNI is that of nobody it knows.
const UNKNOWN_CALLERS: &str = "listener.0.0.0.0_15443.no_filter_chain_match";

#[test]
fn a_revoked_intermediate_is_refused_by_a_real_envoy_and_the_next_one_is_taken() -> Result<()> {
    with_link("revocation", |link| async move {
        let leaked = newest(&link).await?;
        // The child can be told nothing, so its Envoy goes on under the certificate that leaked, as a thief would.
        let hang = Hurt::Frozen("kube-apiserver".to_owned());
        link.child.hurt(&hang).await?;
        let refused = refused_while_nothing_else_is_there(&link, &leaked).await;
        link.child.mend(&hang).await?;
        refused?;
        wait_for("the next generation", PODS, || async {
            let now = newest(&link).await?;
            Ok(if now.generation > leaked.generation {
                Ok(())
            } else {
                Err(format!(
                    "generation {}, serial {}",
                    now.generation, now.serial
                ))
            })
        })
        .await?;
        link.whole().await?;
        let found = scenario::query(&link.management, "region1", "1").await?;
        ensure!(!found.is_null(), "management is answered nothing");
        Ok(())
    })
}

async fn refused_while_nothing_else_is_there(link: &Link, leaked: &Intermediate) -> Result<()> {
    let before = unknown_callers(link).await?;
    revoke(link, "default", &leaked.serial).await?;
    let seconds = wait_for("the revocation to be done", SOON, || async {
        let status = mesh_status(link).await?;
        let told = list(&status, "/revocations")
            .find(|told| same(told.get("serial").and_then(Value::as_str), &leaked.serial))
            .cloned()
            .unwrap_or_default();
        let seconds = told.get("doneAfterSeconds").and_then(Value::as_u64);
        Ok(seconds.ok_or_else(|| told.to_string()))
    })
    .await?;
    progress::step(format!("revoked after {seconds} s"));
    let dump = scenario::envoy(&link.region, "config_dump").await?;
    ensure!(
        !dump.contains("child1.region1-vmauth"),
        "the child's filter chain is there, though status says that nobody believes it"
    );
    // The child's collector and its probes go on calling.
    wait_for("the child's calls to be refused", SOON, || async {
        let now = unknown_callers(link).await?;
        Ok(if now > before {
            Ok(())
        } else {
            Err(format!("{now} calls of unknown callers, {before} before"))
        })
    })
    .await?;
    let status = mesh_status(link).await?;
    let root = status.get("crl").context("the root has no list")?;
    let region = link
        .region
        .kubectl(&[
            "get",
            "meshagent",
            "-n",
            "istio-system",
            "mesh",
            "-o",
            "json",
        ])
        .await?;
    let region: Value = serde_json::from_str(&region)?;
    ensure!(
        list(&region, "/spec/crls").any(|crl| crl.get("list") == Some(root)),
        "the region was not told the root's list"
    );
    Ok(())
}

/// The entries of a list in an object.
fn list<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    let entries = object.pointer(pointer).and_then(Value::as_array);
    entries.into_iter().flatten()
}

fn same(serial: Option<&str>, other: &str) -> bool {
    serial.is_some_and(|serial| serial.trim_start_matches('0') == other.trim_start_matches('0'))
}

/// The newest intermediate of the child.
pub(crate) async fn newest(link: &Link) -> Result<Intermediate> {
    let member = scenario::member(&link.management, "child1").await?;
    member
        .status
        .and_then(|status| status.intermediates.into_iter().next())
        .context("no intermediate")
}

async fn mesh_status(link: &Link) -> Result<Value> {
    let mesh = link
        .management
        .kubectl(&["get", "mesh", "default", "-o", "json"])
        .await?;
    let mesh: Value = serde_json::from_str(&mesh)?;
    mesh.get("status")
        .cloned()
        .context("the Mesh has no status")
}

/// Says in a mesh that nobody is to believe the intermediate of this serial number any more.
pub(crate) async fn revoke(link: &Link, mesh: &str, serial: &str) -> Result<()> {
    let wish = json!({ "spec": { "revoked": [{ "serial": serial, "reason": "test" }] } });
    let wish = wish.to_string();
    let patch = ["patch", "mesh", mesh, "--type=merge", "-p", &wish];
    link.management.kubectl(&patch).await.map(drop)
}

async fn unknown_callers(link: &Link) -> Result<u64> {
    let stats = scenario::envoy(&link.region, "stats?filter=no_filter_chain_match").await?;
    let counts = stats
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| *name == UNKNOWN_CALLERS)
        .filter_map(|(_, count)| count.trim().parse::<u64>().ok());
    counts
        .reduce(|sum, count| sum + count)
        .with_context(|| format!("no {UNKNOWN_CALLERS} in {stats:?}"))
}
