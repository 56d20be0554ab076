//! The way out: the intake listener, its routes, and an uplink per region.

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    LocalReplyConfig, Rds, http_connection_manager as hcm,
};

use super::parts::{
    Speaks, answer, bind, endpoints, forward, from_ads, header, http, keepalive, limits,
    local_reply, network_filter, path_match, protocol, resource, router, seconds, socket, why,
};
use super::secrets::{DEFAULT, anchor_name};
use super::{Consume, GatewaySpec, HEADER_INTAKE, HEADER_REFUSED, HEADER_TLS, tls};
use crate::model::{Kind, Resource};

mod istio;

const INTAKE: &str = "intake";

/// An idle uplink connection is closed from our side after this many seconds, well before the
/// gateway would (an hour), so that no request meets a closing connection.
const UPLINK_IDLE: i64 = 300;

fn uplink(region: &str, speaks: Speaks) -> String {
    match speaks {
        Speaks::Http1 => format!("uplink/{region}"),
        Speaks::Http2 => format!("uplink/{region}/h2"),
    }
}

/// The clusters of a region with their endpoints.
pub(super) fn uplinks(to: &Consume) -> Vec<(Kind, Resource)> {
    if let Some(services) = &to.istio {
        return istio::uplinks(to, services);
    }
    [Speaks::Http1, Speaks::Http2]
        .into_iter()
        .flat_map(|speaks| with_endpoints(to, &cluster_of(to, speaks), DEFAULT))
        .collect()
}

/// A cluster that leads to the addresses of a region, with them.
fn with_endpoints(to: &Consume, cluster: &Cluster, own: &str) -> [(Kind, Resource); 2] {
    let name = cluster.name.clone();
    let addresses = to
        .endpoints
        .iter()
        .map(|at| socket(&at.ip().to_string(), at.port()));
    let assignment = endpoints(&name, addresses);
    let refs = [
        (Kind::Eds, name.clone()),
        (Kind::Sds, own.to_owned()),
        (Kind::Sds, anchor_name(&to.region)),
    ];
    [
        (Kind::Cds, resource(&name, cluster, refs)),
        (Kind::Eds, resource(&name, &assignment, [])),
    ]
}

fn cluster_of(to: &Consume, speaks: Speaks) -> Cluster {
    let alpn = match speaks {
        Speaks::Http1 => "http/1.1",
        Speaks::Http2 => "h2",
    };
    let identities = std::slice::from_ref(&to.server_identity);
    let towards = tls::Towards {
        region: &to.region,
        identities,
        sni: &to.sni,
        alpn: &[alpn],
        own: DEFAULT,
    };
    by_eds(uplink(&to.region, speaks), speaks, &towards)
}

/// A cluster with endpoints by EDS behind TLS.
fn by_eds(name: String, speaks: Speaks, towards: &tls::Towards<'_>) -> Cluster {
    Cluster {
        name,
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Eds.into(),
        )),
        eds_cluster_config: Some(cluster::EdsClusterConfig {
            eds_config: from_ads(),
            ..cluster::EdsClusterConfig::default()
        }),
        connect_timeout: seconds(5),
        circuit_breakers: limits(),
        upstream_connection_options: keepalive(),
        typed_extension_protocol_options: [protocol(speaks, UPLINK_IDLE)].into(),
        transport_socket: Some(tls::towards(towards)),
        ..Cluster::default()
    }
}

/// The routes of the intake: by host to the region, by content type to the protocol.
pub(super) fn routes(regions: &[&Consume]) -> Resource {
    let own = |to: &&&Consume| to.istio.is_none();
    let mut virtual_hosts: Vec<_> = regions
        .iter()
        .filter(own)
        .map(|to| VirtualHost {
            name: to.region.clone(),
            domains: to.hosts.clone(),
            routes: vec![
                forward(path_match("/", true), &uplink(&to.region, Speaks::Http2)),
                forward(path_match("/", false), &uplink(&to.region, Speaks::Http1)),
            ],
            ..VirtualHost::default()
        })
        .collect();
    virtual_hosts.extend(regions.iter().flat_map(|to| istio::virtual_hosts(to)));
    virtual_hosts.push(VirtualHost {
        name: "unknown".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![answer(
            path_match("/", false),
            404,
            [header(HEADER_REFUSED, "host")],
        )],
        ..VirtualHost::default()
    });
    let refs = regions.iter().filter(own).flat_map(|to| {
        [Speaks::Http1, Speaks::Http2].map(|speaks| (Kind::Cds, uplink(&to.region, speaks)))
    });
    let refs = refs.chain(
        regions
            .iter()
            .flat_map(|to| istio::clusters(to))
            .map(|name| (Kind::Cds, name)),
    );
    let routes = RouteConfiguration {
        name: INTAKE.to_owned(),
        virtual_hosts,
        // Only the intake itself may speak in its name.
        response_headers_to_remove: vec![HEADER_INTAKE.to_owned(), HEADER_TLS.to_owned()],
        ..RouteConfiguration::default()
    };
    resource(INTAKE, &routes, refs)
}

/// The intake: plain HTTP/1.1, HTTP/2 and gRPC on one port.
pub(super) fn listener(spec: &GatewaySpec) -> Resource {
    let own = [
        header(HEADER_INTAKE, spec.cluster.clone()),
        header(HEADER_TLS, "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ];
    let mut manager = http(INTAKE);
    manager.strip_port_mode = Some(hcm::StripPortMode::StripAnyHostPort(true));
    manager.strip_trailing_host_dot = true;
    manager.local_reply_config = Some(LocalReplyConfig {
        mappers: vec![local_reply(None, own.into_iter().chain(why()))],
        ..LocalReplyConfig::default()
    });
    manager.route_specifier = Some(hcm::RouteSpecifier::Rds(Rds {
        config_source: from_ads(),
        route_config_name: INTAKE.to_owned(),
    }));
    manager.http_filters = vec![router()];
    let listener = Listener {
        name: INTAKE.to_owned(),
        address: bind(spec.intake),
        filter_chains: vec![FilterChain {
            filters: vec![network_filter(manager)],
            ..FilterChain::default()
        }],
        ..Listener::default()
    };
    resource(INTAKE, &listener, [(Kind::Rds, INTAKE.to_owned())])
}
