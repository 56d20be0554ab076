//! Remote secrets: who may read in a region, and the Secret by which a consumer's istiod does.

use jiff::Timestamp;
use k8s_openapi::ByteString;
use mesh_core::{
    istio::config_map,
    names::ClusterName,
    plan::IstioDelivery,
    remote::{Server, reader_account, secret_name},
};
use serde_json::{Value, json};

use super::member::{
    CLUSTER_ROLE, CLUSTER_ROLE_BINDING, Make, ROLE, ROLE_BINDING, Rendered, SERVICE_ACCOUNT, kind,
};
use crate::{NAMESPACE, labels, read::Redacted};

/// Name of the roles of readers.
const READER: &str = "mesh-reader";

/// The kind of remote secrets. It is not among those that are pruned with the rest: most Secrets of ours are made by others of us.
#[must_use]
pub const fn secret_kind() -> super::ManagedKind {
    kind("v1", "Secret", "secrets", true)
}

/// The accounts that consumers read this region as, and what those may do: what istiod watches in other clusters.
///
/// Which kinds these are is read from Istio 1.31 (`pkg/kube/multicluster/cluster.go`, `createWleConfigStore`, `NewConfigMapSource`).
/// It watches Secrets too; whether it may is the operator's to say.
pub(super) fn readers(make: &Make<'_>, istio: &IstioDelivery) -> Vec<Rendered> {
    if istio.readers.is_empty() {
        return Vec::new();
    }
    let accounts: Vec<String> = istio.readers.iter().map(reader_account).collect();
    let subject =
        |name: &String| json!({ "kind": "ServiceAccount", "name": name, "namespace": NAMESPACE });
    let subjects: Vec<Value> = accounts.iter().map(subject).collect();
    let read = |group: &str, resources: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": ["get", "list", "watch"] });
    let mut rules = vec![
        read("", &["namespaces", "nodes", "pods", "services"]),
        read("apiextensions.k8s.io", &["customresourcedefinitions"]),
        read("discovery.k8s.io", &["endpointslices"]),
        read("gateway.networking.k8s.io", &["gateways"]),
        read("networking.istio.io", &["workloadentries"]),
    ];
    if istio.read_secrets {
        rules.push(
            json!({ "apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"] }),
        );
    }
    let mut config = read("", &["configmaps"]);
    let map = config_map(&istio.revision);
    super::member::merge(&mut config, json!({ "resourceNames": [map] }));
    let bound = |kind: &str| json!({ "subjects": subjects, "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": READER } });
    // Its token is asked for by name; pods have no use for it.
    let account = |name: &String| {
        make.object(
            SERVICE_ACCOUNT,
            Some(NAMESPACE),
            name,
            json!({ "automountServiceAccountToken": false }),
        )
    };
    let mut objects: Vec<Rendered> = accounts.iter().map(account).collect();
    objects.extend([
        make.object(CLUSTER_ROLE, None, READER, json!({ "rules": rules })),
        make.object(CLUSTER_ROLE_BINDING, None, READER, bound("ClusterRole")),
        make.object(ROLE, Some(NAMESPACE), READER, json!({ "rules": [config] })),
        make.object(ROLE_BINDING, Some(NAMESPACE), READER, bound("Role")),
    ]);
    objects
}

/// What a remote secret is made from.
#[derive(Clone, Copy, Debug)]
pub struct RemoteSecret<'a> {
    /// The region that it leads to.
    pub region: &'a ClusterName,
    /// The region's API server.
    pub server: &'a Server,
    /// UID of the account that the token is of.
    pub reader: &'a str,
    /// The token.
    pub token: &'a Redacted,
    /// When it was issued.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

/// A remote secret, whole. Not for logs: it holds the token.
#[must_use]
pub fn remote_secret(secret: &RemoteSecret<'_>, settings: (&str, &str)) -> Value {
    let (install, member) = settings;
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": secret_name(secret.region),
            "namespace": NAMESPACE,
            "labels": {
                (labels::MANAGED_BY): labels::MANAGED_BY_US,
                (labels::INSTALL): install,
                (labels::MEMBER): member,
                (labels::MULTI_CLUSTER): "true",
            },
            "annotations": {
                (labels::REMOTE_CLUSTER): secret.region.as_str(),
                (labels::REMOTE_SHAPE): secret.server.shape(secret.region),
                (labels::REMOTE_READER): secret.reader,
                (labels::TOKEN_ISSUED): secret.issued.to_string(),
                (labels::TOKEN_EXPIRES): secret.expires.to_string(),
            },
        },
        "data": { (secret.region.as_str()): ByteString(kubeconfig(secret).into_bytes()) },
    })
}

/// The kubeconfig in a remote secret: what istiod's sanitiser lets pass, the same bytes for the same words. A string of JSON is one of YAML.
fn kubeconfig(secret: &RemoteSecret<'_>) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let region = secret.region.as_str();
    let Server {
        url,
        tls_server_name,
        ca_pem,
    } = secret.server;
    let base64 = |pem: &String| {
        serde_json::to_value(ByteString(pem.clone().into_bytes())).unwrap_or_default()
    };
    let lines = [
        ca_pem.as_ref().map(|pem| {
            format!(
                "    certificate-authority-data: {}\n",
                base64(pem).as_str().unwrap_or_default()
            )
        }),
        Some(format!("    server: {}\n", quoted(url))),
        tls_server_name
            .as_ref()
            .map(|name| format!("    tls-server-name: {}\n", quoted(name))),
    ];
    let cluster: String = lines.into_iter().flatten().collect();
    let region = quoted(region);
    let token = quoted(secret.token.reveal());
    format!(
        "apiVersion: v1\nkind: Config\npreferences: {{}}\nclusters:\n- name: {region}\n  cluster:\n{cluster}\
         contexts:\n- name: {region}\n  context:\n    cluster: {region}\n    user: {region}\ncurrent-context: {region}\n\
         users:\n- name: {region}\n  user:\n    token: {token}\n"
    )
}

#[cfg(test)]
mod tests;
