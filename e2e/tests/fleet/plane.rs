//! The Istio data plane: a region and a child whose own Istio carries their links, and management, which stays in the other plane.
//!
//! Istio is installed as a user installs it, by its own charts; certificates, labels, gateway, policies and names are the product's.

mod mixed;
mod moves;
mod passes;
mod provoked;
mod versions;

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_e2e::components::Istio;
use mesh_e2e::istio::{self, Options, Programs};
use mesh_e2e::{Cluster, progress, scenario, wait_for};
use serde_json::{Value, json};

use crate::workloads::rights;
use crate::{Link, SOON, with_link};

/// Trust domain of the mesh.
const DOMAIN: &str = "mesh.kof.internal";
/// What the region's storage answers everybody who may ask.
const QUERY: &str = "/vm/select/0/prometheus/api/v1/query?query=1";

/// Runs a test that brings Istio into clusters, and puts everything back.
pub(crate) fn with_istio<Fut>(
    name: &str,
    test: impl FnOnce(Link, Programs) -> Fut + Send,
) -> Result<()>
where
    Fut: Future<Output = Result<()>>,
{
    let source = Istio::ensure()?;
    with_link(name, |link| async move {
        let all = [&link.management, &link.region, &link.child];
        let programs = Programs::load(link.fleet.components(), source, &all).await?;
        // what a test left behind that was stopped
        for cluster in all {
            let istiod = "deployment.apps/istiod";
            let found = cluster
                .kubectl(&["-n", istio::NAMESPACE, "get", istiod, "--ignore-not-found"])
                .await?;
            if !found.trim().is_empty() {
                Box::pin(part(&link)).await?;
            }
        }
        // the pod that probes through a sidecar has Istio's init container
        for cluster in all {
            let level = Some("privileged");
            cluster.pod_security(istio::NAMESPACE, level).await?;
        }
        let result = test(link.clone(), programs).await;
        if let Err(error) = &result {
            progress::step(format!("{error:#}"));
            explain(&link).await;
        }
        let back = Box::pin(part(&link)).await;
        result?;
        back
    })
}

/// What there is to know about a test that failed.
async fn explain(link: &Link) {
    let args = ["get", "meshmembers", "-A", "-o", "wide"];
    progress::step(link.management.kubectl(&args).await.unwrap_or_default());
    for cluster in [&link.management, &link.region, &link.child] {
        for args in [
            vec!["get", "pods", "-A", "-o", "wide"],
            vec!["-n", "istio-system", "get", "services", "--show-labels"],
            vec![
                "-n",
                "istio-system",
                "get",
                "gateways.gateway.networking.k8s.io",
                "-o",
                "yaml",
            ],
            vec![
                "-n",
                "kof",
                "get",
                "services,endpointslices,workloadentries",
                "-o",
                "wide",
            ],
            vec![
                "-n",
                "istio-system",
                "logs",
                "deploy/mesh-agent",
                "-c",
                "agent",
                "--tail=20",
            ],
        ] {
            progress::step(
                cluster
                    .kubectl(&args)
                    .await
                    .unwrap_or_else(|e| format!("{e:#}")),
            );
        }
    }
}

/// What carries a member's links.
pub(crate) async fn carry(management: &Cluster, member: &str, plane: &str) -> Result<()> {
    let change = json!({ "spec": { "overrides": { "dataPlane": plane } } });
    override_member(management, member, &change).await
}

async fn override_member(management: &Cluster, member: &str, change: &Value) -> Result<()> {
    let change = change.to_string();
    let object = format!("meshmember/{member}");
    let args = [
        "-n",
        scenario::home(member),
        "patch",
        &object,
        "--type=merge",
        "-p",
        &change,
    ];
    management.kubectl(&args).await.map(drop)
}

/// Region and child into the Istio plane, step by step as their conditions ask for it.
async fn join(link: &Link, programs: &Programs) -> Result<()> {
    for name in ["region1", "child1"] {
        carry(&link.management, name, "istio").await?;
        let why = scenario::refused(
            &link.management,
            name,
            "GatewayReady",
            "IstiodMissing",
            SOON,
        )
        .await?;
        ensure!(why.contains("app=istiod"), "{why}");
    }
    for cluster in [&link.region, &link.child] {
        install(cluster, programs, &[]).await?;
    }
    let why = scenario::refused(
        &link.management,
        "region1",
        "GatewayReady",
        "GatewayMissing",
        SOON,
    )
    .await?;
    ensure!(why.contains("eastwestgateway"), "{why}");
    istio::install_gateway(&link.region, programs, "region1-network").await?;
    let why = scenario::refused(
        &link.management,
        "region1",
        "GatewayReady",
        "BackendWithoutSidecar",
        SOON,
    )
    .await?;
    ensure!(why.contains("has a sidecar"), "{why}");
    for cluster in [&link.region, &link.child] {
        istio::inject(cluster).await?;
        istio::clients(cluster).await?;
    }
    link.whole().await
}

/// An istiod that has what it signs with, knows who it is, and has this in its environment besides.
pub(crate) async fn install(
    cluster: &Cluster,
    programs: &Programs,
    env: &[(&str, &str)],
) -> Result<()> {
    given(cluster).await?;
    let network = format!("{}-network", cluster.name());
    let options = Options {
        trust_domain: DOMAIN,
        network: &network,
        env,
    };
    istio::install(cluster, programs, &options).await
}

/// Where the region's gateway is, by hand; none: where its Service says.
async fn set_gateway(link: &Link, at: Option<(&str, u16)>) -> Result<()> {
    let gateway = at.map(|(host, port)| json!([{ "host": host, "port": port }]));
    let change = json!({ "spec": { "overrides": { "gateway": gateway } } });
    override_member(&link.management, "region1", &change).await
}

/// Everything as before.
async fn part(link: &Link) -> Result<()> {
    for name in ["management", "region1", "child1"] {
        override_member(
            &link.management,
            name,
            &json!({ "spec": { "overrides": null } }),
        )
        .await?;
    }
    let usual = r#"{"spec":{"istio":null,"kofVersion":null}}"#;
    let args = ["patch", "mesh", "default", "--type=merge", "-p", usual];
    link.management.kubectl(&args).await?;
    for cluster in [&link.management, &link.region, &link.child] {
        wait_for("the product's objects of Istio to go", SOON, || async {
            let left = ours(cluster).await?;
            Ok(if left.is_empty() {
                Ok(())
            } else {
                Err(left.join(" "))
            })
        })
        .await?;
        istio::eject(cluster).await?;
        istio::remove(cluster).await?;
        cluster.pod_security(istio::NAMESPACE, None).await?;
    }
    link.whole().await
}

/// The product's objects of Istio's kinds, where the cluster has such kinds, and all that has to do with remote secrets.
pub(crate) async fn ours(cluster: &Cluster) -> Result<Vec<String>> {
    let label = "app.kubernetes.io/managed-by=kof-istio";
    let named = async |kinds: &str| {
        let args = ["get", kinds, "-A", "-l", label, "-o", "name"];
        let said = cluster.kubectl(&args).await?;
        anyhow::Ok(said.lines().map(str::to_owned).collect::<Vec<String>>())
    };
    let mut found = remote_secrets(cluster).await?;
    let rights = "serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings";
    let readers = named(rights).await?.into_iter();
    found.extend(readers.filter(|name| name.contains("/mesh-reader")));
    let kinds = cluster
        .kubectl(&["api-resources", "--verbs=list", "-o", "name"])
        .await?;
    let theirs =
        |kind: &&str| kind.ends_with(".istio.io") || kind.ends_with(".gateway.networking.k8s.io");
    let kinds: Vec<&str> = kinds.lines().filter(theirs).collect();
    if !kinds.is_empty() {
        found.extend(named(&kinds.join(",")).await?);
    }
    Ok(found)
}

/// Waits until an agent of a cluster has these words in its status.
pub(crate) async fn agents_say(cluster: &Cluster, words: &str, deadline: Duration) -> Result<()> {
    let path = "jsonpath={.status.replicas}";
    let args = ["-n", "istio-system", "get", "meshagent", "mesh", "-o", path];
    wait_for(&format!("an agent to say {words}"), deadline, || async {
        let said = cluster.kubectl(&args).await?;
        Ok(if said.contains(words) {
            Ok(())
        } else {
            Err(said)
        })
    })
    .await
}

/// The Secrets by which an istiod reads other clusters, whosever they are.
pub(crate) async fn remote_secrets(cluster: &Cluster) -> Result<Vec<String>> {
    let label = "istio/multiCluster=true";
    let args = ["get", "secrets", "-A", "-l", label, "-o", "name"];
    let said = cluster.kubectl(&args).await?;
    Ok(said.lines().map(str::to_owned).collect())
}

/// Waits until istiod would find something to sign with.
async fn given(cluster: &Cluster) -> Result<()> {
    let path = "jsonpath={.data.root-cert\\.pem}";
    let args = ["-n", "istio-system", "get", "secret", "cacerts", "-o", path];
    wait_for("Secret cacerts", SOON, || async {
        Ok(match cluster.kubectl(&args).await {
            Ok(text) if !text.trim().is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })
    .await
}

/// Asks from a client of [`istio::clients`]; returns everything that came back, also of an error.
async fn ask(cluster: &Cluster, client: &str, url: &str) -> String {
    ask_in(cluster, "kof", (client, "shell"), url).await
}

async fn ask_in(
    cluster: &Cluster,
    place: &str,
    (client, container): (&str, &str),
    url: &str,
) -> String {
    let pod = format!("deploy/{client}");
    let command = ["sh", "-c", "fetch get \"$1\" 2>&1; true", "fetch", url];
    let seen = cluster.exec_in(place, &pod, container, &command).await;
    seen.unwrap_or_else(|e| format!("{e:#}"))
}

/// Waits for a line in the access log of the region's storage.
async fn logged(link: &Link, parts: &[&str]) -> Result<()> {
    wait_for(&format!("{parts:?} in the region's log"), SOON, || async {
        let log = istio::access_log(&link.region, "kof", "deploy/vmauth-cluster", 200).await?;
        let found = log
            .iter()
            .any(|line| parts.iter().all(|part| line.contains(part)));
        Ok(if found {
            Ok(())
        } else {
            Err(log.last().cloned().unwrap_or_default())
        })
    })
    .await
}

#[test]
fn telemetry_passes_between_real_meshes_and_only_what_the_contract_grants() -> Result<()> {
    with_istio("plane", |link, programs| async move {
        Box::pin(join(&link, &programs)).await?;
        passes::names(&link).await?;
        passes::metric(&link).await?;
        passes::refusals(&link).await?;
        passes::door(&link).await?;
        rights::in_the_istio_plane(&link.child).await?;
        passes::restart(&link).await?;
        Box::pin(moves::the_gateway_moves(&link)).await?;
        Box::pin(versions::kof_1_6(&link)).await?;
        Box::pin(provoked::each_class(&link)).await
    })
}

#[test]
fn members_of_both_planes_are_linked_whoever_calls() -> Result<()> {
    with_istio("planes", |link, programs| async move {
        Box::pin(mixed::callers_with_sidecars(&link, &programs)).await?;
        Box::pin(mixed::everybody(&link, &programs)).await?;
        Box::pin(mixed::leaving(&link)).await?;
        Box::pin(mixed::leaving_unseen(&link)).await
    })
}
