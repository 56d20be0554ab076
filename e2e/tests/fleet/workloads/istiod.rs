//! The member's own istiod signs, with an intermediate that the agent gives to it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use mesh_e2e::istio::{self, Programs};
use mesh_e2e::{Cluster, progress, wait_for, x509};
use serde_json::json;

use super::lists::{answered, below_another, listed};
use super::proxies::{CURVE, trusts};
use super::{NAMESPACE, Workloads, mesh_agent, with_istio};
use crate::certificates::{newest, revoke};
use crate::{PODS, SOON};

/// Name under which istiod is called.
const ISTIOD: &str = "istiod.istio-system.svc:15012";
/// Installs Istio's own charts.
async fn install(w: &Workloads, parts: &Programs) -> Result<()> {
    let options = istio::Options {
        trust_domain: &w.trust_domain,
        ..istio::Options::default()
    };
    istio::install(w.child(), parts, &options).await
}

#[test]
fn istiod_signs_with_an_intermediate_of_ours() -> Result<()> {
    with_istio(
        "istiod",
        json!({ "issuer": "istiod" }),
        |w, parts| async move {
            let result = Box::pin(istiod(&w, &parts)).await;
            let evidence = if result.is_err() {
                w.child()
                    .kubectl(&[
                        "-n",
                        "istio-system",
                        "logs",
                        "-l",
                        "app=istiod",
                        "--tail=60",
                    ])
                    .await
                    .unwrap_or_else(|e| format!("{e:#}"))
            } else {
                String::new()
            };
            if !evidence.is_empty() {
                progress::step(evidence);
            }
            let removed = istio::remove(w.child()).await;
            result?;
            removed
        },
    )
}

async fn istiod(w: &Workloads, parts: &Programs) -> Result<()> {
    given(w).await?;
    install(w, parts).await?;
    // istiod says when the root it has loaded ends
    let ends = x509::not_after(&w.root)?.as_second();
    wait_for("istiod to hold our root", PODS, || async {
        let metrics = metrics(w.child()).await;
        let line = metrics.as_deref().ok().and_then(|text| {
            text.lines()
                .find_map(|l| l.strip_prefix("citadel_server_root_cert_expiry_timestamp "))
        });
        let seen = line.and_then(|l| l.trim().parse::<f64>().ok());
        Ok(match seen {
            #[expect(clippy::cast_possible_truncation, reason = "seconds")]
            Some(seen) if seen as i64 == ends => Ok(()),
            seen => Err(format!("{seen:?}, and not {ends}; {:?}", metrics.err())),
        })
    })
    .await?;
    root_in(w, NAMESPACE).await?;

    let answer = w.pair(parts, ISTIOD, [CURVE, CURVE]).await?;
    progress::step(answer.trim());
    for pod in ["server", "client"] {
        w.verified(pod).await?;
        ensure!(
            w.held(pod).await?.roots == [w.root.clone()],
            "{pod} trusts others"
        );
    }

    // other roots: istiod takes them from the mounted Secret and hands them on
    let both = BTreeSet::from([w.root.clone(), x509::root("another root")?]);
    Box::pin(w.trusting(&both, async {
        trusts(w, &both).await?;
        let lost = w.many(100).await?;
        ensure!(lost.is_none(), "with two roots: {lost:?}");
        Ok(())
    }))
    .await?;
    trusts(w, &BTreeSet::from([w.root.clone()])).await?;
    let lost = w.many(100).await?;
    ensure!(lost.is_none(), "with one root again: {lost:?}");

    next_generation(w).await?;

    // a namespace that comes gets the root
    let late = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "workloads-late" } }).to_string();
    w.child().apply(&late).await?;
    let there = root_in(w, "workloads-late").await;
    w.child().delete(&late).await?;
    there
}

/// The agent gives istiod what it needs.
async fn given(w: &Workloads) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(w.child().client(), "istio-system");
    let entries = wait_for("Secret cacerts", PODS, || async {
        let found = secrets.get_opt("cacerts").await?;
        let told = mesh_agent(w.child())
            .await?
            .status
            .and_then(|s| s.workloads);
        Ok(match (found, told) {
            (Some(secret), Some(told)) if told.cacerts.is_some() => {
                Ok(secret.data.unwrap_or_default())
            }
            (found, told) => Err(format!(
                "{}, {told:?}",
                if found.is_some() { "there" } else { "none" }
            )),
        })
    })
    .await?;
    let names: Vec<&str> = entries.keys().map(String::as_str).collect();
    progress::step(format!("cacerts holds {names:?}"));
    let root = entries.get("root-cert.pem").context("no root-cert.pem")?;
    ensure!(root.0 == w.root.as_bytes(), "another root in cacerts");
    Ok(())
}

/// istiod signs with the next generation when the one it has is revoked, and hands the lists on.
async fn next_generation(w: &Workloads) -> Result<()> {
    let leaked = newest(&w.link).await?;
    revoke(&w.link, "default", &leaked.serial).await?;
    listed(w, &leaked.serial).await?;
    for pod in ["server", "client"] {
        below_another(w, pod, &leaked.certificate).await?;
    }
    answered(w).await?;
    let lost = w.many(100).await?;
    ensure!(lost.is_none(), "below the next generation: {lost:?}");
    Ok(())
}

/// Waits until a namespace has our root, as proxies look for it.
async fn root_in(w: &Workloads, namespace: &str) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(w.child().client(), namespace);
    let started = std::time::Instant::now();
    wait_for(&format!("the root in {namespace}"), SOON, || async {
        let found = maps.get_opt("istio-ca-root-cert").await?;
        let text = found.and_then(|m| m.data?.remove("root-cert.pem"));
        Ok(match text {
            Some(text) if text == w.root => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })
    .await?;
    progress::step(format!(
        "the root is in {namespace} after {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// istiod's metrics.
async fn metrics(child: &Cluster) -> Result<String> {
    let args = [
        "-n",
        "istio-system",
        "get",
        "service",
        "istiod",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ];
    let address = child.kubectl(&args).await?;
    let url = format!("http://{address}:15014/metrics");
    child.on_node(&["curl", "-sf", "-m", "5", &url]).await
}
