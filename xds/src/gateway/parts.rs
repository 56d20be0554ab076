//! Small Envoy messages that both directions use.
#![expect(
    clippy::unnecessary_wraps,
    reason = "the fields that these are for are options"
)]

use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, ComparisonFilter, NotHealthCheckFilter, StatusCodeFilter, access_log_filter,
};
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, UpstreamConnectionOptions};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, HeaderValue, HeaderValueOption,
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions, KeepaliveSettings,
    RuntimeUInt32, SocketAddress, TcpKeepalive, address, config_source, socket_address,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, filter};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteAction, RouteMatch, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use envoy_types::util::pack_any;
use prost::{Message, Name};

use super::{HEADER_DETAIL, HEADER_FLAGS};
use crate::model::{Kind, Reference, Resource};

/// Encodes a message as a resource.
pub(super) fn resource(
    name: &str,
    message: &impl Message,
    refs: impl IntoIterator<Item = (Kind, String)>,
) -> Resource {
    let refs = refs
        .into_iter()
        .map(|(kind, name)| -> Reference { (kind, Arc::from(name)) });
    Resource::new(name, message.encode_to_vec()).with_refs(refs)
}

pub(super) fn any<T: Name + Message>(message: T) -> Any {
    pack_any(message)
}

pub(super) const fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

pub(super) const fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) const fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

pub(super) const fn no() -> Option<BoolValue> {
    Some(BoolValue { value: false })
}

/// "Ask the same server for it": ADS.
pub(super) fn from_ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(
            AggregatedConfigSource {},
        )),
        ..ConfigSource::default()
    })
}

pub(super) fn socket(host: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    }
}

/// A listening address; `::` also takes IPv4.
pub(super) fn bind(at: SocketAddr) -> Option<Address> {
    let mut bound = socket(&at.ip().to_string(), at.port());
    if let Some(address::Address::SocketAddress(socket)) = &mut bound.address {
        socket.ipv4_compat = at.is_ipv6() && at.ip().is_unspecified();
    }
    Some(bound)
}

/// Endpoints of a cluster, all equal.
pub(super) fn endpoints(
    cluster: &str,
    addresses: impl IntoIterator<Item = Address>,
) -> ClusterLoadAssignment {
    let lb_endpoints: Vec<_> = addresses
        .into_iter()
        .map(|address| LbEndpoint {
            host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
                address: Some(address),
                ..Endpoint::default()
            })),
            ..LbEndpoint::default()
        })
        .collect();
    let endpoints = if lb_endpoints.is_empty() {
        Vec::new()
    } else {
        vec![LocalityLbEndpoints {
            lb_endpoints,
            ..LocalityLbEndpoints::default()
        }]
    };
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints,
        ..ClusterLoadAssignment::default()
    }
}

/// A header that replaces what is there. The value may hold Envoy's `%OPERATORS%`.
pub(super) fn header(key: &str, value: impl Into<String>) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.into(),
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

/// Headers that say why an Envoy answered by itself.
pub(super) fn why() -> [HeaderValueOption; 2] {
    [
        header(HEADER_DETAIL, "%RESPONSE_CODE_DETAILS%"),
        header(HEADER_FLAGS, "%RESPONSE_FLAGS%"),
    ]
}

/// A rule for answers that Envoy makes itself: all of them, or those with one status code.
pub(super) fn local_reply(
    status: Option<u32>,
    headers: impl IntoIterator<Item = HeaderValueOption>,
) -> hcm::ResponseMapper {
    use access_log_filter::FilterSpecifier;
    let filter = status.map_or(
        FilterSpecifier::NotHealthCheckFilter(NotHealthCheckFilter {}),
        with_status,
    );
    hcm::ResponseMapper {
        filter: Some(AccessLogFilter {
            filter_specifier: Some(filter),
        }),
        headers_to_add: headers.into_iter().collect(),
        ..hcm::ResponseMapper::default()
    }
}

/// Matches one status code.
pub(super) fn with_status(code: u32) -> access_log_filter::FilterSpecifier {
    access_log_filter::FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
        comparison: Some(ComparisonFilter {
            value: Some(RuntimeUInt32 {
                default_value: code,
                runtime_key: "kof.status.never_set".to_owned(),
            }),
            ..ComparisonFilter::default()
        }),
    })
}

/// What both listeners share: normal paths, no time limit on a request, no retry, no buffer.
pub(super) fn http(stat_prefix: &str) -> hcm::HttpConnectionManager {
    hcm::HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        codec_type: hcm::http_connection_manager::CodecType::Auto.into(),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: seconds(3600),
            ..HttpProtocolOptions::default()
        }),
        stream_idle_timeout: seconds(0),
        request_timeout: seconds(0),
        request_headers_timeout: seconds(30),
        drain_timeout: seconds(1),
        use_remote_address: yes(),
        generate_request_id: no(),
        server_header_transformation:
            hcm::http_connection_manager::ServerHeaderTransformation::PassThrough.into(),
        normalize_path: yes(),
        merge_slashes: true,
        path_with_escaped_slashes_action:
            hcm::http_connection_manager::PathWithEscapedSlashesAction::RejectRequest.into(),
        http2_protocol_options: Some(http2()),
        ..hcm::HttpConnectionManager::default()
    }
}

/// HTTP/2 that notices a dead peer.
pub(super) fn http2() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        connection_keepalive: Some(KeepaliveSettings {
            interval: seconds(30),
            timeout: seconds(10),
            ..KeepaliveSettings::default()
        }),
        ..Http2ProtocolOptions::default()
    }
}

/// The last HTTP filter.
pub(super) fn router() -> hcm::HttpFilter {
    let router = Router {
        suppress_envoy_headers: true,
        ..Router::default()
    };
    http_filter("envoy.filters.http.router", any(router))
}

pub(super) fn http_filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..hcm::HttpFilter::default()
    }
}

pub(super) fn network_filter(manager: hcm::HttpConnectionManager) -> Filter {
    Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any(manager))),
    }
}

/// A match on a prefix that ends at a slash.
pub(super) fn path_match(prefix: &str, grpc: bool) -> RouteMatch {
    let path = if prefix.ends_with('/') {
        route_match::PathSpecifier::Prefix(prefix.to_owned())
    } else {
        route_match::PathSpecifier::PathSeparatedPrefix(prefix.to_owned())
    };
    RouteMatch {
        path_specifier: Some(path),
        grpc: grpc.then(route_match::GrpcRouteMatchOptions::default),
        ..RouteMatch::default()
    }
}

/// A route to a cluster without any time limit.
pub(super) fn forward(matching: RouteMatch, cluster: &str) -> Route {
    Route {
        r#match: Some(matching),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
            timeout: seconds(0),
            idle_timeout: seconds(0),
            ..RouteAction::default()
        })),
        ..Route::default()
    }
}

/// A route that answers by itself.
pub(super) fn answer(
    matching: RouteMatch,
    status: u32,
    headers: impl IntoIterator<Item = HeaderValueOption>,
) -> Route {
    Route {
        r#match: Some(matching),
        action: Some(route::Action::DirectResponse(DirectResponseAction {
            status,
            ..DirectResponseAction::default()
        })),
        response_headers_to_add: headers.into_iter().collect(),
        ..Route::default()
    }
}

/// Which protocol a cluster speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

/// The protocol options of a cluster: the map's one key and value. `idle` is how long an idle
/// connection is kept; it must be shorter than the patience of the other side, or a request may
/// be lost to a connection that is just closing.
pub(super) fn protocol(speaks: Speaks, idle: i64) -> (String, Any) {
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    use upstream::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions};
    let config = match speaks {
        Speaks::Http1 => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
        Speaks::Http2 => ProtocolConfig::Http2ProtocolOptions(http2()),
    };
    let options = upstream::HttpProtocolOptions {
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: seconds(idle),
            ..HttpProtocolOptions::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(config),
            },
        )),
        ..upstream::HttpProtocolOptions::default()
    };
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
        any(options),
    )
}

/// Limits that telemetry does not meet, but a runaway client does.
pub(super) fn limits() -> Option<CircuitBreakers> {
    Some(CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: number(16_384),
            max_pending_requests: number(16_384),
            max_requests: number(16_384),
            ..Thresholds::default()
        }],
        ..CircuitBreakers::default()
    })
}

/// TCP keepalive that notices a dead peer within a minute.
pub(super) fn keepalive() -> Option<UpstreamConnectionOptions> {
    Some(UpstreamConnectionOptions {
        tcp_keepalive: Some(TcpKeepalive {
            keepalive_probes: number(3),
            keepalive_time: number(30),
            keepalive_interval: number(10),
        }),
        ..UpstreamConnectionOptions::default()
    })
}
