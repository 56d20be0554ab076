//! What both listeners have in common: how HTTP is taken, and how the other end is spoken to.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::{
            accesslog::v3::{
                AccessLogFilter, ComparisonFilter, StatusCodeFilter, access_log_filter::FilterSpecifier, comparison_filter::Op,
            },
            cluster::v3::{
                CircuitBreakers, Cluster, UpstreamConnectionOptions,
                circuit_breakers::Thresholds,
            },
            core::v3::{
                HeaderValueOption, Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonHttp,
                KeepaliveSettings, RuntimeUInt32, TcpKeepalive,
            },
            listener::v3::{Filter, filter},
            route::v3::{RouteAction, route, route_action::ClusterSpecifier},
        },
        extensions::{
            filters::network::http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter, LocalReplyConfig, Rds, ResponseMapper,
                http_connection_manager::{CodecType, PathWithEscapedSlashesAction, RouteSpecifier, StripPortMode},
            },
            upstreams::http::v3::{
                HttpProtocolOptions,
                http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
            },
        },
    },
    google::protobuf::Any,
};

use super::parts::{ads, any, number, seconds, yes};

/// More than any collector opens; the default of 1024 would shed telemetry.
const MANY: u32 = 100_000;

/// Takes HTTP of any version. Long selects and log streams pass: no request, stream or route time-out anywhere.
/// Paths are brought into one form before anyone looks at them, and what hides a slash is refused, so that a prefix
/// means what it says.
pub(super) fn manager(name: &str, filters: Vec<HttpFilter>, local: Vec<HeaderValueOption>) -> HttpConnectionManager {
    HttpConnectionManager {
        codec_type: CodecType::Auto.into(),
        stat_prefix: name.to_owned(),
        http_filters: filters,
        stream_idle_timeout: seconds(0),
        request_timeout: seconds(0),
        request_headers_timeout: seconds(30),
        use_remote_address: yes(),
        normalize_path: yes(),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::RejectRequest.into(),
        strip_port_mode: Some(StripPortMode::StripAnyHostPort(true)),
        route_specifier: Some(RouteSpecifier::Rds(Rds { config_source: ads(), route_config_name: name.to_owned() })),
        local_reply_config: Some(LocalReplyConfig {
            mappers: vec![ResponseMapper { filter: every_status(), headers_to_add: local, ..ResponseMapper::default() }],
            ..LocalReplyConfig::default()
        }),
        ..HttpConnectionManager::default()
    }
}

fn every_status() -> Option<AccessLogFilter> {
    let value = RuntimeUInt32 { default_value: 100, runtime_key: "mesh.local_reply_from".to_owned() };
    let comparison = ComparisonFilter { op: Op::Ge.into(), value: Some(value) };
    let filter = StatusCodeFilter { comparison: Some(comparison) };
    Some(AccessLogFilter { filter_specifier: Some(FilterSpecifier::StatusCodeFilter(filter)) })
}

pub(super) fn network_filter(manager: HttpConnectionManager) -> Filter {
    Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any(manager))),
    }
}

/// To a cluster, for as long as it takes, once.
pub(super) fn forward(cluster: &str) -> route::Action {
    route::Action::Route(RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: seconds(0),
        ..RouteAction::default()
    })
}

/// How a cluster is spoken to: what it speaks, when an idle connection is given up (before the other end does, or a
/// request would be lost on it), and how a dead one is noticed.
pub(super) fn upstream(cluster: Cluster, http2: bool, idle_seconds: u32) -> Cluster {
    let protocol = if http2 {
        ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {
            connection_keepalive: Some(KeepaliveSettings {
                interval: seconds(15),
                timeout: seconds(5),
                ..KeepaliveSettings::default()
            }),
            ..Http2ProtocolOptions::default()
        })
    } else {
        ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(CommonHttp { idle_timeout: seconds(idle_seconds), ..CommonHttp::default() }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol),
        })),
        ..HttpProtocolOptions::default()
    };
    let thresholds = Thresholds {
        max_connections: number(MANY),
        max_pending_requests: number(MANY),
        max_requests: number(MANY),
        ..Thresholds::default()
    };
    // One entry only: a map of more would be written in any order, and change its hash without changing.
    let extensions: HashMap<String, Any> =
        [("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), any(options))].into();
    Cluster {
        connect_timeout: seconds(5),
        typed_extension_protocol_options: extensions,
        circuit_breakers: Some(CircuitBreakers { thresholds: vec![thresholds], ..CircuitBreakers::default() }),
        upstream_connection_options: Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(TcpKeepalive {
                keepalive_probes: number(3),
                keepalive_time: number(15),
                keepalive_interval: number(5),
            }),
            ..UpstreamConnectionOptions::default()
        }),
        ..cluster
    }
}
