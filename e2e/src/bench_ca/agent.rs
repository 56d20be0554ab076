//! The agent itself, whole, as it runs in a pod: its `MeshAgent`, the Secret with its intermediate, its ledger in the status. Only
//! its Envoy is missing, and it is the administrator to the API server (as istiod is here).

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::{
    ByteString, api::core::v1::Secret,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, Client, api::PostParams};
use mesh_api::{NAMESPACE, agent::MeshAgent, labels};
use serde_json::json;
use tokio::process::Command;

use super::{
    client::{Ask, Protocol, Target},
    material::{Authorities, CLUSTER, MESH, SERVER, TRUST_DOMAIN},
    peers::{self, Place, Server},
};
use crate::{scenario, wait_for};

/// Puts into the API server what the agent finds in a member.
pub(super) async fn prepare(client: &Client, authorities: &Authorities) -> Result<()> {
    let crd = mesh_api::crd::<MeshAgent>();
    Api::<CustomResourceDefinition>::all(client.clone())
        .create(&PostParams::default(), &crd)
        .await
        .context("failed to make the CRD")?;
    let secret: Secret = serde_json::from_value(json!({
        "metadata": { "name": labels::INTERMEDIATE_SECRET },
        "data": {
            "g1.key": ByteString(authorities.intermediate_key.as_bytes().to_vec()),
            "g1.crt": ByteString(authorities.intermediate.as_bytes().to_vec()),
        },
    }))?;
    Api::namespaced(client.clone(), NAMESPACE)
        .create(&PostParams::default(), &secret)
        .await
        .context("failed to make the Secret")?;
    let agent: MeshAgent = serde_json::from_value(json!({
        "apiVersion": "mesh.kof.k0rdent.mirantis.com/v1alpha1",
        "kind": "MeshAgent",
        "metadata": { "name": labels::MESH_AGENT },
        "spec": {
            "mesh": MESH,
            "cluster": CLUSTER,
            "role": "child",
            "trustDomain": TRUST_DOMAIN,
            "identity": format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{}", labels::GATEWAY_NAME),
            "root": { "generation": 1, "certificate": authorities.root },
            "signerGeneration": 1,
            "leafSeconds": 86_400,
            "intermediateSeconds": 864_000,
            "workloads": {
                "issuer": "agent",
                "trustDomain": TRUST_DOMAIN,
                "bundle": { "generation": 1, "roots": [authorities.root] },
                "defaultSeconds": 86_400,
                "maxSeconds": 86_400,
                "serviceNames": [SERVER],
            },
        },
    }))?;
    let agents = Api::namespaced(client.clone(), NAMESPACE);
    wait_for("the CRD", Duration::from_secs(30), || async {
        Ok(agents.create(&PostParams::default(), &agent).await)
    })
    .await?;
    Ok(())
}

/// Starts it, and waits until it serves.
pub(super) async fn start(place: &Place, root: &str, asks: Vec<Ask>) -> Result<Server> {
    let [address, admin, intake, gateway] = peers::addresses()?;
    let mut command = Command::new(scenario::binary());
    command
        .args(["--log-format", "json", "agent", "--pod-name", "bench"])
        .arg(format!("--kubeconfig={}", place.kubeconfig().display()))
        .arg(format!(
            "--xds-socket={}",
            place.folder().join("xds.sock").display()
        ))
        .arg(format!("--admin-address={admin}"))
        .arg(format!("--intake={intake}"))
        .arg(format!("--gateway={gateway}"))
        .arg(format!("--ca-address={address}"));
    let target = Target::new(address, SERVER, root, Protocol::Istio, asks)?;
    place
        .start("agent", command, target, || async move {
            let found = tokio::net::TcpStream::connect(address).await;
            found.map(drop).map_err(|error| error.to_string())
        })
        .await
}
