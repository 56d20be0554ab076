//! The gateway of a region.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use envoy_types::pb::envoy::{
    config::{
        cluster::v3::{Cluster, cluster},
        endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
        listener::v3::{FilterChain, FilterChainMatch, Listener, ListenerFilter, listener_filter},
        rbac::v3::{Permission, Policy, Principal, Rbac as Rules, permission, principal, rbac},
        route::v3::{
            DirectResponseAction, Route, RouteConfiguration, RouteMatch, VirtualHost, route, route_match::PathSpecifier,
        },
    },
    extensions::{
        filters::{
            http::rbac::v3::Rbac,
            listener::tls_inspector::v3::TlsInspector,
            network::http_connection_manager::v3::http_connection_manager::{
                ForwardClientCertDetails, SetCurrentClientCertDetails,
            },
        },
        transport_sockets::tls::v3::DownstreamTlsContext,
    },
};

use super::{
    Backend, BuildError, GatewaySpec, HEADER_GATEWAY, HEADER_REFUSED, Serve,
    http::{forward, manager, network_filter, upstream},
    parts::{any, exactly, header, host, http_filter, resource, router, seconds, socket, tls, tls_socket, yes},
    secrets::{OWN, anchor_name},
};
use crate::model::{Kind, Resource};

/// Idle seconds of a connection to a backend: less than the minute after which VictoriaMetrics closes its end.
const BACKEND_IDLE: u32 = 30;

/// Listener, routes and backends.
pub(super) fn resources(spec: &GatewaySpec, at: SocketAddr) -> Result<Vec<(Kind, Resource)>, BuildError> {
    let mut out = Vec::new();
    for backend in &spec.backends {
        out.push((Kind::Cds, cluster(backend)));
    }
    for serve in &spec.serve {
        out.push((Kind::Rds, routes(spec, serve)?));
    }
    out.push((Kind::Lds, listener(spec, at)));
    Ok(out)
}

fn cluster_name(backend: &str) -> String {
    format!("backend/{backend}")
}

fn routes_name(caller: &str) -> String {
    format!("gateway/{caller}")
}

fn cluster(backend: &Backend) -> Resource {
    let name = cluster_name(&backend.name);
    let address = backend.host.parse::<IpAddr>();
    let discovery = if address.is_ok() { cluster::DiscoveryType::Static } else { cluster::DiscoveryType::StrictDns };
    let endpoint = Endpoint { address: host(&backend.host, backend.port), ..Endpoint::default() };
    let endpoint = LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..LbEndpoint::default() };
    let cluster = Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(discovery.into())),
        // A backend that is not there yet must not hold up the listener; its absence is told by probes.
        wait_for_warm_on_init: Some(envoy_types::pb::google::protobuf::BoolValue { value: false }),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..LocalityLbEndpoints::default() }],
            ..ClusterLoadAssignment::default()
        }),
        ..Cluster::default()
    };
    resource(&name, &upstream(cluster, backend.grpc, BACKEND_IDLE))
}

fn routes(spec: &GatewaySpec, serve: &Serve) -> Result<Resource, BuildError> {
    let name = routes_name(&serve.caller);
    let mut refs = Vec::new();
    let mut routes = Vec::new();
    for allow in &serve.allow {
        if !spec.backends.iter().any(|backend| backend.name == allow.backend) {
            return Err(BuildError::MissingBackend {
                caller: serve.caller.clone(),
                prefix: allow.prefix.clone(),
                backend: allow.backend.clone(),
            });
        }
        let cluster = cluster_name(&allow.backend);
        routes.push(route(&allow.prefix, forward(&cluster)));
        refs.push((Kind::Cds, Arc::from(cluster)));
    }
    routes.push(refuse(403, "path"));
    let config = RouteConfiguration {
        name: name.clone(),
        virtual_hosts: vec![VirtualHost {
            name: serve.caller.clone(),
            domains: vec!["*".to_owned()],
            routes,
            ..VirtualHost::default()
        }],
        response_headers_to_add: vec![header(HEADER_GATEWAY, &spec.cluster)],
        ..RouteConfiguration::default()
    };
    Ok(resource(&name, &config).with_refs(refs))
}

fn route(prefix: &str, action: route::Action) -> Route {
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(action),
        ..Route::default()
    }
}

/// Answers for everything else, and says by which rule.
pub(super) fn refuse(status: u32, rule: &str) -> Route {
    let action = DirectResponseAction { status, ..DirectResponseAction::default() };
    Route {
        response_headers_to_add: vec![header(HEADER_REFUSED, rule)],
        ..route("/", route::Action::DirectResponse(action))
    }
}

fn listener(spec: &GatewaySpec, at: SocketAddr) -> Resource {
    let chains = spec.serve.iter().map(|serve| chain(spec, serve)).collect();
    let mut refs = vec![(Kind::Sds, Arc::from(OWN))];
    for serve in &spec.serve {
        refs.push((Kind::Sds, Arc::from(anchor_name(&serve.caller))));
        refs.push((Kind::Rds, Arc::from(routes_name(&serve.caller))));
    }
    let inspector = ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(TlsInspector::default()))),
        ..ListenerFilter::default()
    };
    let listener = Listener {
        name: "gateway".to_owned(),
        address: socket(at),
        listener_filters: vec![inspector],
        filter_chains: chains,
        ..Listener::default()
    };
    resource("gateway", &listener).with_refs(refs)
}

/// One caller. Taking the chain away drains its connections; nobody else's are touched.
fn chain(spec: &GatewaySpec, serve: &Serve) -> FilterChain {
    let mut manager = manager(
        &routes_name(&serve.caller),
        vec![http_filter("envoy.filters.http.rbac", any(rules(serve))), router()],
        vec![header(HEADER_GATEWAY, &spec.cluster)],
    );
    // Backends learn who called from us, never from the caller.
    manager.forward_client_cert_details = ForwardClientCertDetails::SanitizeSet.into();
    manager.set_current_client_cert_details =
        Some(SetCurrentClientCertDetails { uri: true, ..SetCurrentClientCertDetails::default() });
    let context = DownstreamTlsContext {
        common_tls_context: Some(tls(&serve.caller, &serve.identities, &["h2", "http/1.1"])),
        require_client_certificate: yes(),
        ..DownstreamTlsContext::default()
    };
    FilterChain {
        name: format!("caller/{}", serve.caller),
        filter_chain_match: Some(FilterChainMatch {
            server_names: vec![serve.sni.clone()],
            transport_protocol: "tls".to_owned(),
            ..FilterChainMatch::default()
        }),
        filters: vec![network_filter(manager)],
        transport_socket: tls_socket(any(context)),
        transport_socket_connect_timeout: seconds(10),
        ..FilterChain::default()
    }
}

/// Who, once more, behind TLS: one mistake there must not open the door.
fn rules(serve: &Serve) -> Rbac {
    let principal = |id: &String| Principal {
        identifier: Some(principal::Identifier::Authenticated(principal::Authenticated {
            principal_name: Some(exactly(id)),
        })),
    };
    // Paths are the routes' business, which say so when they refuse.
    let policy = Policy {
        permissions: vec![Permission { rule: Some(permission::Rule::Any(true)) }],
        principals: serve.identities.iter().map(principal).collect(),
        ..Policy::default()
    };
    let rules = Rules {
        action: rbac::Action::Allow.into(),
        policies: [("caller".to_owned(), policy)].into(),
        ..Rules::default()
    };
    Rbac { rules: Some(rules), ..Rbac::default() }
}
