//! Pods with Istio's real pilot-agent, and what their Envoys hold.
//!
//! The agent starts its own Envoy, with a configuration of ours in place of one from an istiod: it takes `default` and
//! `ROOTCA` from the agent's socket, answers over mTLS on port 8443 with what it sees of the caller, and forwards
//! what comes to port 8080 over mTLS to a peer, each request over a connection of its own.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};

use crate::{Cluster, exec};

/// Where the agent serves certificates to its Envoy.
const SOCKET: &str = "/var/run/secrets/workload-spiffe-uds/socket";

/// A pod to be made.
#[derive(Clone, Debug)]
pub struct Sidecar<'a> {
    /// Image `istio-proxy`.
    pub image: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name, and that of its service account and Service.
    pub name: &'a str,
    /// ID of its cluster.
    pub cluster: &'a str,
    /// Trust domain.
    pub trust_domain: &'a str,
    /// Host and port of the CA.
    pub ca: &'a str,
    /// Name of the pod, in the same namespace, that it forwards to, and that may call it.
    pub peer: &'a str,
    /// Further environment of the agent.
    pub env: &'a [(&'a str, &'a str)],
}

impl Sidecar<'_> {
    /// Its SPIFFE ID.
    pub fn identity(&self) -> String {
        self.identity_of(self.name)
    }

    fn identity_of(&self, account: &str) -> String {
        format!(
            "spiffe://{}/ns/{}/sa/{account}",
            self.trust_domain, self.namespace
        )
    }

    /// Everything it consists of, as documents to apply.
    pub fn manifest(&self) -> String {
        let objects = [
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": self.metadata() }),
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": self.metadata(), "data": { "envoy.json": self.envoy().to_string() } }),
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": self.metadata(),
                "spec": { "selector": { "app": self.name }, "ports": [{ "name": "tls", "port": 8443 }, { "name": "http", "port": 8080 }] },
            }),
            self.pod(),
        ];
        objects.map(|o| o.to_string()).join("\n---\n")
    }

    fn metadata(&self) -> Value {
        json!({ "name": self.name, "namespace": self.namespace, "labels": { "app": self.name } })
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one object, to be read from top to bottom"
    )]
    fn pod(&self) -> Value {
        let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
        let proxy = json!({ "customConfigFile": "/etc/test/envoy.json", "concurrency": 1 });
        let mut env = vec![
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("INSTANCE_IP", "status.podIP"),
            field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
            field("HOST_IP", "status.hostIP"),
        ];
        let plain = [
            ("CA_ADDR", self.ca),
            ("TRUST_DOMAIN", self.trust_domain),
            ("ISTIO_META_CLUSTER_ID", self.cluster),
            // no metadata servers of clouds are looked for
            ("CLOUD_PLATFORM", "none"),
            ("SECRET_GRACE_PERIOD_RATIO_JITTER", "0"),
            ("PROXY_CONFIG", &proxy.to_string()),
        ];
        env.extend(
            plain
                .iter()
                .chain(self.env)
                .map(|(name, value)| json!({ "name": name, "value": value })),
        );
        // the volumes of an injected pod
        let volumes = [
            (
                "istio-token",
                "/var/run/secrets/tokens",
                json!({ "projected": { "sources": [{ "serviceAccountToken": { "audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token" } }] } }),
            ),
            (
                "istiod-ca-cert",
                "/var/run/secrets/istio",
                json!({ "configMap": { "name": "istio-ca-root-cert" } }),
            ),
            (
                "istio-ca-crl",
                "/var/run/secrets/istio/crl",
                json!({ "configMap": { "name": "istio-ca-crl", "optional": true } }),
            ),
            (
                "workload-socket",
                "/var/run/secrets/workload-spiffe-uds",
                json!({ "emptyDir": {} }),
            ),
            (
                "credential-socket",
                "/var/run/secrets/credential-uds",
                json!({ "emptyDir": {} }),
            ),
            (
                "workload-certs",
                "/var/run/secrets/workload-spiffe-credentials",
                json!({ "emptyDir": {} }),
            ),
            ("istio-envoy", "/etc/istio/proxy", json!({ "emptyDir": {} })),
            (
                "istio-data",
                "/var/lib/istio/data",
                json!({ "emptyDir": {} }),
            ),
            (
                "istio-podinfo",
                "/etc/istio/pod",
                json!({ "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } }),
            ),
            (
                "config",
                "/etc/test",
                json!({ "configMap": { "name": self.name } }),
            ),
        ];
        let mounts: Vec<Value> = volumes
            .iter()
            .map(|(name, path, _)| json!({ "name": name, "mountPath": path }))
            .collect();
        let volumes: Vec<Value> = volumes
            .into_iter()
            .map(|(name, _, mut volume)| {
                if let Some(fields) = volume.as_object_mut() {
                    fields.insert("name".to_owned(), json!(name));
                }
                volume
            })
            .collect();
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": self.metadata(),
            "spec": {
                "serviceAccountName": self.name,
                "terminationGracePeriodSeconds": 0,
                "securityContext": { "runAsNonRoot": true, "runAsUser": 1337, "runAsGroup": 1337, "fsGroup": 1337, "seccompProfile": { "type": "RuntimeDefault" } },
                "containers": [{
                    "name": "istio-proxy", "image": self.image,
                    "args": ["proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local", "--proxyLogLevel=warning"],
                    "env": env,
                    "readinessProbe": { "tcpSocket": { "port": 8443 }, "periodSeconds": 1 },
                    "resources": { "requests": { "cpu": "5m", "memory": "64Mi" }, "limits": { "memory": "512Mi" } },
                    "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                    "volumeMounts": mounts,
                }],
                "volumes": volumes,
            },
        })
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one object, to be read from top to bottom"
    )]
    fn envoy(&self) -> Value {
        let extension = |name: &str, kind: &str, mut config: Value| {
            if let Some(fields) = config.as_object_mut() {
                fields.insert(
                    "@type".to_owned(),
                    json!(format!("type.googleapis.com/envoy.extensions.{kind}")),
                );
            }
            json!({ "name": name, "typed_config": config })
        };
        let listener = |name: &str,
                        port: u16,
                        socket: Option<Value>,
                        route: &Value,
                        seen: &Value| {
            let router = extension(
                "envoy.filters.http.router",
                "filters.http.router.v3.Router",
                json!({}),
            );
            let manager = json!({
                "stat_prefix": name, "codec_type": "HTTP1", "http_filters": [router],
                "route_config": { "virtual_hosts": [{ "name": name, "domains": ["*"], "routes": [route], "response_headers_to_add": seen }] },
            });
            let filter = extension(
                "envoy.filters.network.http_connection_manager",
                "filters.network.http_connection_manager.v3.HttpConnectionManager",
                manager,
            );
            json!({
                "name": name,
                "address": { "socket_address": { "address": "0.0.0.0", "port_value": port } },
                "filter_chains": [{ "filters": [filter], "transport_socket": socket }],
            })
        };
        let header = |name: &str, value: &str| json!({ "header": { "key": name, "value": value } });
        let source = json!({
            "resource_api_version": "V3",
            "api_config_source": { "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{ "envoy_grpc": { "cluster_name": "sds-grpc" } }] },
        });
        let peer = self.identity_of(self.peer);
        let tls = json!({
            // Envoy as a client offers 1.2 only, unless told; Istio tells it
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
            "tls_certificate_sds_secret_configs": [{ "name": "default", "sds_config": source }],
            "combined_validation_context": {
                "default_validation_context": { "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": peer } }] },
                "validation_context_sds_secret_config": { "name": "ROOTCA", "sds_config": source },
            },
        });
        let server = extension(
            "envoy.transport_sockets.tls",
            "transport_sockets.tls.v3.DownstreamTlsContext",
            json!({
                "common_tls_context": tls, "require_client_certificate": true,
                "disable_stateless_session_resumption": true, "disable_stateful_session_resumption": true,
            }),
        );
        let client = extension(
            "envoy.transport_sockets.tls",
            "transport_sockets.tls.v3.UpstreamTlsContext",
            json!({ "common_tls_context": tls, "max_session_keys": 0 }),
        );
        let answer = json!({ "match": { "prefix": "/" }, "direct_response": { "status": 200, "body": { "inline_string": "hello\n" } } });
        let forward = json!({ "match": { "prefix": "/" }, "route": { "cluster": "peer" } });
        let seen_by_server = json!([
            header("x-client", "%DOWNSTREAM_PEER_URI_SAN%"),
            header("x-client-serial", "%DOWNSTREAM_PEER_SERIAL%"),
            header("x-tls", "%DOWNSTREAM_TLS_VERSION%"),
        ]);
        let seen_by_client = json!([header("x-server", "%UPSTREAM_PEER_URI_SAN%")]);
        let http = |explicit: Value| {
            json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": { "max_requests_per_connection": i32::from(explicit.get("http_protocol_options").is_some()) },
                "explicit_http_config": explicit,
            } })
        };
        let endpoints = |name: &str, address: Value| json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }] });
        let host = format!("{}.{}.svc.cluster.local", self.peer, self.namespace);
        json!({
            "node": { "id": self.name, "cluster": self.namespace },
            "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 15000 } } },
            "static_resources": {
                "listeners": [
                    listener("server", 8443, Some(server), &answer, &seen_by_server),
                    listener("client", 8080, None, &forward, &seen_by_client),
                ],
                "clusters": [
                    {
                        "name": "sds-grpc", "type": "STATIC", "connect_timeout": "1s",
                        "typed_extension_protocol_options": http(json!({ "http2_protocol_options": {} })),
                        "load_assignment": endpoints("sds-grpc", json!({ "pipe": { "path": SOCKET } })),
                    },
                    {
                        "name": "peer", "type": "STRICT_DNS", "connect_timeout": "5s", "dns_lookup_family": "V4_ONLY", "dns_refresh_rate": "1s",
                        "typed_extension_protocol_options": http(json!({ "http_protocol_options": {} })),
                        "transport_socket": client,
                        "load_assignment": endpoints("peer", json!({ "socket_address": { "address": host, "port_value": 8443 } })),
                    },
                ],
            },
        })
    }
}

/// What an Envoy was given by its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// `default`: the leaf and what follows it, PEM.
    pub chain: Vec<String>,
    /// `ROOTCA`: the roots, PEM.
    pub roots: Vec<String>,
}

/// What the Envoy of a pod holds; `None` where it has not been given both yet.
pub async fn held(cluster: &Cluster, namespace: &str, pod: &str) -> Result<Option<Held>> {
    let url = "http://127.0.0.1:15000/config_dump?resource=dynamic_active_secrets";
    let dump: Value = serde_json::from_str(&ask(cluster, namespace, pod, url).await?)?;
    let found = |name: &str, path: &str| -> Result<Option<Vec<String>>> {
        let configs = dump.get("configs").and_then(Value::as_array);
        let secret = configs
            .into_iter()
            .flatten()
            .find(|c| c.get("name").is_some_and(|n| n == name));
        let bytes = secret.and_then(|s| s.pointer(path)).and_then(Value::as_str);
        bytes.map(|b| Ok(certificates(&decode(b)?))).transpose()
    };
    let chain = found(
        "default",
        "/secret/tls_certificate/certificate_chain/inline_bytes",
    )?;
    let roots = found(
        "ROOTCA",
        "/secret/validation_context/trusted_ca/inline_bytes",
    )?;
    Ok(chain
        .zip(roots)
        .map(|(chain, roots)| Held { chain, roots })
        .filter(|h| !h.chain.is_empty()))
}

/// Asks a URL from inside a pod, through the node.
pub async fn ask(cluster: &Cluster, namespace: &str, pod: &str, url: &str) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let found = pods
        .get(pod)
        .await
        .with_context(|| format!("failed to get pod {namespace}/{pod}"))?;
    let id = found
        .status
        .and_then(|s| s.container_statuses?.into_iter().next()?.container_id)
        .with_context(|| format!("{namespace}/{pod} has no container"))?;
    let id = id.trim_start_matches("containerd://");
    let tasks = cluster
        .on_node(&["ctr", "-n", "k8s.io", "task", "ls"])
        .await?;
    let pid = tasks
        .lines()
        .find_map(|l| l.strip_prefix(id)?.split_whitespace().next())
        .with_context(|| format!("{namespace}/{pod} has no process"))?;
    cluster
        .on_node(&["nsenter", "-t", pid, "-n", "curl", "-sf", "-m", "5", url])
        .await
}

/// The certificates of a PEM text, one each, with the end of line that the last may lack.
pub fn certificates(pem: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = Vec::new();
    let mut rest = pem;
    while let Some((one, after)) = rest.split_once(END) {
        if let Some((_, body)) = one.split_once("-----BEGIN CERTIFICATE-----") {
            found.push(format!("-----BEGIN CERTIFICATE-----{body}{END}\n"));
        }
        rest = after;
    }
    found
}

fn decode(base64: &str) -> Result<String> {
    let folder = crate::x509::folder()?;
    let file = folder.join("base64");
    std::fs::write(&file, base64)?;
    let text = exec::run(exec::command("base64", ["-d"]).arg(&file));
    std::fs::remove_dir_all(&folder)?;
    text
}

#[cfg(test)]
mod tests {
    use super::certificates;

    #[test]
    fn a_bundle_is_taken_apart() {
        let one = "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n";
        let text = format!("# a comment\n{one}{}", one.trim_end());
        assert_eq!(certificates(&text), [one, one]);
        assert!(certificates("nothing").is_empty());
    }
}
