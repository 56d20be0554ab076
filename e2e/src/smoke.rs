//! Checks of the fleet itself: what its clusters can do, and what they must not reach.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::{DynamicObject, ListParams, LogParams};

use crate::audit::Write;
use crate::fleet::USUAL;
use crate::images;
use crate::provider::Hurt;
use crate::{Cluster, Fleet, exec, manifest, paths, progress, wait_for};

const DEADLINE: Duration = Duration::from_mins(1);

/// Runs all checks on the usual clusters.
pub fn run() -> Result<()> {
    crate::run("smoke", &USUAL, |fleet| async move { checks(&fleet).await })
}

async fn checks(fleet: &Fleet) -> Result<()> {
    let text = std::fs::read_to_string(paths::sources().join("manifests/smoke.yaml"))?;
    futures::future::try_join_all(fleet.clusters().iter().map(|c| install(c, &text))).await?;
    let first = fleet.cluster("management")?;
    let second = fleet.cluster("region1")?;
    let third = fleet.cluster("child1")?;
    inside_one_cluster(first).await?;
    between_clusters(first, second, third).await?;
    load_balancer_follows(second).await?;
    names_of_our_own(third).await?;
    clocks_and_writes(fleet, first).await?;
    faults(third).await?;
    let delete = ["delete", "namespace", "smoke"];
    futures::future::try_join_all(fleet.clusters().iter().map(|c| c.kubectl(&delete))).await?;
    progress::step("all checks passed");
    Ok(())
}

async fn install(cluster: &Cluster, text: &str) -> Result<()> {
    cluster
        .apply(&text.replace("{{cluster}}", cluster.name()))
        .await?;
    available(cluster, "smoke", "echo").await?;
    cluster
        .load_balancer("smoke", "echo-outside", DEADLINE)
        .await
        .map(drop)
}

/// Waits until all replicas of a Deployment are available.
pub async fn available(cluster: &Cluster, namespace: &str, name: &str) -> Result<()> {
    let api: Api<Deployment> = Api::namespaced(cluster.client(), namespace);
    wait_for(
        &format!("{}: {namespace}/{name} to be available", cluster.name()),
        DEADLINE,
        || async {
            Ok(api
                .get(name)
                .await
                .map_err(|e| e.to_string())
                .and_then(|d| {
                    let wanted = d.spec.and_then(|s| s.replicas).unwrap_or(1);
                    let status = d.status.unwrap_or_default();
                    let current = status.observed_generation >= d.metadata.generation;
                    let have = status.available_replicas.unwrap_or(0);
                    let updated = status.updated_replicas.unwrap_or(0);
                    if current
                        && have >= wanted
                        && updated >= wanted
                        && status.replicas == Some(wanted)
                    {
                        Ok(())
                    } else {
                        Err(format!("{have} of {wanted}"))
                    }
                }))
        },
    )
    .await
}

async fn inside_one_cluster(c: &Cluster) -> Result<()> {
    expect(
        c,
        "pod to service by name",
        &["fetch", "get", "-q", "http://echo/"],
        "\"cluster\":\"management\"",
    )
    .await?;
    expect(
        c,
        "headless name",
        &["nslookup", "echo-headless.smoke.svc.cluster.local"],
        "10.201.0.",
    )
    .await?;
    expect(
        c,
        "user, root is read-only",
        &["sh", "-c", "id -u; touch /x 2>&1; true"],
        "65532",
    )
    .await?;
    let token = from_pod(c, &["cat", "/var/run/tokens/token"]).await?;
    ensure!(
        token.starts_with("eyJhbGciOiJSUzI1NiI"),
        "a projected token is not RS256: {token:.20}"
    );
    let service: Service = Api::namespaced(c.client(), "smoke").get("echo").await?;
    let address = service
        .spec
        .and_then(|s| s.cluster_ip)
        .context("no ClusterIP")?;
    let answer = c
        .on_node(&["curl", "-sf", "-m", "3", &format!("http://{address}/")])
        .await?;
    ensure!(
        answer.contains("management"),
        "node to its own ClusterIP: {answer}"
    );
    webhook_is_reached(c).await?;
    progress::step("ok   inside one cluster: names, services, tokens, restricted pods, webhooks");
    Ok(())
}

/// A webhook on a server without TLS: the error names what the API server reached.
async fn webhook_is_reached(c: &Cluster) -> Result<()> {
    let hook = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: smoke.kof.test}
webhooks:
- {name: smoke.kof.test, admissionReviewVersions: [v1], sideEffects: None, failurePolicy: Fail,
   clientConfig: {service: {namespace: smoke, name: echo, port: 80}},
   rules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [limitranges]}]}
";
    c.apply(hook).await?;
    let range = manifest::parse(
        "{apiVersion: v1, kind: LimitRange, metadata: {name: x, namespace: smoke}, spec: {limits: []}}",
    )?;
    let range: &DynamicObject = range.first().context("no object")?;
    let reached = wait_for("the API server to ask the webhook", DEADLINE, || async {
        Ok(match manifest::apply_one(&c.client(), range).await {
            Err(e) if format!("{e:#}").contains("server gave HTTP response to HTTPS client") => {
                Ok(())
            }
            Err(e) => Err(format!("{e:#}")),
            Ok(_) => Err("admitted without being asked".to_owned()),
        })
    })
    .await;
    c.delete(hook).await?;
    reached
}

async fn between_clusters(first: &Cluster, second: &Cluster, third: &Cluster) -> Result<()> {
    let balancer = format!(
        "http://{}/",
        second
            .load_balancer("smoke", "echo-outside", DEADLINE)
            .await?
    );
    let node_port = format!("http://{}:30080/", third.node_address());
    expect(
        first,
        "pod to load balancer of another",
        &["fetch", "get", "-q", &balancer],
        "region1",
    )
    .await?;
    expect(
        first,
        "pod to node port of another",
        &["fetch", "get", "-q", &node_port],
        "child1",
    )
    .await?;
    let answer = exec::run_async(exec::command("curl", ["-sf", "-m", "3", &balancer])).await?;
    ensure!(
        answer.contains("region1"),
        "outside to load balancer: {answer}"
    );
    let pods: Api<Pod> = Api::namespaced(second.client(), "smoke");
    let pods = pods.list(&ListParams::default().labels("app=echo")).await?;
    let pod = pods
        .items
        .first()
        .and_then(|p| p.status.as_ref()?.pod_ip.clone())
        .context("no pod address")?;
    let service: Service = Api::namespaced(second.client(), "smoke")
        .get("echo")
        .await?;
    let service = service
        .spec
        .and_then(|s| s.cluster_ip)
        .context("no ClusterIP")?;
    for closed in [format!("http://{pod}:8080/"), format!("http://{service}/")] {
        let answer = from_pod(first, &["fetch", "get", "-q", &closed]).await;
        ensure!(
            answer.is_err(),
            "a pod reached {closed} of another cluster: {answer:?}"
        );
    }
    progress::step("ok   between clusters: load balancers and node ports, no pods, no services");
    Ok(())
}

async fn load_balancer_follows(c: &Cluster) -> Result<()> {
    let started = Instant::now();
    let asked = "172.30.2.200";
    c.kubectl(&[
        "-n",
        "smoke",
        "patch",
        "service",
        "echo-outside",
        "-p",
        &format!("{{\"spec\":{{\"loadBalancerIP\":\"{asked}\"}}}}"),
    ])
    .await?;
    wait_for("the new address", DEADLINE, || async {
        let now = c.load_balancer("smoke", "echo-outside", DEADLINE).await?;
        Ok(if now == asked { Ok(()) } else { Err(now) })
    })
    .await?;
    let took = started.elapsed().as_millis();
    wait_for("the new address to answer", DEADLINE, || async {
        let curl = exec::command("curl", ["-sf", "-m", "3", &format!("http://{asked}/")]);
        Ok(exec::run_async(curl).await.map_err(|e| format!("{e:#}")))
    })
    .await?;
    progress::step(format!(
        "ok   a load balancer's address changes when asked to ({took} ms)"
    ));
    Ok(())
}

async fn names_of_our_own(c: &Cluster) -> Result<()> {
    c.set_hosts("172.30.2.200 gateway.region1.test").await?;
    expect(
        c,
        "a name of our own",
        &["nslookup", "gateway.region1.test"],
        "172.30.2.200",
    )
    .await?;
    c.set_hosts("").await?;
    progress::step("ok   further names in a cluster's DNS");
    Ok(())
}

/// A pod whose clock runs ahead, and the audit log that counts how it was made.
async fn clocks_and_writes(fleet: &Fleet, c: &Cluster) -> Result<()> {
    let image = images::with_clock(fleet.components(), "date", Path::new("/bin/date"), "+10m")?;
    c.load_images(std::slice::from_ref(&image)).await?;
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: clock, namespace: smoke}}, spec: {{restartPolicy: Never, \
         securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}, \
         containers: [{{name: clock, image: '{}', args: ['+%s'], securityContext: {{allowPrivilegeEscalation: false, \
         readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}}}]}}}}",
        image.name
    );
    let mark = c.audit_mark()?;
    c.apply(&pod).await?;
    let pods: Api<Pod> = Api::namespaced(c.client(), "smoke");
    let said = wait_for("the pod with another clock to end", DEADLINE, || async {
        let phase = pods
            .get("clock")
            .await?
            .status
            .and_then(|s| s.phase)
            .unwrap_or_default();
        if phase != "Succeeded" {
            return Ok(Err(phase));
        }
        Ok(Ok(pods.logs("clock", &LogParams::default()).await?))
    })
    .await?;
    let ahead = said.trim().parse::<i64>()? - jiff::Timestamp::now().as_second();
    ensure!(
        (580..=601).contains(&ahead),
        "the clock is {ahead} s ahead, not 600"
    );
    let own = |w: &Write| w.user.username == "kubernetes-admin" && w.succeeded();
    let writes = c.audit_writes(mark, |w| {
        own(w) && w.object_ref.as_ref().is_some_and(|o| o.name == "clock")
    })?;
    ensure!(
        writes.len() == 1,
        "expected one write of ours in the audit log: {writes:?}"
    );
    progress::step("ok   a pod's clock ahead, and writes counted by the audit log");
    Ok(())
}

async fn faults(c: &Cluster) -> Result<()> {
    let api = || async {
        let answer =
            tokio::time::timeout(Duration::from_secs(2), c.client().apiserver_version()).await;
        answer.is_ok_and(|a| a.is_ok())
    };
    let faults = [
        Hurt::Stopped("kube-apiserver".to_owned()),
        Hurt::Frozen("kube-apiserver".to_owned()),
        Hurt::Partitioned,
        Hurt::NodeKilled,
    ];
    for fault in faults {
        let started = Instant::now();
        ensure!(
            api().await,
            "{}: API server is away before {fault:?}",
            c.name()
        );
        c.hurt(&fault).await?;
        wait_for(&format!("{fault:?} to show"), DEADLINE, || async {
            Ok(if api().await {
                Err("the API server answers")
            } else {
                Ok(())
            })
        })
        .await?;
        c.mend(&fault).await?;
        wait_for(&format!("{fault:?} to be mended"), DEADLINE, || async {
            Ok(if api().await {
                Ok(())
            } else {
                Err("the API server is away")
            })
        })
        .await?;
        available(c, "smoke", "echo").await?;
        progress::step(format!(
            "ok   {fault:?}, and mended, in {:.1} s",
            started.elapsed().as_secs_f64()
        ));
    }
    wait_for(
        "pods to run again after the node was dead",
        DEADLINE,
        || async {
            let answer = from_pod(c, &["fetch", "get", "-q", "http://echo/"]).await;
            Ok(answer.map_err(|e| format!("{e:#}")))
        },
    )
    .await
    .map(drop)
}

async fn from_pod(c: &Cluster, command: &[&str]) -> Result<String> {
    c.exec_in("smoke", "deploy/echo", "shell", command).await
}

async fn expect(c: &Cluster, what: &str, command: &[&str], wanted: &str) -> Result<()> {
    let answer = from_pod(c, command)
        .await
        .with_context(|| what.to_owned())?;
    ensure!(
        answer.contains(wanted),
        "{what}: expected {wanted:?} in {answer:?}"
    );
    Ok(())
}
