//! Who gets nothing, and who may ask for whom: decided with the real API server, and written down.

use anyhow::{Context as _, Result, ensure};
use mesh_e2e::issuance::{Issuer, Wish};
use mesh_e2e::{progress, wait_for, x509};
use serde_json::json;
use tonic::Code;

use super::{NAMESPACE, Workloads, audited, idle, token, with_workloads};
use crate::{PODS, SOON};

impl Workloads {
    /// A service account with a running pod, and its token for the CA.
    async fn workload(&self, name: &str) -> Result<String> {
        self.child().apply(&idle(name, None)).await?;
        self.token(name, "istio-ca", Some(name)).await
    }

    fn identity(&self, account: &str) -> String {
        format!("spiffe://{}/ns/{NAMESPACE}/sa/{account}", self.trust_domain)
    }

    fn san(&self, account: &str) -> String {
        format!("subjectAltName=critical,URI:{}", self.identity(account))
    }
}

/// What is asked, how it is answered, and for which reason, as the documentation has them.
type Case<'a> = (&'a str, Wish<'a>, Code, &'a [&'a str]);

/// Asks, and expects to be refused so; and that each refusal is written down with its reason.
async fn refused(w: &Workloads, issuer: &Issuer, cases: &[Case<'_>]) -> Result<()> {
    let since = jiff::Timestamp::now();
    let mut said = Vec::new();
    for (what, wish, code, _) in cases {
        match issuer.create(wish).await {
            Ok(chain) => anyhow::bail!(
                "{what}: a certificate was given: {}",
                x509::text(chain.first().map_or("", String::as_str))?
            ),
            Err(status) => {
                progress::step(format!("{what}: {:?}: {}", status.code(), status.message()));
                ensure!(
                    status.code() == *code,
                    "{what}: {status:?}, and not {code:?}"
                );
                said.push(status.message().to_owned());
            }
        }
    }
    for ((what, _, _, reasons), said) in cases.iter().zip(said) {
        // in the log a quotation mark is written as in JSON
        let said = said.replace('"', "\\\"");
        let line = wait_for(&format!("{what} in the log"), SOON, || async {
            let lines = audited(w.child(), "\"outcome\":\"refused\"", since).await?;
            let found = lines.iter().find(|line| {
                let reason = |r: &&str| line.contains(&format!("\"reason\":\"{r}\""));
                line.contains(&said) && reasons.iter().any(reason)
            });
            Ok(found
                .cloned()
                .ok_or_else(|| format!("no {said:?} for one of {reasons:?} in {lines:#?}")))
        })
        .await?;
        progress::step(line);
    }
    Ok(())
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn tokens_that_prove_nothing_get_nothing() -> Result<()> {
    with_workloads("tokens", json!({ "issuer": "agent" }), |w| async move {
        let since = jiff::Timestamp::now();
        let good = w.workload("app").await?;
        let issuers = w.issuers().await?;
        let (_, issuer) = issuers.first().context("no agent")?;
        let csr = x509::request(&[&w.san("app")])?;
        let with = |token| Wish {
            token,
            csr: &csr,
            seconds: 600,
            impersonated: None,
        };

        let chain = issuer.create(&with(Some(&good))).await?;
        let leaf = chain.first().context("no leaf")?;
        ensure!(
            x509::text(leaf)?.contains(&w.identity("app")),
            "another identity"
        );

        let vault = w.token("app", "vault", Some("app")).await?;
        let unbound = w.token("app", "istio-ca", None).await?;
        let expired = aged(&w, &good)?;
        let forged = forged(&good);
        let region = &w.link.region;
        let foreign = {
            let objects = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }).to_string();
            let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "app", "namespace": NAMESPACE } }).to_string();
            let objects = format!("{objects}\n---\n{account}");
            region.apply(&objects).await?;
            let token = token(region, "app", "istio-ca", None).await;
            region.delete(&objects).await?;
            token?
        };
        let cases = [
            ("no token", None, &["NoToken"] as &[&str]),
            ("garbage", Some("garbage"), &["NotAToken"]),
            (
                "three parts of garbage",
                Some("e30.e30.AAAA"),
                &["NotAToken", "UnknownKey", "OtherIssuer", "BadSignature"],
            ),
            (
                "another signature",
                Some(forged.as_str()),
                &["BadSignature"],
            ),
            ("expired", Some(expired.as_str()), &["TokenExpired"]),
            ("another audience", Some(vault.as_str()), &["OtherAudience"]),
            (
                "another cluster",
                Some(foreign.as_str()),
                &["UnknownKey", "BadSignature", "OtherIssuer"],
            ),
        ]
        .map(|(what, token, reasons)| (what, with(token), Code::Unauthenticated, reasons));
        refused(&w, issuer, &cases).await?;
        // as with istiod, a token that names no pod speaks for its account, and for nobody else
        let chain = issuer.create(&with(Some(&unbound))).await?;
        let leaf = chain.first().context("no leaf")?;
        ensure!(
            x509::text(leaf)?.contains(&w.identity("app")),
            "another identity"
        );
        let other = w.identity("default");
        let for_another = Wish {
            impersonated: Some(&other),
            ..with(Some(&unbound))
        };
        let case = (
            "not bound to a pod, for another",
            for_another,
            Code::PermissionDenied,
            &["NotANodeAccount"] as &[&str],
        );
        refused(&w, issuer, &[case]).await?;
        let chain = issuer.create(&with(Some(&good))).await?;
        ensure!(chain.len() >= 2, "the good token was spoilt");
        for secret in [good, vault, unbound, expired, forged, foreign] {
            let written = audited(w.child(), &secret, since).await?;
            ensure!(written.is_empty(), "a token stands in the log");
        }
        Ok(())
    })
}

/// The token of a pod, as it will be when it has expired: the cluster's own key signs it.
fn aged(w: &Workloads, token: &str) -> Result<String> {
    let key = w
        .child()
        .handle()
        .kubeconfig
        .with_file_name("pki")
        .join("sa.key");
    x509::resign(token, &key, |claims| {
        for (name, ago) in [("iat", 7200), ("nbf", 7200), ("exp", 3600)] {
            claims[name] = json!(jiff::Timestamp::now().as_second() - ago);
        }
    })
}

/// A token whose signature fits nothing: two letters of it have changed places, but for the last, which must fit the length.
fn forged(token: &str) -> String {
    let (body, signature) = token.rsplit_once('.').unwrap_or((token, ""));
    let last = signature.chars().count().saturating_sub(1);
    let swapped = signature.chars().enumerate().map(|(at, c)| match c {
        'A' if at < last => 'B',
        'B' if at < last => 'A',
        other => other,
    });
    format!("{body}.{}", swapped.collect::<String>())
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn requests_that_want_more_get_nothing_and_are_written_down() -> Result<()> {
    with_workloads(
        "requests",
        json!({ "issuer": "agent", "maxLifetime": "24h" }),
        |w| async move {
            let token = w.workload("app").await?;
            let issuers = w.issuers().await?;
            let (_, issuer) = issuers.first().context("no agent")?;
            let san = w.san("app");
            let many = |count: u32| {
                let names =
                    (0..count).map(|n| format!("URI:{}", w.identity(&format!("other-{n}"))));
                format!("subjectAltName={}", names.collect::<Vec<_>>().join(","))
            };
            let weak = ["rsa:1024"];
            let requests = [
                (
                    "too large",
                    x509::request(&[&many(400)])?,
                    600,
                    Code::InvalidArgument,
                    "BadRequest",
                ),
                (
                    "far too large",
                    x509::request(&[&many(1500)])?,
                    600,
                    Code::OutOfRange,
                    "BadMessage",
                ),
                (
                    "CA:TRUE",
                    x509::request(&[&san, "basicConstraints=critical,CA:TRUE"])?,
                    600,
                    Code::InvalidArgument,
                    "BadRequest",
                ),
                (
                    "a weak key",
                    x509::request_with(&weak, &[&san])?,
                    600,
                    Code::InvalidArgument,
                    "BadRequest",
                ),
                (
                    "no request",
                    "nothing".to_owned(),
                    600,
                    Code::InvalidArgument,
                    "BadRequest",
                ),
                (
                    "another's name",
                    x509::request(&[&w.san("somebody-else")])?,
                    600,
                    Code::InvalidArgument,
                    "BadRequest",
                ),
                (
                    "too long",
                    x509::request(&[&san])?,
                    8 * 86400,
                    Code::InvalidArgument,
                    "TooLong",
                ),
            ];
            let reasons: Vec<[&str; 1]> = requests.iter().map(|r| [r.4]).collect();
            let cases: Vec<Case<'_>> = requests
                .iter()
                .zip(&reasons)
                .map(|((what, csr, seconds, code, _), reasons)| {
                    let wish = Wish {
                        token: Some(&token),
                        csr,
                        seconds: *seconds,
                        impersonated: None,
                    };
                    (*what, wish, *code, reasons.as_slice())
                })
                .collect();
            refused(&w, issuer, &cases).await?;
            // what is asked for as it should be is given, and written down with its serial number
            let csr = x509::request(&[&san])?;
            let wish = Wish {
                token: Some(&token),
                csr: &csr,
                seconds: 600,
                impersonated: None,
            };
            let since = jiff::Timestamp::now();
            let chain = issuer.create(&wish).await?;
            let serial = x509::serial(chain.first().context("no leaf")?)?;
            let lines = wait_for("the issuance in the log", SOON, || async {
                let lines = audited(w.child(), &serial, since).await?;
                Ok(if lines.is_empty() {
                    Err("no line")
                } else {
                    Ok(lines)
                })
            })
            .await?;
            progress::step(lines.join("\n"));
            ensure!(lines.len() == 1, "one issuance, {} lines", lines.len());
            ensure!(
                lines.iter().all(|l| l.contains(&w.identity("app"))),
                "{lines:?}"
            );
            Ok(())
        },
    )
}

#[test]
fn a_node_account_asks_for_pods_of_its_node_and_for_no_others() -> Result<()> {
    let options = json!({ "issuer": "agent", "nodeAccounts": [format!("{NAMESPACE}/ztunnel")] });
    with_workloads("ztunnel", options, |w| async move {
        // a pod elsewhere: a node that is there by name only
        let node =
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "elsewhere" } })
                .to_string();
        w.child().apply(&node).await?;
        let result = impersonation(&w).await;
        w.child()
            .kubectl(&[
                "-n",
                NAMESPACE,
                "delete",
                "pod",
                "far",
                "--force",
                "--grace-period=0",
                "--ignore-not-found",
            ])
            .await?;
        w.child().delete(&node).await?;
        result
    })
}

async fn impersonation(w: &Workloads) -> Result<()> {
    w.child().apply(&idle("far", Some("elsewhere"))).await?;
    let nobody = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "nobody", "namespace": NAMESPACE } });
    w.child().apply(&nobody.to_string()).await?;
    let ztunnel = w.workload("ztunnel").await?;
    let app = w.workload("app").await?;
    let issuers = w.issuers().await?;
    let (_, issuer) = issuers.first().context("no agent")?;
    let ask = async |token: &str, account: &str| {
        let csr = x509::request(&[&w.san(account)])
            .map_err(|e| tonic::Status::internal(format!("{e:#}")))?;
        let identity = w.identity(account);
        let wish = Wish {
            token: Some(token),
            csr: &csr,
            seconds: 86400,
            impersonated: Some(&identity),
        };
        issuer.create(&wish).await
    };
    // both pods have a node once they are scheduled, and the agent knows once it has heard of it
    let chain = wait_for(
        "ztunnel to be given the app's certificate",
        PODS,
        || async {
            Ok(ask(&ztunnel, "app")
                .await
                .map_err(|s| format!("{:?}: {}", s.code(), s.message())))
        },
    )
    .await?;
    let leaf = chain.first().context("no leaf")?;
    let text = x509::text(leaf)?;
    ensure!(
        text.contains(&format!("URI:{}", w.identity("app"))),
        "{text}"
    );
    // ztunnel takes the last element for the roots and one certificate from each before it
    for element in chain.iter().take(chain.len() - 1) {
        ensure!(
            element.matches("BEGIN CERTIFICATE").count() == 1,
            "{element}"
        );
    }
    let between = chain.get(1..chain.len() - 1).unwrap_or_default();
    x509::verify(leaf, between, std::slice::from_ref(&w.root))?;
    ensure!(chain.last() == Some(&w.root), "the roots are not last");
    for (what, token, account) in [
        ("an app that is no node account", &app, "ztunnel"),
        ("a pod of another node", &ztunnel, "far"),
        ("an account without pods", &ztunnel, "nobody"),
    ] {
        match ask(token, account).await {
            Ok(_) => anyhow::bail!("{what}: a certificate was given"),
            Err(status) => {
                progress::step(format!("{what}: {:?}: {}", status.code(), status.message()));
                ensure!(
                    status.code() == Code::PermissionDenied,
                    "{what}: {status:?}"
                );
            }
        }
    }
    let args = [
        "-n",
        NAMESPACE,
        "get",
        "pod",
        "far",
        "-o",
        "jsonpath={.spec.nodeName}",
    ];
    let there = w.child().kubectl(&args).await?;
    ensure!(
        there == "elsewhere",
        "the pod of the other node is gone: {there:?}"
    );
    Ok(())
}
