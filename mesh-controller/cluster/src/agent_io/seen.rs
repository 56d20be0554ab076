//! Kubernetes objects of the own cluster as plain values.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{Pod, Secret, Service},
    discovery::v1::EndpointSlice,
};
use kube::{ResourceExt as _, api::DynamicObject};
use mesh_api::{
    agent::{MeshAgent, MeshAgentSpec, MeshAgentStatus, Replica},
    labels,
};
use zeroize::Zeroizing;

/// Label of an endpoint slice: who keeps it.
pub(super) const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label of an endpoint slice: whose it is.
pub(super) const SLICE_SERVICE: &str = "kubernetes.io/service-name";
/// Label of an endpoint slice that istiod does not look at (Istio's `pilot/pkg/serviceregistry/kube/controller/endpointslice.go`); kube-proxy
/// does. It must be there from the beginning: istiod keeps what it saw before.
pub(super) const SLICE_HIDDEN: &str = "multicluster.kubernetes.io/service-name";

/// What the controller wants of this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// UID of the object.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// Labels that everything made for this member carries.
    pub marks: BTreeMap<String, String>,
    /// It is being deleted.
    pub leaving: bool,
    /// What to serve.
    pub spec: MeshAgentSpec,
    /// What was reported last, by all replicas.
    pub status: MeshAgentStatus,
}

pub(super) fn intent(object: &MeshAgent) -> Intent {
    let mut marks: BTreeMap<String, String> = [labels::INSTALL, labels::MEMBER]
        .iter()
        .filter_map(|key| {
            object
                .labels()
                .get(*key)
                .map(|value| ((*key).to_owned(), value.clone()))
        })
        .collect();
    marks.insert(
        labels::MANAGED_BY.to_owned(),
        labels::MANAGED_BY_US.to_owned(),
    );
    Intent {
        uid: object.uid().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        marks,
        leaving: object.metadata.deletion_timestamp.is_some(),
        spec: object.spec.clone(),
        status: object.status.clone().unwrap_or_default(),
    }
}

/// What all replicas have reported, at one version of the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// What the object must still have when something is reported on top of this.
    pub version: String,
    /// One entry per pod.
    pub replicas: Vec<Replica>,
}

pub(super) fn reported(object: &MeshAgent) -> Reported {
    Reported {
        version: object.resource_version().unwrap_or_default(),
        replicas: object
            .status
            .iter()
            .flat_map(|status| status.replicas.iter().cloned())
            .collect(),
    }
}

/// The Secret of the intermediate. Its `Debug` shows names of entries only.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretSeen {
    /// What it must still have when it is replaced.
    pub resource_version: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its entries.
    pub data: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for SecretSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSeen")
            .field("resource_version", &self.resource_version)
            .field("entries", &self.data.keys())
            .finish_non_exhaustive()
    }
}

pub(super) fn secret(object: &Secret) -> SecretSeen {
    SecretSeen {
        resource_version: object.resource_version().unwrap_or_default(),
        labels: object.labels().clone(),
        data: object
            .data
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), Zeroizing::new(value.0.clone())))
            .collect(),
    }
}

/// A certificate request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsrSeen {
    /// The request, PEM.
    pub request: Vec<u8>,
    /// What became of it.
    pub outcome: CsrOutcome,
}

/// What became of a certificate request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CsrOutcome {
    /// Nothing yet.
    Pending,
    /// It was refused.
    Denied {
        /// One word.
        reason: String,
        /// For a person.
        message: String,
    },
    /// It was approved and could not be signed.
    Failed {
        /// One word.
        reason: String,
        /// For a person.
        message: String,
    },
    /// The certificate, then the certificates above it, PEM.
    Issued(Vec<u8>),
}

pub(super) fn csr(object: &CertificateSigningRequest) -> CsrSeen {
    let status = object.status.as_ref();
    let condition = |kind: &str| {
        status
            .and_then(|s| s.conditions.as_ref())
            .into_iter()
            .flatten()
            .find(|c| c.type_ == kind)
            .map(|c| {
                (
                    c.reason.clone().unwrap_or_default(),
                    c.message.clone().unwrap_or_default(),
                )
            })
    };
    let outcome = if let Some((reason, message)) = condition("Denied") {
        CsrOutcome::Denied { reason, message }
    } else if let Some((reason, message)) = condition("Failed") {
        CsrOutcome::Failed { reason, message }
    } else {
        match status.and_then(|s| s.certificate.as_ref()) {
            Some(certificate) if !certificate.0.is_empty() => {
                CsrOutcome::Issued(certificate.0.clone())
            }
            Some(_) | None => CsrOutcome::Pending,
        }
    };
    CsrSeen {
        request: object.spec.request.0.clone(),
        outcome,
    }
}

/// A pod of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSeen {
    /// Its addresses, at most one of each family.
    pub ips: BTreeSet<IpAddr>,
    /// It is ready and not about to end.
    pub ready: bool,
    /// It is about to end.
    pub leaving: bool,
}

pub(super) fn pod(object: &Pod) -> PodSeen {
    let status = object.status.as_ref();
    let ips = status
        .and_then(|s| s.pod_ips.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.ip.parse().ok())
        .collect();
    let ready = status
        .and_then(|s| s.conditions.as_ref())
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True");
    let over = status
        .and_then(|s| s.phase.as_deref())
        .is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
    let leaving = over || object.metadata.deletion_timestamp.is_some();
    PodSeen {
        ips,
        ready: ready && !leaving,
        leaving,
    }
}

/// A telemetry Service that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSeen {
    /// It has a selector, so Kubernetes keeps its endpoints and we must not.
    pub selects: bool,
    /// Address families it wants; empty if it does not say.
    pub families: BTreeSet<String>,
}

pub(super) fn service(object: &Service) -> ServiceSeen {
    let spec = object.spec.as_ref();
    ServiceSeen {
        selects: spec
            .and_then(|s| s.selector.as_ref())
            .is_some_and(|s| s.keys().any(|key| key != labels::SERVICE)),
        families: spec
            .and_then(|s| s.ip_families.clone())
            .unwrap_or_default()
            .into_iter()
            .collect(),
    }
}

/// An endpoint slice of ours: where one Service leads, for one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The Service.
    pub service: String,
    /// Addresses are IPv6.
    pub v6: bool,
    /// Addresses of pods that are ready.
    pub addresses: BTreeSet<IpAddr>,
    /// Name and number of the port.
    pub port: (String, u16),
    /// Sidecars are not led there.
    pub hidden: bool,
    /// Its labels, those that others read aside.
    pub marks: BTreeMap<String, String>,
}

/// A `WorkloadEntry` of ours: one address behind a Service, for sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The Service, which selects it by a label.
    pub service: String,
    /// Where it leads.
    pub address: IpAddr,
    /// Name of the Service's port, and the number of the port it leads to.
    pub port: (String, u16),
    /// The service account that must answer there.
    pub account: String,
    /// Its labels, the one that the Service selects by aside.
    pub marks: BTreeMap<String, String>,
}

/// Nothing when an entry is not as we write them.
pub(super) fn entry(object: &DynamicObject) -> Option<Entry> {
    let spec = object.data.get("spec")?;
    if spec.as_object()?.len() != 4 || spec.pointer("/labels")?.as_object()?.len() != 1 {
        return None;
    }
    let text = |name: &str| Some(spec.get(name)?.as_str()?.to_owned());
    let (port, number) = spec.get("ports")?.as_object()?.iter().next()?;
    let labels = object.labels();
    Some(Entry {
        service: labels.get(labels::SERVICE)?.clone(),
        address: text("address")?.parse().ok()?,
        port: (port.clone(), u16::try_from(number.as_u64()?).ok()?),
        account: text("serviceAccount")?,
        marks: labels
            .iter()
            .filter(|(key, _)| *key != labels::SERVICE)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    })
}

pub(super) fn slice(object: &EndpointSlice) -> Slice {
    let port = object.ports.iter().flatten().next();
    let read = [SLICE_MANAGED_BY, SLICE_SERVICE, SLICE_HIDDEN];
    let own = |key: &str| !read.contains(&key);
    Slice {
        service: object
            .labels()
            .get(SLICE_SERVICE)
            .cloned()
            .unwrap_or_default(),
        v6: object.address_type == "IPv6",
        addresses: object
            .endpoints
            .iter()
            .flat_map(|endpoint| &endpoint.addresses)
            .filter_map(|address| address.parse().ok())
            .collect(),
        port: (
            port.and_then(|p| p.name.clone()).unwrap_or_default(),
            port.and_then(|p| p.port)
                .and_then(|p| u16::try_from(p).ok())
                .unwrap_or_default(),
        ),
        hidden: object.labels().contains_key(SLICE_HIDDEN),
        marks: object
            .labels()
            .iter()
            .filter(|(k, _)| own(k))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
    }
}
