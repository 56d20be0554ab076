//! An intermediate grows old and the next takes its place, while new connections are made all the time.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use mesh_api::mesh::Mesh;
use mesh_e2e::{Cluster, progress, scenario, wait_for, x509};
use serde_json::{Value, json};

use crate::{Link, PODS, SOON, with_link};

/// How long an intermediate and a leaf live by default.
pub(crate) const USUAL: (&str, &str) = ("365d", "24h");
/// Kubernetes grants no request for less.
const SHORT: (&str, &str) = ("10m", "10m");
/// Two thirds of [`SHORT`] and a little.
const LATER: &str = "+7m";

#[test]
fn an_intermediate_is_renewed_by_age_without_a_lost_connection() -> Result<()> {
    with_link("old-age", |link| async move {
        let result = old_age(&link).await;
        let mended = mend(&link).await;
        result?;
        mended?;
        link.whole().await
    })
}

/// The right clock, the usual lives, and a member that nothing is due for.
async fn mend(link: &Link) -> Result<()> {
    let plain = scenario::product()?;
    link.management.load_image_as(&plain, &plain.name).await?;
    set_life(&link.management, USUAL).await?;
    restart(link).await?;
    again(link).await
}

async fn old_age(link: &Link) -> Result<()> {
    set_life(&link.management, SHORT).await?;
    again(link).await?;
    let first = scenario::ready(&link.management, "child1", PODS).await?;
    let first = first.status.context("no status")?;
    let young = first.intermediates.first().context("no intermediate")?;
    let signs = first.signer_generation.unwrap_or(1);
    ensure!(
        young.generation == signs,
        "{} is prepared",
        young.generation
    );

    // Nobody waits for seven minutes: the controller, who decides what is due, is seven minutes ahead.
    let ahead = scenario::product_with_clock(&link.fleet, LATER)?;
    let plain = scenario::product()?;
    link.management.load_image_as(&ahead, &plain.name).await?;
    restart(link).await?;
    let started = Instant::now();
    let (mut asked, mut lost, mut waits) = (0_u32, Vec::new(), Vec::new());
    let renewed = wait_for("a leaf below the next generation", PODS, || async {
        let member = scenario::member(&link.management, "child1").await?;
        let waiting = scenario::condition(&member, "IntermediateReady");
        let signs_now = member.status.and_then(|s| s.signer_generation);
        let chain = leaf_chain(link).await?;
        Ok(if signs_now > Some(signs) && chain > signs {
            Ok(())
        } else {
            Err(format!(
                "signs with {signs_now:?}, leaf below generation {chain}, {waiting:?}"
            ))
        })
    });
    let traffic = async {
        // far beyond the switch, so that what breaks afterwards is seen too
        let mut after = 0;
        while after <= 5 {
            ensure!(started.elapsed() < 2 * PODS, "too late to count beyond it");
            let (count, failed) = many(link).await?;
            asked += count;
            lost.extend(failed);
            let member = scenario::member(&link.management, "child1").await?;
            let reason = scenario::condition(&member, "IntermediateReady").map(|c| c.1);
            if waits.last() != Some(&reason) {
                waits.push(reason);
            }
            if member.status.and_then(|s| s.signer_generation) > Some(signs) {
                after += 1;
            }
        }
        anyhow::Ok(())
    };
    let (renewed, counted) = tokio::join!(renewed, traffic);
    renewed?;
    counted?;
    progress::step(format!(
        "{asked} new connections in {:.0} s over a renewal, lost {lost:?}; IntermediateReady was {waits:?}",
        started.elapsed().as_secs_f64()
    ));
    ensure!(lost.is_empty(), "of {asked} new connections: {lost:#?}");
    // The old key signed leaves that are alive: the ledger keeps it.
    let keys = keys(link).await?;
    for generation in [signs, signs + 1] {
        let entry = format!("g{generation}.key");
        ensure!(keys.contains(&entry), "no {entry} among {keys:?}");
    }
    Ok(())
}

/// Sends requests from the child to its region, each over connections of its own; how many, and what went wrong.
async fn many(link: &Link) -> Result<(u32, Option<String>)> {
    let url = "http://region1-vmauth:8427/vm/select/0/prometheus/api/v1/query?query=1";
    let command = ["fetch", "many", "-n", "50", url];
    let seen = link.child.exec("kof", "deploy/client", &command).await?;
    Ok((
        50,
        (!seen.contains(" failed=0 ")).then(|| seen.trim().to_owned()),
    ))
}

/// Which generation signed the leaf that the child's Envoy shows, by the CA's name.
async fn leaf_chain(link: &Link) -> Result<u32> {
    let path = "config_dump?resource=dynamic_active_secrets&mask=secret.tls_certificate";
    let dump: Value = serde_json::from_str(&scenario::envoy(&link.child, path).await?)?;
    let configs = dump.get("configs").and_then(Value::as_array);
    let mut chains = configs.into_iter().flatten().filter_map(|config| {
        config
            .pointer("/secret/tls_certificate/certificate_chain/inline_string")?
            .as_str()
    });
    let text = x509::text(chains.next().context("Envoy has no certificate")?)?;
    text.lines()
        .find(|l| l.trim_start().starts_with("Issuer:"))
        .and_then(|l| l.split_once("intermediate g")?.1.split_whitespace().next())
        .and_then(|generation| generation.parse().ok())
        .with_context(|| format!("no generation in the issuer of {text}"))
}

/// Keys of intermediates that the child keeps.
async fn keys(link: &Link) -> Result<Vec<String>> {
    let secrets: Api<Secret> = Api::namespaced(link.child.client(), "istio-system");
    let secret = secrets.get("mesh-intermediate").await?;
    Ok(secret.data.unwrap_or_default().into_keys().collect())
}

/// Takes the child out of the mesh and puts it in again: it gets another intermediate.
async fn again(link: &Link) -> Result<()> {
    link.move_child(None).await?;
    scenario::ready(&link.management, "child1", PODS)
        .await
        .map(drop)
}

/// Sets how long intermediates, and leaves below them, live in the default mesh.
pub(crate) async fn set_life(
    management: &Cluster,
    (intermediate, leaf): (&str, &str),
) -> Result<()> {
    let api: Api<Mesh> = Api::all(management.client());
    let lives = json!({ "intermediate": intermediate, "leaf": leaf });
    let change = json!({ "spec": { "lifetimes": lives } });
    api.patch("default", &PatchParams::default(), &Patch::Merge(change))
        .await?;
    Ok(())
}

/// Both controllers anew, as the image they are made from has changed under its name.
pub(crate) async fn restart(link: &Link) -> Result<()> {
    link.management
        .kill_pods("istio-system", "app=mesh-controller")
        .await?;
    let status = [
        "-n",
        "istio-system",
        "rollout",
        "status",
        "deployment/mesh-controller",
        "--timeout=60s",
    ];
    wait_for("new controllers", SOON, || async {
        Ok(link
            .management
            .kubectl(&status)
            .await
            .map_err(|e| format!("{e:#}")))
    })
    .await
    .map(drop)
}
