//! One stream: requests, snapshots and the deadline into the engine, its responses out.

use std::collections::VecDeque;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::protobuf::Any;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

use super::{PATIENCE, Store};
use crate::engine::{DeltaRequest, DeltaResponse, Engine};
use crate::model::{Kind, Snapshot};

/// Which kinds a stream carries, and whether it is the one that reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// All of them: ADS.
    All,
    /// Secrets only: SDS.
    Secrets,
}

/// A node that said who it is.
struct Peer {
    node: String,
    stream: u64,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
}

/// The state of one stream. Dropping it ends the stream.
pub(super) struct Session {
    store: Arc<Store>,
    stopped: watch::Receiver<bool>,
    carries: Carries,
    inbound: Streaming<pb::DeltaDiscoveryRequest>,
    engine: Engine,
    peer: Option<Peer>,
    deadline: Option<(u64, Instant)>,
    out: VecDeque<pb::DeltaDiscoveryResponse>,
}

enum Event {
    Request(Box<pb::DeltaDiscoveryRequest>),
    Snapshot,
    Deadline(u64),
    End,
}

impl Session {
    pub(super) fn new(
        store: Arc<Store>,
        stopped: watch::Receiver<bool>,
        carries: Carries,
        inbound: Streaming<pb::DeltaDiscoveryRequest>,
    ) -> Self {
        Self {
            store,
            stopped,
            carries,
            inbound,
            engine: Engine::new(),
            peer: None,
            deadline: None,
            out: VecDeque::new(),
        }
    }

    /// The next message for the client, or the end of the stream.
    pub(super) async fn next(&mut self) -> Option<Result<pb::DeltaDiscoveryResponse, Status>> {
        loop {
            if let Some(response) = self.out.pop_front() {
                return Some(Ok(response));
            }
            let event = match self.event().await {
                Ok(event) => event,
                Err(status) => {
                    tracing::debug!(code = ?status.code(), "xDS stream broke");
                    return None;
                }
            };
            let responses = match event {
                Event::End => return None,
                Event::Request(request) => match self.on_request(*request) {
                    Ok(responses) => responses,
                    Err(refusal) => return Some(Err(refusal)),
                },
                Event::Snapshot => self.on_snapshot(),
                Event::Deadline(epoch) => {
                    tracing::warn!(epoch, "Envoy did not ACK in time, going on");
                    self.engine.on_deadline(epoch)
                }
            };
            self.out.extend(responses.into_iter().map(encode));
            self.after();
        }
    }

    async fn event(&mut self) -> Result<Event, Status> {
        let snapshots = async {
            match &mut self.peer {
                Some(peer) => match peer.snapshots.changed().await {
                    Ok(()) => Event::Snapshot,
                    Err(_) => Event::End,
                },
                None => std::future::pending().await,
            }
        };
        let deadline = async {
            match self.deadline {
                Some((epoch, at)) => {
                    sleep_until(at).await;
                    Event::Deadline(epoch)
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.stopped.wait_for(|stop| *stop) => Ok(Event::End),
            request = self.inbound.message() => Ok(match request? {
                Some(request) => Event::Request(Box::new(request)),
                None => Event::End,
            }),
            event = snapshots => Ok(event),
            event = deadline => Ok(event),
        }
    }

    fn on_request(
        &mut self,
        request: pb::DeltaDiscoveryRequest,
    ) -> Result<Vec<DeltaResponse>, Status> {
        let mut responses = Vec::new();
        let node = request.node.as_ref().map(|node| node.id.as_str());
        match (&self.peer, node) {
            (None, Some(node)) => responses = self.welcome(node)?,
            (None, None) => {
                return Err(Status::invalid_argument("the first request names no node"));
            }
            (Some(peer), Some(node)) if peer.node != node && !node.is_empty() => {
                return Err(Status::permission_denied("the node changed its name"));
            }
            (Some(_), _) => {}
        }
        if let Some(request) = self.decode(request) {
            self.log_refusal(&request);
            responses.extend(self.engine.on_request(&request));
        } else {
            tracing::debug!("request for a type that is not served");
        }
        Ok(responses)
    }

    fn welcome(&mut self, node: &str) -> Result<Vec<DeltaResponse>, Status> {
        let Some(mut snapshots) = self.store.watch(node) else {
            tracing::warn!(node, "refused an Envoy with a node ID that is not ours");
            return Err(Status::permission_denied("this node is not served here"));
        };
        let stream = match self.carries {
            Carries::All => self.store.open(node),
            Carries::Secrets => 0,
        };
        tracing::info!(node, stream, "Envoy connected");
        let current = snapshots.borrow_and_update().clone();
        self.peer = Some(Peer {
            node: node.to_owned(),
            stream,
            snapshots,
        });
        Ok(current.map_or_else(Vec::new, |snapshot| self.engine.on_snapshot(snapshot)))
    }

    fn on_snapshot(&mut self) -> Vec<DeltaResponse> {
        let peer = self.peer.as_mut();
        let current = peer.and_then(|peer| peer.snapshots.borrow_and_update().clone());
        current.map_or_else(Vec::new, |snapshot| self.engine.on_snapshot(snapshot))
    }

    fn decode(&self, request: pb::DeltaDiscoveryRequest) -> Option<DeltaRequest> {
        let kind = Kind::from_type_url(&request.type_url)?;
        if self.carries == Carries::Secrets && kind != Kind::Sds {
            return None;
        }
        Some(DeltaRequest {
            kind,
            nonce: request.response_nonce,
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            initial: request.initial_resource_versions.into_iter().collect(),
            error: request.error_detail.map(|status| status.message),
        })
    }

    fn log_refusal(&self, request: &DeltaRequest) {
        if let (Some(message), Some(peer)) = (&request.error, &self.peer) {
            let kind = request.kind.short();
            tracing::warn!(node = peer.node, kind, message, "Envoy refused a resource");
        }
    }

    fn after(&mut self) {
        self.deadline = match (self.engine.waiting(), self.deadline) {
            (None, _) => None,
            (Some(epoch), Some((old, at))) if old == epoch => Some((epoch, at)),
            (Some(epoch), _) => Some((epoch, Instant::now() + PATIENCE)),
        };
        if let (Some(peer), Carries::All) = (&self.peer, self.carries) {
            self.store
                .report(&peer.node, peer.stream, self.engine.status());
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let (Some(peer), Carries::All) = (&self.peer, self.carries) {
            tracing::info!(node = peer.node, stream = peer.stream, "Envoy went away");
            self.store.close(&peer.node, peer.stream);
        }
    }
}

fn encode(response: DeltaResponse) -> pb::DeltaDiscoveryResponse {
    let type_url = response.kind.type_url();
    pb::DeltaDiscoveryResponse {
        system_version_info: response.generation.to_string(),
        type_url: type_url.to_owned(),
        nonce: response.nonce,
        resources: response
            .resources
            .into_iter()
            .map(|resource| pb::Resource {
                name: resource.name.to_string(),
                version: resource.version.to_string(),
                resource: Some(Any {
                    type_url: type_url.to_owned(),
                    value: resource.body.to_vec(),
                }),
                ..pb::Resource::default()
            })
            .collect(),
        removed_resources: response.removed.iter().map(ToString::to_string).collect(),
        ..pb::DeltaDiscoveryResponse::default()
    }
}
