//! A stand-in that judges its client as istiod 1.31 does (`ParseServiceNodeWithMetadata`, `DebugGen`).

use std::pin::Pin;

use envoy_types::pb::{
    envoy::service::discovery::v3::{
        self as pb,
        aggregated_discovery_service_server::{
            AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
        },
    },
    google::protobuf::Any,
};
use futures::Stream;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Streaming, transport::Endpoint};

use super::*;

struct Istiod {
    answers: Vec<Any>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn judge(request: &DiscoveryRequest) -> Result<(), Status> {
    let node = request.node.clone().unwrap_or_default();
    let parts: Vec<&str> = node.id.split('~').collect();
    let [role, ip, pod, domain] = parts.as_slice() else {
        return Err(Status::invalid_argument(
            "missing parts in the service node",
        ));
    };
    let known = *role == "router" && ip.parse::<IpAddr>().is_ok() && !pod.is_empty();
    let fields = node.metadata.unwrap_or_default().fields;
    let namespace = fields.get("NAMESPACE").and_then(|value| value.kind.clone());
    let own = namespace == Some(Kind::StringValue("istio-system".to_owned()));
    if !known || !own || *domain != "istio-system.svc.cluster.local" {
        return Err(Status::permission_denied("authorization failed"));
    }
    if request.type_url != "istio.io/debug" || request.resource_names != ["clusterz"] {
        return Err(Status::invalid_argument(
            "exactly one debug request is required",
        ));
    }
    Ok(())
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Istiod {
    type StreamAggregatedResourcesStream = Answers<pb::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<pb::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let mut requests = request.into_inner();
        let asked = requests.message().await?.unwrap_or_default();
        let response = judge(&asked).map(|()| pb::DiscoveryResponse {
            type_url: asked.type_url,
            resources: self.answers.clone(),
            ..pb::DiscoveryResponse::default()
        });
        // The client's half stays open: who ends it is hung up on.
        let more = futures::stream::once(async move {
            match requests.message().await {
                Ok(_) | Err(_) => Err(Status::cancelled(
                    "the client said more, or nothing any more",
                )),
            }
        });
        Ok(Response::new(Box::pin(
            futures::stream::iter([response]).chain(more),
        )))
    }

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<pb::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

#[expect(clippy::disallowed_methods, reason = "it ends with the test")]
async fn answer(answers: Vec<Any>, namespace: &str) -> Result<Vec<u8>, Status> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(AggregatedDiscoveryServiceServer::new(Istiod { answers }))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(server);
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let asker = Asker {
        pod: "mesh-agent-0",
        namespace,
        cluster: "child1",
        ip: address.ip(),
    };
    let said = ask(channel, &asker, "clusterz").await;
    server.abort();
    said
}

fn any(text: &str) -> Any {
    Any {
        type_url: "istio.io/debug".to_owned(),
        value: text.as_bytes().to_vec(),
    }
}

#[tokio::test]
async fn a_question_is_answered_with_istiods_own_words() {
    let said = answer(vec![any("[]")], "istio-system").await.unwrap();
    assert_eq!(said, b"[]");
}

#[tokio::test]
async fn what_istiod_refuses_is_said() {
    let refused = answer(vec![any("[]")], "kof").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn no_answer_is_none() {
    let none = answer(Vec::new(), "istio-system").await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
}
