//! Single reads and writes. Each is one call with a deadline; who calls decides whether and when to call again.

use std::{collections::BTreeMap, fmt::Debug, future::Future};

use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use mesh_api::{
    GROUP, NAMESPACE, TELEMETRY_NAMESPACE,
    agent::{Crl, MeshAgent, Obstacle, Replica, WorkloadsStatus},
    labels,
    member::Intermediate,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{
    AgentIoError, CALL_DEADLINE, OwnCluster,
    seen::{
        self, Intent, Reported, SLICE_HIDDEN, SLICE_MANAGED_BY, SLICE_SERVICE, SecretSeen, Slice,
    },
};

/// Whether an object was made, or somebody else had made it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Made now.
    Now,
    /// There already (or changed since it was read): read it.
    Before,
}

/// A request for an intermediate, to be posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsrDraft {
    /// Name of the object.
    pub name: String,
    /// The request, PEM.
    pub request: String,
    /// Seconds that the certificate is to live. Kubernetes refuses less than 600.
    pub seconds: u32,
    /// Labels.
    pub marks: BTreeMap<String, String>,
}

/// What all replicas say as one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// The intermediates that are held.
    pub intermediates: Vec<Intermediate>,
    /// Why there is none, or what is the matter with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<Obstacle>,
    /// Their revocation lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub crls: Vec<Crl>,
    /// What workloads are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadsStatus>,
}

pub(super) async fn call<T>(
    verb: &'static str,
    object: impl Into<String>,
    future: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, AgentIoError> {
    let object = object.into();
    match timeout(CALL_DEADLINE, future).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(AgentIoError::Call {
            verb,
            object,
            source: Box::new(source),
        }),
        Err(_elapsed) => Err(AgentIoError::Deadline { verb, object }),
    }
}

pub(super) fn made<T>(outcome: Result<T, AgentIoError>) -> Result<Made, AgentIoError> {
    match outcome {
        Ok(_) => Ok(Made::Now),
        Err(error) if error.is_conflict() => Ok(Made::Before),
        Err(error) => Err(error),
    }
}

fn secret_object(
    name: &str,
    data: &BTreeMap<String, Zeroizing<Vec<u8>>>,
    labels: &BTreeMap<String, String>,
) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(labels.clone()),
            ..ObjectMeta::default()
        },
        data: Some(
            data.iter()
                .map(|(key, value)| (key.clone(), ByteString(value.to_vec())))
                .collect(),
        ),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

pub(super) fn posted() -> PostParams {
    PostParams {
        field_manager: Some(labels::AGENT.to_owned()),
        ..PostParams::default()
    }
}

const CACERTS: &str = "Secret istio-system/cacerts";
const SECRET: &str = "Secret istio-system/mesh-intermediate";
const AGENT: &str = "MeshAgent istio-system/mesh";
const AGENT_STATUS: &str = "status of MeshAgent istio-system/mesh";

impl OwnCluster {
    /// Reads the Secret of the intermediate.
    pub async fn read_secret(&self) -> Result<Option<SecretSeen>, AgentIoError> {
        let secrets = self.secrets();
        let read = call("get", SECRET, secrets.get_opt(labels::INTERMEDIATE_SECRET)).await?;
        Ok(read.as_ref().map(seen::secret))
    }

    /// Creates the Secret of the intermediate, unless it is there.
    pub async fn create_secret(
        &self,
        data: &BTreeMap<String, Zeroizing<Vec<u8>>>,
        marks: &BTreeMap<String, String>,
    ) -> Result<Made, AgentIoError> {
        let object = secret_object(labels::INTERMEDIATE_SECRET, data, marks);
        made(call("create", SECRET, self.secrets().create(&posted(), &object)).await)
    }

    /// Puts other entries into the Secret of the intermediate, if it is still as it was read.
    pub async fn replace_secret(
        &self,
        read: &SecretSeen,
        data: &BTreeMap<String, Zeroizing<Vec<u8>>>,
    ) -> Result<Made, AgentIoError> {
        let mut object = secret_object(labels::INTERMEDIATE_SECRET, data, &read.labels);
        object.metadata.resource_version = Some(read.resource_version.clone());
        let secrets = self.secrets();
        let params = posted();
        let replacing = secrets.replace(labels::INTERMEDIATE_SECRET, &params, &object);
        match made(call("replace", SECRET, replacing).await) {
            // It was deleted meanwhile.
            Err(error) if error.is_not_found() => Ok(Made::Before),
            outcome => outcome,
        }
    }

    /// Reads the Secret that istiod signs with.
    pub async fn read_cacerts(&self) -> Result<Option<SecretSeen>, AgentIoError> {
        let secrets = self.secrets();
        let read = call("get", CACERTS, secrets.get_opt(labels::CACERTS_SECRET)).await?;
        Ok(read.as_ref().map(seen::secret))
    }

    /// Writes the Secret that istiod signs with: creates it, or replaces its entries if it is still as it was read.
    pub async fn put_cacerts(
        &self,
        read: Option<&SecretSeen>,
        data: &BTreeMap<String, Zeroizing<Vec<u8>>>,
        marks: &BTreeMap<String, String>,
    ) -> Result<Made, AgentIoError> {
        let (secrets, params) = (self.secrets(), posted());
        let Some(read) = read else {
            let object = secret_object(labels::CACERTS_SECRET, data, marks);
            return made(call("create", CACERTS, secrets.create(&params, &object)).await);
        };
        let mut object = secret_object(labels::CACERTS_SECRET, data, &read.labels);
        object.metadata.resource_version = Some(read.resource_version.clone());
        let replacing = secrets.replace(labels::CACERTS_SECRET, &params, &object);
        match made(call("replace", CACERTS, replacing).await) {
            Err(error) if error.is_not_found() => Ok(Made::Before),
            outcome => outcome,
        }
    }

    /// Posts a request for an intermediate, unless it is there.
    pub async fn post_request(&self, draft: &CsrDraft) -> Result<Made, AgentIoError> {
        let object = CertificateSigningRequest {
            metadata: ObjectMeta {
                name: Some(draft.name.clone()),
                labels: Some(draft.marks.clone()),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(draft.request.clone().into_bytes()),
                signer_name: labels::SIGNER.to_owned(),
                expiration_seconds: i32::try_from(draft.seconds).ok(),
                usages: Some(vec!["cert sign".to_owned(), "crl sign".to_owned()]),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        let name = format!("CertificateSigningRequest {}", draft.name);
        made(call("create", name, self.requests().create(&posted(), &object)).await)
    }

    /// Applies an endpoint slice. Every replica applies the same as the same field manager.
    pub async fn apply_slice(&self, name: &str, slice: &Slice) -> Result<(), AgentIoError> {
        let mut marks = slice.marks.clone();
        marks.insert(
            SLICE_MANAGED_BY.to_owned(),
            labels::MANAGED_BY_US.to_owned(),
        );
        marks.insert(SLICE_SERVICE.to_owned(), slice.service.clone());
        if slice.hidden {
            marks.insert(SLICE_HIDDEN.to_owned(), slice.service.clone());
        }
        let endpoints: Vec<Value> = slice
            .addresses
            .iter()
            .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false}}))
            .collect();
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": TELEMETRY_NAMESPACE, "labels": marks},
            "addressType": if slice.v6 { "IPv6" } else { "IPv4" },
            "endpoints": endpoints,
            "ports": [{"name": slice.port.0, "port": slice.port.1, "protocol": "TCP"}],
        });
        let slices = self.slices();
        let (params, patch) = apply_as(labels::AGENT, &object);
        let patching = slices.patch(name, &params, &patch);
        call(
            "apply",
            format!("EndpointSlice {TELEMETRY_NAMESPACE}/{name}"),
            patching,
        )
        .await
        .map(drop)
    }

    /// Deletes an endpoint slice of ours.
    pub async fn delete_slice(&self, name: &str) -> Result<(), AgentIoError> {
        let slices = self.slices();
        let params = DeleteParams::default();
        let object = format!("EndpointSlice {TELEMETRY_NAMESPACE}/{name}");
        match call("delete", object, slices.delete(name, &params)).await {
            Err(error) if !error.is_not_found() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Reads the `MeshAgent`, as it stands in the API server now.
    pub async fn read_intent(&self) -> Result<Option<Intent>, AgentIoError> {
        let agents = self.agents();
        let read = call("get", AGENT, agents.get_opt(labels::MESH_AGENT)).await?;
        Ok(read.as_ref().map(seen::intent))
    }

    /// What all replicas have reported, as it stands in the API server now.
    pub async fn read_replicas(&self) -> Result<Option<Reported>, AgentIoError> {
        let agents = self.agents();
        let read = call("get", AGENT, agents.get_opt(labels::MESH_AGENT)).await?;
        Ok(read.as_ref().map(seen::reported))
    }

    /// Reports what this replica sees, as a field manager of its own. Nothing is written when the object is not any more
    /// as it was read: neither can a call that was given up long ago undo a later one, nor is anything taken back that
    /// an earlier life of this pod has said. Returns what stands there then.
    pub async fn report_replica(
        &self,
        read: &Reported,
        replica: &Replica,
    ) -> Result<Reported, AgentIoError> {
        let status = json!({"replicas": [replica]});
        let manager = manager_of(&replica.pod);
        let written = self.report(&manager, Some(&read.version), status).await?;
        Ok(seen::reported(&written))
    }

    /// Takes back what a replica reported that is no more, if the object is still as it was read: applied as its field
    /// manager, an empty report removes all that it owned.
    pub async fn forget_replica(&self, read: &Reported, pod: &str) -> Result<(), AgentIoError> {
        self.report(&manager_of(pod), Some(&read.version), json!({}))
            .await
            .map(drop)
    }

    /// Reports what all replicas say as one: each reads the same, and whoever is first reports it.
    pub async fn report_shared(&self, shared: &Shared) -> Result<(), AgentIoError> {
        self.report(labels::AGENT, None, json!(shared))
            .await
            .map(drop)
    }

    /// Applies a status; with a version only on top of that.
    async fn report(
        &self,
        manager: &str,
        version: Option<&str>,
        status: Value,
    ) -> Result<MeshAgent, AgentIoError> {
        let mut metadata = json!({"name": labels::MESH_AGENT, "namespace": NAMESPACE});
        if let (Some(version), Some(metadata)) = (version, metadata.as_object_mut()) {
            metadata.insert("resourceVersion".to_owned(), json!(version));
        }
        let object = json!({
            "apiVersion": format!("{GROUP}/v1alpha1"),
            "kind": "MeshAgent",
            "metadata": metadata,
            "status": status,
        });
        let agents = self.agents();
        let (params, patch) = apply_as(manager, &object);
        let patching = agents.patch_status(labels::MESH_AGENT, &params, &patch);
        call("apply", AGENT_STATUS, patching).await
    }

    /// Whether a pod of the agent exists, asked of the API server itself.
    pub async fn pod_exists(&self, name: &str) -> Result<bool, AgentIoError> {
        let pods = self.pods();
        let pod = call(
            "get",
            format!("Pod {NAMESPACE}/{name}"),
            pods.get_metadata_opt(name),
        )
        .await?;
        Ok(pod.is_some())
    }
}

/// The field manager of one replica's report.
fn manager_of(pod: &str) -> String {
    format!("{}/{pod}", labels::AGENT)
}

pub(super) fn apply_as<'a, T: Serialize + Debug>(
    manager: &str,
    object: &'a T,
) -> (PatchParams, Patch<&'a T>) {
    (PatchParams::apply(manager).force(), Patch::Apply(object))
}
