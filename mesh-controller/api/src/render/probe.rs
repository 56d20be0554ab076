//! The pod that probes regions through a sidecar of its own, and its rights.

use mesh_core::{
    istio::DEFAULT_REVISION,
    plan::{Delivery, IstioDelivery},
    probe::{DETAIL_HEADER, FLAGS_HEADER, SIDECAR_HEADER, TLS_HEADER},
};
use serde_json::{Value, json};

use super::{
    member::{
        DEPLOYMENT, ENVOY_FILTER, Make, MemberSettings, ROLE, ROLE_BINDING, Rendered,
        SERVICE_ACCOUNT, merge,
    },
    workload::{ADMIN_PORT, from_pod, locked_down, pull_secrets},
};
use crate::{GROUP, NAMESPACE, labels};

/// Ports of API servers: as pods call them, and behind that.
const API_PORTS: &str = "443,6443";

/// Everything that probing through a sidecar needs; nothing where no sidecar goes to a region by itself.
pub(super) fn objects(
    make: &Make<'_>,
    delivery: &Delivery,
    settings: &MemberSettings,
) -> Vec<Rendered> {
    let Some(istio) = &delivery.istio else {
        return Vec::new();
    };
    if delivery.probed_by_sidecars().next().is_none() {
        return Vec::new();
    }
    let name = labels::PROBE_NAME;
    // It sees no more than the one object, and changes nothing but the status of that.
    let rules = json!([
        { "apiGroups": [GROUP], "resources": ["meshagents"], "resourceNames": [labels::MESH_AGENT], "verbs": ["get", "list", "watch"] },
        { "apiGroups": [GROUP], "resources": ["meshagents/status"], "resourceNames": [labels::MESH_AGENT], "verbs": ["get", "patch"] },
    ]);
    let bound = json!({
        "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": NAMESPACE }],
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
    });
    vec![
        make.object(SERVICE_ACCOUNT, Some(NAMESPACE), name, json!({})),
        make.object(ROLE, Some(NAMESPACE), name, json!({ "rules": rules })),
        make.object(ROLE_BINDING, Some(NAMESPACE), name, bound),
        reasons(make),
        deployment(make, istio, settings),
    ]
}

fn deployment(make: &Make<'_>, istio: &IstioDelivery, settings: &MemberSettings) -> Rendered {
    let app = json!({ "app": labels::PROBE_NAME });
    let mut on_pod = json!({ "app": labels::PROBE_NAME, "sidecar.istio.io/inject": "true" });
    if istio.revision != DEFAULT_REVISION {
        merge(&mut on_pod, json!({ "istio.io/rev": istio.revision }));
    }
    let mut pod = json!({
        "serviceAccountName": labels::PROBE_NAME,
        "terminationGracePeriodSeconds": 5,
        // What istiod injects says of itself as whom it runs.
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [container(settings)],
    });
    merge(&mut pod, pull_secrets(settings));
    make.object(
        DEPLOYMENT,
        Some(NAMESPACE),
        labels::PROBE_NAME,
        json!({
            "metadata": { "labels": app },
            "spec": {
                "replicas": 1,
                "selector": { "matchLabels": app },
                // What the last one said stays until the next says it too.
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
                "template": {
                    "metadata": { "labels": on_pod, "annotations": annotations() },
                    "spec": pod,
                },
            },
        }),
    )
}

/// Has the sidecar of this pod, and of no other, say why it answers itself, as our own Envoy does. Its words alone do not tell a
/// refused connection from a certificate that is not trusted.
fn reasons(make: &Make<'_>) -> Rendered {
    let header = |name: &str, value: &str| json!({ "header": { "key": name, "value": value }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" });
    let mapper = json!({
        "filter": { "not_health_check_filter": {} },
        "headers_to_add": [
            header(SIDECAR_HEADER, "1"),
            header(DETAIL_HEADER, "%RESPONSE_CODE_DETAILS%"),
            header(FLAGS_HEADER, "%RESPONSE_FLAGS%"),
            header(TLS_HEADER, "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
        ],
    });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "local_reply_config": { "mappers": [mapper] },
    });
    let filter = json!({ "name": "envoy.filters.network.http_connection_manager" });
    make.object(
        ENVOY_FILTER,
        Some(NAMESPACE),
        labels::PROBE_NAME,
        json!({ "spec": {
            "workloadSelector": { "labels": { "app": labels::PROBE_NAME } },
            "configPatches": [{
                "applyTo": "NETWORK_FILTER",
                "match": { "context": "SIDECAR_OUTBOUND", "listener": { "filterChain": { "filter": filter } } },
                "patch": { "operation": "MERGE", "value": { "typed_config": manager } },
            }],
        } }),
    )
}

/// The sidecar takes what goes to regions and nothing else: that it does not work must be told, and does not make the pod unhealthy.
fn annotations() -> Value {
    json!({
        "traffic.sidecar.istio.io/excludeOutboundPorts": API_PORTS,
        "traffic.sidecar.istio.io/excludeInboundPorts": ADMIN_PORT.to_string(),
        "sidecar.istio.io/rewriteAppHTTPProbers": "false",
        // Before Kubernetes 1.29 a sidecar is a container like others, and would be late.
        "proxy.istio.io/config": json!({ "holdApplicationUntilProxyStarts": true }).to_string(),
    })
}

fn container(settings: &MemberSettings) -> Value {
    json!({
        "name": "probe",
        "image": settings.image,
        "args": ["probe"],
        "env": [
            from_pod("POD_NAME", "metadata.name"),
            { "name": "RUST_LOG", "value": settings.log },
        ],
        "ports": [{ "name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP" }],
        "readinessProbe": { "httpGet": { "path": "/readyz", "port": ADMIN_PORT, "scheme": "HTTP" }, "periodSeconds": 1, "failureThreshold": 2 },
        "livenessProbe": { "httpGet": { "path": "/healthz", "port": ADMIN_PORT, "scheme": "HTTP" }, "periodSeconds": 10, "failureThreshold": 6 },
        "resources": { "requests": { "cpu": "5m", "memory": "16Mi" }, "limits": { "memory": "128Mi" } },
        "securityContext": locked_down(),
    })
}
