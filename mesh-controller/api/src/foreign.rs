//! Objects of k0rdent (kcm `v1beta1`), with only the fields we read. All are optional: what another version
//! leaves out or adds must not hinder reading (reference: kcm v1.11.4 `api/v1beta1`).

use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A cluster that k0rdent manages.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "k0rdent.mirantis.com",
    version = "v1beta1",
    kind = "ClusterDeployment",
    namespaced,
    status = "ClusterDeploymentStatus",
    derive = "PartialEq",
    crates(kube_core = "kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterDeploymentSpec {
    /// Name of a ClusterTemplate in the same namespace.
    #[serde(default)]
    pub template: Option<String>,
    /// Name of a Credential in the same namespace.
    #[serde(default)]
    pub credential: Option<String>,
    /// Nothing is made of it.
    #[serde(default)]
    pub dry_run: Option<bool>,
}

/// Status of a ClusterDeployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterDeploymentStatus {
    /// Not empty: the cluster's objects live on this KCM region, not on management.
    #[serde(default)]
    pub region: Option<String>,
}

/// Access to infrastructure; for an adopted cluster, its kubeconfig.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "k0rdent.mirantis.com",
    version = "v1beta1",
    kind = "Credential",
    namespaced,
    derive = "PartialEq",
    crates(kube_core = "kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct CredentialSpec {
    /// What holds the secret data.
    #[serde(default)]
    pub identity_ref: Option<IdentityRef>,
}

/// A reference to an object with secret data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentityRef {
    /// `Secret` for adopted clusters.
    #[serde(default)]
    pub kind: Option<String>,
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// Its namespace; absent = that of the Credential.
    #[serde(default)]
    pub namespace: Option<String>,
}

/// How clusters of a kind are made.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "k0rdent.mirantis.com",
    version = "v1beta1",
    kind = "ClusterTemplate",
    namespaced,
    status = "ClusterTemplateStatus",
    derive = "PartialEq",
    crates(kube_core = "kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterTemplateSpec {}

/// Status of a ClusterTemplate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterTemplateStatus {
    /// Providers; `infrastructure-internal` marks adopted clusters.
    #[serde(default)]
    pub providers: Vec<String>,
}
