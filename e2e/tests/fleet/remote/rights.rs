//! What the token in a remote secret may do in the region, asked of the region's API server with the token itself.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use mesh_e2e::{cluster, progress, x509};

use crate::Link;

/// What istiod watches in other clusters.
const READS: &[(&str, &str)] = &[
    ("", "namespaces"),
    ("", "nodes"),
    ("", "pods"),
    ("", "services"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("discovery.k8s.io", "endpointslices"),
    ("gateway.networking.k8s.io", "gateways"),
    ("networking.istio.io", "workloadentries"),
];

/// What it has no business with: group, kind (with its part), verb.
const REFUSED: &[(&str, &str, &str)] = &[
    ("", "secrets", "get"),
    ("", "secrets", "create"),
    ("", "configmaps", "list"),
    ("", "configmaps", "create"),
    ("", "serviceaccounts/token", "create"),
    ("", "serviceaccounts", "impersonate"),
    ("", "users", "impersonate"),
    ("", "pods", "create"),
    ("", "pods", "delete"),
    ("", "pods/exec", "create"),
    ("", "pods/exec", "get"),
    ("", "pods/portforward", "create"),
    ("", "pods/log", "get"),
    ("", "nodes/proxy", "get"),
    ("", "services", "create"),
    ("", "services", "patch"),
    ("", "services/proxy", "get"),
    ("", "namespaces", "patch"),
    ("apps", "deployments", "list"),
    ("discovery.k8s.io", "endpointslices", "patch"),
    ("networking.istio.io", "workloadentries", "create"),
    ("rbac.authorization.k8s.io", "clusterroles", "list"),
    ("rbac.authorization.k8s.io", "clusterrolebindings", "create"),
    ("mesh.kof.k0rdent.mirantis.com", "meshagents", "get"),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        "create",
    ),
];

/// A client with nothing but what is in the Secret.
async fn reader(link: &Link) -> Result<Client> {
    let secret = super::secret(link).await?;
    let mut data = secret.data.unwrap_or_default();
    let text = data
        .remove("region1")
        .context("the Secret has no entry for region1")?;
    ensure!(data.is_empty(), "further entries: {:?}", data.keys());
    let folder = x509::folder()?;
    let file = folder.join("remote.kubeconfig");
    let client = async {
        std::fs::write(&file, &text.0)?;
        cluster::client(&file).await
    }
    .await;
    std::fs::remove_dir_all(&folder)?;
    client
}

async fn may(client: &Client, group: &str, kind: &str, verb: &str) -> Result<bool> {
    let (resource, part) = kind.split_once('/').unwrap_or((kind, ""));
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: Some(part.to_owned()).filter(|part| !part.is_empty()),
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

fn is_forbidden<T>(answer: &kube::Result<T>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.code == 403)
}

/// It reads what istiod watches, the list of Secrets among it because the mesh says so, and is refused all else.
pub(super) async fn of_the_token(link: &Link) -> Result<()> {
    let client = reader(link).await?;
    for (group, kind) in READS {
        for verb in ["get", "list", "watch"] {
            ensure!(
                may(&client, group, kind, verb).await?,
                "it may not {verb} {kind}"
            );
        }
        for verb in ["create", "update", "patch", "delete", "deletecollection"] {
            ensure!(
                !may(&client, group, kind, verb).await?,
                "it may {verb} {kind}"
            );
        }
    }
    for (group, kind, verb) in REFUSED {
        ensure!(
            !may(&client, group, kind, verb).await?,
            "it may {verb} {kind}"
        );
    }
    ensure!(!may(&client, "*", "*", "*").await?, "it may do anything");
    for verb in ["list", "watch"] {
        ensure!(
            may(&client, "", "secrets", verb).await?,
            "it may not {verb} Secrets"
        );
    }
    // What it is told is what is done.
    let all = ListParams::default();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "istio-system");
    for name in ["cacerts", "mesh-intermediate"] {
        ensure!(
            is_forbidden(&secrets.get(name).await),
            "Secret {name} was read"
        );
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "istio-system");
    maps.get("istio")
        .await
        .context("the mesh configuration of istiod")?;
    ensure!(
        is_forbidden(&maps.get("istio-ca-root-cert").await),
        "another ConfigMap was read"
    );
    ensure!(
        is_forbidden(&maps.list(&all).await),
        "ConfigMaps were listed"
    );
    let namespaces: Api<Namespace> = Api::all(client.clone());
    ensure!(
        !namespaces.list(&all).await?.items.is_empty(),
        "no namespace"
    );
    let services: Api<Service> = Api::namespaced(client, "kof");
    let mut service = services.get("region1-vmauth").await?;
    service
        .metadata
        .labels
        .get_or_insert_default()
        .insert("written-by".to_owned(), "reader".to_owned());
    let written = services
        .replace("region1-vmauth", &PostParams::default(), &service)
        .await;
    ensure!(is_forbidden(&written), "a Service was written");
    progress::step(format!(
        "{} kinds are read, {} other things refused",
        READS.len() + 1,
        REFUSED.len()
    ));
    Ok(())
}
