//! What an istiod says about itself, over the protocol by which its proxies are told what to do (resources of type `istio.io/debug`, as
//! `istioctl x internal-debug` asks for). It answers only who comes over TLS, with an identity of its own namespace.

use std::{collections::HashMap, net::IpAddr};

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::protobuf::{Struct, Value, value::Kind},
};
use futures::StreamExt as _;
use tonic::{Status, transport::Channel};

/// The type of what is asked for.
const DEBUG: &str = "istio.io/debug";

/// Who asks: istiod wants to know each of its clients as a proxy.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Name of the pod.
    pub pod: &'a str,
    /// Its namespace, that of its identity.
    pub namespace: &'a str,
    /// The cluster ID.
    pub cluster: &'a str,
    /// Its address.
    pub ip: IpAddr,
}

impl Asker<'_> {
    fn node(&self) -> Node {
        let Self {
            pod,
            namespace,
            cluster,
            ip,
        } = self;
        let text = |text: &str| Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        };
        let fields = [
            ("NAMESPACE", text(namespace)),
            ("CLUSTER_ID", text(cluster)),
            // It warns of who has none.
            ("ISTIO_VERSION", text("unknown")),
        ];
        Node {
            id: format!("router~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
            metadata: Some(Struct {
                fields: fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect::<HashMap<_, _>>(),
            }),
            ..Node::default()
        }
    }
}

/// Asks one question, like `clusterz`, and returns the answer as istiod wrote it.
///
/// # Errors
///
/// What istiod, or the connection, says instead; also when the answer is to another question, or none.
pub async fn ask(channel: Channel, asker: &Asker<'_>, question: &str) -> Result<Vec<u8>, Status> {
    let request = DiscoveryRequest {
        node: Some(asker.node()),
        type_url: DEBUG.to_owned(),
        resource_names: vec![question.to_owned()],
        ..DiscoveryRequest::default()
    };
    // Whoever says no more is not answered any more.
    let requests = futures::stream::iter([request]).chain(futures::stream::pending());
    let mut answers = AggregatedDiscoveryServiceClient::new(channel)
        .stream_aggregated_resources(requests)
        .await?
        .into_inner();
    let answer = answers.message().await?;
    let resource = answer
        .filter(|answer| answer.type_url == DEBUG)
        .and_then(|answer| answer.resources.into_iter().next());
    match resource {
        Some(resource) => Ok(resource.value),
        None => Err(Status::not_found(format!("no answer to {question}"))),
    }
}

#[cfg(test)]
mod tests;
