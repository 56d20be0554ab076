//! Two agents issue; whatever happens to one of them, the ledger in the member's own API covers every leaf that was seen.

use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use mesh_api::agent::MeshAgentStatus;
use mesh_e2e::issuance::{Issuer, Wish};
use mesh_e2e::{progress, wait_for, x509};
use serde_json::json;

use super::{NAMESPACE, Workloads, mesh_agent, with_workloads};
use crate::PODS;

/// A leaf that was handed out.
#[derive(Clone, Debug)]
struct Leaf {
    /// The pod that did.
    by: String,
    serial: String,
    until: Timestamp,
}

/// Asks one agent for certificates of an account.
struct Asker<'a> {
    w: &'a Workloads,
    account: &'a str,
    token: String,
}

impl Asker<'_> {
    async fn one(&self, by: &str, issuer: &Issuer, seconds: i64) -> Result<Leaf> {
        let san = format!(
            "subjectAltName=critical,URI:spiffe://{}/ns/{NAMESPACE}/sa/{}",
            self.w.trust_domain, self.account
        );
        let csr = x509::request(&[&san])?;
        let wish = Wish {
            token: Some(&self.token),
            csr: &csr,
            seconds,
            impersonated: None,
        };
        let chain = issuer.create(&wish).await?;
        let leaf = chain.first().context("no leaf")?;
        Ok(Leaf {
            by: by.to_owned(),
            serial: x509::serial(leaf)?,
            until: x509::not_after(leaf)?,
        })
    }
}

/// Every leaf is covered by the ledger of some pod, dead or alive; says which is not.
fn covered(status: &MeshAgentStatus, signer: u32, leaves: &[Leaf]) -> Result<()> {
    for leaf in leaves {
        let lines = status.replicas.iter().flat_map(|r| &r.ledger);
        let covering = lines.filter(|l| l.signer == signer).any(|l| {
            l.until
                .parse::<Timestamp>()
                .is_ok_and(|until| until >= leaf.until)
        });
        ensure!(
            covering,
            "{leaf:?} is not covered by {:#?}",
            status
                .replicas
                .iter()
                .map(|r| (&r.pod, &r.ledger))
                .collect::<Vec<_>>()
        );
    }
    Ok(())
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn the_ledger_covers_every_leaf_also_of_an_agent_that_was_killed() -> Result<()> {
    let options = json!({ "issuer": "agent", "lifetime": "10m", "maxLifetime": "24h" });
    with_workloads("ledger", options, |w| async move {
        w.child().apply(&super::idle("app", None)).await?;
        let asker = Asker {
            w: &w,
            account: "app",
            token: w.token("app", "istio-ca", Some("app")).await?,
        };
        let issuers = w.issuers().await?;
        let mut leaves = Vec::new();
        for round in 0..10 {
            for (pod, issuer) in &issuers {
                leaves.push(asker.one(pod, issuer, 600 + round).await?);
                // now, not later: it is written before the leaf leaves the agent
                let found = mesh_agent(w.child()).await?;
                let status = found.status.context("no status")?;
                covered(&status, found.spec.signer_generation, &leaves)?;
            }
        }

        // One of the two is killed while both issue; its leaves live longest, so that no other line can stand for its own.
        let nanos = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)?
            .subsec_nanos();
        let at = usize::try_from(nanos)? % issuers.len();
        let (victim, issuer) = issuers.get(at).context("no victim")?;
        let kill = async {
            let started = Instant::now();
            let delay = std::time::Duration::from_millis(u64::from(nanos % 1000) + 200);
            tokio::time::sleep(delay).await;
            let args = [
                "-n",
                "istio-system",
                "delete",
                "pod",
                victim,
                "--force",
                "--grace-period=0",
            ];
            w.child().kubectl(&args).await?;
            anyhow::Ok(started.elapsed())
        };
        let issue = async {
            let mut seen = Vec::new();
            let started = Instant::now();
            while started.elapsed() < PODS {
                match asker
                    .one(victim, issuer, 7200 + i64::try_from(seen.len())? * 60)
                    .await
                {
                    Ok(leaf) => seen.push(leaf),
                    // it is dead
                    Err(error) => return Ok((seen, format!("{error:#}"))),
                }
            }
            anyhow::bail!("{victim} was killed and went on issuing")
        };
        let (died, outcome) = futures::future::join(kill, issue).await;
        let (seen, last) = outcome?;
        progress::step(format!(
            "{victim} killed after {:.1} s and {} leaves of two hours; then: {last}",
            died?.as_secs_f64(),
            seen.len()
        ));
        ensure!(!seen.is_empty(), "it issued nothing before it was killed");
        leaves.extend(seen);

        // its successor issues, and what the dead one promised still stands
        for (pod, issuer) in &w.issuers().await? {
            leaves.push(asker.one(pod, issuer, 600).await?);
        }
        let found = mesh_agent(w.child()).await?;
        let status = found.status.context("no status")?;
        covered(&status, found.spec.signer_generation, &leaves)?;
        let mut serials: Vec<&str> = leaves.iter().map(|l| l.serial.as_str()).collect();
        serials.sort_unstable();
        serials.dedup();
        ensure!(serials.len() == leaves.len(), "a serial number twice");
        progress::step(format!(
            "{} leaves, of which {victim} gave {}, all covered",
            leaves.len(),
            leaves.iter().filter(|l| l.by == *victim).count()
        ));
        wait_for("two agents again", PODS, || async {
            let ready = super::agents(w.child()).await?;
            Ok(if ready.len() == 2 {
                Ok(())
            } else {
                Err(format!("{ready:?}"))
            })
        })
        .await
    })
}
