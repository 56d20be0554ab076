//! `make demo`: the main job, on a real fleet, told as it happens.
//!
//! What is done here is what a user does; what connects the clusters is the product alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mesh_api::member::MeshMember;

use crate::{Cluster, Fleet, progress, scenario, wait_for};

/// What the collector of the child says of itself; it carries the name of its cluster.
const METRIC: &str = r#"process_start_time_seconds{cluster="child1"}"#;

/// Runs the demo on a fleet that is up.
pub async fn run(fleet: &Fleet) -> Result<()> {
    let (management, region, child) = (
        fleet.cluster("management")?,
        fleet.cluster("region1")?,
        fleet.cluster("child1")?,
    );
    prepare(fleet, management, region, child).await?;

    progress::step(
        "creating ClusterDeployments region1 (regional) and child1, labelled istio-role=member",
    );
    let labelled = Instant::now();
    scenario::deploy(management, "region1", scenario::REGION).await?;
    scenario::deploy(management, "child1", scenario::CHILD).await?;

    let mut told = Told {
        since: labelled,
        seen: BTreeMap::new(),
    };
    let sample = wait_for(
        "the child's metric in the management cluster",
        Duration::from_mins(3),
        || async {
            Ok(scenario::query(management, "region1", METRIC)
                .await
                .map_err(|e| format!("{e:#}"))
                .and_then(|found| {
                    let first = found.get(0).cloned();
                    first.ok_or_else(|| "the query works, the metric is not there yet".to_owned())
                }))
        },
    );
    let sample = {
        tokio::pin!(sample);
        loop {
            tokio::select! {
                sample = &mut sample => break sample?,
                () = tokio::time::sleep(Duration::from_millis(150)) => told.look(management).await,
            }
        }
    };
    let took = labelled.elapsed();
    for name in ["management", "region1", "child1"] {
        scenario::ready(management, name, Duration::from_mins(1)).await?;
    }
    told.look(management).await;

    progress::print("\nkubectl get meshmembers -A\n");
    progress::print(management.kubectl(&["get", "meshmembers", "-A"]).await?);
    progress::print(format!(
        "\nasked in management: http://region1-vmauth:8427/vm/select/0/prometheus/api/v1/query?query={METRIC}\n{}\n",
        serde_json::to_string(&sample)?
    ));
    progress::print("\nwhat the link is made of\n");
    progress::print(link(fleet).await?);
    progress::print(format!(
        "\nfrom label to first sample: {:.1} s\n",
        took.as_secs_f64()
    ));
    progress::print(
        "\nThe fleet is left running. Look around:\n\
         \x20 target/release/e2e status\n\
         \x20 target/release/e2e kubectl management get meshmembers -A\n\
         \x20 target/release/e2e kubectl management get mm -n kcm-system child1 -o yaml\n\
         \x20 target/release/e2e kubectl child1 get meshagent -n istio-system mesh -o yaml\n\
         Stop it:\n\
         \x20 make demo-down\n",
    );
    Ok(())
}

/// Everything that is there before the label: k0rdent's kinds, our chart, and kof's storage and collector.
async fn prepare(
    fleet: &Fleet,
    management: &Cluster,
    region: &Cluster,
    child: &Cluster,
) -> Result<()> {
    let product = scenario::product()?;

    progress::step("installing stand-ins of k0rdent's kinds on management");
    scenario::install_k0rdent(management).await?;
    progress::step("helm install kof-istio on management");
    scenario::install_product(fleet, &product, &[]).await?;
    progress::step("starting storage in region1, a collector in child1, a client in management");
    scenario::install_storage(region).await?;
    scenario::install_collector(child, "region1").await?;
    scenario::install_client(management).await?;
    scenario::adopt(management, region).await?;
    scenario::adopt(management, child).await?;
    // A demo that ran before has left its link behind: begin at the beginning.
    for name in ["child1", "region1"] {
        if scenario::member(management, name).await.is_ok() {
            progress::step(format!("removing the {name} of an earlier run"));
            scenario::undeploy(management, name).await?;
            scenario::gone(management, name, Duration::from_mins(2)).await?;
        }
    }
    Ok(())
}

/// What was told of each member so far.
struct Told {
    since: Instant,
    seen: BTreeMap<(String, String), String>,
}

impl Told {
    /// Prints conditions that changed since the last look.
    async fn look(&mut self, management: &Cluster) {
        for name in ["region1", "child1"] {
            let Ok(member) = scenario::member(management, name).await else {
                continue;
            };
            for (kind, said) in conditions(&member) {
                let key = (name.to_owned(), kind.clone());
                if self.seen.get(&key) != Some(&said) {
                    let at = self.since.elapsed().as_secs_f64();
                    progress::print(format!("  {at:5.1} s  {name:<10} {kind:<17} {said}\n"));
                    self.seen.insert(key, said);
                }
            }
        }
    }
}

fn conditions(member: &MeshMember) -> Vec<(String, String)> {
    let conditions = member
        .status
        .as_ref()
        .map(|s| s.conditions.as_slice())
        .unwrap_or_default();
    conditions
        .iter()
        .map(|c| {
            let said = if c.status == "True" {
                format!("yes   {}: {}", c.reason, c.message)
            } else {
                format!("no    {}: {}", c.reason, c.message)
            };
            (c.type_.clone(), said)
        })
        .collect()
}

/// The two ends of child1's link, as the agent and its Envoy in child1 tell it.
async fn link(fleet: &Fleet) -> Result<String> {
    let management = fleet.cluster("management")?;
    let child = fleet.cluster("child1")?;
    let mut out = String::new();
    for name in ["child1", "region1"] {
        let status = scenario::member(management, name)
            .await?
            .status
            .context("no status")?;
        let intermediate = status.intermediates.first().context("no intermediate")?;
        write!(
            out,
            "  {name:<8} {}\n           intermediate {} until {}\n",
            status.identity.unwrap_or_default(),
            &intermediate
                .fingerprint
                .chars()
                .take(16)
                .collect::<String>(),
            intermediate.not_after
        )?;
        if let Some(gateway) = status.gateway {
            writeln!(out, "           gateway {gateway}")?;
        }
    }
    let envoy = scenario::envoy(child, "stats?filter=uplink.*ssl.(versions|handshake)").await?;
    for line in envoy
        .lines()
        .filter(|l| l.contains("region1") && !l.ends_with(": 0"))
    {
        writeln!(out, "  Envoy in child1: {line}")?;
    }
    let certificates = scenario::envoy(child, "certs").await?;
    let certificates: serde_json::Value = serde_json::from_str(&certificates)?;
    let leaf = certificates
        .pointer("/certificates/0/cert_chain/0")
        .context("Envoy has no certificate")?;
    let text = |pointer: &str| {
        leaf.pointer(pointer)
            .and_then(serde_json::Value::as_str)
            .unwrap_or("?")
            .to_owned()
    };
    writeln!(
        out,
        "  leaf in child1: {} until {}",
        text("/subject_alt_names/0/uri"),
        text("/expiration_time")
    )?;
    Ok(out)
}
