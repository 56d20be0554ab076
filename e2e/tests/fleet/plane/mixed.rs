//! Members of the two planes in one mesh, and members that leave.

use anyhow::{Result, ensure};
use mesh_e2e::istio::{self, Programs};
use mesh_e2e::provider::Hurt;
use mesh_e2e::{Cluster, progress, scenario, wait_for};

use super::{QUERY, ask, carry, install, ours, passes};
use crate::{Link, PODS, SOON};

/// Management and child are in the Istio plane, the region is not: their sidecars lead to its Envoy by way of ours.
pub(super) async fn callers_with_sidecars(link: &Link, programs: &Programs) -> Result<()> {
    for cluster in [&link.management, &link.child] {
        carry(&link.management, cluster.name(), "istio").await?;
        install(cluster, programs, &[]).await?;
        istio::inject(cluster).await?;
    }
    istio::clients(&link.child).await?;
    link.whole().await?;
    for client in ["asker", "plain", "host"] {
        let seen = ask(
            &link.child,
            client,
            &format!("http://region1-vmauth:8427{QUERY}"),
        )
        .await;
        ensure!(
            seen.contains("200 OK"),
            "{client} asks a region of the other plane: {seen}"
        );
    }
    passes::stored(link).await
}

/// The region follows, with a gateway that istiod makes of a Gateway of the Gateway API.
pub(super) async fn everybody(link: &Link, programs: &Programs) -> Result<()> {
    let change = r#"{"spec":{"istio":{"gateway":"gatewayApi"}}}"#;
    let args = ["patch", "mesh", "default", "--type=merge", "-p", change];
    link.management.kubectl(&args).await?;
    carry(&link.management, "region1", "istio").await?;
    install(&link.region, programs, &[]).await?;
    istio::install_gateway_api(&link.region, programs).await?;
    istio::inject(&link.region).await?;
    link.whole().await?;
    passes::stored(link).await?;
    // who called is the account of the pod, in management too
    let parts = [
        passes::SNI,
        "peer=spiffe://mesh.kof.internal/ns/kof/sa/default",
        "path=/vm/select/0/prometheus/api/v1/query",
        "code=200",
    ];
    super::logged(link, &parts).await?;
    let path = "jsonpath={.status.gateway}";
    let args = [
        "-n",
        scenario::NAMESPACE,
        "get",
        "meshmember",
        "region1",
        "-o",
        path,
    ];
    let said = link.management.kubectl(&args).await?;
    let made = link
        .region
        .load_balancer(istio::NAMESPACE, "mesh-eastwest-istio", SOON)
        .await?;
    ensure!(
        said == format!("{made}:15443"),
        "status says {said}, istiod's gateway is at {made}"
    );
    Ok(())
}

/// A child of the Istio plane loses its label, and then everything of ours.
pub(super) async fn leaving(link: &Link) -> Result<()> {
    scenario::unlabel(&link.management, "child1").await?;
    scenario::gone(&link.management, "child1", PODS).await?;
    let left = ours(&link.child).await?;
    ensure!(left.is_empty(), "left in the child: {left:?}");
    // not the one for injection on namespace kof: `inject` of the tests says it too, so it is not ours alone
    let path = "jsonpath={.metadata.labels.topology\\.istio\\.io/network}";
    let args = ["get", "namespace", istio::NAMESPACE, "-o", path];
    let network = link.child.kubectl(&args).await?;
    ensure!(
        network.trim().is_empty(),
        "the network's label is left: {network}"
    );
    let policies = policies(&link.region).await?;
    ensure!(
        !policies.contains("mesh-gateway.child1"),
        "the region still knows the child: {policies}"
    );
    scenario::deploy(&link.management, "child1", scenario::CHILD).await?;
    carry_when_there(link).await?;
    link.whole().await
}

/// Its API server hangs, so nobody can clean up there: the region forgets it at once all the same.
pub(super) async fn leaving_unseen(link: &Link) -> Result<()> {
    let frozen = Hurt::Frozen("kube-apiserver".to_owned());
    let before = policies(&link.region).await?;
    ensure!(before.contains("mesh-gateway.child1"), "{before}");
    link.child.hurt(&frozen).await?;
    let work = async {
        scenario::refused_any(&link.management, "child1", &["Timeout"], SOON).await?;
        scenario::unlabel(&link.management, "child1").await?;
        wait_for("the region to forget the child", SOON, || async {
            let now = policies(&link.region).await?;
            Ok(if now.contains("mesh-gateway.child1") {
                Err("a policy names it".to_owned())
            } else {
                Ok(())
            })
        })
        .await?;
        scenario::force(&link.management, "child1").await?;
        scenario::gone(&link.management, "child1", SOON).await
    }
    .await;
    link.child.mend(&frozen).await?;
    scenario::deploy(&link.management, "child1", scenario::CHILD).await?;
    work?;
    carry_when_there(link).await?;
    link.whole().await?;
    progress::step("the child left unseen, and is back");
    Ok(())
}

/// The child was made anew: what was said of the one before went with it.
async fn carry_when_there(link: &Link) -> Result<()> {
    // It was left to the istiod that signs with it, and is nobody's now: whoever brings the member back takes it away (docs/certificates.md).
    let args = ["-n", istio::NAMESPACE, "delete", "secret", "cacerts"];
    link.child
        .kubectl(&[&args, &["--ignore-not-found"][..]].concat())
        .await?;
    wait_for("the child to be a member again", SOON, || async {
        Ok(scenario::member(&link.management, "child1")
            .await
            .map(drop)
            .map_err(|e| format!("{e:#}")))
    })
    .await?;
    carry(&link.management, "child1", "istio").await
}

/// What the region says of who may come in.
async fn policies(region: &Cluster) -> Result<String> {
    let args = [
        "-n",
        "kof",
        "get",
        "authorizationpolicies",
        "-l",
        "app.kubernetes.io/managed-by=kof-istio",
        "-o",
        "jsonpath={.items[*].spec}",
    ];
    region.kubectl(&args).await
}
