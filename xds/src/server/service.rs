//! The two gRPC services in front of [`super::session`].

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use futures::{Stream, stream};
use pb::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::Store;
use super::session::{Carries, Session};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Both services over one [`Store`].
#[derive(Clone)]
pub struct Service {
    store: Arc<Store>,
    stopped: watch::Receiver<bool>,
}

impl Service {
    /// A service whose streams end once `stopped` holds true.
    pub const fn new(store: Arc<Store>, stopped: watch::Receiver<bool>) -> Self {
        Self { store, stopped }
    }

    fn delta(
        &self,
        carries: Carries,
        inbound: Streaming<pb::DeltaDiscoveryRequest>,
    ) -> Response<Answers<pb::DeltaDiscoveryResponse>> {
        let store = Arc::clone(&self.store);
        let session = Session::new(store, self.stopped.clone(), carries, inbound);
        let answers = stream::unfold(Some(session), |session| async {
            let mut session = session?;
            match session.next().await? {
                Ok(response) => Some((Ok(response), Some(session))),
                Err(refusal) => Some((Err(refusal), None)),
            }
        });
        Response::new(Box::pin(answers))
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// The aggregated discovery service (delta only).
pub fn ads(service: Service) -> AggregatedDiscoveryServiceServer<Service> {
    AggregatedDiscoveryServiceServer::new(service)
}

/// The secret discovery service (delta only), for a client that wants nothing but secrets.
pub fn sds(service: Service) -> SecretDiscoveryServiceServer<Service> {
    SecretDiscoveryServiceServer::new(service)
}

fn delta_only() -> Status {
    Status::unimplemented("only the delta variant is served; see the bootstrap")
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Answers<pb::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<pb::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<pb::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(delta_only())
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<pb::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(self.delta(Carries::All, request.into_inner()))
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Service {
    type StreamSecretsStream = Answers<pb::DiscoveryResponse>;
    type DeltaSecretsStream = Answers<pb::DeltaDiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<pb::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(self.delta(Carries::Secrets, request.into_inner()))
    }

    async fn stream_secrets(
        &self,
        _: Request<Streaming<pb::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Err(delta_only())
    }

    async fn fetch_secrets(
        &self,
        _: Request<pb::DiscoveryRequest>,
    ) -> Result<Response<pb::DiscoveryResponse>, Status> {
        Err(delta_only())
    }
}
