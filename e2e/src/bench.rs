//! `make bench`: the figures of `docs/performance.md`, measured on the fleet.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mesh_api::member::MeshMember;

use crate::audit::Write;
use crate::{Cluster, Fleet, progress, scenario, wait_for};

/// Enrolments that are measured.
const ENROLMENTS: usize = 20;
/// How long a mesh at rest is watched.
const QUIET: Duration = Duration::from_mins(5);

/// Measures, and prints a table.
pub async fn run(fleet: &Fleet) -> Result<()> {
    let (management, region, child) = (
        fleet.cluster("management")?,
        fleet.cluster("region1")?,
        fleet.cluster("child1")?,
    );
    scenario::install_k0rdent(management).await?;
    scenario::install_product(fleet, &scenario::product()?, &[]).await?;
    scenario::install_storage(region).await?;
    scenario::install_collector(child, "region1").await?;
    scenario::install_client(management).await?;
    for (cluster, labels) in [(region, scenario::REGION), (child, scenario::CHILD)] {
        scenario::adopt(management, cluster).await?;
        scenario::deploy(management, cluster.name(), labels).await?;
        scenario::ready(management, cluster.name(), Duration::from_mins(2)).await?;
    }

    let mut rounds = Vec::new();
    for round in 1..=ENROLMENTS {
        scenario::undeploy(management, "child1").await?;
        scenario::gone(management, "child1", Duration::from_mins(2)).await?;
        let measured = enrol(management, child).await?;
        progress::step(format!("enrolment {round}: {measured:?}"));
        rounds.push(measured);
    }
    progress::print(format!(
        "\nof {ENROLMENTS} enrolments, seconds     p50     p99     most\n"
    ));
    line("label to first object in the member", &rounds, |r| r.object);
    line("label to agent's certificate", &rounds, |r| r.certificate);
    line("label to a link that answers", &rounds, |r| r.ready);
    line("label to first sample in storage", &rounds, |r| r.sample);

    progress::step("five quiet minutes");
    let marks: Vec<_> = fleet
        .clusters()
        .iter()
        .map(Cluster::audit_mark)
        .collect::<Result<_>>()?;
    tokio::time::sleep(QUIET).await;
    for (cluster, mark) in fleet.clusters().iter().zip(marks) {
        let ours = |w: &Write| {
            ["mesh-controller", "mesh-agent"]
                .iter()
                .any(|who| w.user.username.contains(who))
        };
        let writes = cluster.audit_writes(mark, ours)?;
        let leases = writes.iter().filter(|w| w.is_lease()).count();
        let others = writes.len() - leases;
        progress::print(format!(
            "writes of ours in {}: {others}, and {leases} to the Lease\n",
            cluster.name()
        ));
    }
    for (cluster, app, process) in [
        (management, "mesh-controller", "mesh-controller"),
        (child, "mesh-agent", "mesh-controller"),
        (child, "mesh-agent", "envoy"),
        (region, "mesh-agent", "envoy"),
    ] {
        let memory = resident(cluster, process).await?;
        progress::print(format!(
            "resident memory in {}, {process} (of {app}): {memory}\n",
            cluster.name()
        ));
    }
    Ok(())
}

/// Seconds from the label.
#[derive(Clone, Copy, Debug)]
struct Enrolment {
    object: f64,
    certificate: f64,
    ready: f64,
    sample: f64,
}

async fn enrol(management: &Cluster, child: &Cluster) -> Result<Enrolment> {
    let mark = child.audit_mark()?;
    // A collector that starts now asks at once; one that has waited long would ask rarely.
    child
        .kubectl(&["-n", "kof", "rollout", "restart", "deployment/collector"])
        .await?;
    child
        .kubectl(&[
            "-n",
            "kof",
            "rollout",
            "status",
            "deployment/collector",
            "--timeout=60s",
        ])
        .await?;
    let stamp = jiff::Timestamp::now();
    let started = Instant::now();
    scenario::deploy(management, "child1", scenario::CHILD).await?;
    let since = format!("{}", stamp.as_millisecond());
    let sampled = async {
        wait_for(
            "a sample from after the label",
            Duration::from_mins(2),
            || async {
                let promql = r#"timestamp(process_start_time_seconds{cluster="child1"}) * 1000"#;
                let found = scenario::query(management, "region1", promql).await;
                let newer = found.is_ok_and(|f| {
                    let value = f
                        .pointer("/0/value/1")
                        .and_then(serde_json::Value::as_str)
                        .map(str::to_owned);
                    value.and_then(|v| v.parse::<f64>().ok()) > since.parse::<f64>().ok()
                });
                Ok(if newer {
                    Ok(started.elapsed().as_secs_f64())
                } else {
                    Err("none yet")
                })
            },
        )
        .await
    };
    let made = wait_for("an intermediate", Duration::from_mins(2), || async {
        let has = |m: &MeshMember| {
            m.status
                .as_ref()
                .is_some_and(|s| !s.intermediates.is_empty())
        };
        let there = scenario::member(management, "child1")
            .await
            .is_ok_and(|m| has(&m));
        Ok(if there {
            Ok(started.elapsed().as_secs_f64())
        } else {
            Err("none yet")
        })
    });
    let ready = async {
        scenario::ready(management, "child1", Duration::from_mins(2)).await?;
        Ok::<_, anyhow::Error>(started.elapsed().as_secs_f64())
    };
    let (sample, certificate, ready) = tokio::try_join!(sampled, made, ready)?;
    let first = child
        .audit_writes(mark, |w| w.user_agent.starts_with("kof-istio"))?
        .into_iter()
        .filter_map(|w| w.request_received_timestamp.parse::<jiff::Timestamp>().ok())
        .min()
        .context("nothing was written to the member")?;
    let object = first.duration_since(stamp).as_secs_f64();
    Ok(Enrolment {
        object,
        certificate,
        ready,
        sample,
    })
}

fn line(what: &str, rounds: &[Enrolment], of: impl Fn(&Enrolment) -> f64) {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let at =
        |share: usize| values.get((values.len() * share / 100).min(values.len().saturating_sub(1)));
    let [p50, p99, most] = [50, 99, 100].map(|share| at(share).copied().unwrap_or_default());
    progress::print(format!("{what:<36} {p50:7.3} {p99:7.3} {most:7.3}\n"));
}

/// Resident memory of the processes of a program on a node.
async fn resident(cluster: &Cluster, program: &str) -> Result<String> {
    let script = format!(
        "for p in $(pgrep -x {}); do awk '/VmRSS/{{print int($2/1024)\" MiB\"}}' /proc/$p/status; done",
        &program.chars().take(15).collect::<String>()
    );
    Ok(cluster
        .on_node(&["sh", "-c", &script])
        .await?
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" "))
}
