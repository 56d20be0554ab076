//! What an Envoy starts with: where its agent is, and nothing else.

use std::{net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};

/// What the bootstrap needs to know. The node's ID is given on Envoy's command line (`--service-node`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootSpec {
    /// The agent's Unix socket.
    pub socket: PathBuf,
    /// Where Envoy's administration listens: loopback only.
    pub admin: SocketAddr,
}

/// The bootstrap of an Envoy that gets everything from the agent beside it.
#[must_use]
pub fn bootstrap(spec: &BootSpec) -> Value {
    let ads = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" });
    json!({
        "admin": { "address": { "socket_address": {
            "address": spec.admin.ip().to_string(), "port_value": spec.admin.port(),
        } } },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "mesh-agent" } }],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": { "clusters": [{
            "name": "mesh-agent",
            "type": "STATIC",
            "connect_timeout": "1s",
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                // A half-open control connection must be noticed.
                "explicit_http_config": { "http2_protocol_options": {
                    "connection_keepalive": { "interval": "30s", "timeout": "5s" },
                } },
            } },
            "load_assignment": { "cluster_name": "mesh-agent", "endpoints": [{ "lb_endpoints": [{
                "endpoint": { "address": { "pipe": { "path": spec.socket } } },
            }] }] },
        }] },
    })
}
