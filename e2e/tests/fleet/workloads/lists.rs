//! Revocation lists, as Istio's own programs read them.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use mesh_e2e::istio::Programs;
use mesh_e2e::{sidecar, wait_for, x509};
use serde_json::json;

use super::proxies::CURVE;
use super::{CA, LONG, NAMESPACE, Workloads, in_own_mesh};
use crate::PODS;
use crate::certificates::{newest, revoke};

/// A certificate that is not renewed while a test runs.
const LONG_LIVED: &[(&str, &str)] = &[("SECRET_TTL", "12h")];
/// Handshakes that a sidecar's Envoy has refused for the peer's certificate.
const REFUSED: &str = "listener.0.0.0.0_8443.ssl.fail_verify_error";

/// A mesh of the test's own, since whatever was revoked in the usual one stays revoked.
const MESH: &str = "lists";

#[test]
fn a_real_sidecar_refuses_what_is_below_a_revoked_intermediate() -> Result<()> {
    let options = json!({ "issuer": "agent", "lifetime": "1h" });
    in_own_mesh(MESH, options, |w, parts| async move {
        let ca = format!("{CA}:443");
        // sidecars look for the file once, when they start
        let before = wait_for("a map for lists", PODS, || async {
            Ok(lists(&w).await?.ok_or("none"))
        })
        .await?;
        ensure!(
            before.is_empty(),
            "there are lists before anything is revoked: {before}"
        );
        w.pair(&parts, &ca, [CURVE, LONG_LIVED]).await?;
        let leaked = newest(&w.link).await?;
        let started = Instant::now();
        revoke(&w.link, MESH, &leaked.serial).await?;
        let list = listed(&w, &leaked.serial).await?;
        println!("{}", list.trim());
        // The server's certificate is renewed all the time, and so it is from the next generation; the client's is the old one.
        below_another(&w, "server", &leaked.certificate).await?;
        let stolen = w.held("client").await?;
        ensure!(
            stolen.chain.contains(&leaked.certificate),
            "the client was renewed, so it shows nothing"
        );
        let refused = wait_for("the old certificate to be refused", LONG, || async {
            let answer = w.request().await;
            let stats = format!("http://127.0.0.1:15000/stats?filter={REFUSED}");
            let stats = sidecar::ask(w.child(), NAMESPACE, "server", &stats).await?;
            let count = stats
                .trim()
                .rsplit_once(": ")
                .and_then(|(_, n)| n.parse().ok());
            Ok(match (answer, count) {
                (Ok(answer), Some(1_u32..)) if answer.contains(" 503 ") => Ok(answer),
                other => Err(format!("{other:?}")),
            })
        })
        .await?;
        println!("{}", refused.trim());
        println!(
            "refused {:.0} s after it was revoked",
            started.elapsed().as_secs_f64()
        );
        // With a certificate of its own from the next generation it is believed again.
        again(&w, &parts, "client", &ca).await?;
        answered(&w).await?;
        below_another(&w, "client", &leaked.certificate).await
    })
}

/// The text with the lists for proxies in the tests' namespace.
async fn lists(w: &Workloads) -> Result<Option<String>> {
    let maps: Api<ConfigMap> = Api::namespaced(w.child().client(), NAMESPACE);
    let found = maps.get_opt("istio-ca-crl").await?;
    Ok(found.and_then(|m| m.data?.remove("ca-crl.pem")))
}

/// Waits until the lists for proxies stand in the tests' namespace with this serial number in one of them, and returns that one in words.
pub(super) async fn listed(w: &Workloads, serial: &str) -> Result<String> {
    wait_for("lists for proxies", PODS, || async {
        let Some(text) = lists(w).await? else {
            return Ok(Err("no ConfigMap".to_owned()));
        };
        let lists = x509::lists(&text)?;
        let serial = serial.trim_start_matches('0').to_ascii_uppercase();
        let with = lists.iter().find(|list| list.contains(&serial));
        Ok(with
            .cloned()
            .ok_or_else(|| format!("{} lists without it", lists.len())))
    })
    .await
}

/// Replaces a pod by a new one.
async fn again(w: &Workloads, parts: &Programs, name: &str, ca: &str) -> Result<()> {
    let delete = ["-n", NAMESPACE, "delete", "pod", name, "--wait"];
    w.child().kubectl(&delete).await?;
    let pod = w.sidecar(&parts.proxy, name, ca, LONG_LIVED);
    w.child().apply(&pod.manifest()).await
}

/// Waits until a request passes.
pub(super) async fn answered(w: &Workloads) -> Result<()> {
    wait_for("a request through both Envoys", PODS, || async {
        Ok(match w.request().await {
            Ok(answer) if answer.contains("200 OK") => Ok(()),
            Ok(answer) => Err(answer),
            Err(error) => Err(format!("{error:#}")),
        })
    })
    .await
}

/// Waits until the pod's certificate is below an intermediate of ours that is not this one.
pub(super) async fn below_another(w: &Workloads, pod: &str, revoked: &str) -> Result<()> {
    wait_for(&format!("the next certificate of {pod}"), LONG, || async {
        let held = w.held(pod).await?;
        let own = held.chain.get(1).context("no intermediate")?;
        Ok(if own == revoked {
            Err("it is below the revoked intermediate")
        } else {
            Ok(())
        })
    })
    .await?;
    w.verified(pod).await
}
