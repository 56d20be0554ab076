//! Istio leaves a cluster, with everything that Helm does not take away.

use anyhow::Result;

use super::{GATEWAY, NAMESPACE};
use crate::Cluster;

/// CRDs of the Gateway API in Istio's source.
pub(super) const GATEWAY_API: &str = "tests/integration/pilot/testdata/gateway-api-crd.yaml";

/// Releases, in the order of their removal.
const RELEASES: [&str; 3] = [GATEWAY, "istiod", "istio-base"];
const WEBHOOKS: &str = "validatingwebhookconfigurations,mutatingwebhookconfigurations";
/// Endings of the names of CRDs that come with Istio.
const CRDS: [&str; 3] = [
    ".istio.io",
    ".gateway.networking.k8s.io",
    ".gateway.networking.x-k8s.io",
];

/// Removes all of it, also where only a part is there. Pods that have a sidecar keep it: [`super::eject`] them first.
pub async fn remove(cluster: &Cluster) -> Result<()> {
    // refuse things when nobody answers them any more; istiod makes one that the chart does not know
    each(cluster, &[], WEBHOOKS, |name| name.contains("/istio")).await?;
    let crds = cluster.kubectl(&["get", "crd", "-o", "name"]).await?;
    let ours = |name: &str| CRDS.iter().any(|ending| name.ends_with(ending));
    let crds: Vec<&str> = crds.lines().filter(|n| ours(n)).collect();
    // while istiod is there to see it: what it made for them goes with them
    if crds
        .iter()
        .any(|n| n.ends_with("/gateways.gateway.networking.k8s.io"))
    {
        let all = [
            "delete",
            "gateways.gateway.networking.k8s.io",
            "-A",
            "--all",
        ];
        cluster.kubectl(&all).await?;
    }
    for release in RELEASES {
        let args = [
            "uninstall",
            release,
            "-n",
            NAMESPACE,
            "--ignore-not-found",
            "--wait",
        ];
        cluster.helm(&args).await?;
    }
    each(cluster, &[], WEBHOOKS, |name| name.contains("/istio")).await?;
    if !crds.is_empty() {
        let args = [&["delete", "--timeout=60s"], crds.as_slice()].concat();
        cluster.kubectl(&args).await?;
    }
    let policies = "validatingadmissionpolicybindings,validatingadmissionpolicies";
    each(cluster, &[], policies, |name| {
        name.ends_with(".gateway.networking.k8s.io")
    })
    .await?;
    // what istiod writes by itself
    let inside = ["-n", NAMESPACE];
    each(cluster, &inside, "configmaps,leases", |name| {
        name.contains("/istio-") && !name.contains("/istio-ca-")
    })
    .await?;
    each(cluster, &inside, "secrets", |name| {
        name.ends_with("/istio-ca-secret")
    })
    .await?;
    let roots = "istio.io/config=true,app.kubernetes.io/managed-by!=kof-istio";
    let args = ["delete", "configmaps", "-A", "-l", roots];
    cluster.kubectl(&args).await.map(drop)
}

/// Deletes the objects of these kinds whose names (`kind/name`) are meant.
async fn each(
    cluster: &Cluster,
    place: &[&str],
    kinds: &str,
    meant: impl Fn(&str) -> bool + Send,
) -> Result<()> {
    let named = cluster
        .kubectl(&[place, &["get", kinds, "-o", "name"]].concat())
        .await?;
    let found: Vec<&str> = named.lines().filter(|n| meant(n)).collect();
    if found.is_empty() {
        return Ok(());
    }
    let args = [place, &["delete", "--ignore-not-found"], found.as_slice()].concat();
    cluster.kubectl(&args).await.map(drop)
}
