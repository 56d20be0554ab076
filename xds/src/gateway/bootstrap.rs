//! The bootstrap of an Envoy: who it is, and where it gets everything else.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

/// Name of the static cluster that leads to the agent.
const AGENT: &str = "mesh-agent";

/// Where Envoy's admin interface is. It can change and stop Envoy, so it is never on an address
/// that others reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// On this port of 127.0.0.1.
    Loopback(u16),
    /// On a Unix socket.
    Unix(PathBuf),
}

/// What a bootstrap is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootSpec {
    /// Node ID; the agent serves exactly this one.
    pub node_id: String,
    /// Cluster ID of the member.
    pub cluster: String,
    /// The agent's xDS socket.
    pub socket: PathBuf,
    /// Where the admin interface is.
    pub admin: Admin,
    /// Where `GET /healthz/ready` answers, if it should: 200 once Envoy has its configuration.
    pub ready: Option<SocketAddr>,
}

/// Renders the bootstrap. Delta ADS for everything; no field that Envoy 1.40 calls deprecated.
pub fn bootstrap(spec: &BootSpec) -> Value {
    let admin = match &spec.admin {
        Admin::Loopback(port) => socket_address("127.0.0.1", *port),
        Admin::Unix(path) => json!({ "pipe": { "path": path } }),
    };
    let mut clusters = vec![cluster(
        AGENT,
        &json!({ "pipe": { "path": spec.socket } }),
        &json!({ "http2_protocol_options": {
            "connection_keepalive": { "interval": "30s", "timeout": "5s" }
        } }),
    )];
    let mut listeners = Vec::new();
    if let Some(at) = spec.ready {
        clusters.push(cluster(
            "admin",
            &admin,
            &json!({ "http_protocol_options": {} }),
        ));
        listeners.push(ready_listener(at));
    }
    // Without a time limit: an Envoy that has no configuration is not ready, however long it takes.
    let ads = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" });
    json!({
        "node": { "id": spec.node_id, "cluster": spec.cluster },
        "admin": { "address": admin },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": { "cluster_name": AGENT } }],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": { "clusters": clusters, "listeners": listeners },
        "overload_manager": { "resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.\
                          downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": 50_000,
            },
        }] },
    })
}

/// Arguments of `envoy` for a bootstrap file. `drain_seconds` is how long a withdrawn caller may
/// keep an open connection.
pub fn arguments(bootstrap: &str, drain_seconds: u32, workers: u32) -> Vec<String> {
    let drain = drain_seconds.to_string();
    let parent = drain_seconds.saturating_add(1).to_string();
    let workers = workers.to_string();
    [
        "--config-path",
        bootstrap,
        "--disable-hot-restart",
        "--concurrency",
        &workers,
        "--drain-time-s",
        &drain,
        "--parent-shutdown-time-s",
        &parent,
        "--drain-strategy",
        "immediate",
        "--file-flush-interval-msec",
        "1000",
    ]
    .map(ToOwned::to_owned)
    .into()
}

fn socket_address(host: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": host, "port_value": port } })
}

fn cluster(name: &str, address: &Value, protocol: &Value) -> Value {
    let endpoint = json!({ "endpoint": { "address": address } });
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [endpoint] }],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": protocol,
            },
        },
    })
}

/// Leads one exact path to the admin interface and nothing else.
fn ready_listener(at: SocketAddr) -> Value {
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        },
    });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.\
                  http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ready",
        "generate_request_id": false,
        "normalize_path": true,
        "http_filters": [router],
        "route_config": { "name": "ready", "virtual_hosts": [{
            "name": "ready",
            "domains": ["*"],
            "routes": [{
                "match": { "path": "/healthz/ready" },
                "route": { "cluster": "admin", "prefix_rewrite": "/ready", "timeout": "1s" },
            }],
        }] },
    });
    json!({
        "name": "ready",
        "address": socket_address(&at.ip().to_string(), at.port()),
        "ignore_global_conn_limit": true,
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        }] }],
    })
}
