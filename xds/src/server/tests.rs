//! The shell, asked by a client that is not Envoy.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use futures::StreamExt;
use pb::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Status, Streaming};

use super::{Service, Store, ads, sds};
use crate::model::{Kind, Resource, Snapshot};

const SOON: Duration = Duration::from_secs(5);

struct Server {
    store: Arc<Store>,
    url: String,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// On a loopback port, for the node `me`.
    #[expect(clippy::disallowed_methods, reason = "the handle is kept")]
    async fn start() -> Self {
        let store = Arc::new(Store::new(["me"]));
        let (stop, stopped) = watch::channel(false);
        let service = Service::new(Arc::clone(&store), stopped);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(ads(service.clone()))
            .add_service(sds(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async { server.await.unwrap() });
        Self {
            store,
            url,
            stop,
            task,
        }
    }

    fn set(&self, kind: Kind, name: &str, body: &str) -> u64 {
        let mut snapshot = Snapshot::new();
        let resource = Resource::new(name, body.as_bytes().to_vec());
        snapshot.insert(kind, resource).unwrap();
        self.store.set("me", snapshot).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Client {
    say: mpsc::Sender<pb::DeltaDiscoveryRequest>,
    hear: Streaming<pb::DeltaDiscoveryResponse>,
}

impl Client {
    async fn ads(server: &Server) -> Self {
        let (say, requests) = mpsc::channel(8);
        let url = server.url.clone();
        let mut client = AggregatedDiscoveryServiceClient::connect(url)
            .await
            .unwrap();
        let answer = client.delta_aggregated_resources(ReceiverStream::new(requests));
        let hear = timeout(SOON, answer).await.unwrap().unwrap().into_inner();
        Self { say, hear }
    }

    async fn sds(server: &Server) -> Self {
        let (say, requests) = mpsc::channel(8);
        let url = server.url.clone();
        let mut client = SecretDiscoveryServiceClient::connect(url).await.unwrap();
        let answer = client.delta_secrets(ReceiverStream::new(requests));
        let hear = timeout(SOON, answer).await.unwrap().unwrap().into_inner();
        Self { say, hear }
    }

    async fn say(&self, request: pb::DeltaDiscoveryRequest) {
        self.say.send(request).await.unwrap();
    }

    async fn hear(&mut self) -> Option<Result<pb::DeltaDiscoveryResponse, Status>> {
        timeout(SOON, self.hear.next()).await.unwrap()
    }

    async fn refused(&mut self) -> Code {
        self.hear().await.unwrap().unwrap_err().code()
    }
}

fn request(node: Option<&str>, type_url: &str, names: &[&str]) -> pb::DeltaDiscoveryRequest {
    pb::DeltaDiscoveryRequest {
        node: node.map(|id| Node {
            id: id.to_owned(),
            ..Node::default()
        }),
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..pb::DeltaDiscoveryRequest::default()
    }
}

const CDS: &str = Kind::Cds.type_url();
const SDS: &str = Kind::Sds.type_url();

#[tokio::test]
async fn only_the_configured_node_is_served() {
    let server = Server::start().await;
    server.set(Kind::Cds, "a", "1");
    let mut stranger = Client::ads(&server).await;
    stranger.say(request(Some("somebody"), CDS, &[])).await;
    assert_eq!(stranger.refused().await, Code::PermissionDenied);
    let mut nameless = Client::ads(&server).await;
    nameless.say(request(None, CDS, &[])).await;
    assert_eq!(nameless.refused().await, Code::InvalidArgument);
    let mut changing = Client::ads(&server).await;
    changing.say(request(Some("me"), CDS, &[])).await;
    assert_eq!(changing.hear().await.unwrap().unwrap().resources.len(), 1);
    changing.say(request(Some("somebody"), CDS, &["*"])).await;
    assert_eq!(changing.refused().await, Code::PermissionDenied);
    let mut secrets = Client::sds(&server).await;
    secrets.say(request(Some("somebody"), SDS, &["x"])).await;
    assert_eq!(secrets.refused().await, Code::PermissionDenied);
}

#[tokio::test]
async fn a_stream_is_told_what_changes_and_its_answers_are_the_status() {
    let server = Server::start().await;
    let mut status = server.store.status("me").unwrap();
    let mut client = Client::ads(&server).await;
    client.say(request(Some("me"), CDS, &[])).await;
    client.say(request(None, Kind::Lds.type_url(), &[])).await;
    status.wait_for(|s| s.connected).await.unwrap();
    let generation = server.set(Kind::Cds, "a", "1");
    let first = client.hear().await.unwrap().unwrap();
    assert_eq!(first.type_url, CDS);
    assert_eq!(first.resources[0].resource.as_ref().unwrap().value, b"1");
    // The listeners' first question has an empty answer.
    let listeners = client.hear().await.unwrap().unwrap();
    for response in [first, listeners] {
        let mut ack = request(None, &response.type_url, &[]);
        ack.response_nonce = response.nonce;
        client.say(ack).await;
    }
    let runs = timeout(SOON, status.wait_for(|s| s.runs(generation)));
    drop(runs.await.unwrap().unwrap());
    // The same content again is the same generation, and silence.
    assert_eq!(server.set(Kind::Cds, "a", "1"), generation);
    assert_eq!(server.set(Kind::Cds, "a", "2"), generation + 1);
    let second = client.hear().await.unwrap().unwrap();
    assert_eq!(second.resources[0].resource.as_ref().unwrap().value, b"2");
    drop(client);
    let gone = timeout(SOON, status.wait_for(|s| !s.connected)).await;
    assert_eq!(gone.unwrap().unwrap().acked, Some(generation));
}

#[tokio::test]
async fn an_older_stream_of_a_node_no_longer_reports() {
    let server = Server::start().await;
    let mut status = server.store.status("me").unwrap();
    let older = Client::ads(&server).await;
    older.say(request(Some("me"), CDS, &[])).await;
    status.wait_for(|s| s.connected).await.unwrap();
    let mut newer = Client::ads(&server).await;
    server.set(Kind::Cds, "a", "1");
    newer.say(request(Some("me"), CDS, &[])).await;
    newer.hear().await.unwrap().unwrap();
    drop(older);
    // Its end is not the end of the node: were it reported, it would be by now.
    assert_eq!(server.set(Kind::Cds, "a", "2"), 2);
    newer.hear().await.unwrap().unwrap();
    assert!(server.store.status("me").unwrap().borrow().connected);
}

#[tokio::test]
async fn a_secret_client_gets_secrets_and_nothing_else() {
    let server = Server::start().await;
    let mut snapshot = Snapshot::new();
    snapshot
        .insert(Kind::Sds, Resource::new("default", &b"s"[..]))
        .unwrap();
    snapshot
        .insert(Kind::Cds, Resource::new("a", &b"c"[..]))
        .unwrap();
    server.store.set("me", snapshot).unwrap();
    let mut client = Client::sds(&server).await;
    client.say(request(Some("me"), CDS, &[])).await;
    client.say(request(None, SDS, &["default"])).await;
    let response = client.hear().await.unwrap().unwrap();
    assert_eq!(response.type_url, SDS);
    assert_eq!(response.resources[0].name, "default");
    // It is no sign of life of the node's ADS stream.
    assert!(!server.store.status("me").unwrap().borrow().connected);
}

#[tokio::test]
async fn unknown_types_are_ignored_and_other_variants_refused() {
    let server = Server::start().await;
    server.set(Kind::Cds, "a", "1");
    let mut client = Client::ads(&server).await;
    let unknown = "type.googleapis.com/envoy.service.runtime.v3.Runtime";
    client.say(request(Some("me"), unknown, &["x"])).await;
    client.say(request(None, CDS, &[])).await;
    assert_eq!(client.hear().await.unwrap().unwrap().type_url, CDS);
    let mut other = AggregatedDiscoveryServiceClient::connect(server.url.clone())
        .await
        .unwrap();
    let refused = other.stream_aggregated_resources(futures::stream::pending());
    assert_eq!(refused.await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn streams_end_when_the_server_stops() {
    let server = Server::start().await;
    server.set(Kind::Cds, "a", "1");
    let mut client = Client::ads(&server).await;
    client.say(request(Some("me"), CDS, &[])).await;
    client.hear().await.unwrap().unwrap();
    server.stop.send_replace(true);
    assert!(client.hear().await.is_none());
}

#[tokio::test]
async fn what_waits_in_vain_goes_out_after_a_while() {
    let server = Server::start().await;
    let mut client = Client::ads(&server).await;
    let mut first = request(Some("me"), CDS, &[]);
    first
        .initial_resource_versions
        .insert("old".to_owned(), "1".to_owned());
    client.say(first).await;
    server.set(Kind::Cds, "a", "1");
    let added = client.hear().await.unwrap().unwrap();
    assert_eq!(added.removed_resources, Vec::<String>::new());
    // This client never asks for listeners.
    let late = timeout(super::PATIENCE + SOON, client.hear.next()).await;
    let late = late.unwrap().unwrap().unwrap();
    assert_eq!(late.removed_resources, ["old"]);
}

#[test]
fn a_snapshot_with_holes_or_for_a_stranger_is_not_taken() {
    let store = Store::new(["me"]);
    assert!(store.set("you", Snapshot::new()).is_err());
    let mut broken = Snapshot::new();
    let refs = [(Kind::Eds, Arc::from("nowhere"))];
    let cluster = Resource::new("a", &b"1"[..]).with_refs(refs);
    broken.insert(Kind::Cds, cluster).unwrap();
    assert!(store.set("me", broken).is_err());
    assert!(store.snapshot("me").is_none());
}
