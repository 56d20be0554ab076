//! What the agent reads and writes in its own cluster. The agent itself sees plain values only; this is the
//! one place on its side that knows Kubernetes.
//!
//! What it may do there, and no more (the rules in the rendered role say the same):
//!
//! | group | resource | namespace | name | verbs |
//! |---|---|---|---|---|
//! | ours | `meshagents` | `istio-system` | | get, list, watch |
//! | ours | `meshagents/status` | `istio-system` | | patch |
//! | core | `secrets` | `istio-system` | | create |
//! | core | `secrets` | `istio-system` | `mesh-intermediate` | get, update |
//! | core | `pods` | `istio-system` | | get, list, watch |
//! | core | `services` | `kof` | | list, watch |
//! | `discovery.k8s.io` | `endpointslices` | `kof` | | list, watch, create, patch, delete |
//! | `certificates.k8s.io` | `certificatesigningrequests` | | | create, list, watch |
//! | `authentication.k8s.io` | `tokenreviews` | | | create |
//! | core | `pods` | all | | list, watch (only when accounts of nodes may ask for other pods) |
//! | paths | `/openid/v1/jwks`, `/.well-known/openid-configuration` | | | get |
//! | core, with workload certificates | `namespaces` | | | list, watch |
//! | core, with workload certificates | `configmaps` | all | | create |
//! | core, with workload certificates | `configmaps` | all | `istio-ca-root-cert`, `istio-ca-crl` | list, watch, patch, delete |
//! | core, with workload certificates | `secrets` | `istio-system` | `cacerts` | get, update |
//!
//! Server-side apply needs `create` and `patch`.
//!
//! A pod that only probes uses two things of these: `meshagents` (get, list, watch) and `meshagents/status` (patch), both of the one
//! name `mesh`.

mod callers;
mod entries;
mod everyone;
mod follow;
mod maps;
mod seen;
mod write;

use std::{path::Path, time::Duration};

use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use mesh_api::{NAMESPACE, TELEMETRY_NAMESPACE, agent::MeshAgent};

pub use callers::PublishedKeys;
pub use everyone::Everyone;
pub use follow::Seen;
pub use maps::{MapDraft, MapSeen, NamespaceSeen};
pub use seen::{
    CsrOutcome, CsrSeen, Entry, Intent, PodSeen, Reported, SecretSeen, ServiceSeen, Slice,
};
pub use write::{CsrDraft, Made, Shared};

/// Longest that one call may take. Watches have their own limits.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Why something in the own cluster could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentIoError {
    /// No way to the API server is configured.
    #[error("failed to configure the client of the own API server")]
    Configure {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The API server refused, or was not reached.
    #[error("failed to {verb} {object}")]
    Call {
        /// What was tried.
        verb: &'static str,
        /// On what.
        object: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("failed to {verb} {object}: no answer within {} s", CALL_DEADLINE.as_secs())]
    Deadline {
        /// What was tried.
        verb: &'static str,
        /// On what.
        object: String,
    },
}

impl AgentIoError {
    fn status(&self, is: fn(&kube::core::Status) -> bool) -> bool {
        match self {
            Self::Call { source, .. } => {
                matches!(source.as_ref(), kube::Error::Api(status) if is(status))
            }
            Self::Configure { .. } | Self::Deadline { .. } => false,
        }
    }

    /// The object is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status(kube::core::Status::is_not_found)
    }

    /// The API server does not let us.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.status(kube::core::Status::is_forbidden)
    }

    /// Somebody else was faster.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status(|status| status.is_conflict() || status.is_already_exists())
    }
}

/// The cluster the agent runs in.
#[derive(Clone)]
pub struct OwnCluster {
    client: Client,
}

impl std::fmt::Debug for OwnCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnCluster").finish_non_exhaustive()
    }
}

impl OwnCluster {
    /// Configures a client: from the file, or from the service account of the pod. Asks nothing yet, so that
    /// an API server that is away hinders nobody from starting.
    ///
    /// # Errors
    ///
    /// When the file cannot be used, or there is no service account.
    pub async fn new(kubeconfig: Option<&Path>) -> Result<Self, AgentIoError> {
        fn configure(source: impl std::error::Error + Send + Sync + 'static) -> AgentIoError {
            AgentIoError::Configure {
                source: Box::new(source),
            }
        }
        let mut config = match kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(configure)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(configure)?
            }
            None => Config::incluster().map_err(configure)?,
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        Ok(Self {
            client: Client::try_from(config).map_err(configure)?,
        })
    }

    fn agents(&self) -> Api<MeshAgent> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn secrets(&self) -> Api<k8s_openapi::api::core::v1::Secret> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn pods(&self) -> Api<k8s_openapi::api::core::v1::Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn services(&self) -> Api<k8s_openapi::api::core::v1::Service> {
        Api::namespaced(self.client.clone(), TELEMETRY_NAMESPACE)
    }

    fn slices(&self) -> Api<k8s_openapi::api::discovery::v1::EndpointSlice> {
        Api::namespaced(self.client.clone(), TELEMETRY_NAMESPACE)
    }

    fn requests(&self) -> Api<k8s_openapi::api::certificates::v1::CertificateSigningRequest> {
        Api::all(self.client.clone())
    }
}

#[cfg(test)]
mod tests;
