//! The intake of a caller, and its links to regions.

use std::{net::SocketAddr, sync::Arc};

use envoy_types::pb::envoy::{
    config::{
        cluster::v3::{Cluster, cluster},
        endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
        listener::v3::{FilterChain, Listener},
        route::v3::{
            Route, RouteConfiguration, RouteMatch, VirtualHost,
            route_match::{GrpcRouteMatchOptions, PathSpecifier},
        },
    },
    extensions::transport_sockets::tls::v3::UpstreamTlsContext,
};

use super::{
    Consume, GatewaySpec, HEADER_DETAIL, HEADER_FLAGS, HEADER_INTAKE, HEADER_TLS,
    http::{forward, manager, network_filter, upstream},
    parts::{ads, any, header, resource, router, socket, tls, tls_socket},
    secrets::{OWN, anchor_name},
    serve::refuse,
};
use crate::model::{Kind, Resource};

/// Name of listener and routes.
const INTAKE: &str = "intake";
/// Idle seconds of a link: less than the hour after which a gateway closes its end.
const LINK_IDLE: u32 = 300;

/// Listener, routes, links and their endpoints.
pub(super) fn resources(spec: &GatewaySpec, at: SocketAddr) -> Vec<(Kind, Resource)> {
    let mut out = Vec::new();
    for consume in &spec.consume {
        out.push((Kind::Cds, cluster(consume, false)));
        out.push((Kind::Cds, cluster(consume, true)));
        out.push((Kind::Eds, endpoints(consume)));
    }
    out.push((Kind::Rds, routes(spec)));
    out.push((Kind::Lds, listener(spec, at)));
    out
}

fn cluster_name(region: &str, http2: bool) -> String {
    if http2 { format!("uplink/{region}/h2") } else { format!("uplink/{region}") }
}

fn endpoints_name(region: &str) -> String {
    format!("gateway/{region}")
}

fn cluster(consume: &Consume, http2: bool) -> Resource {
    let name = cluster_name(&consume.region, http2);
    let alpn: &[&str] = if http2 { &["h2"] } else { &["http/1.1"] };
    let context = UpstreamTlsContext {
        common_tls_context: Some(tls(&consume.region, std::slice::from_ref(&consume.identity), alpn)),
        sni: consume.sni.clone(),
        ..UpstreamTlsContext::default()
    };
    let service_name = endpoints_name(&consume.region);
    let cluster = Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into())),
        eds_cluster_config: Some(cluster::EdsClusterConfig { eds_config: ads(), service_name: service_name.clone() }),
        transport_socket: tls_socket(any(context)),
        ..Cluster::default()
    };
    resource(&name, &upstream(cluster, http2, LINK_IDLE)).with_refs([
        (Kind::Eds, Arc::from(service_name)),
        (Kind::Sds, Arc::from(OWN)),
        (Kind::Sds, Arc::from(anchor_name(&consume.region))),
    ])
}

fn endpoints(consume: &Consume) -> Resource {
    let name = endpoints_name(&consume.region);
    let endpoint = |at: &SocketAddr| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint { address: socket(*at), ..Endpoint::default() })),
        ..LbEndpoint::default()
    };
    let lb_endpoints: Vec<LbEndpoint> = consume.endpoints.iter().map(endpoint).collect();
    let endpoints = if lb_endpoints.is_empty() {
        Vec::new()
    } else {
        vec![LocalityLbEndpoints { lb_endpoints, ..LocalityLbEndpoints::default() }]
    };
    let assignment =
        ClusterLoadAssignment { cluster_name: name.clone(), endpoints, ..ClusterLoadAssignment::default() };
    resource(&name, &assignment)
}

fn routes(spec: &GatewaySpec) -> Resource {
    let to = |consume: &Consume, http2: bool| Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            grpc: http2.then(GrpcRouteMatchOptions::default),
            ..RouteMatch::default()
        }),
        action: Some(forward(&cluster_name(&consume.region, http2))),
        ..Route::default()
    };
    let region = |consume: &Consume| VirtualHost {
        name: consume.region.clone(),
        domains: consume.hosts.clone(),
        routes: vec![to(consume, true), to(consume, false)],
        ..VirtualHost::default()
    };
    let nobody = VirtualHost {
        name: "unknown".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![refuse(404, "host")],
        ..VirtualHost::default()
    };
    let config = RouteConfiguration {
        name: INTAKE.to_owned(),
        virtual_hosts: spec.consume.iter().map(region).chain([nobody]).collect(),
        ..RouteConfiguration::default()
    };
    let refs = spec
        .consume
        .iter()
        .flat_map(|consume| [false, true].map(|http2| (Kind::Cds, Arc::from(cluster_name(&consume.region, http2)))));
    resource(INTAKE, &config).with_refs(refs)
}

fn listener(spec: &GatewaySpec, at: SocketAddr) -> Resource {
    // Envoy's own words, for whoever asks why: our probes first of all.
    let local = vec![
        header(HEADER_INTAKE, &spec.cluster),
        header(HEADER_DETAIL, "%RESPONSE_CODE_DETAILS%"),
        header(HEADER_TLS, "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
        header(HEADER_FLAGS, "%RESPONSE_FLAGS%"),
    ];
    let chain = FilterChain {
        name: INTAKE.to_owned(),
        filters: vec![network_filter(manager(INTAKE, vec![router()], local))],
        ..FilterChain::default()
    };
    let listener = Listener {
        name: INTAKE.to_owned(),
        address: socket(at),
        filter_chains: vec![chain],
        ..Listener::default()
    };
    resource(INTAKE, &listener).with_refs([(Kind::Rds, Arc::from(INTAKE))])
}
