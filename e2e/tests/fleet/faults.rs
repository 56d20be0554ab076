//! What breaks at once: pods, processes, addresses, leaders. Each ends in a link that works.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use mesh_e2e::bare::Bare;
use mesh_e2e::scenario::{self, CHILD};
use mesh_e2e::{Cluster, wait_for};

use crate::{PODS, SOON, with_link};

/// Waits until management can ask the region again.
async fn answers(from: &Cluster) -> Result<()> {
    wait_for("an answer from the region", PODS, || async {
        Ok(scenario::query(from, "region1", "1")
            .await
            .map(drop)
            .map_err(|e| format!("{e:#}")))
    })
    .await
}

#[test]
fn agents_and_envoys_that_die_come_back_into_the_link() -> Result<()> {
    with_link("pods", |link| async move {
        for cluster in [&link.child, &link.region] {
            for container in ["agent", "envoy"] {
                cluster
                    .kill_container("istio-system", "app=mesh-agent", container)
                    .await?;
                answers(&link.management).await?;
                link.whole().await.with_context(|| {
                    format!("after {container} of {} was killed", cluster.name())
                })?;
            }
            cluster.kill_pods("istio-system", "app=mesh-agent").await?;
            answers(&link.management).await?;
            link.whole()
                .await
                .with_context(|| format!("after the pods of {} were killed", cluster.name()))?;
        }
        Ok(())
    })
}

async fn leader(management: &Cluster) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(management.client(), "istio-system");
    let lease = leases.get("kof-istio-controller").await?;
    lease
        .spec
        .and_then(|s| s.holder_identity)
        .filter(|h| !h.is_empty())
        .context("nobody leads")
}

#[test]
fn when_the_leader_dies_the_other_goes_on_within_20_seconds() -> Result<()> {
    with_link("leader", |link| async move {
        let before = leader(&link.management).await?;
        scenario::undeploy(&link.management, "child1").await?;
        scenario::gone(&link.management, "child1", PODS).await?;
        // The leader's node is gone for good, as far as it is concerned: it may not even say goodbye.
        scenario::freeze_pod(&link.management, "istio-system", &before, "controller").await?;
        let frozen = Instant::now();
        scenario::deploy(&link.management, "child1", CHILD).await?;
        let made = wait_for(
            "the other controller to enrol the child",
            Duration::from_secs(20),
            || async {
                Ok(scenario::member(&link.management, "child1")
                    .await
                    .map(drop)
                    .map_err(|e| format!("{e:#}")))
            },
        )
        .await;
        println!(
            "the other controller went on after {:.1} s",
            frozen.elapsed().as_secs_f64()
        );
        link.management
            .kubectl(&[
                "-n",
                "istio-system",
                "delete",
                "pod",
                &before,
                "--grace-period=0",
                "--force",
            ])
            .await?;
        made?;
        ensure!(
            leader(&link.management).await? != before,
            "the frozen one still leads"
        );
        link.whole().await
    })
}

#[test]
fn a_controller_killed_while_enrolling_leaves_nothing_half_done() -> Result<()> {
    with_link("killed-enrolling", |link| async move {
        for pause in [0, 40, 300, 1200] {
            scenario::undeploy(&link.management, "child1").await?;
            scenario::gone(&link.management, "child1", PODS).await?;
            scenario::deploy(&link.management, "child1", CHILD).await?;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            link.management
                .kill_container("istio-system", "app=mesh-controller", "controller")
                .await?;
            link.whole()
                .await
                .with_context(|| format!("killed {pause} ms after the label"))?;
        }
        Ok(())
    })
}

#[test]
fn a_changed_gateway_address_is_followed() -> Result<()> {
    with_link("address", |link| async move {
        let before = gateway(&link.management).await?;
        let change = r#"{"spec":{"loadBalancerIP":"172.30.2.177"}}"#;
        link.region
            .kubectl(&[
                "-n",
                "istio-system",
                "patch",
                "service",
                "mesh-gateway",
                "-p",
                change,
            ])
            .await?;
        wait_for("the new address in status", SOON, || async {
            let now = gateway(&link.management).await?;
            Ok(if now.contains("172.30.2.177") {
                Ok(())
            } else {
                Err(now)
            })
        })
        .await?;
        answers(&link.management).await?;
        link.whole().await?;
        let change = r#"{"spec":{"loadBalancerIP":null}}"#;
        link.region
            .kubectl(&[
                "-n",
                "istio-system",
                "patch",
                "service",
                "mesh-gateway",
                "-p",
                change,
            ])
            .await?;
        answers(&link.management).await?;
        println!("{before} -> {}", gateway(&link.management).await?);
        link.whole().await
    })
}

async fn gateway(management: &Cluster) -> Result<String> {
    let member = scenario::member(management, "region1").await?;
    Ok(member.status.and_then(|s| s.gateway).unwrap_or_default())
}

#[test]
fn a_host_name_as_gateway_is_resolved_in_the_member_and_followed() -> Result<()> {
    with_link("hostname", |link| async move {
        let address = gateway(&link.management).await?.replace(":15443", "");
        let name = "gateway.region1.example";
        for cluster in [&link.child, &link.management] {
            cluster.set_hosts(&format!("{address} {name}")).await?;
        }
        scenario::set_gateway(&link.management, "region1", Some(name)).await?;
        wait_for("the child to resolve the name", PODS, || async {
            let dump = scenario::envoy(&link.child, "clusters").await?;
            Ok(if dump.contains(&address) {
                Ok(())
            } else {
                Err("Envoy has no address".to_owned())
            })
        })
        .await?;
        link.whole().await?;
        // DNS that says nothing any more takes nothing away.
        link.child
            .kubectl(&[
                "-n",
                "kube-system",
                "scale",
                "deployment/coredns",
                "--replicas=0",
            ])
            .await?;
        tokio::time::sleep(Duration::from_secs(8)).await;
        let kept = scenario::envoy(&link.child, "clusters")
            .await?
            .contains(&address);
        link.child
            .kubectl(&[
                "-n",
                "kube-system",
                "scale",
                "deployment/coredns",
                "--replicas=1",
            ])
            .await?;
        scenario::set_gateway(&link.management, "region1", None).await?;
        ensure!(
            kept,
            "the last known address was given up while DNS was silent"
        );
        link.whole().await
    })
}

#[test]
fn ten_members_that_hang_among_twenty_delay_nobody() -> Result<()> {
    with_link("hanging", |link| async move {
        // API servers that accept and never answer, at an address of this network.
        let hole = tokio::net::TcpListener::bind("172.30.0.1:0").await?;
        let port = hole.local_addr()?.port();
        let swallow = async {
            let mut taken = Vec::new();
            loop {
                if let Ok((stream, _)) = hole.accept().await {
                    taken.push(stream);
                }
            }
        };
        let hangs = link.child.kubeconfig()?.replace(
            &format!("{}:6443", link.child.node_address()),
            &format!("172.30.0.1:{port}"),
        );
        let bare = Bare::start(link.fleet.components(), 10).await?;
        let hanging: Vec<String> = (0..10).map(|n| format!("hanging{n}")).collect();
        let sound: Vec<String> = (0..10).map(|n| format!("sound{n}")).collect();
        let work = async {
            for name in &hanging {
                scenario::adopt_with(&link.management, name, &hangs).await?;
                scenario::deploy(&link.management, name, CHILD).await?;
            }
            scenario::refused(&link.management, "hanging9", "Reachable", "Timeout", SOON).await?;
            let mut slowest = Duration::ZERO;
            for (n, name) in (0..).zip(&sound) {
                scenario::adopt_with(&link.management, name, &bare.kubeconfig(n)?).await?;
                let labelled = Instant::now();
                scenario::deploy(&link.management, name, CHILD).await?;
                // No kubelet, no agent: that far they come.
                scenario::refused(
                    &link.management,
                    name,
                    "IntermediateReady",
                    "AwaitingRequest",
                    SOON,
                )
                .await?;
                slowest = slowest.max(labelled.elapsed());
            }
            println!(
                "ten beside ten that hang: enrolled at most {:.1} s after the label",
                slowest.as_secs_f64()
            );
            ensure!(slowest < Duration::from_secs(10), "one took {slowest:?}");
            link.whole().await
        };
        let work = tokio::select! {
            result = work => result,
            () = swallow => Ok(()),
        };
        for name in hanging.iter().chain(&sound) {
            scenario::undeploy(&link.management, name).await?;
        }
        for name in hanging.iter().chain(&sound) {
            // A bare API server has nobody who would empty a namespace.
            scenario::force(&link.management, name).await?;
            scenario::gone(&link.management, name, SOON).await?;
        }
        drop(bare);
        work?;
        link.whole().await
    })
}
