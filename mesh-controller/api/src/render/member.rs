//! Everything that must be in a member, as objects.

use mesh_core::plan::{Delivery, Through};
use serde_json::{Value, json};

use super::{intent::mesh_agent, istio, probe, remote, workload};
use crate::{
    GROUP, NAMESPACE, TELEMETRY_NAMESPACE,
    agent::MeshAgent,
    labels,
    mesh::{CaService, WorkloadIssuer},
    read::WorkloadRules,
};

/// What the objects in a member need besides the delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSettings {
    /// Image of the agent, that of the controller.
    pub image: String,
    /// Image of Envoy.
    pub envoy_image: String,
    /// Envoy's bootstrap, JSON, without a node ID (the pod's name is passed as `--service-node`).
    pub envoy_bootstrap: String,
    /// Names of Secrets in namespace istio-system of the member to pull images with.
    pub pull_secrets: Vec<String>,
    /// UID of this install.
    pub install: String,
    /// UID of the `MeshMember`.
    pub member: String,
    /// Pods of the agent.
    pub replicas: i32,
    /// Seconds that a leaf lives.
    pub leaf_seconds: u32,
    /// Seconds that an intermediate lives.
    pub intermediate_seconds: u32,
    /// Certificates for workloads.
    pub workloads: Option<WorkloadRules>,
    /// Log filter of the agent.
    pub log: String,
}

/// An object to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Its kind.
    pub kind: ManagedKind,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The object, with only the fields that are ours.
    pub body: Value,
}

/// A kind of object that we make in members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManagedKind {
    /// `v1`, `apps/v1`.
    pub api_version: &'static str,
    /// `Deployment`.
    pub kind: &'static str,
    /// `deployments`.
    pub plural: &'static str,
    /// Whether it lives in a namespace.
    pub namespaced: bool,
}

pub(super) const fn kind(
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
) -> ManagedKind {
    ManagedKind {
        api_version,
        kind,
        plural,
        namespaced,
    }
}

pub(super) const NAMESPACE_KIND: ManagedKind = kind("v1", "Namespace", "namespaces", false);
pub(super) const CRD: ManagedKind = kind(
    "apiextensions.k8s.io/v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
    false,
);
pub(super) const SERVICE_ACCOUNT: ManagedKind =
    kind("v1", "ServiceAccount", "serviceaccounts", true);
pub(super) const CLUSTER_ROLE: ManagedKind = kind(
    "rbac.authorization.k8s.io/v1",
    "ClusterRole",
    "clusterroles",
    false,
);
pub(super) const CLUSTER_ROLE_BINDING: ManagedKind = kind(
    "rbac.authorization.k8s.io/v1",
    "ClusterRoleBinding",
    "clusterrolebindings",
    false,
);
pub(super) const ROLE: ManagedKind = kind("rbac.authorization.k8s.io/v1", "Role", "roles", true);
pub(super) const ROLE_BINDING: ManagedKind = kind(
    "rbac.authorization.k8s.io/v1",
    "RoleBinding",
    "rolebindings",
    true,
);
pub(super) const AGENT: ManagedKind = kind(
    "mesh.kof.k0rdent.mirantis.com/v1alpha1",
    "MeshAgent",
    "meshagents",
    true,
);
pub(super) const SERVICE: ManagedKind = kind("v1", "Service", "services", true);
pub(super) const DEPLOYMENT: ManagedKind = kind("apps/v1", "Deployment", "deployments", true);
pub(super) const GATEWAY: ManagedKind = kind("networking.istio.io/v1", "Gateway", "gateways", true);
pub(super) const GATEWAY_API: ManagedKind =
    kind("gateway.networking.k8s.io/v1", "Gateway", "gateways", true);
pub(super) const AUTHORIZATION_POLICY: ManagedKind = kind(
    "security.istio.io/v1",
    "AuthorizationPolicy",
    "authorizationpolicies",
    true,
);
pub(super) const PEER_AUTHENTICATION: ManagedKind = kind(
    "security.istio.io/v1",
    "PeerAuthentication",
    "peerauthentications",
    true,
);
pub(super) const TELEMETRY: ManagedKind =
    kind("telemetry.istio.io/v1", "Telemetry", "telemetries", true);

pub(super) const ENVOY_FILTER: ManagedKind = kind(
    "networking.istio.io/v1alpha3",
    "EnvoyFilter",
    "envoyfilters",
    true,
);

/// The kind of what sidecars find regions by. The agent makes them.
#[must_use]
pub const fn workload_entry_kind() -> ManagedKind {
    kind(
        "networking.istio.io/v1",
        "WorkloadEntry",
        "workloadentries",
        true,
    )
}

/// The kind of namespaces.
#[must_use]
pub const fn namespace_kind() -> ManagedKind {
    NAMESPACE_KIND
}

/// The kinds that the controller makes in members, in the order in which they are taken away again: first what
/// leads others to us, last what the rest stands on.
#[must_use]
pub const fn prunable() -> &'static [ManagedKind] {
    &[
        GATEWAY,
        GATEWAY_API,
        SERVICE,
        AUTHORIZATION_POLICY,
        PEER_AUTHENTICATION,
        TELEMETRY,
        ENVOY_FILTER,
        DEPLOYMENT,
        AGENT,
        ROLE_BINDING,
        ROLE,
        CLUSTER_ROLE_BINDING,
        CLUSTER_ROLE,
        SERVICE_ACCOUNT,
        CRD,
        NAMESPACE_KIND,
    ]
}

/// Everything that must be in a member, in the order in which it is applied.
#[must_use]
pub fn member_objects(delivery: &Delivery, settings: &MemberSettings) -> Vec<Rendered> {
    let make = Make::new(settings);
    let mut objects = match &delivery.istio {
        Some(istio) => istio::namespaces(&make, istio),
        None => [NAMESPACE, TELEMETRY_NAMESPACE]
            .map(|name| make.object(NAMESPACE_KIND, None, name, json!({})))
            .into(),
    };
    objects.extend([
        make.crd(),
        make.object(
            SERVICE_ACCOUNT,
            Some(NAMESPACE),
            labels::AGENT_NAME,
            json!({}),
        ),
    ]);
    objects.extend(workload::roles(&make, istio::is_static(delivery)));
    if let Some(rules) = &settings.workloads {
        objects.extend(workload::ca_roles(&make));
        if rules.issuer == WorkloadIssuer::Agent {
            if rules.services.contains(&CaService::IstioCsr) {
                objects.push(make.object(NAMESPACE_KIND, None, "cert-manager", json!({})));
            }
            objects.extend(workload::ca_services(&make, rules));
        }
    }
    objects.push(make.object(
        AGENT,
        Some(NAMESPACE),
        labels::MESH_AGENT,
        json!({ "spec": mesh_agent(delivery, settings) }),
    ));
    objects.push(workload::deployment(&make, settings));
    if delivery.gateway {
        objects.push(workload::gateway_service(&make));
    }
    for consume in delivery.consume.values() {
        match &consume.through {
            Through::Envoy => objects.push(workload::telemetry_service(&make, &consume.service)),
            through @ Through::Istio { .. } => {
                objects.extend(istio::names(&make, delivery, through));
            }
        }
    }
    if let Some(istio) = &delivery.istio {
        objects.extend(istio::objects(&make, istio));
        objects.extend(remote::readers(&make, istio));
    }
    objects.extend(probe::objects(&make, delivery, settings));
    objects
}

/// Makes objects with our labels on them.
pub(super) struct Make<'a> {
    settings: &'a MemberSettings,
}

impl<'a> Make<'a> {
    pub(super) const fn new(settings: &'a MemberSettings) -> Self {
        Self { settings }
    }

    pub(super) fn object(
        &self,
        kind: ManagedKind,
        namespace: Option<&str>,
        name: &str,
        rest: Value,
    ) -> Rendered {
        let mut body = json!({
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {
                "name": name,
                "labels": {
                    (labels::MANAGED_BY): labels::MANAGED_BY_US,
                    (labels::INSTALL): self.settings.install,
                    (labels::MEMBER): self.settings.member,
                },
            },
        });
        if let Some(namespace) = namespace {
            merge(&mut body, json!({ "metadata": { "namespace": namespace } }));
        }
        merge(&mut body, rest);
        Rendered {
            kind,
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            body,
        }
    }

    fn crd(&self) -> Rendered {
        let crd = crate::crd::<MeshAgent>();
        let name = format!("meshagents.{GROUP}");
        let spec = serde_json::to_value(crd.spec).unwrap_or_default();
        self.object(CRD, None, &name, json!({ "spec": spec }))
    }
}

/// Puts `from` into `into`, objects member by member.
pub(super) fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
