//! Discovery by remote secrets: the child's real istiod reads the region's API server, with a token that is renewed in place.

mod renewed;
mod rights;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use mesh_e2e::istio::{self, Programs};
use mesh_e2e::provider::Hurt;
use mesh_e2e::{Cluster, progress, scenario, wait_for};
use serde_json::{Value, json};

use crate::plane::{self, ours};
use crate::{Link, PODS, SOON};

/// What the region's storage answers everybody who may ask.
const URL: &str = "http://region1-vmauth:8427/vm/select/0/prometheus/api/v1/query?query=1";
/// The Secret by which the child's istiod reads the region.
const SECRET: &str = "mesh-remote-region1";
/// The account in the region that it reads as.
const READER: &str = "mesh-reader-child1";
/// The switch that ends istiod 1.31 once it reads another cluster.
const NO_SECRETS: (&str, &str) = ("PILOT_ENABLE_REMOTE_CREDENTIALS_CONTROLLER", "false");
/// How long istiod waits for a region that does not answer, and how long the agent watches that before it tells.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Region and child in the Istio plane with remote secrets; everything back as it was afterwards.
fn with_remotes<Fut>(name: &str, test: impl FnOnce(Link) -> Fut + Send) -> Result<()>
where
    Fut: Future<Output = Result<()>> + Send,
{
    plane::with_istio(name, |link, programs| async move {
        let result = async {
            Box::pin(join(&link, &programs)).await?;
            test(link.clone()).await
        }
        .await;
        if result.is_err() {
            explain(&link).await;
        }
        result
    })
}

async fn explain(link: &Link) {
    let members = ["get", "meshmembers", "-A", "-o", "wide"];
    progress::step(link.management.kubectl(&members).await.unwrap_or_default());
    let known = istio::debug(&link.child, "/debug/clusterz").await;
    progress::step(format!("{known:?}"));
    let agent = [
        "-n",
        "istio-system",
        "get",
        "meshagent",
        "mesh",
        "-o",
        "jsonpath={.status.replicas}",
    ];
    progress::step(link.child.kubectl(&agent).await.unwrap_or_default());
}

async fn join(link: &Link, programs: &Programs) -> Result<()> {
    let rules = json!({ "discovery": "remoteSecrets", "remoteTokenLifetime": "1h" });
    decide(link, &rules).await?;
    for cluster in [&link.region, &link.child] {
        plane::carry(&link.management, cluster.name(), "istio").await?;
    }
    plane::install(&link.region, programs, &[]).await?;
    plane::install(&link.child, programs, &[NO_SECRETS]).await?;
    istio::install_gateway(&link.region, programs, "region1-network").await?;
    for cluster in [&link.region, &link.child] {
        istio::inject(cluster).await?;
        istio::clients(cluster).await?;
    }
    withheld(link, "IstiodWouldCrash").await?;
    plane::install(&link.child, programs, &[]).await?;
    withheld(link, "RemoteReaderTooSmall").await?;
    decide(link, &json!({ "remoteReadSecrets": true })).await?;
    link.whole().await
}

/// What the mesh says about Istio.
async fn decide(link: &Link, rules: &Value) -> Result<()> {
    let change = json!({ "spec": { "istio": rules } }).to_string();
    let args = ["patch", "mesh", "default", "--type=merge", "-p", &change];
    link.management.kubectl(&args).await.map(drop)
}

/// What would harm the child's istiod is said and not given to it.
async fn withheld(link: &Link, reason: &str) -> Result<()> {
    let kind = "DiscoveryReady";
    let why = scenario::refused(&link.management, "child1", kind, reason, SOON).await?;
    progress::step(&why);
    let found = plane::remote_secrets(&link.child).await?;
    ensure!(found.is_empty(), "the child has {found:?}");
    Ok(())
}

/// The clusters that an istiod knows, with the Secret that each comes from and its state.
async fn known(cluster: &Cluster) -> Result<BTreeMap<String, (String, String)>> {
    let said = istio::debug(cluster, "/debug/clusterz").await?;
    let text = |entry: &Value, name: &str| {
        entry
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let entries = said.as_array().into_iter().flatten();
    let read = entries.map(|entry| {
        (
            text(entry, "id"),
            (text(entry, "secretName"), text(entry, "syncStatus")),
        )
    });
    Ok(read.collect())
}

/// Waits until the child's istiod reads the region by our Secret.
async fn synced(link: &Link) -> Result<()> {
    let wanted = (format!("istio-system/{SECRET}"), "synced".to_owned());
    wait_for("the child's istiod to read the region", SOON, || async {
        let known = known(&link.child).await?;
        Ok(if known.get("region1") == Some(&wanted) {
            Ok(())
        } else {
            Err(format!("{known:?}"))
        })
    })
    .await
}

/// Whether the child's istiod has endpoints of the region's service that come from the region's API server.
async fn endpoints(link: &Link) -> Result<bool> {
    let said = istio::debug(&link.child, "/debug/endpointz").await?;
    let shards =
        said.pointer("/region1-vmauth.kof.svc.cluster.local/kof/Shards/Kubernetes~1region1");
    Ok(shards
        .and_then(Value::as_array)
        .is_some_and(|found| !found.is_empty()))
}

/// Twenty requests from a pod with a sidecar, each over a connection of its own; says what went wrong.
async fn many(link: &Link) -> Result<Option<String>> {
    let command = [
        "sh",
        "-c",
        "fetch many -n 20 \"$1\" 2>&1; true",
        "fetch",
        URL,
    ];
    let seen = link
        .child
        .exec_in("kof", "deploy/asker", "shell", &command)
        .await?;
    Ok((!seen.contains(" failed=0 ")).then(|| seen.trim().to_owned()))
}

async fn works(link: &Link) -> Result<()> {
    wait_for("requests to come through", SOON, || async {
        Ok(many(link).await?.map_or(Ok(()), Err))
    })
    .await
}

async fn secret(link: &Link) -> Result<Secret> {
    let secrets: Api<Secret> = Api::namespaced(link.child.client(), "istio-system");
    secrets
        .get(SECRET)
        .await
        .context("failed to get the remote secret")
}

/// The child's istiod reads the region, nobody else reads anybody, and no entry is needed.
async fn reads(link: &Link) -> Result<()> {
    synced(link).await?;
    works(link).await?;
    ensure!(endpoints(link).await?, "no endpoint of the region");
    let there = known(&link.region).await?;
    ensure!(there.len() == 1, "the region's istiod knows {there:?}");
    let path = ["-n", "kof", "get", "workloadentries", "-o", "name"];
    let entries = link.child.kubectl(&path).await?;
    ensure!(entries.trim().is_empty(), "entries: {entries}");
    for cluster in [&link.region, &link.management] {
        let found = plane::remote_secrets(cluster).await?;
        ensure!(found.is_empty(), "{} has {found:?}", cluster.name());
    }
    // The agents ask istiod themselves.
    let synced = r#""region":"region1","state":"synced""#;
    plane::agents_say(&link.child, synced, SOON).await
}

/// Somebody deletes the Secret, and then the account; both are made anew, and the token is of the new account.
async fn healed(link: &Link) -> Result<()> {
    let before = secret(link).await?.metadata.uid;
    link.child.delete_secret("istio-system", SECRET).await?;
    let anew = |uid: Option<String>| uid.is_some() && uid != before;
    wait_for("another remote secret", SOON, || async {
        let found = secret(link).await.map_err(|e| format!("{e:#}"));
        Ok(found.and_then(|found| {
            let uid = found.metadata.uid;
            if anew(uid.clone()) {
                Ok(())
            } else {
                Err(format!("{uid:?}"))
            }
        }))
    })
    .await?;
    synced(link).await?;
    works(link).await?;
    let path = "jsonpath={.metadata.uid}";
    let get = [
        "-n",
        "istio-system",
        "get",
        "serviceaccount",
        READER,
        "-o",
        path,
    ];
    let account = link.region.kubectl(&get).await?;
    let delete = ["-n", "istio-system", "delete", "serviceaccount", READER];
    link.region.kubectl(&delete).await?;
    wait_for("a token of another account", PODS, || async {
        let found = secret(link).await?;
        let of = "mesh.kof.k0rdent.mirantis.com/remote-reader";
        let of = found.metadata.annotations.unwrap_or_default().remove(of);
        Ok(match of {
            Some(uid) if uid != account => Ok(()),
            other => Err(format!("the token is of {other:?}")),
        })
    })
    .await?;
    synced(link).await?;
    works(link).await?;
    link.whole().await
}

/// A second Secret for the same cluster, as Istio's own tool makes it, is said, named, and left alone.
async fn collision(link: &Link) -> Result<()> {
    let name = "istio-remote-secret-region1";
    let foreign = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": name, "namespace": "istio-system", "labels": { "istio/multiCluster": "true" },
            "annotations": { "networking.istio.io/cluster": "region1" },
        },
        "stringData": { "region1": "apiVersion: v1\nkind: Config\n" },
    });
    link.child.apply(&foreign.to_string()).await?;
    let why = scenario::refused(
        &link.management,
        "child1",
        "DiscoveryReady",
        "RemoteSecretForeign",
        SOON,
    )
    .await;
    let works = works(link).await;
    link.child.delete_secret("istio-system", name).await?;
    let why = why?;
    ensure!(why.contains(name), "{why}");
    works?;
    link.whole().await
}

/// The region is labelled with the network of the child: istiod would call pods of one from the other.
async fn network_twice(link: &Link) -> Result<()> {
    let label = async |value: &str| {
        let label = format!("topology.istio.io/network{value}");
        let args = ["label", "namespace", "istio-system", &label, "--overwrite"];
        link.region.kubectl(&args).await
    };
    label("=child1-network").await?;
    let kind = "DiscoveryReady";
    let why = "RemoteNetworkTwice";
    let why = scenario::refused(&link.management, "child1", kind, why, SOON).await;
    label("-").await?;
    progress::step(why?);
    link.whole().await?;
    works(link).await
}

/// The region's API server hangs while the child's istiod starts: it gives the region up, and that is said, with an event. It is
/// what discovery `static` is for.
async fn given_up(link: &Link) -> Result<()> {
    let frozen = Hurt::Frozen("kube-apiserver".to_owned());
    link.region.hurt(&frozen).await?;
    let seen = async {
        works(link).await?;
        let restart = [
            "-n",
            "istio-system",
            "rollout",
            "restart",
            "deployment/istiod",
        ];
        link.child.kubectl(&restart).await?;
        let why = scenario::refused(
            &link.management,
            "child1",
            "DiscoveryReady",
            "RemoteNotSynced",
            2 * TIMEOUT,
        )
        .await?;
        ensure!(why.contains("region1") && why.contains(SECRET), "{why}");
        let field = "involvedObject.name=child1,reason=RemoteNotSynced";
        let args = [
            "get",
            "events",
            "-A",
            "--field-selector",
            field,
            "-o",
            "name",
        ];
        wait_for("an event", SOON, || async {
            let found = link.management.kubectl(&args).await?;
            Ok(if found.trim().is_empty() {
                Err("none")
            } else {
                Ok(())
            })
        })
        .await?;
        anyhow::Ok(many(link).await?)
    }
    .await;
    link.region.mend(&frozen).await?;
    let meanwhile = seen?;
    progress::step(format!(
        "without the region's API server, after a restart of istiod: {meanwhile:?}"
    ));
    wait_for("istiod to read the region again", TIMEOUT, || async {
        Ok(synced(link).await.map_err(|e| format!("{e:#}")))
    })
    .await?;
    works(link).await?;
    link.whole().await
}

/// The child leaves while remote secrets are in use.
async fn left(link: &Link) -> Result<()> {
    scenario::unlabel(&link.management, "child1").await?;
    scenario::gone(&link.management, "child1", PODS).await?;
    let found = ours(&link.child).await?;
    ensure!(found.is_empty(), "left in the child: {found:?}");
    wait_for("the region to forget the reader", SOON, || async {
        let found = ours(&link.region).await?;
        let readers: Vec<String> = found
            .into_iter()
            .filter(|name| name.contains("mesh-reader"))
            .collect();
        Ok(if readers.is_empty() {
            Ok(())
        } else {
            Err(readers.join(" "))
        })
    })
    .await?;
    scenario::deploy(&link.management, "child1", scenario::CHILD).await?;
    wait_for("the child to be a member again", SOON, || async {
        let found = scenario::member(&link.management, "child1").await;
        Ok(found.map(drop).map_err(|e| format!("{e:#}")))
    })
    .await
}

// By hand: `cargo test --workspace --test fleet -- --ignored remote::`.
#[test]
#[ignore = "waits for tokens of ten minutes to be renewed"]
fn istiod_reads_regions_by_tokens_that_are_renewed_in_place() -> Result<()> {
    with_remotes("remote", |link| async move {
        reads(&link).await?;
        rights::of_the_token(&link).await?;
        renewed::nothing_at_rest(&link).await?;
        collision(&link).await?;
        network_twice(&link).await?;
        Box::pin(given_up(&link)).await?;
        renewed::set_life(&link, "10m").await?;
        healed(&link).await?;
        // last: its tokens are dated ahead
        Box::pin(renewed::in_place(&link)).await?;
        left(&link).await
    })
}
