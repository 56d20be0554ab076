//! A region that does not answer any more: told, taken away from whoever has another, and given back.
//!
//! Management calls two regions, the child calls one of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_api::member::Path;
use mesh_e2e::provider::Hurt;
use mesh_e2e::{Cluster, progress, scenario, wait_for};
use serde_json::json;

use crate::{Link, PODS, SOON, with_link};

/// How long a region is silent before it is dead.
const AFTER: Duration = Duration::from_secs(20);
/// How long it answers before it is back.
const BACK: Duration = Duration::from_secs(10);

/// What the mesh does about dead regions; none: as ever.
async fn decide(link: &Link, policy: Option<&str>) -> Result<()> {
    let seconds = |long: Duration| format!("{}s", long.as_secs());
    let wish = policy.map(
        |policy| json!({ "policy": policy, "after": seconds(AFTER), "returnAfter": seconds(BACK) }),
    );
    let change = json!({ "spec": { "deadPeer": wish } }).to_string();
    let args = ["patch", "mesh", "default", "--type=merge", "-p", &change];
    link.management.kubectl(&args).await.map(drop)
}

/// What a member's status says of its path to region1.
async fn path(link: &Link, member: &str) -> Result<Path> {
    let found = scenario::member(&link.management, member).await?;
    let paths = found.status.unwrap_or_default().paths;
    let mut paths = paths.into_iter().filter(|path| path.region == "region1");
    paths.next().context("no path to region1")
}

/// Waits until a member says of region1 what this finds right.
async fn told(
    link: &Link,
    member: &str,
    what: &str,
    right: impl Fn(&Path) -> bool + Send + Sync,
) -> Result<Path> {
    wait_for(
        &format!("{member}: region1 {what}"),
        AFTER + SOON,
        || async {
            let path = path(link, member).await?;
            Ok(if right(&path) {
                Ok(path)
            } else {
                Err(format!("{path:?}"))
            })
        },
    )
    .await
}

/// The addresses behind region1's name in a cluster.
async fn endpoints(cluster: &Cluster) -> Result<String> {
    let label = "kubernetes.io/service-name=region1-vmauth";
    let output = "jsonpath={.items[*].endpoints[*].addresses[*]}";
    let args = [
        "-n",
        "kof",
        "get",
        "endpointslices",
        "-l",
        label,
        "-o",
        output,
    ];
    let found = cluster.kubectl(&args).await?;
    Ok(found.trim().to_owned())
}

/// Waits until management was told this of region1 by an event.
async fn event(link: &Link, reason: &str) -> Result<()> {
    let selector = format!("reason={reason},involvedObject.name=management");
    let args = [
        "-n",
        scenario::home("management"),
        "get",
        "events",
        "--field-selector",
        &selector,
    ];
    wait_for(&format!("event {reason}"), SOON, || async {
        let found = link.management.kubectl(&args).await?;
        Ok(if found.contains("region1") {
            Ok(())
        } else {
            Err(found)
        })
    })
    .await
}

/// Does something while management asks region2 again and again; returns how often it was answered, which is always.
async fn beside<T>(link: &Link, work: impl Future<Output = Result<T>>) -> Result<(T, u32)> {
    let mut work = std::pin::pin!(work);
    let mut asked = 0;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok((done?, asked)),
            answer = scenario::query(&link.management, "region2", "1") => {
                answer.with_context(|| format!("region2, asked for the {}th time", asked + 1))?;
                asked += 1;
            }
        }
    }
}

#[test]
fn a_dead_region_is_marked_withdrawn_and_given_back_while_the_other_answers() -> Result<()> {
    with_link("dead", |link| async move {
        let mut fleet = link.fleet.clone();
        fleet.add(&["region2"]).await?;
        let second = fleet.cluster("region2")?.clone();
        let result = async {
            join(&link, &second).await?;
            Box::pin(dies(&link)).await
        }
        .await;
        let mended = link.region.mend(&Hurt::Partitioned).await;
        let decided = decide(&link, None).await;
        scenario::undeploy(&link.management, "region2").await?;
        let gone = scenario::gone(&link.management, "region2", PODS).await;
        fleet.remove(&["region2"]).await?;
        result?;
        mended?;
        decided?;
        gone?;
        link.whole().await
    })
}

/// The second region, as the first.
async fn join(link: &Link, second: &Cluster) -> Result<()> {
    second.load_images(&[scenario::product()?]).await?;
    scenario::install_storage(second).await?;
    scenario::adopt(&link.management, second).await?;
    scenario::deploy(&link.management, "region2", scenario::REGION).await?;
    scenario::ready(&link.management, "region2", PODS).await?;
    link.whole().await?;
    scenario::query(&link.management, "region2", "1")
        .await
        .map(drop)
}

async fn dies(link: &Link) -> Result<()> {
    decide(link, Some("mark")).await?;
    link.whole().await?;
    let before = endpoints(&link.management).await?;
    ensure!(!before.is_empty(), "there is nothing to take away");

    link.region.hurt(&Hurt::Partitioned).await?;
    let since = Instant::now();
    let ((), asked) = beside(link, marked(link)).await?;
    progress::step(format!(
        "marked after {:.0} s; region2 answered {asked} times",
        since.elapsed().as_secs_f64()
    ));
    ensure!(since.elapsed() >= AFTER, "marked too soon");
    ensure!(endpoints(&link.management).await? == before);

    decide(link, Some("withdraw")).await?;
    let ((), asked) = beside(link, withdrawn(link)).await?;
    progress::step(format!("withdrawn; region2 answered {asked} times"));
    ensure!(asked > 0, "region2 was never asked");

    link.region.mend(&Hurt::Partitioned).await?;
    let mended = Instant::now();
    let ((), asked) = beside(link, returned(link, &before)).await?;
    progress::step(format!(
        "given back {:.0} s after it was mended; region2 answered {asked} times",
        mended.elapsed().as_secs_f64()
    ));
    ensure!(mended.elapsed() >= BACK, "given back too soon");
    link.whole().await
}

async fn marked(link: &Link) -> Result<()> {
    for member in ["management", "child1"] {
        let path = told(link, member, "dead", |path| path.dead_since.is_some()).await?;
        ensure!(
            path.reason == "PeerDead" && path.ready == "False" && !path.withdrawn,
            "{member}: {path:?}"
        );
        ensure!(path.message.contains("stay"), "{member}: {path:?}");
    }
    scenario::refused(
        &link.management,
        "management",
        "PathsReady",
        "PeerDead",
        SOON,
    )
    .await?;
    event(link, "PeerDead").await
}

async fn withdrawn(link: &Link) -> Result<()> {
    told(link, "management", "withdrawn", |path| path.withdrawn).await?;
    event(link, "PeerWithdrawn").await?;
    wait_for("no endpoints of region1", SOON, || async {
        let left = endpoints(&link.management).await?;
        Ok(if left.is_empty() { Ok(()) } else { Err(left) })
    })
    .await?;
    // kube-proxy has seen that too, soon
    wait_for("a refusal instead of silence", SOON, || async {
        let answer = scenario::query(&link.management, "region1", "1").await;
        let answer = answer.map_err(|error| format!("{error:#}"));
        Ok(match answer {
            Err(why) if why.contains("connect: connection refused") => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })
    .await?;
    // The child has no other region.
    let path = path(link, "child1").await?;
    ensure!(
        path.dead_since.is_some() && !path.withdrawn && path.message.contains("no other region"),
        "child1: {path:?}"
    );
    ensure!(
        !endpoints(&link.child).await?.is_empty(),
        "the child lost it"
    );
    Ok(())
}

async fn returned(link: &Link, before: &str) -> Result<()> {
    wait_for("the endpoints of region1", PODS, || async {
        let now = endpoints(&link.management).await?;
        Ok(if now == before { Ok(()) } else { Err(now) })
    })
    .await?;
    event(link, "PeerReturned").await?;
    for member in ["management", "child1"] {
        told(link, member, "alive", |path| {
            path.dead_since.is_none() && path.ready == "True"
        })
        .await?;
    }
    wait_for("an answer of region1", SOON, || async {
        let answer = scenario::query(&link.management, "region1", "1").await;
        Ok(answer.map(drop).map_err(|e| format!("{e:#}")))
    })
    .await
}
