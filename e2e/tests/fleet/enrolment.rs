//! What is not enrolled, and why: each refusal names object and reason, and harms nobody.

use anyhow::{Result, ensure};
use mesh_e2e::scenario::{self, CHILD};

use crate::{Link, PODS, SOON, with_link};

/// The child's kubeconfig is replaced; the child says why, its region goes on, and the old one makes it whole again.
async fn with_kubeconfig(link: &Link, kubeconfig: &str, reason: &str) -> Result<()> {
    scenario::set_kubeconfig(&link.management, "child1", kubeconfig).await?;
    let message = scenario::refused(&link.management, "child1", "Reachable", reason, SOON).await;
    let region = scenario::ready(&link.management, "region1", SOON).await;
    scenario::set_kubeconfig(&link.management, "child1", &link.child.kubeconfig()?).await?;
    let message = message?;
    region?;
    ensure!(
        message.contains("child1-kubeconf") || reason == "WrongCluster",
        "the object is not named: {message}"
    );
    link.whole().await
}

#[test]
fn a_kubeconfig_that_cannot_be_used_is_a_condition() -> Result<()> {
    with_link("kubeconfigs", |link| async move {
        let good = link.child.kubeconfig()?;
        let address = link.child.node_address();
        with_kubeconfig(&link, "not: [a kubeconfig", "KubeconfigMalformed").await?;
        with_kubeconfig(
            &link,
            &good.replace(&address, "127.0.0.1"),
            "ServerIsLoopback",
        )
        .await?;
        let runs = good.replace("client-certificate-data:", "exec: {command: /bin/false, apiVersion: client.authentication.k8s.io/v1}, client-certificate-data:");
        ensure!(
            runs != good,
            "the kubeconfig has no client certificate to put exec before"
        );
        with_kubeconfig(&link, &runs, "KubeconfigRefused").await?;
        with_kubeconfig(&link, &link.region.kubeconfig()?, "WrongCluster").await
    })
}

#[test]
fn a_kubeconfig_that_is_gone_is_a_condition_and_comes_back() -> Result<()> {
    with_link("kubeconfig-gone", |link| async move {
        link.management
            .delete_secret(scenario::NAMESPACE, "child1-kubeconf")
            .await?;
        scenario::refused(
            &link.management,
            "child1",
            "Reachable",
            "KubeconfigMissing",
            SOON,
        )
        .await?;
        scenario::adopt(&link.management, &link.child).await?;
        link.whole().await
    })
}

#[test]
fn the_elder_of_two_that_claim_a_cluster_id_keeps_it() -> Result<()> {
    with_link("twins", |link| async move {
        let other = serde_json::json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "other" } });
        link.management.apply(&other.to_string()).await?;
        let twin = scenario::twin("other", "child1");
        link.management.apply(&twin).await?;
        let result = scenario::refused_in(
            &link.management,
            "other",
            "child1",
            ("Enrolled", "ClusterIdTaken"),
            SOON,
        )
        .await;
        let told = scenario::condition(
            &scenario::member(&link.management, "child1").await?,
            "Enrolled",
        );
        link.management.delete(&twin).await?;
        result?;
        ensure!(
            told.as_ref()
                .is_some_and(|(_, reason, _)| reason == "ClusterIdContested"),
            "the elder was not told: {told:?}"
        );
        link.whole().await
    })
}

#[test]
fn names_that_cannot_be_used_are_refused_before_anything_is_made() -> Result<()> {
    with_link("names", |link| async move {
        let long = "r".repeat(57);
        scenario::adopt(&link.management, &link.child).await?;
        scenario::deploy(&link.management, &long, scenario::REGION).await?;
        let message = scenario::refused(&link.management, &long, "Enrolled", "BadName", SOON).await;
        scenario::undeploy(&link.management, &long).await?;
        scenario::gone(&link.management, &long, SOON).await?;
        let message = message?;
        ensure!(message.contains("56"), "the limit is not named: {message}");
        Ok(())
    })
}

#[test]
fn a_foreign_service_of_the_regions_name_is_left_alone() -> Result<()> {
    with_link("foreign", |link| async move {
        scenario::undeploy(&link.management, "child1").await?;
        scenario::gone(&link.management, "child1", PODS).await?;
        let service = serde_json::json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "region1-vmauth", "namespace": "kof", "labels": { "theirs": "yes" } },
            "spec": { "ports": [{ "port": 80 }] },
        });
        link.child.apply(&service.to_string()).await?;
        scenario::deploy(&link.management, "child1", CHILD).await?;
        let message =
            scenario::refused(&link.management, "child1", "NamesReady", "NameTaken", PODS).await;
        let after = link
            .child
            .kubectl(&[
                "-n",
                "kof",
                "get",
                "service",
                "region1-vmauth",
                "-o",
                "json",
            ])
            .await?;
        link.child.delete(&service.to_string()).await?;
        let message = message?;
        ensure!(
            message.contains("region1-vmauth"),
            "the object is not named: {message}"
        );
        ensure!(
            after.contains("\"theirs\": \"yes\"") && !after.contains("kof-istio\""),
            "it was touched: {after}"
        );
        link.whole().await
    })
}

#[test]
fn a_member_where_we_may_do_nothing_says_so() -> Result<()> {
    with_link("no-rights", |link| async move {
        let kubeconfig = scenario::powerless_kubeconfig(&link.child).await?;
        scenario::set_kubeconfig(&link.management, "child1", &kubeconfig).await?;
        let message = scenario::refused_any(&link.management, "child1", &["Forbidden"], SOON).await;
        scenario::set_kubeconfig(&link.management, "child1", &link.child.kubeconfig()?).await?;
        let message = message?;
        ensure!(
            message.contains("namespaces") || message.contains("forbidden"),
            "{message}"
        );
        link.whole().await
    })
}
