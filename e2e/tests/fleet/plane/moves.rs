//! The region's gateway is followed wherever it goes.

use anyhow::{Result, ensure};
use mesh_e2e::provider::Hurt;
use mesh_e2e::{istio, progress, wait_for};
use serde_json::json;

use super::provoked::told;
use super::{QUERY, ask, set_gateway};
use crate::{Link, SOON};

/// An address of the region's pool that nobody else is given.
const ELSEWHERE: &str = "172.30.2.188";
/// What makes the load balancers' addresses.
const BALANCER: &str = "load-balancer";

/// Its Service gets another address, then none, then its first one again; then an address is given by hand, and taken back.
pub(super) async fn the_gateway_moves(link: &Link) -> Result<()> {
    let first = entries(link).await?;
    ensure!(
        !first.is_empty() && !first.contains(ELSEWHERE),
        "the entries say {first}"
    );
    balance(link, Some(ELSEWHERE)).await?;
    followed(link, ELSEWHERE).await?;
    link.whole().await?;
    vanished(link).await?;
    balance(link, Some(&first)).await?;
    followed(link, &first).await?;
    balance(link, None).await?;
    link.whole().await?;
    by_hand(link).await
}

/// A load balancer that says nothing for a while takes nothing away: when it is back, so is the path, and nobody wrote an entry.
async fn vanished(link: &Link) -> Result<()> {
    let before = versions(link).await?;
    let away = Hurt::Stopped(BALANCER.to_owned());
    link.region.hurt(&away).await?;
    let silent = json!({ "status": { "loadBalancer": { "ingress": null } } }).to_string();
    let result = async {
        patch(link, &["--subresource=status"], &silent).await?;
        // kube-proxy believes it at once
        told(link, "ConnectFailed").await?;
        let kept = entries(link).await?;
        ensure!(kept == ELSEWHERE, "the entries say {kept}");
        anyhow::Ok(())
    }
    .await;
    link.region.mend(&away).await?;
    result?;
    link.whole().await?;
    let after = versions(link).await?;
    ensure!(before == after, "written: {before} became {after}");
    Ok(())
}

/// Names and versions of all entries.
async fn versions(link: &Link) -> Result<String> {
    let path = "jsonpath={range .items[*]}{.metadata.name}:{.metadata.resourceVersion} {end}";
    let args = ["-n", "kof", "get", "workloadentries", "-o", path];
    link.child.kubectl(&args).await
}

/// The node's own address and the node port of the Service, which nothing but a person can know to be reachable.
async fn by_hand(link: &Link) -> Result<()> {
    let args = [
        "-n",
        istio::NAMESPACE,
        "get",
        "service",
        istio::GATEWAY,
        "-o",
        "jsonpath={.spec.ports[?(@.port==15443)].nodePort}",
    ];
    let port: u16 = link.region.kubectl(&args).await?.trim().parse()?;
    let node = link.region.node_address();
    set_gateway(link, Some((&node, port))).await?;
    followed(link, &node).await?;
    link.whole().await?;
    progress::step(format!("by node port {node}:{port}"));
    set_gateway(link, None).await?;
    wait_for("the address by hand to go", SOON, || async {
        let now = entries(link).await?;
        Ok(if now == node { Err(now) } else { Ok(()) })
    })
    .await?;
    link.whole().await
}

/// Waits until every entry names this address, and no other, and a request goes there.
async fn followed(link: &Link, address: &str) -> Result<()> {
    wait_for(&format!("the entries to say {address}"), SOON, || async {
        let now = entries(link).await?;
        Ok(if now == address { Ok(()) } else { Err(now) })
    })
    .await?;
    wait_for("an answer by way of the new address", SOON, || async {
        let url = format!("http://region1-vmauth:8427{QUERY}");
        let seen = ask(&link.child, "asker", &url).await;
        Ok(if seen.contains("200 OK") {
            Ok(())
        } else {
            Err(seen)
        })
    })
    .await
}

/// The addresses of all entries in the child, each once.
async fn entries(link: &Link) -> Result<String> {
    let path = "jsonpath={.items[*].spec.address}";
    let args = ["-n", "kof", "get", "workloadentries", "-o", path];
    let said = link.child.kubectl(&args).await?;
    let mut addresses: Vec<&str> = said.split_whitespace().collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses.join(" "))
}

async fn balance(link: &Link, address: Option<&str>) -> Result<()> {
    let change = json!({ "spec": { "loadBalancerIP": address } }).to_string();
    patch(link, &[], &change).await
}

async fn patch(link: &Link, more: &[&str], change: &str) -> Result<()> {
    let args = [
        "-n",
        istio::NAMESPACE,
        "patch",
        "service",
        istio::GATEWAY,
        "--type=merge",
        "-p",
        change,
    ];
    link.region.kubectl(&[&args, more].concat()).await.map(drop)
}
