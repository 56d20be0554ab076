//! What the agent may do in a member, and the controller on management, as their API servers say.

use anyhow::{Result, ensure};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use mesh_e2e::{Cluster, progress};
use serde_json::json;

use super::with_workloads;
use crate::with_link;

/// Something to do: verb, resource (`group/resource/subresource`), namespace, name.
type Deed = [&'static str; 4];

/// Whether an account of namespace istio-system may do something.
async fn may(cluster: &Cluster, account: &str, what: Deed) -> Result<bool> {
    let [verb, resource, namespace, name] = what;
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut spec = SubjectAccessReviewSpec {
        user: Some(format!("system:serviceaccount:istio-system:{account}")),
        groups: Some(
            [
                "system:serviceaccounts",
                "system:serviceaccounts:istio-system",
                "system:authenticated",
            ]
            .map(str::to_owned)
            .to_vec(),
        ),
        ..SubjectAccessReviewSpec::default()
    };
    if resource.starts_with("//") {
        spec.non_resource_attributes = Some(NonResourceAttributes {
            path: resource.strip_prefix('/').map(str::to_owned),
            verb: some(verb),
        });
    } else {
        let mut parts = resource.split('/');
        let mut part = || parts.next().unwrap_or_default();
        spec.resource_attributes = Some(ResourceAttributes {
            group: some(part()),
            resource: some(part()),
            subresource: some(part()),
            verb: some(verb),
            namespace: some(namespace),
            name: some(name),
            ..ResourceAttributes::default()
        });
    }
    let review = SubjectAccessReview {
        spec,
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(cluster.client());
    let answer = api.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|s| s.allowed))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn the_agent_may_do_what_it_needs_and_nothing_else() -> Result<()> {
    with_workloads("rights", json!({ "issuer": "agent" }), |w| async move {
        let needed = [
            ["create", "authentication.k8s.io/tokenreviews", "", ""],
            ["get", "/secrets", "istio-system", "mesh-intermediate"],
            ["create", "/configmaps", "workloads", ""],
            ["patch", "/configmaps", "workloads", "istio-ca-root-cert"],
            ["watch", "/namespaces", "", ""],
            ["watch", "/pods", "workloads", ""],
            [
                "create",
                "certificates.k8s.io/certificatesigningrequests",
                "",
                "",
            ],
            [
                "patch",
                "mesh.kof.k0rdent.mirantis.com/meshagents/status",
                "istio-system",
                "mesh",
            ],
            ["get", "//openid/v1/jwks", "", ""],
        ];
        let refused = [
            // Secrets: its own only, and never a list, which would show all
            ["get", "/secrets", "istio-system", "istio-ca-secret"],
            ["get", "/secrets", "istio-system", "another"],
            ["get", "/secrets", "kube-system", "mesh-intermediate"],
            ["get", "/secrets", "kof", "anything"],
            ["get", "/secrets", "workloads", "cacerts"],
            ["list", "/secrets", "istio-system", ""],
            ["watch", "/secrets", "istio-system", ""],
            ["list", "/secrets", "", ""],
            ["delete", "/secrets", "istio-system", "mesh-intermediate"],
            // other people's configuration
            ["get", "/configmaps", "kube-system", "kubeadm-config"],
            ["patch", "/configmaps", "kube-system", "coredns"],
            ["delete", "/configmaps", "workloads", "another"],
            // its own intent, and its own certificate's approval
            [
                "patch",
                "mesh.kof.k0rdent.mirantis.com/meshagents",
                "istio-system",
                "mesh",
            ],
            [
                "update",
                "certificates.k8s.io/certificatesigningrequests/approval",
                "",
                "",
            ],
            [
                "update",
                "certificates.k8s.io/certificatesigningrequests/status",
                "",
                "",
            ],
            [
                "approve",
                "certificates.k8s.io/signers",
                "",
                "mesh.kof.k0rdent.mirantis.com/intermediate",
            ],
            [
                "sign",
                "certificates.k8s.io/signers",
                "",
                "mesh.kof.k0rdent.mirantis.com/intermediate",
            ],
            // becoming somebody else
            ["create", "/serviceaccounts/token", "workloads", "default"],
            [
                "create",
                "/serviceaccounts/token",
                "istio-system",
                "mesh-agent",
            ],
            ["impersonate", "/users", "", "kubernetes-admin"],
            ["impersonate", "/serviceaccounts", "workloads", "default"],
            [
                "bind",
                "rbac.authorization.k8s.io/clusterroles",
                "",
                "cluster-admin",
            ],
            [
                "escalate",
                "rbac.authorization.k8s.io/clusterroles",
                "",
                "mesh-agent",
            ],
            // workloads
            ["create", "/pods", "workloads", ""],
            ["create", "/pods/exec", "workloads", "app"],
            ["get", "/pods/log", "workloads", "app"],
            ["patch", "apps/deployments", "istio-system", "mesh-agent"],
            ["patch", "/namespaces", "", "workloads"],
            ["patch", "/nodes", "", "child1-node"],
            ["get", "/nodes/proxy", "", "child1-node"],
            // Istio's objects, where Istio carries nothing
            ["create", "networking.istio.io/workloadentries", "kof", ""],
            ["list", "networking.istio.io/gateways", "istio-system", ""],
        ];
        check(w.child(), "mesh-agent", (&needed, &refused)).await
    })
}

/// What the controller must be able to do on management.
const CONTROLLER_NEEDS: &[Deed] = &[
    ["get", "/secrets", "kcm-system", "child1-kubeconf"],
    [
        "patch",
        "rbac.authorization.k8s.io/clusterroles",
        "",
        "mesh-agent",
    ],
    [
        "delete",
        "apiextensions.k8s.io/customresourcedefinitions",
        "",
        "meshagents.mesh.kof.k0rdent.mirantis.com",
    ],
    ["delete", "/namespaces", "", "kof"],
    ["delete", "/secrets", "istio-system", "mesh-intermediate"],
    [
        "patch",
        "networking.istio.io/envoyfilters",
        "istio-system",
        "mesh-probe",
    ],
    [
        "delete",
        "security.istio.io/peerauthentications",
        "kof",
        "mesh-strict",
    ],
];
/// What it must not.
const CONTROLLER_NEVER: &[Deed] = &[
    [
        "delete",
        "rbac.authorization.k8s.io/clusterroles",
        "",
        "cluster-admin",
    ],
    [
        "patch",
        "rbac.authorization.k8s.io/clusterroles",
        "",
        "kof-istio-controller",
    ],
    [
        "bind",
        "rbac.authorization.k8s.io/clusterroles",
        "",
        "cluster-admin",
    ],
    [
        "escalate",
        "rbac.authorization.k8s.io/clusterroles",
        "",
        "mesh-agent",
    ],
    [
        "delete",
        "apiextensions.k8s.io/customresourcedefinitions",
        "",
        "meshes.mesh.kof.k0rdent.mirantis.com",
    ],
    [
        "delete",
        "apiextensions.k8s.io/customresourcedefinitions",
        "",
        "clusterdeployments.k0rdent.mirantis.com",
    ],
    ["delete", "/namespaces", "", "kcm-system"],
    ["patch", "/namespaces", "", "kube-system"],
    // the root is made, and never changed or deleted
    ["delete", "/secrets", "istio-system", "default-mesh-root"],
    ["patch", "/secrets", "istio-system", "default-mesh-root"],
    ["delete", "/secrets", "kcm-system", "child1-kubeconf"],
    [
        "delete",
        "k0rdent.mirantis.com/clusterdeployments",
        "kcm-system",
        "child1",
    ],
    ["create", "/serviceaccounts/token", "kcm-system", "default"],
    ["impersonate", "/users", "", "kubernetes-admin"],
    ["create", "/pods/exec", "kof", "client"],
    ["get", "/nodes/proxy", "", "management-node"],
    // Istio's objects that are not its own, and those of a region, which management is not
    [
        "patch",
        "networking.istio.io/envoyfilters",
        "istio-system",
        "another",
    ],
    [
        "delete",
        "security.istio.io/peerauthentications",
        "kof",
        "default",
    ],
    ["delete", "telemetry.istio.io/telemetries", "kof", "default"],
    [
        "create",
        "security.istio.io/authorizationpolicies",
        "kof",
        "",
    ],
    ["create", "networking.istio.io/gateways", "istio-system", ""],
    ["create", "networking.istio.io/virtualservices", "kof", ""],
    ["patch", "apps/deployments", "kof", "client"],
    [
        "patch",
        "admissionregistration.k8s.io/mutatingwebhookconfigurations",
        "",
        "istio-sidecar-injector",
    ],
    // remote secrets are management's to allow
    ["patch", "/secrets", "istio-system", "mesh-remote-region1"],
    [
        "delete",
        "/secrets",
        "istio-system",
        "istio-remote-secret-region1",
    ],
];

#[test]
fn the_controller_changes_and_deletes_on_management_only_what_it_makes() -> Result<()> {
    with_link("controller-rights", |link| async move {
        let deeds = (CONTROLLER_NEEDS, CONTROLLER_NEVER);
        check(&link.management, "mesh-controller", deeds).await
    })
}

/// What the accounts of a consumer in the Istio plane may do besides, and no more.
pub(crate) async fn in_the_istio_plane(cluster: &Cluster) -> Result<()> {
    let entries = "networking.istio.io/workloadentries";
    let needed = [
        ["create", entries, "kof", ""],
        ["delete", entries, "kof", "any"],
    ];
    let refused = [
        ["create", entries, "istio-system", ""],
        ["list", entries, "", ""],
        ["create", "networking.istio.io/serviceentries", "kof", ""],
        [
            "create",
            "networking.istio.io/envoyfilters",
            "istio-system",
            "",
        ],
        [
            "patch",
            "networking.istio.io/gateways",
            "istio-system",
            "mesh-eastwest",
        ],
        [
            "patch",
            "security.istio.io/authorizationpolicies",
            "kof",
            "any",
        ],
        ["list", "/secrets", "istio-system", ""],
        ["get", "/secrets", "istio-system", "mesh-remote-region1"],
        ["patch", "apps/deployments", "istio-system", "istiod"],
        ["get", "/configmaps", "istio-system", "istio"],
    ];
    check(cluster, "mesh-agent", (&needed, &refused)).await?;
    let agents = "mesh.kof.k0rdent.mirantis.com/meshagents";
    let status = "mesh.kof.k0rdent.mirantis.com/meshagents/status";
    let needed = [
        ["watch", agents, "istio-system", "mesh"],
        ["patch", status, "istio-system", "mesh"],
    ];
    let refused = [
        ["patch", agents, "istio-system", "mesh"],
        ["patch", status, "istio-system", "another"],
        ["list", agents, "istio-system", ""],
        ["get", "/secrets", "istio-system", "mesh-intermediate"],
        ["list", "/pods", "istio-system", ""],
        ["create", entries, "kof", ""],
        [
            "create",
            "certificates.k8s.io/certificatesigningrequests",
            "",
            "",
        ],
    ];
    check(cluster, "mesh-probe", (&needed, &refused)).await
}

/// The API server allows what is needed, and nothing of what is to be refused.
async fn check(cluster: &Cluster, account: &str, lists: (&[Deed], &[Deed])) -> Result<()> {
    let mut wrong = Vec::new();
    let (needed, refused) = lists;
    for (expected, list) in [(true, needed), (false, refused)] {
        for what in list {
            if may(cluster, account, *what).await? != expected {
                let not = if expected { "not " } else { "" };
                wrong.push(format!("{not}allowed: {what:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    let (rights, refusals) = (needed.len(), refused.len());
    progress::step(format!("{account}: {rights} rights, {refusals} refusals"));
    Ok(())
}
