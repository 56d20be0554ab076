//! The agent's pod, its rights and its Services.

use mesh_core::contract::{GATEWAY_PORT, SERVICE_PORT as INTAKE_PORT};
use serde_json::{Value, json};

use super::member::{
    CLUSTER_ROLE, CLUSTER_ROLE_BINDING, DEPLOYMENT, Make, MemberSettings, ROLE, ROLE_BINDING,
    Rendered, SERVICE,
};
use crate::{GROUP, NAMESPACE, TELEMETRY_NAMESPACE, labels, mesh::CaService, read::WorkloadRules};

/// Port on which the agent issues workload certificates; istiod's number for the same.
const CA_PORT: u16 = 15012;
/// Port of the agent's health and metrics.
pub(super) const ADMIN_PORT: u16 = 15014;
/// Seconds that Envoy drains connections of a listener or filter chain that goes away.
const DRAIN_SECONDS: u16 = 5;

/// What the agent may do, and nothing else: in its own cluster only, and no Secret but its own.
pub(super) fn roles(make: &Make<'_>, entries: bool) -> Vec<Rendered> {
    let subjects =
        json!([{ "kind": "ServiceAccount", "name": labels::AGENT_NAME, "namespace": NAMESPACE }]);
    let role_ref = |kind: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": labels::AGENT_NAME });
    let requests = json!([
        { "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"], "verbs": ["create", "get", "list", "watch"] },
    ]);
    let own = json!([
        { "apiGroups": [GROUP], "resources": ["meshagents"], "verbs": ["get", "list", "watch"] },
        { "apiGroups": [GROUP], "resources": ["meshagents/status"], "verbs": ["get", "patch"] },
        // Kubernetes cannot limit `create` to a name.
        { "apiGroups": [""], "resources": ["secrets"], "verbs": ["create"] },
        { "apiGroups": [""], "resources": ["secrets"], "resourceNames": [labels::INTERMEDIATE_SECRET], "verbs": ["get", "update", "patch"] },
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"] },
    ]);
    let mut names = vec![
        // Endpoints are written only for Services that are ours.
        json!({ "apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"] }),
        json!({ "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch", "create", "patch", "update", "delete"] }),
    ];
    if entries {
        names.push(json!({ "apiGroups": ["networking.istio.io"], "resources": ["workloadentries"], "verbs": ["get", "list", "watch", "create", "patch", "update", "delete"] }));
    }
    let name = labels::AGENT_NAME;
    vec![
        make.object(CLUSTER_ROLE, None, name, json!({ "rules": requests })),
        make.object(
            CLUSTER_ROLE_BINDING,
            None,
            name,
            json!({ "subjects": subjects, "roleRef": role_ref("ClusterRole") }),
        ),
        make.object(ROLE, Some(NAMESPACE), name, json!({ "rules": own })),
        make.object(
            ROLE_BINDING,
            Some(NAMESPACE),
            name,
            json!({ "subjects": subjects, "roleRef": role_ref("Role") }),
        ),
        make.object(
            ROLE,
            Some(TELEMETRY_NAMESPACE),
            name,
            json!({ "rules": names }),
        ),
        make.object(
            ROLE_BINDING,
            Some(TELEMETRY_NAMESPACE),
            name,
            json!({ "subjects": subjects, "roleRef": role_ref("Role") }),
        ),
    ]
}

/// What the agent may do besides when it has to do with workload certificates.
pub(super) fn ca_roles(make: &Make<'_>) -> Vec<Rendered> {
    let subjects =
        json!([{ "kind": "ServiceAccount", "name": labels::AGENT_NAME, "namespace": NAMESPACE }]);
    let rules = json!([
        // Who asks.
        { "apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"] },
        { "nonResourceURLs": ["/.well-known/openid-configuration", "/openid/v1/jwks"], "verbs": ["get"] },
        // Whether a node's account asks for a pod of its node.
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"] },
        // Roots and revocation lists into every namespace; Kubernetes cannot limit `create` to a name.
        { "apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"] },
        { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"] },
        { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [labels::ROOT_CONFIG_MAP, labels::CRL_CONFIG_MAP], "verbs": ["get", "list", "watch", "patch", "update", "delete"] },
    ]);
    let own = json!([
        { "apiGroups": [""], "resources": ["secrets"], "resourceNames": [labels::CACERTS_SECRET], "verbs": ["get", "update", "patch", "delete"] },
    ]);
    let role_ref = |kind: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": labels::CA_ROLE });
    let name = labels::CA_ROLE;
    let bound = |kind: &str| json!({ "subjects": subjects, "roleRef": role_ref(kind) });
    vec![
        make.object(CLUSTER_ROLE, None, name, json!({ "rules": rules })),
        make.object(CLUSTER_ROLE_BINDING, None, name, bound("ClusterRole")),
        make.object(ROLE, Some(NAMESPACE), name, json!({ "rules": own })),
        make.object(ROLE_BINDING, Some(NAMESPACE), name, bound("Role")),
    ]
}

/// Where the CA is called: namespace, name and ports of its Services.
fn ca_places(rules: &WorkloadRules) -> Vec<(&'static str, &'static str, Vec<u16>)> {
    let mut places = vec![(NAMESPACE, labels::CA_NAME, vec![443, CA_PORT])];
    places.extend(rules.services.iter().map(|service| match service {
        CaService::IstioCsr => ("cert-manager", "cert-manager-istio-csr", vec![443]),
        CaService::Istiod => (NAMESPACE, "istiod", vec![CA_PORT]),
    }));
    places
}

/// The names by which the CA is called.
pub(super) fn ca_names(rules: &WorkloadRules) -> Vec<String> {
    ca_places(rules)
        .into_iter()
        .flat_map(|(namespace, name, _)| {
            [
                format!("{name}.{namespace}.svc"),
                format!("{name}.{namespace}.svc.cluster.local"),
            ]
        })
        .collect()
}

/// The Services by which the CA is called.
pub(super) fn ca_services(make: &Make<'_>, rules: &WorkloadRules) -> Vec<Rendered> {
    ca_places(rules)
        .into_iter()
        .map(|(namespace, name, ports)| {
            let ports: Vec<Value> = ports
                .into_iter()
                .map(|port| json!({ "name": format!("grpc-{port}"), "port": port, "targetPort": CA_PORT, "protocol": "TCP" }))
                .collect();
            let spec = if namespace == NAMESPACE {
                json!({ "type": "ClusterIP", "ports": ports, "selector": { "app": labels::AGENT_NAME } })
            } else {
                // Pods of another namespace: only a name can lead to them.
                let to = format!("{}.{NAMESPACE}.svc.cluster.local", labels::CA_NAME);
                json!({ "type": "ExternalName", "externalName": to, "ports": ports })
            };
            make.object(SERVICE, Some(namespace), name, json!({ "spec": spec }))
        })
        .collect()
}

/// How others reach this member's gateway.
pub(super) fn gateway_service(make: &Make<'_>) -> Rendered {
    make.object(
        SERVICE,
        Some(NAMESPACE),
        labels::GATEWAY_NAME,
        json!({
            "metadata": { "labels": { "istio": "eastwestgateway" } },
            "spec": {
                "type": "LoadBalancer",
                "selector": { "app": labels::AGENT_NAME },
                "ports": [{ "name": "tls", "port": GATEWAY_PORT, "targetPort": GATEWAY_PORT, "protocol": "TCP" }],
            },
        }),
    )
}

/// The name by which workloads of this member call a region. It has no selector, since the pods behind it are in
/// another namespace; the agent keeps its EndpointSlice.
pub(super) fn telemetry_service(make: &Make<'_>, name: &str) -> Rendered {
    make.object(
        SERVICE,
        Some(TELEMETRY_NAMESPACE),
        name,
        json!({
            "spec": {
                "type": "ClusterIP",
                "ports": [{
                    "name": "http", "port": INTAKE_PORT, "targetPort": INTAKE_PORT, "protocol": "TCP", "appProtocol": "http",
                }],
            },
        }),
    )
}

/// The agent and its Envoy.
pub(super) fn deployment(make: &Make<'_>, settings: &MemberSettings) -> Rendered {
    let app = json!({ "app": labels::AGENT_NAME });
    let mut pod = json!({
        "serviceAccountName": labels::AGENT_NAME,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": app } },
        }] } },
        "containers": [agent(settings), envoy(settings)],
        "volumes": [{ "name": "run", "emptyDir": { "medium": "Memory", "sizeLimit": "16Mi" } }],
    });
    super::member::merge(&mut pod, pull_secrets(settings));
    make.object(
        DEPLOYMENT,
        Some(NAMESPACE),
        labels::AGENT_NAME,
        json!({
            "metadata": { "labels": app },
            "spec": {
                "replicas": settings.replicas,
                "selector": { "matchLabels": app },
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
                "template": {
                    "metadata": { "labels": { "app": labels::AGENT_NAME, "istio.io/dataplane-mode": "none", "sidecar.istio.io/inject": "false" } },
                    "spec": pod,
                },
            },
        }),
    )
}

/// With what a pod pulls its images, as part of its spec.
pub(super) fn pull_secrets(settings: &MemberSettings) -> Value {
    let names = settings.pull_secrets.iter();
    let names: Vec<Value> = names.map(|name| json!({ "name": name })).collect();
    if names.is_empty() {
        json!({})
    } else {
        json!({ "imagePullSecrets": names })
    }
}

pub(super) fn locked_down() -> Value {
    json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } })
}

pub(super) fn from_pod(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

fn agent(settings: &MemberSettings) -> Value {
    json!({
        "name": "agent",
        "image": settings.image,
        "args": ["agent"],
        "env": [
            from_pod("POD_NAME", "metadata.name"),
            { "name": "RUST_LOG", "value": settings.log },
        ],
        "ports": [
            { "name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP" },
            { "name": "ca", "containerPort": CA_PORT, "protocol": "TCP" },
        ],
        "readinessProbe": { "httpGet": { "path": "/readyz", "port": ADMIN_PORT, "scheme": "HTTP" }, "periodSeconds": 1, "failureThreshold": 2 },
        "livenessProbe": { "httpGet": { "path": "/healthz", "port": ADMIN_PORT, "scheme": "HTTP" }, "periodSeconds": 10, "failureThreshold": 6 },
        "resources": { "requests": { "cpu": "20m", "memory": "32Mi" }, "limits": { "memory": "256Mi" } },
        "securityContext": locked_down(),
        "volumeMounts": [{ "name": "run", "mountPath": "/run/mesh" }],
    })
}

fn envoy(settings: &MemberSettings) -> Value {
    json!({
        "name": "envoy",
        "image": settings.envoy_image,
        "args": [
            "--config-yaml", settings.envoy_bootstrap,
            "--service-node", "$(POD_NAME)",
            "--service-cluster", labels::GATEWAY_NAME,
            "--drain-time-s", DRAIN_SECONDS.to_string(),
            "--drain-strategy", "immediate",
            "--concurrency", "2",
            "--disable-hot-restart",
            "--file-flush-interval-msec", "1000",
            "--log-level", "warning",
        ],
        "env": [from_pod("POD_NAME", "metadata.name")],
        "ports": [
            { "name": "intake", "containerPort": INTAKE_PORT, "protocol": "TCP" },
            { "name": "gateway", "containerPort": GATEWAY_PORT, "protocol": "TCP" },
        ],
        // Endpoints forget the pod first; then Envoy may go.
        "lifecycle": { "preStop": { "sleep": { "seconds": DRAIN_SECONDS } } },
        "resources": { "requests": { "cpu": "50m", "memory": "96Mi" }, "limits": { "memory": "1Gi" } },
        "securityContext": locked_down(),
        "volumeMounts": [{ "name": "run", "mountPath": "/run/mesh" }],
    })
}
