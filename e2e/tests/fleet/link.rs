//! The link itself: what passes, what does not, and what it is made of.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_e2e::{Cluster, scenario, wait_for};

use crate::{Link, SOON, with_link};

/// Asks a URL from the client pod of a cluster; returns everything that came back, also of an error.
async fn fetch(from: &Cluster, args: &[&str]) -> String {
    let command = [&["sh", "-c", "fetch \"$@\" 2>&1; true", "fetch"], args].concat();
    match from.exec("kof", "deploy/client", &command).await {
        Ok(text) => text,
        Err(error) => format!("{error:#}"),
    }
}

/// A sample of the child's collector, as management reads it.
async fn sample(link: &Link) -> Result<()> {
    wait_for("the child's metric in management", SOON, || async {
        let metric = r#"process_start_time_seconds{cluster="child1"}"#;
        Ok(scenario::query(&link.management, "region1", metric)
            .await
            .map_err(|e| format!("{e:#}"))
            .and_then(|found| found.get(0).map(drop).ok_or_else(|| "no sample".to_owned())))
    })
    .await
}

#[test]
fn a_metric_of_the_child_is_queried_in_management() -> Result<()> {
    with_link("metric", |link| async move { sample(&link).await })
}

#[test]
fn logs_and_traces_pass_and_reach_their_backend() -> Result<()> {
    with_link("routes", |link| async move {
        for path in [
            "vli/insert/opentelemetry/v1/logs",
            "vlai/insert/opentelemetry/v1/logs",
            "vti/insert/opentelemetry/v1/traces",
        ] {
            let url = format!("http://region1-vmauth:8427/{path}");
            let seen = fetch(&link.child, &["get", "-d", "telemetry", &url]).await;
            ensure!(
                seen.contains("200 OK") && seen.contains(path),
                "{path}: {seen}"
            );
        }
        for path in ["vls/select/logsql/query", "vts/select/jaeger/api/services"] {
            let url = format!("http://region1-vmauth.kof.svc.cluster.local:8427/{path}");
            let seen = fetch(&link.management, &["get", &url]).await;
            ensure!(
                seen.contains("200 OK") && seen.contains(path),
                "{path}: {seen}"
            );
        }
        for service in [
            "trace.v1.TraceService",
            "logs.v1.LogsService",
            "metrics.v1.MetricsService",
        ] {
            let url = format!(
                "http://region1-vmauth:8427/opentelemetry.proto.collector.{service}/Export"
            );
            let seen = fetch(&link.child, &["grpc", &url]).await;
            ensure!(seen.contains("grpc-status=0"), "{service}: {seen}");
        }
        Ok(())
    })
}

#[test]
fn a_long_answer_streams_as_it_is_made() -> Result<()> {
    with_link("stream", |link| async move {
        // 200 lines, one each 100 ms: longer than Envoy's default route time-out of 15 s.
        let url = "http://region1-vmauth:8427/vls/select/logsql/query?_stream=200";
        let seen = fetch(&link.management, &["get", "-t", "60s", url]).await;
        ensure!(
            seen.contains(r#"{"line":199}"#),
            "{}",
            seen.chars().rev().take(300).collect::<String>()
        );
        Ok(())
    })
}

#[test]
fn what_the_contract_does_not_grant_is_refused_by_the_gateway() -> Result<()> {
    with_link("contract", |link| async move {
        let tricks = [
            "vls/select/logsql/query",
            "vts/select/jaeger/api/services",
            "api/v1/query",
            "",
            "vm/insert/../../vls/select/logsql/query",
            "vm/insert/..%2f..%2fvls/select",
            "vm//..//vls/select",
            "vm/insert/%2e%2e/%2e%2e/vls/select",
            "VM/INSERT/0",
        ];
        for path in tricks {
            let url = format!("http://region1-vmauth:8427/{path}");
            let seen = fetch(&link.child, &["get", &url]).await;
            let refused = seen.contains("403 Forbidden") || seen.contains("400 Bad Request");
            ensure!(
                refused && !seen.contains("200 OK"),
                "a child may ask {path:?}: {seen}"
            );
        }
        let seen = fetch(
            &link.child,
            &["get", "http://region1-vmauth:8427/vls/select"],
        )
        .await;
        ensure!(seen.contains("X-Kof-Refused: path"), "{seen}");
        Ok(())
    })
}

#[test]
fn certificates_are_what_the_rules_say() -> Result<()> {
    with_link("certificates", |link| async move {
        let member = scenario::member(&link.management, "region1").await?;
        let status = member.status.context("no status")?;
        let anchor = &status
            .intermediates
            .first()
            .context("no intermediate")?
            .certificate;
        let gateway = status.gateway.context("no gateway")?;
        let folder =
            std::env::temp_dir().join(format!("kof-istio-certificates-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let file = |name: &str| folder.join(name).display().to_string();
        std::fs::write(file("anchor.pem"), anchor)?;
        // A server of TLS 1.3 shows its chain before it asks for ours; without ours there is nothing more.
        let script = format!(
            "openssl s_client -connect {gateway} -servername child1.region1-vmauth.kof.svc.cluster.local -showcerts \
             </dev/null >{0}/shown 2>&1; sed -n '/BEGIN/,/END/p' {0}/shown >{0}/chain.pem; \
             openssl x509 -in {0}/chain.pem -noout -text -certopt no_pubkey,no_sigdump >{0}/leaf.txt && \
             openssl verify -x509_strict -partial_chain -purpose sslserver -trusted {0}/anchor.pem {0}/chain.pem",
            folder.display()
        );
        let verdict = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()?;
        let leaf = std::fs::read_to_string(file("leaf.txt")).unwrap_or_default();
        let said = String::from_utf8_lossy(&verdict.stdout).into_owned()
            + &String::from_utf8_lossy(&verdict.stderr);
        std::fs::remove_dir_all(&folder)?;
        ensure!(verdict.status.success(), "openssl: {said}\n{leaf}");
        let identity = "URI:spiffe://region1.mesh.kof.internal/ns/istio-system/sa/mesh-gateway";
        for needed in [
            identity,
            "CA:FALSE",
            "Digital Signature",
            "TLS Web Server Authentication, TLS Web Client Authentication",
        ] {
            ensure!(leaf.contains(needed), "the leaf lacks {needed:?}:\n{leaf}");
        }
        Ok(())
    })
}

#[test]
fn a_stranger_gets_no_http_from_the_gateway() -> Result<()> {
    with_link("stranger", |link| async move {
        let member = scenario::member(&link.management, "region1").await?;
        let gateway = member
            .status
            .and_then(|s| s.gateway)
            .context("no gateway")?;
        for sni in [
            "child1.region1-vmauth.kof.svc.cluster.local",
            "nobody.example",
            "management.region1-vmauth.kof.svc.cluster.local",
        ] {
            let (host, port) = gateway.split_once(':').context("no port")?;
            let resolve = format!("{sni}:{port}:{host}");
            let url = format!("https://{sni}:{port}/vm/select/0/prometheus/api/v1/query?query=1");
            let answer = std::process::Command::new("curl")
                .args([
                    "-sk",
                    "-m",
                    "5",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code}",
                    "--resolve",
                    &resolve,
                    &url,
                ])
                .output()?;
            let code = String::from_utf8_lossy(&answer.stdout).into_owned();
            ensure!(code == "000", "{sni}: a stranger was answered {code}");
        }
        Ok(())
    })
}

#[test]
fn leaves_are_renewed_while_traffic_flows_without_a_lost_request() -> Result<()> {
    with_link("renewal", |link| async move {
        scenario::set_leaf_life(&link.management, "1m").await?;
        let serial = leaf_serial(&link.child).await?;
        wait_for(
            "a leaf that lives a minute",
            Duration::from_mins(1),
            || async {
                let now = leaf_serial(&link.child).await?;
                Ok(if now == serial { Err(now) } else { Ok(()) })
            },
        )
        .await?;
        // New connections all the time: each command is a new one, from pod to intake; links come and go below.
        let mut serials = std::collections::BTreeSet::new();
        let (mut asked, mut lost) = (0_u32, Vec::new());
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_secs(100) {
            serials.insert(leaf_serial(&link.child).await?);
            let seen = fetch(
                &link.child,
                &[
                    "many",
                    "-n",
                    "200",
                    "http://region1-vmauth:8427/vm/select/0/prometheus/api/v1/query?query=1",
                ],
            )
            .await;
            asked += 200;
            if !seen.contains("failed=0") {
                lost.push(format!("{:.0} s: {seen}", started.elapsed().as_secs_f64()));
            }
        }
        scenario::set_leaf_life(&link.management, "24h").await?;
        ensure!(
            serials.len() >= 3,
            "only {} leaves in 100 s: {serials:?}",
            serials.len()
        );
        ensure!(lost.is_empty(), "of {asked} requests: {lost:#?}");
        println!("{asked} requests over {} leaves, none lost", serials.len());
        link.whole().await
    })
}

async fn leaf_serial(cluster: &Cluster) -> Result<String> {
    let certificates: serde_json::Value =
        serde_json::from_str(&scenario::envoy(cluster, "certs").await?)?;
    let serial = certificates.pointer("/certificates/0/cert_chain/0/serial_number");
    Ok(serial
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
        .to_owned())
}
