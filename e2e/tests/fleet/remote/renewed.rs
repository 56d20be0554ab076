//! Tokens are renewed in place, and nothing else is written.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_e2e::audit::{Mark, Write};
use mesh_e2e::{Cluster, progress, scenario};

use super::{READER, SECRET, endpoints, many, secret};
use crate::{Link, renewal, rest};

/// How far the clock of the controller, who decides what is due, is ahead: a token of ten minutes seems to have three left then.
const AHEAD: &str = "+7m";
/// How many renewals are waited for.
const RENEWALS: usize = 3;
/// How long they may take.
const LONG: Duration = Duration::from_mins(10);

/// Writes to the remote secret: its verb each.
fn to_secret(child: &Cluster, since: Mark) -> Result<Vec<String>> {
    let writes = child.audit_writes(since, |write| is_of(write, "secrets", "", SECRET))?;
    Ok(writes.into_iter().map(|write| write.verb).collect())
}

fn is_of(write: &Write, resource: &str, part: &str, name: &str) -> bool {
    let object = write.object_ref.as_ref();
    write.succeeded()
        && object.is_some_and(|o| o.resource == resource && o.subresource == part && o.name == name)
}

/// Tokens that were made of the reader's account.
fn tokens(region: &Cluster, since: Mark) -> Result<usize> {
    let made = region.audit_writes(since, |write| {
        is_of(write, "serviceaccounts", "token", READER)
    })?;
    Ok(made.len())
}

/// Nothing is written while nothing happens, and a controller that starts anew finds everything as it should be.
pub(super) async fn nothing_at_rest(link: &Link) -> Result<()> {
    rest::nothing_is_written(link).await?;
    let (child, region) = (link.child.audit_mark()?, link.region.audit_mark()?);
    renewal::restart(link).await?;
    link.whole().await?;
    tokio::time::sleep(Duration::from_secs(40)).await;
    let (written, made) = (
        to_secret(&link.child, child)?,
        tokens(&link.region, region)?,
    );
    ensure!(
        written.is_empty() && made == 0,
        "after a restart: {written:?}, {made} tokens"
    );
    Ok(())
}

/// How long the tokens live that are made from now on; those that are there stay as they are.
pub(super) async fn set_life(link: &Link, life: &str) -> Result<()> {
    let rules = serde_json::json!({ "remoteTokenLifetime": life });
    super::decide(link, &rules).await
}

/// When the token in the Secret was issued, and the Secret's UID.
async fn issued(link: &Link) -> Result<(String, Option<String>)> {
    let meta = secret(link).await?.metadata;
    let annotations = meta.annotations.unwrap_or_default();
    let at = annotations.get("mesh.kof.k0rdent.mirantis.com/token-issued");
    Ok((
        at.cloned().context("the Secret does not say when")?,
        meta.uid,
    ))
}

/// Several renewals, one token and one write each; no request is lost meanwhile, and istiod is never without endpoints.
pub(super) async fn in_place(link: &Link) -> Result<()> {
    let ahead = scenario::product_with_clock(&link.fleet, AHEAD)?;
    let plain = scenario::product()?;
    link.management.load_image_as(&ahead, &plain.name).await?;
    let (child, region) = (link.child.audit_mark()?, link.region.audit_mark()?);
    // one is due as soon as there is a controller whose clock says so
    let first = issued(link).await?;
    let result = async {
        renewal::restart(link).await?;
        polled(link, first).await
    }
    .await;
    // Counted before anything is put back.
    let (written, made) = (
        to_secret(&link.child, child)?,
        tokens(&link.region, region)?,
    );
    link.management.load_image_as(&plain, &plain.name).await?;
    renewal::restart(link).await?;
    link.whole().await?;
    let renewals = result?;
    ensure!(
        written.iter().all(|verb| verb == "patch"),
        "the Secret was not only patched: {written:?}"
    );
    ensure!(
        written.len() == renewals && made == renewals,
        "{renewals} renewals, {} writes, {made} tokens",
        written.len()
    );
    Ok(())
}

async fn polled(link: &Link, first: (String, Option<String>)) -> Result<usize> {
    let (mut last, uid) = first;
    let started = Instant::now();
    let (mut renewals, mut asked, mut looks, mut after) = (0, 0_u32, 0_u32, 0_u32);
    let mut failures: Vec<String> = Vec::new();
    // beyond the last one too, so that what breaks afterwards is seen
    while renewals < RENEWALS || after < 20 {
        ensure!(
            started.elapsed() < LONG,
            "{renewals} renewals in {:?}",
            started.elapsed()
        );
        failures.extend(many(link).await?);
        asked += 20;
        looks += 1;
        ensure!(
            endpoints(link).await?,
            "istiod has no endpoint of the region, after {renewals} renewals"
        );
        let (now, is) = issued(link).await?;
        ensure!(is == uid, "another Secret stands there");
        if now != last {
            renewals += 1;
            after = 0;
            progress::step(format!(
                "renewal {renewals} after {:.0} s",
                started.elapsed().as_secs_f64()
            ));
        }
        after += 1;
        last = now;
    }
    ensure!(failures.is_empty(), "of {asked} requests: {failures:#?}");
    progress::step(format!(
        "{renewals} renewals in {:.0} s: {asked} requests, {looks} looks at istiod's endpoints, nothing lost",
        started.elapsed().as_secs_f64()
    ));
    Ok(renewals)
}
