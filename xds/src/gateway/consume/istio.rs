//! The way out to a region whose gateway is Istio's: that forwards by server name alone, so each service behind it has a cluster
//! of its own, and TLS ends at the sidecar of the service (Istio's `pilot/pkg/networking/core/gateway.go`, `AUTO_PASSTHROUGH`).

use envoy_types::pb::envoy::config::route::v3::VirtualHost;

use super::super::parts::{Speaks, answer, forward, header, path_match};
use super::super::secrets::SHARED;
use super::super::{Behind, Consume, HEADER_REFUSED, tls};
use super::{by_eds, with_endpoints};
use crate::model::{Kind, Resource};

fn name(region: &str, service: &Behind) -> String {
    format!("uplink/{region}/{}", service.service)
}

/// The names of the clusters of a region.
pub(super) fn clusters(to: &Consume) -> impl Iterator<Item = String> {
    to.istio
        .iter()
        .flatten()
        .map(|service| name(&to.region, service))
}

/// The clusters of a region with their endpoints.
pub(super) fn uplinks(to: &Consume, services: &[Behind]) -> Vec<(Kind, Resource)> {
    let uplink = |service: &Behind| {
        // Istio's gateway and sidecars know their own traffic by these names.
        let (speaks, alpn) = if service.grpc {
            (Speaks::Http2, ["istio-h2", "istio", "h2"])
        } else {
            (Speaks::Http1, ["istio-http/1.1", "istio", "http/1.1"])
        };
        let towards = tls::Towards {
            region: &to.region,
            identities: &service.identities,
            sni: &service.sni,
            alpn: &alpn,
            own: SHARED,
        };
        let cluster = by_eds(name(&to.region, service), speaks, &towards);
        with_endpoints(to, &cluster, SHARED)
    };
    services.iter().flat_map(uplink).collect()
}

/// Routes by the name of a service, and by path: first what is its own, then what the region's other services have, so that all of a region is
/// reached by any of its names. Nothing else goes out.
pub(super) fn virtual_hosts(to: &Consume) -> Vec<VirtualHost> {
    let services = to.istio.as_deref().unwrap_or_default();
    let routes = |service: &Behind| {
        let cluster = name(&to.region, service);
        let prefixes = service.prefixes.clone().into_iter();
        let grpc = service.grpc;
        prefixes.map(move |prefix| forward(path_match(&prefix, grpc), &cluster))
    };
    let host = |service: &Behind| {
        let others = services.iter().filter(|o| o.service != service.service);
        let mut all: Vec<_> = routes(service).chain(others.flat_map(routes)).collect();
        all.push(answer(
            path_match("/", false),
            403,
            [header(HEADER_REFUSED, "path")],
        ));
        VirtualHost {
            name: format!("{}/{}", to.region, service.service),
            domains: service.hosts.clone(),
            routes: all,
            ..VirtualHost::default()
        }
    };
    services.iter().map(host).collect()
}
