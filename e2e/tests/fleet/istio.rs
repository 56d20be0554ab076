//! Istio on the fleet's nodes, beside the product: sidecars that istiod injects, and nothing that stays behind.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use mesh_e2e::components::Istio;
use mesh_e2e::istio::{self, Options, Programs};
use mesh_e2e::{Cluster, progress, wait_for};

use crate::{PODS, with_link};

/// Kinds in which Istio leaves something; pods and what follows them come and go by themselves.
const KINDS: &str = "crd,namespaces,validatingwebhookconfigurations,mutatingwebhookconfigurations,\
    validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles,clusterrolebindings,configmaps,secrets,\
    services,serviceaccounts,deployments,roles,rolebindings,leases,horizontalpodautoscalers,poddisruptionbudgets";
/// What the region's storage answers.
const ASK: &str = "http://vmauth-cluster.kof:8427/vm/select/0/prometheus/api/v1/query?query=1";
/// What a sidecar calls it.
const SNI: &str = "outbound_.8427_._.vmauth-cluster.kof.svc.cluster.local";

#[test]
fn istio_comes_and_goes() -> Result<()> {
    let source = Istio::ensure()?;
    with_link("istio_comes_and_goes", |link| async move {
        let region = &link.region;
        let before = objects(region).await?;
        let programs = Programs::load(link.fleet.components(), source, &[region]).await?;
        let result = Box::pin(sidecars(region, &programs)).await;
        let ejected = istio::eject(region).await;
        let removed = istio::remove(region).await;
        result?;
        ejected?;
        removed?;
        link.whole().await?;
        let after = objects(region).await?;
        let left: Vec<&String> = after.difference(&before).collect();
        ensure!(left.is_empty(), "Istio left {left:?}");
        let lost: Vec<&String> = before.difference(&after).collect();
        ensure!(lost.is_empty(), "Istio took {lost:?} along");
        Ok(())
    })
}

async fn sidecars(region: &Cluster, programs: &Programs) -> Result<()> {
    istio::install_gateway_api(region, programs).await?;
    let options = Options {
        trust_domain: "mesh.kof.internal",
        network: "region1-network",
        ..Options::default()
    };
    istio::install(region, programs, &options).await?;
    let address = istio::install_gateway(region, programs, "region1-network").await?;
    progress::step(format!("the east-west gateway has {address}"));
    istio::inject(region).await?;
    istio::clients(region).await?;
    // from sidecar to sidecar, with identities of Istio's
    wait_for("a request from sidecar to sidecar", PODS, || async {
        let seen = ask(region, "asker").await;
        let log = istio::access_log(region, "kof", "deploy/vmauth-cluster", 20).await?;
        let by = "peer=spiffe://mesh.kof.internal/ns/kof/sa/asker";
        let found = log.iter().any(|l| l.contains(SNI) && l.contains(by));
        Ok(if seen.contains("200 OK") && found {
            Ok(())
        } else {
            Err(format!("{seen}; {log:?}"))
        })
    })
    .await?;
    for client in ["plain", "host"] {
        let seen = ask(region, client).await;
        ensure!(seen.contains("200 OK"), "{client}: {seen}");
    }
    let gateways = istio::debug(region, "/debug/networkz").await?;
    ensure!(
        gateways.pointer("/0/Addr").is_some_and(|a| *a == address),
        "{gateways}"
    );
    let clusters = istio::envoy(region, "kof", "deploy/asker", "clusters").await?;
    ensure!(
        clusters.contains("outbound|8427||vmauth-cluster.kof.svc.cluster.local"),
        "{clusters}"
    );
    Ok(())
}

async fn ask(cluster: &Cluster, client: &str) -> String {
    let pod = format!("deploy/{client}");
    let command = ["fetch", "get", ASK];
    let seen = cluster.exec_in("kof", &pod, "shell", &command).await;
    seen.unwrap_or_else(|e| format!("{e:#}"))
}

/// Every object of these kinds, with its labels and annotations where those are what Istio changes.
async fn objects(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let columns = "custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name";
    let args = ["get", KINDS, "-A", "--no-headers", "-o", columns];
    let mut seen: BTreeSet<String> = cluster
        .kubectl(&args)
        .await?
        .lines()
        .map(str::to_owned)
        .collect();
    let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.labels} {.metadata.annotations}{\"\\n\"}{end}";
    let args = ["get", "namespaces", "-o", path];
    seen.extend(cluster.kubectl(&args).await?.lines().map(str::to_owned));
    Ok(seen)
}
