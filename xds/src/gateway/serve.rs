//! The way in: the gateway listener with a filter chain per caller, and the local backends.

use std::collections::HashMap;
use std::net::IpAddr;

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::listener::v3::{
    FilterChain, FilterChainMatch, Listener, ListenerFilter, listener_filter,
};
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac, permission, principal, rbac,
};
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac as RbacFilter;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, LocalReplyConfig, http_connection_manager as hcm,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    PathMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern,
};

use super::parts::{
    Speaks, answer, any, bind, endpoints, forward, header, http, http_filter, keepalive, limits,
    local_reply, network_filter, no, path_match, protocol, resource, router, seconds, socket, why,
};
use super::secrets::{DEFAULT, anchor_name};
use super::tls::exact;
use super::{
    Backend, GatewaySpec, HEADER_DETAIL, HEADER_FLAGS, HEADER_GATEWAY, HEADER_REFUSED, Serve, log,
    tls,
};
use crate::model::{Kind, Resource};

const GATEWAY: &str = "gateway";

/// An idle backend connection is closed from our side after this many seconds: `VictoriaMetrics`
/// closes its own after sixty.
const BACKEND_IDLE: i64 = 30;

fn cluster_name(backend: &str, speaks: Speaks) -> String {
    match speaks {
        Speaks::Http1 => format!("backend/{backend}"),
        Speaks::Http2 => format!("backend/{backend}/h2"),
    }
}

const fn speaks(grpc: bool) -> Speaks {
    if grpc { Speaks::Http2 } else { Speaks::Http1 }
}

/// A local service as a cluster: an address is fixed, a name is resolved by Envoy.
pub(super) fn backend(to: &Backend, speaks: Speaks) -> Resource {
    let name = cluster_name(&to.name, speaks);
    let discovery = if to.host.parse::<IpAddr>().is_ok() {
        cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static.into())
    } else {
        let resolve = DnsCluster {
            dns_lookup_family: DnsLookupFamily::V4Preferred.into(),
            ..DnsCluster::default()
        };
        cluster::ClusterDiscoveryType::ClusterType(cluster::CustomClusterType {
            name: "envoy.cluster.dns".to_owned(),
            typed_config: Some(any(resolve)),
        })
    };
    let message = Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(discovery),
        load_assignment: Some(endpoints(&name, [socket(&to.host, to.port)])),
        connect_timeout: seconds(2),
        // A name server that does not answer must not keep the gateway closed, or hold back what
        // changes for others; that a backend has no address yet is told to who asks for it.
        wait_for_warm_on_init: no(),
        circuit_breakers: limits(),
        upstream_connection_options: keepalive(),
        typed_extension_protocol_options: [protocol(speaks, BACKEND_IDLE)].into(),
        ..Cluster::default()
    };
    resource(&name, &message, [])
}

/// Which clusters a caller's contract leads to.
pub(super) fn clusters_of(caller: &Serve) -> Vec<(String, Speaks)> {
    let mut used: Vec<_> = caller
        .allow
        .iter()
        .map(|allow| (allow.backend.clone(), speaks(allow.grpc)))
        .collect();
    used.sort();
    used.dedup();
    used
}

/// The gateway: one filter chain per caller.
pub(super) fn listener(spec: &GatewaySpec, callers: &[&Serve]) -> Resource {
    let secrets = callers.iter().map(|c| (Kind::Sds, anchor_name(&c.caller)));
    let clusters = callers
        .iter()
        .flat_map(|caller| clusters_of(caller))
        .map(|(name, speaks)| (Kind::Cds, cluster_name(&name, speaks)));
    let refs = secrets
        .chain(clusters)
        .chain([(Kind::Sds, DEFAULT.to_owned())]);
    let listener = Listener {
        name: GATEWAY.to_owned(),
        address: bind(spec.gateway),
        listener_filters: vec![ListenerFilter {
            name: "envoy.filters.listener.tls_inspector".to_owned(),
            config_type: Some(listener_filter::ConfigType::TypedConfig(any(
                TlsInspector::default(),
            ))),
            ..ListenerFilter::default()
        }],
        listener_filters_timeout: seconds(10),
        filter_chains: callers.iter().map(|caller| chain(caller)).collect(),
        access_log: vec![log::connections()],
        ..Listener::default()
    };
    resource(GATEWAY, &listener, refs)
}

fn chain(caller: &Serve) -> FilterChain {
    FilterChain {
        name: format!("{}@{}", caller.caller, caller.epoch),
        filter_chain_match: Some(FilterChainMatch {
            server_names: vec![caller.sni.clone()],
            transport_protocol: "tls".to_owned(),
            ..FilterChainMatch::default()
        }),
        transport_socket: Some(tls::of_caller(&caller.caller, &caller.identities)),
        transport_socket_connect_timeout: seconds(10),
        filters: vec![network_filter(manager(caller))],
        ..FilterChain::default()
    }
}

fn manager(caller: &Serve) -> HttpConnectionManager {
    let own = || [header(HEADER_GATEWAY, caller.region.clone())];
    let refused = [header(HEADER_REFUSED, "path")];
    let mut manager = http(GATEWAY);
    manager.forward_client_cert_details = hcm::ForwardClientCertDetails::SanitizeSet.into();
    manager.set_current_client_cert_details = Some(hcm::SetCurrentClientCertDetails {
        uri: true,
        ..hcm::SetCurrentClientCertDetails::default()
    });
    manager.local_reply_config = Some(LocalReplyConfig {
        mappers: vec![
            local_reply(Some(403), own().into_iter().chain(refused).chain(why())),
            local_reply(None, own().into_iter().chain(why())),
        ],
        ..LocalReplyConfig::default()
    });
    manager.access_log = vec![log::requests(&caller.caller)];
    manager.http_filters = vec![
        http_filter("envoy.filters.http.rbac", any(contract(caller))),
        router(),
    ];
    manager.route_specifier = Some(hcm::RouteSpecifier::RouteConfig(routes(caller)));
    manager
}

/// The same contract once more, by principal and path: two locks with different keys.
fn contract(caller: &Serve) -> RbacFilter {
    let principals = caller.identities.iter().map(|identity| Principal {
        identifier: Some(principal::Identifier::Authenticated(
            principal::Authenticated {
                principal_name: Some(exact(identity)),
            },
        )),
    });
    let permissions: Vec<_> = caller.allow.iter().flat_map(|a| paths(&a.prefix)).collect();
    let policies = if permissions.is_empty() {
        // Envoy takes no policy without a permission; no policy at all refuses everything.
        HashMap::new()
    } else {
        let policy = Policy {
            permissions,
            principals: principals.collect(),
            ..Policy::default()
        };
        [("contract".to_owned(), policy)].into()
    };
    RbacFilter {
        rules: Some(Rbac {
            action: rbac::Action::Allow.into(),
            policies,
            ..Rbac::default()
        }),
        ..RbacFilter::default()
    }
}

/// The paths under a prefix that ends at a slash.
fn paths(prefix: &str) -> Vec<Permission> {
    let patterns = if prefix.ends_with('/') {
        vec![MatchPattern::Prefix(prefix.to_owned())]
    } else {
        vec![
            MatchPattern::Exact(prefix.to_owned()),
            MatchPattern::Prefix(format!("{prefix}/")),
        ]
    };
    patterns
        .into_iter()
        .map(|pattern| Permission {
            rule: Some(permission::Rule::UrlPath(PathMatcher {
                rule: Some(path_matcher::Rule::Path(StringMatcher {
                    match_pattern: Some(pattern),
                    ..StringMatcher::default()
                })),
            })),
        })
        .collect()
}

fn routes(caller: &Serve) -> RouteConfiguration {
    // The longest prefix first; for one prefix, gRPC before the rest.
    let mut allowed: Vec<_> = caller.allow.iter().collect();
    allowed.sort_by_key(|allow| (std::cmp::Reverse(allow.prefix.len()), !allow.grpc));
    let mut routes: Vec<_> = allowed
        .into_iter()
        .map(|allow| {
            let cluster = cluster_name(&allow.backend, speaks(allow.grpc));
            forward(path_match(&allow.prefix, allow.grpc), &cluster)
        })
        .collect();
    routes.push(answer(path_match("/", false), 403, []));
    RouteConfiguration {
        name: caller.caller.clone(),
        virtual_hosts: vec![VirtualHost {
            name: "contract".to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            ..VirtualHost::default()
        }],
        response_headers_to_add: vec![header(HEADER_GATEWAY, caller.region.clone())],
        // Only the gateway itself may say why something failed, not what is behind it.
        response_headers_to_remove: [HEADER_REFUSED, HEADER_DETAIL, HEADER_FLAGS]
            .map(ToOwned::to_owned)
            .into(),
        ..RouteConfiguration::default()
    }
}
