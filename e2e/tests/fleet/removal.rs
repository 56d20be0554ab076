//! What goes when a member goes: everything of ours, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_e2e::provider::Hurt;
use mesh_e2e::scenario::{self, CHILD};
use mesh_e2e::{Cluster, wait_for};

use crate::{PODS, SOON, with_link};

/// Every object of a cluster, but those that come and go by themselves.
async fn objects(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let kinds = cluster
        .kubectl(&["api-resources", "--verbs=list", "-o", "name"])
        .await?;
    let skipped = [
        "events",
        "events.events.k8s.io",
        "endpointslices.discovery.k8s.io",
        "endpoints",
        "leases.coordination.k8s.io",
        "pods",
        "replicasets.apps",
    ];
    let kinds: Vec<&str> = kinds.lines().filter(|k| !skipped.contains(k)).collect();
    let listed = cluster
        .kubectl(&[
            "get",
            &kinds.join(","),
            "-A",
            "-o",
            "custom-columns=K:.kind,N:.metadata.namespace,O:.metadata.name",
            "--no-headers",
        ])
        .await?;
    Ok(listed
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect())
}

fn differences(before: &BTreeSet<String>, after: &BTreeSet<String>) -> String {
    let gone: Vec<_> = before.difference(after).collect();
    let left: Vec<_> = after.difference(before).collect();
    format!("gone: {gone:?}; left behind: {left:?}")
}

#[test]
fn a_label_taken_away_takes_everything_of_ours_and_nothing_else() -> Result<()> {
    with_link("unlabel", |link| async move {
        scenario::unlabel(&link.management, "child1").await?;
        scenario::gone(&link.management, "child1", PODS).await?;
        let (child, management) = (
            objects(&link.child).await?,
            objects(&link.management).await?,
        );
        let ours: Vec<_> = child
            .iter()
            .filter(|o| o.contains("mesh") || o.contains("vmauth"))
            .collect();
        ensure!(ours.is_empty(), "left in the child: {ours:?}");
        scenario::deploy(&link.management, "child1", CHILD).await?;
        link.whole().await?;
        scenario::unlabel(&link.management, "child1").await?;
        scenario::gone(&link.management, "child1", PODS).await?;
        let (child_after, management_after) = (
            objects(&link.child).await?,
            objects(&link.management).await?,
        );
        ensure!(
            child == child_after,
            "child: {}",
            differences(&child, &child_after)
        );
        ensure!(
            management == management_after,
            "management: {}",
            differences(&management, &management_after)
        );
        scenario::deploy(&link.management, "child1", CHILD).await?;
        link.whole().await
    })
}

#[test]
fn who_leaves_loses_access_at_once_even_when_nobody_can_reach_it() -> Result<()> {
    with_link("unreachable", |link| async move {
        // Its API server hangs; its data plane goes on.
        link.child
            .hurt(&Hurt::Frozen("kube-apiserver".to_owned()))
            .await?;
        let work = async {
            scenario::refused_any(&link.management, "child1", &["Timeout"], SOON).await?;
            scenario::unlabel(&link.management, "child1").await?;
            let taken = wait_for("the region to forget the child", SOON, || async {
                let dump = scenario::envoy(&link.region, "config_dump?include_eds").await?;
                let chain = dump.contains("child1.region1-vmauth");
                Ok(if chain {
                    Err("the child's filter chain is there".to_owned())
                } else {
                    Ok(())
                })
            });
            taken.await?;
            let member = scenario::member(&link.management, "child1").await?;
            let why = scenario::condition(&member, "Enrolled");
            ensure!(
                why.as_ref()
                    .is_some_and(|(_, reason, _)| reason == "Leaving"),
                "it is waited for: {why:?}"
            );
            scenario::force(&link.management, "child1").await?;
            scenario::gone(&link.management, "child1", SOON).await
        }
        .await;
        link.child
            .mend(&Hurt::Frozen("kube-apiserver".to_owned()))
            .await?;
        scenario::deploy(&link.management, "child1", CHILD).await?;
        work?;
        link.whole().await
    })
}

#[test]
fn an_uninstalled_chart_leaves_links_and_finds_them_again() -> Result<()> {
    with_link("uninstall", |link| async move {
        let anchor = intermediate(&link.management).await?;
        link.management
            .helm(&["uninstall", "kof-istio", "-n", "istio-system", "--wait"])
            .await?;
        let works = scenario::query(&link.management, "region1", "1").await;
        scenario::install_product(&link.fleet, &scenario::product()?, &[]).await?;
        works?;
        link.whole().await?;
        ensure!(
            anchor == intermediate(&link.management).await?,
            "the child was certified again"
        );
        Ok(())
    })
}

async fn intermediate(management: &Cluster) -> Result<String> {
    let member = scenario::member(management, "child1").await?;
    Ok(member
        .status
        .and_then(|s| s.intermediates.into_iter().next())
        .map(|i| i.fingerprint)
        .unwrap_or_default())
}

#[test]
fn the_documented_clean_order_removes_everything() -> Result<()> {
    with_link("clean", |link| async move {
        for name in ["child1", "region1"] {
            scenario::unlabel(&link.management, name).await?;
        }
        for name in ["child1", "region1"] {
            scenario::gone(&link.management, name, PODS).await?;
        }
        scenario::install_product(
            &link.fleet,
            &scenario::product()?,
            &["management.member=false"],
        )
        .await?;
        scenario::gone(&link.management, "management", PODS).await?;
        link.management
            .helm(&["uninstall", "kof-istio", "-n", "istio-system", "--wait"])
            .await?;
        link.management
            .kubectl(&["delete", "mesh", "default", "--timeout=30s"])
            .await?;
        link.management
            .kubectl(&[
                "delete",
                "secret",
                "-n",
                "istio-system",
                "default-mesh-root",
            ])
            .await?;
        for crd in ["meshes", "meshmembers"] {
            let name = format!("{crd}.mesh.kof.k0rdent.mirantis.com");
            link.management
                .kubectl(&["delete", "crd", &name, "--timeout=30s"])
                .await?;
        }
        for cluster in [&link.management, &link.region, &link.child] {
            let left: Vec<String> =
                wait_for("nothing of ours", Duration::from_secs(20), || async {
                    let left: Vec<String> = objects(cluster)
                        .await?
                        .into_iter()
                        .filter(|o| is_ours(o))
                        .collect();
                    Ok(if left.is_empty() {
                        Ok(left)
                    } else {
                        Err(format!("{left:?}"))
                    })
                })
                .await?;
            ensure!(left.is_empty());
        }
        Ok(())
    })
}

fn is_ours(object: &str) -> bool {
    [
        "mesh-agent",
        "mesh-gateway",
        "mesh-controller",
        "kof-istio",
        "mesh.kof",
        "region1-vmauth",
        "mesh-root",
        "mesh-intermediate",
    ]
    .iter()
    .any(|ours| object.contains(ours))
}
