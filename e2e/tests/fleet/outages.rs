//! Parts that are away for minutes, while telemetry goes on: counted.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_e2e::provider::Hurt;
use mesh_e2e::{Cluster, scenario};

use crate::{PODS, SOON, with_link};

/// How long a part is away.
const AWAY: Duration = Duration::from_mins(2);

/// Samples of the child's collector that the region has of the last two minutes; one a second is due.
async fn samples(region: &Cluster) -> Result<f64> {
    let promql = r#"count_over_time(process_start_time_seconds{cluster="child1"}[110s])"#;
    let found = scenario::query_storage(region, promql).await?;
    let value = found
        .pointer("/0/value/1")
        .and_then(serde_json::Value::as_str)
        .unwrap_or("0");
    Ok(value.parse()?)
}

#[test]
fn telemetry_goes_on_while_management_is_away() -> Result<()> {
    with_link("management-away", |link| async move {
        link.management.hurt(&Hurt::NodeKilled).await?;
        let since = Instant::now();
        tokio::time::sleep(AWAY).await;
        let got = samples(&link.region).await;
        link.management.mend(&Hurt::NodeKilled).await?;
        println!(
            "{:.0} s without management: {got:?} samples of 110",
            since.elapsed().as_secs_f64()
        );
        let got = got?;
        link.whole().await?;
        // The collector's clock may put a sample on either side of the edge.
        ensure!(got >= 109.0, "samples are missing: {got} of 110");
        Ok(())
    })
}

#[test]
fn a_child_without_its_api_server_goes_on_and_says_so() -> Result<()> {
    with_link("child-api-away", |link| async move {
        link.child
            .hurt(&Hurt::Frozen("kube-apiserver".to_owned()))
            .await?;
        let since = Instant::now();
        let told = scenario::refused_any(
            &link.management,
            "child1",
            &["Timeout", "ConnectFailed"],
            SOON,
        )
        .await;
        let region = scenario::ready(&link.management, "region1", SOON).await;
        tokio::time::sleep(AWAY.saturating_sub(since.elapsed())).await;
        let got = samples(&link.region).await;
        link.child
            .mend(&Hurt::Frozen("kube-apiserver".to_owned()))
            .await?;
        println!(
            "{:.0} s without the child's API server: {got:?} samples of 110; said {told:?}",
            since.elapsed().as_secs_f64()
        );
        told?;
        region?;
        ensure!(got? >= 109.0, "samples are missing");
        scenario::ready(&link.management, "child1", PODS).await?;
        link.whole().await
    })
}

#[test]
fn a_member_ten_minutes_ahead_is_linked_all_the_same() -> Result<()> {
    with_link("clock", |link| async move {
        scenario::undeploy(&link.management, "child1").await?;
        scenario::gone(&link.management, "child1", PODS).await?;
        let fast = scenario::product_with_clock(&link.fleet, "+10m")?;
        let plain = scenario::product()?;
        link.child.load_image_as(&fast, &plain.name).await?;
        scenario::deploy(&link.management, "child1", scenario::CHILD).await?;
        let linked = scenario::ready(&link.management, "child1", PODS).await;
        let after = scenario::agent_clock(&link.child).await;
        link.child.load_image_as(&plain, &plain.name).await?;
        scenario::undeploy(&link.management, "child1").await?;
        scenario::gone(&link.management, "child1", PODS).await?;
        scenario::deploy(&link.management, "child1", scenario::CHILD).await?;
        linked?;
        println!("the agent's clock: {}", after?);
        link.whole().await
    })
}
