//! Starting one cluster, or finding that it runs.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::{Api, Client};

use super::cgroup::Cgroup;
use super::process::Process;
use super::{Nodes, network};
use crate::provider::{Handle, Provider as _};
use crate::{cluster, exec, manifest, paths, progress, wait_for};

/// Starting takes about 20 s for three on two cores; much more is a fault worth a message.
const DEADLINE: Duration = Duration::from_mins(3);

/// Brings the cluster to where pods can be made.
pub(super) async fn up(nodes: &Nodes, cluster: &Handle) -> Result<()> {
    let dir = nodes.dir(cluster);
    let started = Instant::now();
    let complete = dir.join("complete");
    let fresh = fs::read_to_string(&complete).unwrap_or_default() == nodes.components.node_key();
    let running = Process::load(&dir.join("init"));
    let init = match running {
        Some(init) if fresh => init,
        other => {
            if let Some(stale) = other {
                stale.kill_and_wait().await?;
            }
            let cgroup = Cgroup::new(cluster.index);
            ensure!(
                other.is_some() || fresh || !cgroup.inhabited() || dir.join("init").exists(),
                "processes of a fleet with another state folder run as cluster {}: stop that one first",
                cluster.index
            );
            cgroup.end().await?;
            if !fresh {
                prepare(nodes, cluster, &dir).await?;
            }
            boot(nodes, cluster, &dir, &cgroup).await?
        }
    };
    let alive = || {
        if init.alive() {
            Ok(())
        } else {
            bail!("the node ended: {}", tail(&dir.join("log/init.log")))
        }
    };
    let client = cluster::client(&cluster.kubeconfig).await?;
    wait_for("the API server to answer", DEADLINE, || async {
        alive()?;
        Ok(client
            .apiserver_version()
            .await
            .map(drop)
            .map_err(|e| e.to_string()))
    })
    .await
    .with_context(|| {
        format!(
            "{}: {}",
            cluster.name,
            tail(&dir.join("log/kube-apiserver.log"))
        )
    })?;
    if running.is_none() {
        progress::step(format!(
            "{}: API server answers after {:.1} s",
            cluster.name,
            started.elapsed().as_secs_f64()
        ));
    }
    settle(nodes, cluster, &client)
        .await
        .with_context(|| format!("{} does not become ready", cluster.name))?;
    fs::write(&complete, nodes.components.node_key())?;
    progress::step(format!(
        "{}: ready after {:.1} s",
        cluster.name,
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Folder, scripts, keys.
async fn prepare(nodes: &Nodes, cluster: &Handle, dir: &Path) -> Result<()> {
    for stale in [
        "varlib", "log", "pki", "conf", "run", "stopped", "frozen", "images",
    ] {
        let sub = dir.join(stale);
        if sub.exists() {
            fs::remove_dir_all(&sub)
                .with_context(|| format!("failed to delete {}", sub.display()))?;
        }
        fs::create_dir_all(&sub)?;
    }
    fs::write(dir.join("path"), nodes.components.node_path())?;
    // a copy: bash reads a script while it runs it
    for script in ["node-init.sh", "pki.sh"] {
        fs::copy(
            paths::sources().join("nodes").join(script),
            dir.join(script),
        )?;
    }
    for policy in ["audit-policy.yaml", "admission.yaml"] {
        fs::copy(
            paths::sources().join("nodes").join(policy),
            dir.join("conf").join(policy),
        )?;
    }
    let mut pki = exec::command("bash", [dir.join("pki.sh")]);
    pki.args([&cluster.name, &cluster.index.to_string()])
        .arg(dir);
    exec::run_async(pki)
        .await
        .context("failed to make keys and certificates")
        .map(drop)
}

async fn boot(nodes: &Nodes, cluster: &Handle, dir: &Path, cgroup: &Cgroup) -> Result<Process> {
    for sub in ["run", "stopped", "frozen"] {
        let sub = dir.join(sub);
        if sub.exists() {
            fs::remove_dir_all(&sub)?;
        }
        fs::create_dir_all(&sub)?;
    }
    cgroup.make()?;
    // into the cgroup first, so that the cgroup namespace has it as its root
    let mut enter = String::new();
    for door in cgroup.doors() {
        enter.extend(["echo $$ >", &door.display().to_string(), "; "]);
    }
    enter.push_str(
        "exec setsid unshare --cgroup --net --uts --ipc --mount --pid --fork --kill-child=KILL \
         --propagation private bash \"$@\"",
    );
    let images: Vec<String> = nodes
        .images
        .boot()
        .map(|i| i.tar.display().to_string())
        .collect();
    let log = fs::File::create(dir.join("log/init.log"))?;
    let mut command = tokio::process::Command::new("sh");
    command
        .args(["-c", &enter, "node"])
        .arg(dir.join("node-init.sh"))
        .args([&cluster.name, &cluster.index.to_string()])
        .arg(dir)
        .env("PATH", nodes.components.node_path())
        .env("CNI_BIN", nodes.components.cni())
        .env("RUNC", nodes.components.debian("../wrappers/runc"))
        .env("BOOT_IMAGES", images.join(" "))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .current_dir("/");
    fs::write(dir.join("init"), "")?; // whoever is in the cgroup from here on is ours
    let child = command.spawn().context("failed to start the node")?;
    let outer = child.id().context("the node ended at once")?;
    let init = wait_for(
        "the node's first process",
        Duration::from_secs(10),
        || async { Ok(Process::child_of(outer).ok_or("no child yet")) },
    )
    .await
    .with_context(|| tail(&dir.join("log/init.log")))?;
    init.save(&dir.join("init"))?;
    network::add_link(cluster.index, init.id())?;
    Ok(init)
}

async fn settle(nodes: &Nodes, cluster: &Handle, client: &Client) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "kube-system");
    wait_for("service account kube-system/default", DEADLINE, || async {
        Ok(accounts
            .get("default")
            .await
            .map(drop)
            .map_err(|e| e.to_string()))
    })
    .await?;
    let text = fs::read_to_string(paths::sources().join("manifests/coredns.yaml"))?.replace(
        "{{dns}}",
        &format!("10.{}.0.10", 100 + u32::from(cluster.index)),
    );
    manifest::apply(client, &manifest::render(&text, &nodes.images)?).await?;
    let node: Api<Node> = Api::all(client.clone());
    let name = format!("{}-node", cluster.name);
    wait_for("the node to be Ready", DEADLINE, || async {
        Ok(match node.get(&name).await {
            Ok(node) => condition(&node)
                .then_some(())
                .ok_or_else(|| "not Ready".to_owned()),
            Err(e) => Err(e.to_string()),
        })
    })
    .await?;
    nodes.load(cluster, nodes.images.all()).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "kube-system");
    wait_for("CoreDNS to be available", DEADLINE, || async {
        let found = deployments.get("coredns").await.map_err(|e| e.to_string());
        Ok(found.and_then(|d| {
            let available = d.status.and_then(|s| s.available_replicas).unwrap_or(0);
            if available > 0 {
                Ok(())
            } else {
                Err("no replica is available".to_owned())
            }
        }))
    })
    .await
}

fn condition(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn tail(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(8)..)
        .unwrap_or_default()
        .join("\n")
}
