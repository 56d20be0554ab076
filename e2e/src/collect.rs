//! Everything that explains the state of a cluster, in one folder: objects of all kinds, pod logs,
//! Envoy's own view, component logs, the audit log. Secrets are listed by name only.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DynamicObject, ListParams, LogParams};
use kube::discovery::{Discovery, Scope, verbs};

use crate::{Cluster, progress};

/// Collects one cluster. What cannot be had is noted in `errors.txt`; only a folder that cannot be
/// written is an error.
pub async fn cluster(cluster: &Cluster, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let mut errors = Vec::new();
    let mut note = |what: &str, result: Result<()>| {
        if let Err(error) = result {
            errors.push(format!("{what}: {error:#}"));
        }
    };
    note(
        "component logs",
        component_logs(cluster, &folder.join("node")),
    );
    let limit = std::time::Duration::from_mins(1);
    for (what, result) in [
        (
            "objects",
            tokio::time::timeout(limit, objects(cluster, &folder.join("objects"))).await,
        ),
        (
            "pods",
            tokio::time::timeout(limit, pods(cluster, &folder.join("pods"))).await,
        ),
    ] {
        note(
            what,
            result.unwrap_or_else(|_| Err(anyhow::anyhow!("took longer than {limit:?}"))),
        );
    }
    fs::write(folder.join("errors.txt"), errors.join("\n"))?;
    progress::step(format!(
        "{}: collected into {}",
        cluster.name(),
        folder.display()
    ));
    Ok(())
}

fn component_logs(cluster: &Cluster, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(&cluster.handle().logs)? {
        let path = entry?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            fs::copy(&path, folder.join(name))?;
        }
    }
    Ok(())
}

async fn objects(cluster: &Cluster, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let client = cluster.client();
    let discovery = Discovery::new(client.clone()).run().await?;
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            if !capabilities.supports_operation(verbs::LIST) {
                continue;
            }
            let api: Api<DynamicObject> = match capabilities.scope {
                Scope::Cluster | Scope::Namespaced => Api::all_with(client.clone(), &resource),
            };
            let Ok(mut list) = api.list(&ListParams::default()).await else {
                continue;
            };
            for object in &mut list.items {
                object.metadata.managed_fields = None;
                if resource.kind == "Secret" && resource.group.is_empty() {
                    object.data =
                        serde_json::json!({ "type": object.data.get("type"), "data": "left out" });
                }
            }
            if !list.items.is_empty() {
                let name = format!("{}.{}.json", resource.plural, resource.group);
                fs::write(
                    folder.join(name),
                    serde_json::to_string_pretty(&list.items)?,
                )?;
            }
        }
    }
    Ok(())
}

async fn pods(cluster: &Cluster, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let all: Api<Pod> = Api::all(cluster.client());
    for pod in all.list(&ListParams::default()).await? {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(cluster.client(), &namespace);
        let spec = pod.spec.clone().unwrap_or_default();
        let containers = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        for container in containers {
            for previous in [false, true] {
                let params = LogParams {
                    container: Some(container.name.clone()),
                    previous,
                    ..LogParams::default()
                };
                let Ok(text) = api.logs(&name, &params).await else {
                    continue;
                };
                let suffix = if previous { "previous.log" } else { "log" };
                fs::write(
                    folder.join(format!("{namespace}.{name}.{}.{suffix}", container.name)),
                    text,
                )?;
            }
            let image = container.image.as_deref().unwrap_or_default();
            if image.starts_with("kof.test/envoy") {
                let text = envoy(cluster, &pod)
                    .await
                    .unwrap_or_else(|e| format!("{e:#}"));
                fs::write(folder.join(format!("{namespace}.{name}.envoy.txt")), text)?;
            }
        }
    }
    Ok(())
}

/// What Envoy says of itself on its admin address, asked inside the pod's own network.
async fn envoy(cluster: &Cluster, pod: &Pod) -> Result<String> {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref())
        .context("no status")?;
    let id = statuses
        .iter()
        .find_map(|s| s.container_id.as_deref())
        .context("no container runs")?;
    let id = id.trim_start_matches("containerd://");
    let tasks = cluster
        .on_node(&["ctr", "-n", "k8s.io", "task", "ls"])
        .await?;
    let pid = tasks
        .lines()
        .find_map(|l| l.strip_prefix(id)?.split_whitespace().next())
        .context("the container has no process")?;
    let mut text = String::new();
    for path in [
        "server_info",
        "config_dump?include_eds",
        "clusters",
        "certs",
        "listeners",
        "stats?usedonly",
    ] {
        for port in ["15000", "9901"] {
            let url = format!("http://127.0.0.1:{port}/{path}");
            let args = ["nsenter", "-t", pid, "-n", "curl", "-sf", "-m", "5", &url];
            if let Ok(answer) = cluster.on_node(&args).await {
                text.extend(["=== ", path, "\n", &answer, "\n"]);
            }
        }
    }
    Ok(text)
}
