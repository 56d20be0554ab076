//! Istio's own pilot-agent, unchanged, with our agent as its CA.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use mesh_e2e::{progress, wait_for, x509};
use serde_json::json;

use super::{CA, LONG, Workloads, with_istio};

/// Certificates of half a minute, on a curve and with RSA (which is pilot-agent's default).
pub(super) const CURVE: &[(&str, &str)] =
    &[("SECRET_TTL", "30s"), ("ECC_SIGNATURE_ALGORITHM", "ECDSA")];
const RSA: &[(&str, &str)] = &[("SECRET_TTL", "30s")];

impl Workloads {
    /// Sends requests, each over new connections between both Envoys, and returns what was lost.
    pub(super) async fn many(&self, count: u32) -> Result<Option<String>> {
        let url = format!("http://{}:8080/", self.address("client").await?);
        let command = ["fetch", "many", "-n", &count.to_string(), &url];
        let seen = self.child().exec("kof", "deploy/client", &command).await?;
        Ok((!seen.contains(" failed=0 ")).then(|| seen.trim().to_owned()))
    }
}

#[test]
fn pilot_agent_gets_certificates_from_us_and_renews_them_without_a_lost_connection() -> Result<()> {
    let options = json!({ "issuer": "agent", "lifetime": "60s" });
    with_istio("pilot-agent", options, |w, parts| async move {
        let ca = format!("{CA}:443");
        let answer = w.pair(&parts, &ca, [CURVE, RSA]).await?;
        println!("{}", answer.trim());
        for (pod, key) in [("server", "id-ecPublicKey"), ("client", "rsaEncryption")] {
            w.verified(pod).await?;
            let held = w.held(pod).await?;
            let leaf = held.chain.first().context("no leaf")?;
            let text = x509::public_key(leaf)?;
            ensure!(text.contains(key), "{pod} has another key: {text}");
            ensure!(
                held.roots == [w.root.clone()],
                "{pod} trusts {:?}",
                held.roots
            );
        }
        let mut serials = [BTreeSet::new(), BTreeSet::new()];
        let (mut asked, mut lost) = (0_u32, Vec::new());
        let started = Instant::now();
        while started.elapsed() < LONG && serials.iter().any(|s| s.len() < 4) {
            lost.extend(w.many(100).await?);
            asked += 100;
            for (pod, seen) in ["server", "client"].iter().zip(&mut serials) {
                let held = w.held(pod).await?;
                seen.insert(x509::serial(held.chain.first().context("no leaf")?)?);
            }
        }
        let renewals: Vec<usize> = serials.iter().map(|s| s.len() - 1).collect();
        println!(
            "{asked} new connections in {:.0} s over {renewals:?} renewals, lost: {lost:?}",
            started.elapsed().as_secs_f64()
        );
        ensure!(lost.is_empty(), "of {asked} new connections: {lost:#?}");
        ensure!(renewals.iter().all(|r| *r >= 3), "renewals: {renewals:?}");
        Ok(())
    })
}

#[test]
fn pilot_agent_follows_a_change_of_the_bundle() -> Result<()> {
    let options = json!({ "issuer": "agent", "lifetime": "60s" });
    with_istio("bundle", options, |w, parts| async move {
        let ca = format!("{CA}:443");
        w.pair(&parts, &ca, [CURVE, CURVE]).await?;
        let both = BTreeSet::from([w.root.clone(), x509::root("another root")?]);
        Box::pin(w.trusting(&both, async {
            trusts(&w, &both).await?;
            let lost = w.many(100).await?;
            ensure!(lost.is_none(), "with two roots: {lost:?}");
            Ok(())
        }))
        .await?;
        // and back: the controller knows one root only
        trusts(&w, &BTreeSet::from([w.root.clone()])).await?;
        let lost = w.many(100).await?;
        ensure!(lost.is_none(), "with one root again: {lost:?}");
        Ok(())
    })
}

/// Waits until both Envoys trust these roots and no others.
pub(super) async fn trusts(w: &Workloads, roots: &BTreeSet<String>) -> Result<()> {
    for pod in ["server", "client"] {
        let started = Instant::now();
        wait_for(&format!("{} roots in {pod}", roots.len()), LONG, || async {
            let held: BTreeSet<String> = w.held(pod).await?.roots.into_iter().collect();
            Ok(if held == *roots {
                Ok(())
            } else {
                Err(format!("{} roots", held.len()))
            })
        })
        .await?;
        progress::step(format!(
            "{pod}: {} roots after {:.0} s",
            roots.len(),
            started.elapsed().as_secs_f64()
        ));
    }
    Ok(())
}

#[test]
fn pilot_agent_finds_us_where_istio_csr_would_be() -> Result<()> {
    let options = json!({ "issuer": "agent", "lifetime": "1h", "services": ["istio-csr"] });
    with_istio("istio-csr", options, |w, parts| async move {
        let ca = "cert-manager-istio-csr.cert-manager.svc:443";
        let answer = w.pair(&parts, ca, [&[], &[]]).await?;
        println!("{}", answer.trim());
        w.verified("client").await
    })
}

#[test]
fn pilot_agent_finds_us_where_istiod_would_be() -> Result<()> {
    let options = json!({ "issuer": "agent", "lifetime": "1h", "services": ["istiod"] });
    with_istio("istiod-name", options, |w, parts| async move {
        let answer = w
            .pair(&parts, "istiod.istio-system.svc:15012", [&[], &[]])
            .await?;
        println!("{}", answer.trim());
        w.verified("server").await
    })
}
