//! What a user does, for the demo and for tests: install the chart, register clusters as k0rdent does, label
//! them, and read what the product says. Nothing here helps the product along.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use mesh_api::foreign::ClusterDeployment;
use mesh_api::member::MeshMember;
use serde_json::json;

use crate::images::{self, Image};
use crate::{Cluster, Fleet, manifest, paths, wait_for};

/// Namespace of k0rdent's objects in tests.
pub const NAMESPACE: &str = "kcm-system";

/// CRDs of k0rdent's kinds, as far as they are read: stand-ins, since kcm itself cannot be had.
const K0RDENT: &str = include_str!("../stand-ins/k0rdent-crds.yaml");

/// What a region of kof stores telemetry in.
const REGION_WORKLOADS: &str = include_str!("../manifests/region.yaml");
/// The collector of a child.
const CHILD_WORKLOADS: &str = include_str!("../manifests/child.yaml");
/// A pod to ask from.
const CLIENT: &str = include_str!("../manifests/client.yaml");
/// The telemetry namespace, as kof makes it.
const TELEMETRY: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: kof}}";

/// Labels of a region.
pub const REGION: &[(&str, &str)] = &[
    ("k0rdent.mirantis.com/istio-role", "member"),
    ("k0rdent.mirantis.com/kof-cluster-role", "regional"),
];

/// Labels of a child of `region1`.
pub const CHILD: &[(&str, &str)] = &[
    ("k0rdent.mirantis.com/istio-role", "member"),
    ("k0rdent.mirantis.com/kof-cluster-role", "child"),
    ("k0rdent.mirantis.com/kof-regional-cluster-name", "region1"),
];

/// The product's binary: as built in this tree, or what `MESH_CONTROLLER` names.
pub(crate) fn binary() -> PathBuf {
    let built = || paths::project().join("target/release/mesh-controller");
    std::env::var_os("MESH_CONTROLLER").map_or_else(built, PathBuf::from)
}

/// The product.
pub fn product() -> Result<Image> {
    images::product(&binary())
        .context("build the product first: cargo build --release -p mesh-controller")
}

/// Puts the stand-ins of k0rdent's kinds into management.
pub async fn install_k0rdent(management: &Cluster) -> Result<()> {
    management.apply(K0RDENT).await?;
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    management.apply(&namespace.to_string()).await?;
    wait_for("CRDs of k0rdent", Duration::from_secs(20), || async {
        Ok(
            Api::<ClusterDeployment>::namespaced(management.client(), NAMESPACE)
                .list(&kube::api::ListParams::default())
                .await
                .map(drop)
                .map_err(|e| e.to_string()),
        )
    })
    .await?;
    // Templates as k0rdent has them for adopted clusters, and for those that Cluster API makes.
    for (name, provider) in [
        ("adopted-cluster-1-0-2", "infrastructure-internal"),
        ("aws-standalone-cp-1-0-20", "infrastructure-aws"),
    ] {
        let template = json!({
            "apiVersion": "k0rdent.mirantis.com/v1beta1", "kind": "ClusterTemplate",
            "metadata": { "name": name, "namespace": NAMESPACE }, "spec": {},
        });
        let object = manifest::parse(&template.to_string())?
            .pop()
            .context("no template")?;
        let applied = manifest::apply_one(&management.client(), &object).await?;
        let api: Api<mesh_api::foreign::ClusterTemplate> =
            Api::namespaced(management.client(), NAMESPACE);
        let status = json!({ "status": { "providers": [provider] } });
        let name = applied.metadata.name.context("no name")?;
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
            .await?;
    }
    Ok(())
}

/// The chart's values that name the product's image, and Envoy's.
pub fn product_values(fleet: &Fleet, image: &Image) -> Result<Vec<String>> {
    let (repository, tag) = image
        .name
        .rsplit_once(':')
        .context("an image without a tag")?;
    let (envoy_repository, envoy_tag) = fleet
        .images()
        .name("envoy")?
        .rsplit_once(':')
        .context("an image without a tag")?;
    Ok(vec![
        format!("image.repository={repository}"),
        format!("image.tag={tag}"),
        format!("envoy.repository={envoy_repository}"),
        format!("envoy.tag={envoy_tag}"),
    ])
}

/// Installs the chart with the product's image, or upgrades it.
pub async fn install_product(fleet: &Fleet, image: &Image, set: &[&str]) -> Result<()> {
    fleet.load(std::slice::from_ref(image)).await?;
    let mut values = product_values(fleet, image)?;
    values.extend(set.iter().map(|value| (*value).to_owned()));
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let chart = paths::project().join("charts/kof-istio");
    fleet
        .cluster("management")?
        .helm_install("kof-istio", &chart, "istio-system", &values)
        .await
}

/// Starts what kof runs: storage in a region.
pub async fn install_storage(region: &Cluster) -> Result<()> {
    region.apply(REGION_WORKLOADS).await
}

/// Starts what kof runs: a collector in a child, which pushes to a region by name.
pub async fn install_collector(child: &Cluster, region: &str) -> Result<()> {
    child
        .apply(
            &CHILD_WORKLOADS
                .replace("{{cluster}}", child.name())
                .replace("{{region}}", region),
        )
        .await?;
    install_client(child).await
}

/// Starts a pod in namespace kof to ask from, beside where kof's own query side runs.
pub async fn install_client(cluster: &Cluster) -> Result<()> {
    cluster.apply(TELEMETRY).await?;
    cluster
        .apply(&CLIENT.replace("namespace: default", "namespace: kof"))
        .await
}

/// What k0rdent holds of an adopted cluster: its kubeconfig and a Credential.
pub async fn adopt(management: &Cluster, cluster: &Cluster) -> Result<()> {
    adopt_with(management, cluster.name(), &cluster.kubeconfig()?).await
}

/// As [`adopt`], with any kubeconfig.
pub async fn adopt_with(management: &Cluster, name: &str, kubeconfig: &str) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": format!("{name}-kubeconf"), "namespace": NAMESPACE },
        "stringData": { "value": kubeconfig },
    });
    let credential = json!({
        "apiVersion": "k0rdent.mirantis.com/v1beta1", "kind": "Credential",
        "metadata": { "name": format!("{name}-cred"), "namespace": NAMESPACE },
        "spec": { "identityRef": { "kind": "Secret", "name": format!("{name}-kubeconf") } },
    });
    management.apply(&secret.to_string()).await?;
    management.apply(&credential.to_string()).await
}

/// A `ClusterDeployment` of an adopted cluster.
pub async fn deploy(management: &Cluster, name: &str, labels: &[(&str, &str)]) -> Result<()> {
    let labels: serde_json::Map<String, serde_json::Value> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    let deployment = json!({
        "apiVersion": "k0rdent.mirantis.com/v1beta1", "kind": "ClusterDeployment",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": labels },
        "spec": { "template": "adopted-cluster-1-0-2", "credential": format!("{name}-cred"), "config": {} },
    });
    management.apply(&deployment.to_string()).await
}

/// Takes the enrolling label off a `ClusterDeployment`.
pub async fn unlabel(management: &Cluster, name: &str) -> Result<()> {
    let api: Api<ClusterDeployment> = Api::namespaced(management.client(), NAMESPACE);
    let change = json!({ "metadata": { "labels": { "k0rdent.mirantis.com/istio-role": null } } });
    api.patch(name, &PatchParams::default(), &Patch::Merge(change))
        .await?;
    Ok(())
}

/// Deletes a `ClusterDeployment`.
pub async fn undeploy(management: &Cluster, name: &str) -> Result<()> {
    let api: Api<ClusterDeployment> = Api::namespaced(management.client(), NAMESPACE);
    api.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// Namespace of a member.
pub fn home(name: &str) -> &'static str {
    if name == "management" {
        "istio-system"
    } else {
        NAMESPACE
    }
}

/// The member of a name, wherever it is.
pub async fn member(management: &Cluster, name: &str) -> Result<MeshMember> {
    let namespace = home(name);
    let api: Api<MeshMember> = Api::namespaced(management.client(), namespace);
    api.get(name)
        .await
        .with_context(|| format!("failed to get MeshMember {namespace}/{name}"))
}

/// Status and reason of a condition.
pub fn condition(member: &MeshMember, kind: &str) -> Option<(String, String, String)> {
    let status = member.status.as_ref()?;
    let found = status.conditions.iter().find(|c| c.type_ == kind)?;
    Some((
        found.status.clone(),
        found.reason.clone(),
        found.message.clone(),
    ))
}

/// Waits until a member is ready.
pub async fn ready(management: &Cluster, name: &str, deadline: Duration) -> Result<MeshMember> {
    wait_for(&format!("{name} to be ready"), deadline, || async {
        let found = match member(management, name).await {
            Ok(found) => found,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        Ok(match condition(&found, "Ready") {
            Some((status, ..)) if status == "True" => Ok(found),
            Some((_, reason, message)) => Err(format!("{reason}: {message}")),
            None => Err("no condition yet".to_owned()),
        })
    })
    .await
}

/// Waits until a condition of a member is not true for this reason, and returns its message.
pub async fn refused(
    management: &Cluster,
    name: &str,
    kind: &str,
    reason: &str,
    deadline: Duration,
) -> Result<String> {
    refused_in(management, home(name), name, (kind, reason), deadline).await
}

/// Waits until a member is gone.
pub async fn gone(management: &Cluster, name: &str, deadline: Duration) -> Result<()> {
    let namespace = home(name);
    let api: Api<MeshMember> = Api::namespaced(management.client(), namespace);
    wait_for(
        &format!("MeshMember {name} to be gone"),
        deadline,
        || async {
            Ok(match api.get_opt(name).await {
                Ok(None) => Ok(()),
                Ok(Some(left)) => Err(format!("{:?}", left.status.and_then(|s| s.why))),
                Err(error) => Err(error.to_string()),
            })
        },
    )
    .await
}

/// Replaces the kubeconfig that k0rdent holds of a cluster.
pub async fn set_kubeconfig(management: &Cluster, name: &str, kubeconfig: &str) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(management.client(), NAMESPACE);
    let change = json!({ "stringData": { "value": kubeconfig } });
    api.patch(
        &format!("{name}-kubeconf"),
        &PatchParams::default(),
        &Patch::Merge(change),
    )
    .await?;
    Ok(())
}

/// Asks `PromQL` of a region, from a pod of another cluster, by the region's name.
pub async fn query(from: &Cluster, region: &str, promql: &str) -> Result<serde_json::Value> {
    let encoded: String = promql
        .bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect();
    let url =
        format!("http://{region}-vmauth:8427/vm/select/0/prometheus/api/v1/query?query={encoded}");
    let text = from
        .exec("kof", "deploy/client", &["fetch", "get", "-q", &url])
        .await?;
    let answer: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))?;
    if answer.get("status").and_then(serde_json::Value::as_str) != Some("success") {
        bail!("the query failed: {answer}");
    }
    Ok(answer.pointer("/data/result").cloned().unwrap_or_default())
}

/// What the Envoy beside an agent of a cluster says on its administration address.
pub async fn envoy(cluster: &Cluster, path: &str) -> Result<String> {
    let ids = "{.items[0].status.containerStatuses[?(@.name==\"envoy\")].containerID}";
    let output = format!("jsonpath={ids}");
    let id = cluster
        .kubectl(&[
            "-n",
            "istio-system",
            "get",
            "pods",
            "-l",
            "app=mesh-agent",
            "-o",
            &output,
        ])
        .await?;
    let id = id.trim().trim_start_matches("containerd://").to_owned();
    let tasks = cluster
        .on_node(&["ctr", "-n", "k8s.io", "task", "ls"])
        .await?;
    let pid = tasks
        .lines()
        .find_map(|l| l.strip_prefix(&id)?.split_whitespace().next());
    let pid = pid.context("Envoy has no process")?.to_owned();
    let url = format!("http://127.0.0.1:15000/{path}");
    cluster
        .on_node(&["nsenter", "-t", &pid, "-n", "curl", "-sf", "-m", "5", &url])
        .await
}

/// A second ClusterDeployment of a name, in another namespace, with what it needs: YAML documents.
pub fn twin(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: k0rdent.mirantis.com/v1beta1\nkind: ClusterDeployment\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{k0rdent.mirantis.com/istio-role: member, k0rdent.mirantis.com/kof-cluster-role: child}}}}\n\
         spec: {{template: adopted-cluster-1-0-2, credential: {name}-cred}}\n"
    )
}

/// As [`refused`], in any namespace.
pub async fn refused_in(
    management: &Cluster,
    namespace: &str,
    name: &str,
    (kind, reason): (&str, &str),
    deadline: Duration,
) -> Result<String> {
    let api: Api<MeshMember> = Api::namespaced(management.client(), namespace);
    wait_for(
        &format!("{namespace}/{name} to say {kind}: {reason}"),
        deadline,
        || async {
            Ok(match api.get(name).await {
                Err(error) => Err(error.to_string()),
                Ok(found) => match condition(&found, kind) {
                    Some((status, seen, message)) if status == "False" && seen == reason => {
                        Ok(message)
                    }
                    seen => Err(format!("{seen:?}")),
                },
            })
        },
    )
    .await
}

/// Waits until any condition of a member is not true for one of these reasons, and returns its message.
pub async fn refused_any(
    management: &Cluster,
    name: &str,
    reasons: &[&str],
    deadline: Duration,
) -> Result<String> {
    wait_for(
        &format!("{name} to say one of {reasons:?}"),
        deadline,
        || async {
            let found = match member(management, name).await {
                Ok(found) => found,
                Err(error) => return Ok(Err(format!("{error:#}"))),
            };
            let conditions = found.status.map(|s| s.conditions).unwrap_or_default();
            let first = conditions.iter().find(|c| c.status != "True");
            Ok(match first {
                Some(c) if reasons.contains(&c.reason.as_str()) => Ok(c.message.clone()),
                Some(c) => Err(format!("{}: {}: {}", c.type_, c.reason, c.message)),
                None => Err("all conditions are true".to_owned()),
            })
        },
    )
    .await
}

/// Says not to wait for a member that is being removed.
pub async fn force(management: &Cluster, name: &str) -> Result<()> {
    let api: Api<MeshMember> = Api::namespaced(management.client(), NAMESPACE);
    let change = json!({ "metadata": { "annotations": { "mesh.kof.k0rdent.mirantis.com/force-removal": "true" } } });
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(change))
        .await
    {
        // It may be gone already.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other
            .map(drop)
            .with_context(|| format!("failed to annotate {name}")),
    }
}

/// Sets how long leaves live in the default mesh.
pub async fn set_leaf_life(management: &Cluster, life: &str) -> Result<()> {
    let api: Api<mesh_api::mesh::Mesh> = Api::all(management.client());
    let change = json!({ "spec": { "lifetimes": { "leaf": life } } });
    api.patch("default", &PatchParams::default(), &Patch::Merge(change))
        .await?;
    Ok(())
}

/// Says by hand where the gateway of a member is, or takes that back.
pub async fn set_gateway(management: &Cluster, name: &str, host: Option<&str>) -> Result<()> {
    let api: Api<MeshMember> = Api::namespaced(management.client(), NAMESPACE);
    let gateway = host.map(|host| json!({ "gateway": [{ "host": host, "port": 15443 }] }));
    let change = json!({ "spec": { "overrides": gateway } });
    api.patch(name, &PatchParams::default(), &Patch::Merge(change))
        .await?;
    Ok(())
}

/// A kubeconfig of somebody who may do nothing in a cluster.
pub async fn powerless_kubeconfig(cluster: &Cluster) -> Result<String> {
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "nobody", "namespace": "default" } });
    cluster.apply(&account.to_string()).await?;
    let token = cluster
        .kubectl(&[
            "-n",
            "default",
            "create",
            "token",
            "nobody",
            "--duration=1h",
        ])
        .await?;
    let admin: serde_json::Value = serde_saphyr::from_str(&cluster.kubeconfig()?)?;
    let inner = admin
        .pointer("/clusters/0/cluster")
        .context("a kubeconfig without a cluster")?;
    Ok(json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "k", "cluster": inner }],
        "users": [{ "name": "u", "user": { "token": token.trim() } }],
        "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
    })
    .to_string())
}

/// Stops the processes of a container without ending them, as a node does that hangs.
pub async fn freeze_pod(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<()> {
    let output =
        format!("jsonpath={{.status.containerStatuses[?(@.name==\"{container}\")].containerID}}");
    let id = cluster
        .kubectl(&["-n", namespace, "get", "pod", pod, "-o", &output])
        .await?;
    let id = id.trim().trim_start_matches("containerd://").to_owned();
    cluster
        .on_node(&["ctr", "-n", "k8s.io", "task", "pause", &id])
        .await
        .map(drop)
}

/// Asks `PromQL` of a region's storage itself, not through the product.
pub async fn query_storage(region: &Cluster, promql: &str) -> Result<serde_json::Value> {
    let client: Api<k8s_openapi::api::core::v1::Service> = Api::namespaced(region.client(), "kof");
    let cluster_ip = client
        .get("victoria-metrics")
        .await?
        .spec
        .and_then(|s| s.cluster_ip)
        .context("no address")?;
    let url = format!("http://{cluster_ip}:8428/api/v1/query");
    let query = format!("query={promql}");
    let text = region
        .on_node(&["curl", "-sf", "-m", "5", "--data-urlencode", &query, &url])
        .await?;
    let answer: serde_json::Value = serde_json::from_str(&text)?;
    Ok(answer.pointer("/data/result").cloned().unwrap_or_default())
}

/// The product in an image whose clock is off (libfaketime).
pub fn product_with_clock(fleet: &Fleet, offset: &str) -> Result<Image> {
    images::with_clock(fleet.components(), "mesh-controller", &binary(), offset)
}

/// How far the agent's last leaf was dated from now, as Envoy holds it: shows which clock it was made by.
pub async fn agent_clock(cluster: &Cluster) -> Result<String> {
    let certificates: serde_json::Value = serde_json::from_str(&envoy(cluster, "certs").await?)?;
    let leaf = certificates
        .pointer("/certificates/0/cert_chain/0")
        .context("Envoy has no certificate")?;
    let from = leaf
        .get("valid_from")
        .and_then(serde_json::Value::as_str)
        .unwrap_or("?");
    Ok(format!(
        "leaf valid from {from}, now {}",
        jiff::Timestamp::now()
    ))
}
