//! Certificates for workloads: real pilot-agents and istiod, real Envoys, a real API server behind every decision.
//!
//! Each test switches workload certificates on in the default mesh, works in namespace `workloads` of the child, and
//! switches them off again, whatever happened.

mod istiod;
mod lists;
mod proxies;
mod refusals;
mod replicas;
pub(crate) mod rights;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use mesh_api::agent::MeshAgent;
use mesh_api::mesh::Mesh;
use mesh_e2e::components::Istio;
use mesh_e2e::issuance::Issuer;
use mesh_e2e::istio::Programs;
use mesh_e2e::sidecar::{self, Held, Sidecar};
use mesh_e2e::{Cluster, paths, progress, wait_for, x509};
use serde_json::{Value, json};

use crate::{Link, PODS, with_link};

/// Where tests have their workloads.
const NAMESPACE: &str = "workloads";
/// Name of the CA's Service, which its certificate carries.
const CA: &str = "mesh-ca.istio-system.svc";
/// How long the tests watch what goes on by itself.
const LONG: Duration = Duration::from_mins(4);
/// Port on which the agent issues.
const CA_PORT: u16 = 15012;

/// The usual link, in which workloads are given certificates.
struct Workloads {
    link: Link,
    /// Trust domain of the child's workloads.
    trust_domain: String,
    /// The mesh's root, PEM.
    root: String,
}

/// Runs a test with these `Mesh.spec.workloads`.
fn with_workloads<Fut>(
    name: &str,
    options: Value,
    test: impl FnOnce(Workloads) -> Fut + Send,
) -> Result<()>
where
    Fut: Future<Output = Result<()>>,
{
    with_link(name, |link| async move {
        let result = async { test(start(link.clone(), options).await?).await }.await;
        if result.is_err() {
            explain(&link, name).await;
        }
        let stopped = stop(&link).await;
        result?;
        stopped
    })
}

/// As [`with_workloads`], with Istio's programs, which are made first where they are not made yet.
fn with_istio<Fut>(
    name: &str,
    options: Value,
    test: impl FnOnce(Workloads, Programs) -> Fut + Send,
) -> Result<()>
where
    Fut: Future<Output = Result<()>>,
{
    let source = Istio::ensure()?;
    with_workloads(name, options, |w| async move {
        let parts = parts(&w, source).await?;
        test(w, parts).await
    })
}

async fn parts(w: &Workloads, source: Istio) -> Result<Programs> {
    Programs::load(w.link.fleet.components(), source, &[w.child()]).await
}

/// As [`with_istio`], with the child in a mesh of this name, which nobody else is in; the name is the test's too.
fn in_own_mesh<Fut>(
    mesh: &'static str,
    options: Value,
    test: impl FnOnce(Workloads, Programs) -> Fut + Send,
) -> Result<()>
where
    Fut: Future<Output = Result<()>>,
{
    let source = Istio::ensure()?;
    with_link(mesh, |link| async move {
        let object = json!({
            "apiVersion": "mesh.kof.k0rdent.mirantis.com/v1alpha1", "kind": "Mesh", "metadata": { "name": mesh },
            "spec": { "root": { "generate": true }, "workloads": options },
        });
        let result = async {
            link.management.apply(&object.to_string()).await?;
            link.move_child(Some(mesh)).await?;
            let w = told(link.clone(), &options).await?;
            let parts = parts(&w, source).await?;
            test(w, parts).await
        }
        .await;
        if result.is_err() {
            explain(&link, mesh).await;
        }
        let back = async {
            let delete = ["delete", "namespace", NAMESPACE, "--ignore-not-found"];
            link.child.kubectl(&delete).await?;
            link.move_child(None).await?;
            let secret = format!("secret/{mesh}-mesh-root");
            for object in [&format!("mesh/{mesh}"), &secret] {
                let delete = ["-n", "istio-system", "delete", object, "--ignore-not-found"];
                link.management.kubectl(&delete).await?;
            }
            link.whole().await
        }
        .await;
        result?;
        back
    })
}

/// Collects what there is, before its traces are gone.
async fn explain(link: &Link, name: &str) {
    let folder = paths::project().join("target/e2e").join(name).join("then");
    if let Err(error) = link.fleet.collect(&folder).await {
        progress::step(format!("{name}: failed to collect: {error:#}"));
    }
}

/// Says what the default mesh does for workloads; `None`: nothing.
pub(crate) async fn set(management: &Cluster, options: Option<Value>) -> Result<()> {
    let api: Api<Mesh> = Api::all(management.client());
    let mut changes = vec![json!({ "spec": { "workloads": null } })];
    changes.extend(options.map(|o| json!({ "spec": { "workloads": o } })));
    for change in changes {
        api.patch("default", &PatchParams::default(), &Patch::Merge(change))
            .await
            .context("failed to set Mesh.spec.workloads")?;
    }
    Ok(())
}

async fn start(link: Link, options: Value) -> Result<Workloads> {
    set(&link.management, Some(options.clone())).await?;
    told(link, &options).await
}

/// Waits until the child's agent is told of these `Mesh.spec.workloads`.
async fn told(link: Link, options: &Value) -> Result<Workloads> {
    let issuer = options.get("issuer").cloned().unwrap_or_default();
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    link.child.apply(&namespace.to_string()).await?;
    let spec = wait_for("the child's agent to be told", PODS, || async {
        let found = match mesh_agent(&link.child).await {
            Ok(found) => found,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        let told = found.spec.workloads.as_ref().map(|w| json!(w.issuer));
        Ok(if told.as_ref() == Some(&issuer) {
            Ok(found.spec)
        } else {
            Err(format!("{told:?}"))
        })
    })
    .await?;
    let told = spec.workloads.context("nothing about workloads")?;
    Ok(Workloads {
        link,
        trust_domain: told.trust_domain,
        root: spec.root.certificate,
    })
}

async fn stop(link: &Link) -> Result<()> {
    set(&link.management, None).await?;
    let delete = ["delete", "namespace", NAMESPACE, "--ignore-not-found"];
    link.child.kubectl(&delete).await?;
    wait_for("the child's agent to be told to stop", PODS, || async {
        let spec = mesh_agent(&link.child).await?.spec;
        Ok(match spec.workloads {
            None => Ok(()),
            Some(left) => Err(format!("{left:?}")),
        })
    })
    .await?;
    wait_for("our ConfigMaps to be taken back", PODS, || async {
        let ours = [
            "get",
            "configmaps",
            "-A",
            "-o",
            "name",
            "-l",
            "app.kubernetes.io/managed-by=kof-istio",
        ];
        let left = link.child.kubectl(&ours).await?;
        Ok(if left.trim().is_empty() {
            Ok(())
        } else {
            Err(left)
        })
    })
    .await?;
    link.whole().await
}

/// The `MeshAgent` of a cluster.
async fn mesh_agent(cluster: &Cluster) -> Result<MeshAgent> {
    let api: Api<MeshAgent> = Api::namespaced(cluster.client(), "istio-system");
    api.get("mesh").await.context("failed to get the MeshAgent")
}

/// Names of the agents' pods in the child that are ready and stay.
async fn agents(child: &Cluster) -> Result<Vec<String>> {
    let pods: Api<Pod> = Api::namespaced(child.client(), "istio-system");
    let found = pods
        .list(&ListParams::default().labels("app=mesh-agent"))
        .await?;
    let ready = found.into_iter().filter(|pod| {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        let ready =
            conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
        ready && pod.metadata.deletion_timestamp.is_none()
    });
    Ok(ready.filter_map(|p| p.metadata.name).collect())
}

impl Workloads {
    fn child(&self) -> &Cluster {
        &self.link.child
    }

    /// Connections to the CA in each of the child's agents, with the name of its pod, once all of them serve it.
    async fn issuers(&self) -> Result<Vec<(String, Issuer)>> {
        wait_for("both agents to serve the CA", PODS, || async {
            let pods = agents(self.child()).await?;
            if pods.len() < 2 {
                return Ok(Err(format!("{pods:?} are ready")));
            }
            let mut issuers = Vec::new();
            for pod in pods {
                match self.issuer(&pod).await {
                    Ok(issuer) => issuers.push((pod, issuer)),
                    Err(error) => return Ok(Err(format!("{pod}: {error:#}"))),
                }
            }
            Ok(Ok(issuers))
        })
        .await
    }

    /// A connection to the CA in one agent.
    async fn issuer(&self, pod: &str) -> Result<Issuer> {
        let to = format!("pod/{pod}");
        let way = self.child().forward("istio-system", &to, CA_PORT).await?;
        Issuer::connect(way, CA, &self.root).await
    }

    /// A pod in the tests' namespace; `server` and `client` talk to each other.
    fn sidecar<'a>(
        &'a self,
        image: &'a str,
        name: &'a str,
        ca: &'a str,
        env: &'a [(&'a str, &'a str)],
    ) -> Sidecar<'a> {
        Sidecar {
            image,
            namespace: NAMESPACE,
            name,
            cluster: self.child().name(),
            trust_domain: &self.trust_domain,
            ca,
            peer: if name == "server" { "client" } else { "server" },
            env,
        }
    }

    /// Starts two pods that talk to each other, and returns once a request has passed between them, with its headers.
    async fn pair(&self, parts: &Programs, ca: &str, envs: [&[(&str, &str)]; 2]) -> Result<String> {
        let [server, client] = envs;
        let server = self.sidecar(&parts.proxy, "server", ca, server);
        let client = self.sidecar(&parts.proxy, "client", ca, client);
        for pod in [&server, &client] {
            self.child().apply(&pod.manifest()).await?;
        }
        let answer = wait_for("a request through both Envoys", PODS, || async {
            let seen = match self.request().await {
                Ok(seen) => seen,
                Err(error) => return Ok(Err(self.why(&format!("{error:#}")).await)),
            };
            Ok(if seen.contains("200 OK") {
                Ok(seen)
            } else {
                Err(self.why(&seen).await)
            })
        })
        .await?;
        for (header, identity) in [("x-client", &client), ("x-server", &server)] {
            let expected = format!("{header}: {}", identity.identity());
            ensure!(answer.contains(&expected), "no {expected:?} in {answer}");
        }
        ensure!(answer.contains("x-tls: TLSv1.3"), "{answer}");
        Ok(answer)
    }

    /// Does something while the child's agent is told of these roots. The product cannot be asked for that yet, so its
    /// controllers are stopped meanwhile and the agent is told by hand; afterwards they take it back.
    async fn trusting(
        &self,
        roots: &BTreeSet<String>,
        what: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        self.controllers("--replicas=0").await?;
        let result = async {
            wait_for("no controller", PODS, || async {
                let args = [
                    "-n",
                    "istio-system",
                    "get",
                    "pods",
                    "-l",
                    "app=mesh-controller",
                    "-o",
                    "name",
                ];
                let left = self.link.management.kubectl(&args).await?;
                Ok(if left.trim().is_empty() {
                    Ok(())
                } else {
                    Err(left)
                })
            })
            .await?;
            let spec = mesh_agent(self.child()).await?.spec;
            let told = spec.workloads.context("nothing about workloads")?;
            let bundle = json!({ "generation": told.bundle.generation + 1, "roots": roots });
            let api: Api<MeshAgent> = Api::namespaced(self.child().client(), "istio-system");
            let change = json!({ "spec": { "workloads": { "bundle": bundle } } });
            api.patch("mesh", &PatchParams::default(), &Patch::Merge(change))
                .await?;
            what.await
        }
        .await;
        self.controllers("--replicas=2").await?;
        result
    }

    async fn controllers(&self, replicas: &str) -> Result<()> {
        let args = [
            "-n",
            "istio-system",
            "scale",
            "deployment/mesh-controller",
            replicas,
        ];
        self.link.management.kubectl(&args).await.map(drop)
    }

    /// What is known when a request does not pass: the answer and the last words of both pods.
    async fn why(&self, seen: &str) -> String {
        let mut text = seen.to_owned();
        for pod in ["server", "client"] {
            let args = ["-n", NAMESPACE, "logs", pod, "--tail=3"];
            let said = self.child().kubectl(&args).await;
            text = format!(
                "{text}; {pod}: {}",
                said.unwrap_or_else(|e| format!("{e:#}"))
            );
        }
        text
    }

    /// One request from the client's Envoy to the server's: what came back, with headers.
    async fn request(&self) -> Result<String> {
        let url = format!("http://{}:8080/", self.address("client").await?);
        self.child()
            .on_node(&["curl", "-s", "-i", "-m", "5", &url])
            .await
    }

    /// Address of a pod in the tests' namespace.
    async fn address(&self, pod: &str) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.child().client(), NAMESPACE);
        let found = pods.get(pod).await?;
        found
            .status
            .and_then(|s| s.pod_ip)
            .with_context(|| format!("{pod} has no address"))
    }

    /// What the Envoy of a pod holds.
    async fn held(&self, pod: &str) -> Result<Held> {
        wait_for("an Envoy with certificates", PODS, || async {
            Ok(match sidecar::held(self.child(), NAMESPACE, pod).await {
                Ok(Some(held)) => Ok(held),
                Ok(None) => Err("it has none".to_owned()),
                Err(error) => Err(format!("{error:#}")),
            })
        })
        .await
    }

    /// The chain that a pod's Envoy holds leads to the mesh's root, says OpenSSL, through an intermediate of the child.
    async fn verified(&self, pod: &str) -> Result<()> {
        let held = self.held(pod).await?;
        let (leaf, rest) = held.chain.split_first().context("an empty chain")?;
        let verdict = x509::verify(leaf, rest, std::slice::from_ref(&self.root))?;
        let status = mesh_agent(self.child())
            .await?
            .status
            .context("no status")?;
        let ours = status.intermediates;
        ensure!(
            ours.iter().any(|i| rest.contains(&i.certificate)),
            "no intermediate of the child in the chain of {pod}: {verdict}"
        );
        let verdict = verdict.trim().replace('\n', ", ");
        progress::step(format!("{pod}: {verdict}"));
        Ok(())
    }

    /// A token of a service account, for an audience, bound to a pod if one is named.
    async fn token(&self, account: &str, audience: &str, pod: Option<&str>) -> Result<String> {
        token(self.child(), account, audience, pod).await
    }
}

/// A token of a service account in the tests' namespace of a cluster.
async fn token(
    cluster: &Cluster,
    account: &str,
    audience: &str,
    pod: Option<&str>,
) -> Result<String> {
    let audience = format!("--audience={audience}");
    let mut args = vec!["-n", NAMESPACE, "create", "token", account, &audience];
    if let Some(pod) = pod {
        args.extend(["--bound-object-kind=Pod", "--bound-object-name", pod]);
    }
    Ok(cluster.kubectl(&args).await?.trim().to_owned())
}

/// A service account with a pod that does nothing, optionally on a node of this name.
fn idle(name: &str, node: Option<&str>) -> String {
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": NAMESPACE } });
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "serviceAccountName": name, "terminationGracePeriodSeconds": 0,
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "idle", "image": "{{image:busybox}}", "args": ["-c", "sleep 1000000"],
                "resources": { "requests": { "cpu": "1m", "memory": "4Mi" } },
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    });
    if let (Some(node), Some(spec)) = (node, pod.pointer_mut("/spec")) {
        spec["nodeName"] = json!(node);
    }
    format!("{account}\n---\n{pod}")
}

/// The audit lines of both agents that hold this text and are not older than `since`.
async fn audited(child: &Cluster, text: &str, since: jiff::Timestamp) -> Result<Vec<String>> {
    let since = format!("--since-time={since}");
    let args = [
        "-n",
        "istio-system",
        "logs",
        "-l",
        "app=mesh-agent",
        "-c",
        "agent",
        "--tail=-1",
        &since,
    ];
    let logs = child.kubectl(&args).await?;
    let found = logs.lines().filter(|l| l.contains(text));
    Ok(found.map(str::to_owned).collect())
}
