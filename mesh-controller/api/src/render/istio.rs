//! Objects of Istio between clusters: what a region opens and to whom, and the names of regions for sidecars.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{
    contract::{GATEWAY_PORT, Protocol},
    istio::{DEFAULT_REVISION, Discovery, Door, Entries, Flavour, Host, fqdn, sni},
    plan::{Delivery, IstioDelivery, Through},
};
use serde_json::{Value, json};

use super::member::{
    AUTHORIZATION_POLICY, GATEWAY, GATEWAY_API, Make, NAMESPACE_KIND, PEER_AUTHENTICATION,
    Rendered, SERVICE, TELEMETRY,
};
use crate::{NAMESPACE, TELEMETRY_NAMESPACE, labels};

/// Name of the Gateway that opens a region.
const GATEWAY_NAME: &str = "mesh-eastwest";
/// Label of a namespace or a gateway: its network.
const NETWORK: &str = "topology.istio.io/network";
/// Label of the workloads of kof that take only mutual TLS.
const STRICT: &str = "k0rdent.mirantis.com/istio-mtls-enabled";

/// What must be on namespaces that may belong to others.
pub(super) fn namespaces(make: &Make<'_>, istio: &IstioDelivery) -> Vec<Rendered> {
    let injection = if istio.revision == DEFAULT_REVISION {
        json!({ "istio-injection": "enabled" })
    } else {
        json!({ "istio.io/rev": istio.revision })
    };
    let labelled = |name: &str, labels: Value| {
        make.object(
            NAMESPACE_KIND,
            None,
            name,
            json!({ "metadata": { "labels": labels } }),
        )
    };
    vec![
        labelled(NAMESPACE, json!({ (NETWORK): istio.network })),
        labelled(TELEMETRY_NAMESPACE, injection),
    ]
}

/// Everything else of a member in the Istio plane, but the names of regions.
pub(super) fn objects(make: &Make<'_>, istio: &IstioDelivery) -> Vec<Rendered> {
    let mut objects: Vec<Rendered> = istio
        .doors
        .iter()
        .filter_map(|(door, _)| alias(make, door))
        .collect();
    if !istio.served {
        return objects;
    }
    objects.push(strict(make));
    objects.extend(istio.tracing.iter().map(|provider| tracing(make, provider)));
    // Who may come in is said before anybody can.
    objects.extend(
        istio
            .doors
            .iter()
            .map(|(door, entries)| policy(make, door, entries)),
    );
    if !istio.doors.is_empty() {
        objects.push(match istio.flavour {
            Flavour::Classic => gateway(make, istio),
            Flavour::GatewayApi => gateway_api(make, istio),
        });
    }
    objects
}

/// The Service by which a region is called, there.
fn alias(make: &Make<'_>, door: &Door) -> Option<Rendered> {
    let target = door.target.as_ref()?;
    let target: Value = target
        .parse::<u16>()
        .map_or_else(|_| json!(target), |port| json!(port));
    let mut port = port(door.backend.port, door.backend.protocol);
    super::member::merge(&mut port, json!({ "targetPort": target }));
    let spec = json!({ "type": "ClusterIP", "selector": door.selector, "ports": [port] });
    Some(make.object(
        SERVICE,
        Some(TELEMETRY_NAMESPACE),
        &door.service,
        json!({ "spec": spec }),
    ))
}

fn port(number: u16, protocol: Protocol) -> Value {
    let name = match protocol {
        Protocol::Http => "http",
        Protocol::Grpc => "grpc",
    };
    json!({ "name": name, "port": number, "protocol": "TCP", "appProtocol": name })
}

/// The names by which this member calls a region whose gateway is Istio's. Pods without a sidecar are led to the Envoy beside the agent by
/// slices that the agent keeps; sidecars go straight to the region's gateway.
pub(super) fn names(make: &Make<'_>, delivery: &Delivery, through: &Through) -> Vec<Rendered> {
    let Through::Istio { hosts, .. } = through else {
        return Vec::new();
    };
    let selects = is_static(delivery);
    let name = |host: &Host| {
        let mut port = port(host.port, host.protocol);
        super::member::merge(&mut port, json!({ "targetPort": host.port }));
        let mut spec = json!({ "type": "ClusterIP", "ports": [port] });
        if selects {
            // No pod has this label: only the WorkloadEntries that the agent keeps.
            super::member::merge(
                &mut spec,
                json!({ "selector": { (labels::SERVICE): host.service } }),
            );
        }
        make.object(
            SERVICE,
            Some(TELEMETRY_NAMESPACE),
            &host.service,
            json!({ "spec": spec }),
        )
    };
    hosts.values().map(|(host, _)| name(host)).collect()
}

/// Whether the sidecars of this member are told of regions by objects in it.
#[must_use]
pub fn is_static(delivery: &Delivery) -> bool {
    let istio = delivery.istio.as_ref();
    istio.is_some_and(|istio| istio.discovery == Discovery::Static)
}

fn hosts(istio: &IstioDelivery) -> Vec<String> {
    istio
        .doors
        .iter()
        .map(|(door, _)| fqdn(&door.service))
        .collect()
}

/// What the pods of Istio's gateway chart let through: these names and no others.
fn gateway(make: &Make<'_>, istio: &IstioDelivery) -> Rendered {
    // A namespace in front of a host is not looked at in this mode.
    make.object(
        GATEWAY,
        Some(NAMESPACE),
        GATEWAY_NAME,
        json!({ "spec": {
            "selector": { "istio": "eastwestgateway" },
            "servers": [{
                "port": { "number": GATEWAY_PORT, "name": "tls", "protocol": "TLS" },
                "tls": { "mode": "AUTO_PASSTHROUGH" },
                "hosts": hosts(istio),
            }],
        } }),
    )
}

/// The same for gateways that istiod makes: one listener a name, because a listener has one.
fn gateway_api(make: &Make<'_>, istio: &IstioDelivery) -> Rendered {
    let listeners: Vec<Value> = istio
        .doors
        .iter()
        .map(|(door, _)| {
            json!({
                "name": door.backend.name, "hostname": fqdn(&door.service), "port": GATEWAY_PORT, "protocol": "TLS",
                "tls": { "mode": "Passthrough", "options": { "gateway.istio.io/listener-protocol": "auto-passthrough" } },
                "allowedRoutes": { "namespaces": { "from": "Same" } },
            })
        })
        .collect();
    make.object(
        GATEWAY_API,
        Some(NAMESPACE),
        GATEWAY_NAME,
        json!({
            "metadata": { "labels": { (NETWORK): istio.network } },
            "spec": {
                "gatewayClassName": "istio",
                // without labels here istiod copies those of this object, and its Service would look like one of ours
                "infrastructure": { "labels": { (NETWORK): istio.network, "istio": "eastwestgateway" } },
                "listeners": listeners,
            },
        }),
    )
}

/// Who may call through a door, and what. It refuses, and grants nothing: calls within the region carry other server names, and are as
/// they were.
fn policy(make: &Make<'_>, door: &Door, entries: &Entries) -> Rendered {
    let when =
        json!([{ "key": "connection.sni", "values": [sni(&door.service, door.backend.port)] }]);
    let known: Vec<&String> = entries.keys().collect();
    let mut rules =
        vec![json!({ "from": [{ "source": { "notPrincipals": known } }], "when": when })];
    let mut groups: BTreeMap<&BTreeSet<String>, Vec<&String>> = BTreeMap::new();
    for (principal, prefixes) in entries {
        groups.entry(prefixes).or_default().push(principal);
    }
    for (prefixes, principals) in groups {
        let paths: Vec<String> = prefixes
            .iter()
            .flat_map(|prefix| patterns(prefix))
            .collect();
        let mut rule =
            json!({ "from": [{ "source": { "principals": principals } }], "when": when });
        if !paths.is_empty() {
            let mut operation = json!({ "notPaths": paths });
            // istiod warns of rules about paths that do not say where HTTP is spoken.
            if let Some(port) = door
                .target
                .as_ref()
                .filter(|target| target.parse::<u16>().is_ok())
            {
                super::member::merge(&mut operation, json!({ "ports": [port] }));
            }
            super::member::merge(&mut rule, json!({ "to": [{ "operation": operation }] }));
        }
        rules.push(rule);
    }
    make.object(
        AUTHORIZATION_POLICY,
        Some(TELEMETRY_NAMESPACE),
        &format!("mesh-{}", door.service),
        json!({ "spec": {
            "selector": { "matchLabels": door.selector },
            "action": "DENY",
            "rules": rules,
        } }),
    )
}

/// A prefix of whole segments, as an `AuthorizationPolicy` writes it.
fn patterns(prefix: &str) -> Vec<String> {
    match prefix.strip_suffix('/') {
        Some(_) => vec![format!("{prefix}*")],
        None => vec![prefix.to_owned(), format!("{prefix}/*")],
    }
}

fn strict(make: &Make<'_>) -> Rendered {
    make.object(
        PEER_AUTHENTICATION,
        Some(TELEMETRY_NAMESPACE),
        "mesh-strict",
        json!({ "spec": {
            "selector": { "matchLabels": { (STRICT): "true" } },
            "mtls": { "mode": "STRICT" },
        } }),
    )
}

fn tracing(make: &Make<'_>, provider: &str) -> Rendered {
    make.object(
        TELEMETRY,
        Some(TELEMETRY_NAMESPACE),
        "mesh-tracing",
        json!({ "spec": { "tracing": [{ "providers": [{ "name": provider }] }] } }),
    )
}
