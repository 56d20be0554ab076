//! Objects of the Istio plane.

use mesh_core::{
    contract::Protocol,
    istio::{
        Discovery, Door, Entries, Flavour, Guest, Host, IstioFacts, IstioRules, ServiceFacts,
        doors, entries, network,
    },
    names::ClusterName,
    plan::IstioDelivery,
};
use serde_json::{Value, json};

use super::*;

fn seen() -> IstioFacts {
    let backend = ServiceFacts {
        selector: [("app".to_owned(), "vmauth".to_owned())].into(),
        ports: [(8427, "8427".to_owned())].into(),
        accounts: ["vmauth".to_owned()].into(),
        ..ServiceFacts::default()
    };
    IstioFacts {
        services: [("vmauth-cluster".to_owned(), backend)].into(),
        ..IstioFacts::default()
    }
}

fn open(guests: &[(&str, Caller, Plane)]) -> Vec<(Door, Entries)> {
    let contract = Contract::default();
    let names: Vec<(ClusterName, Caller, Plane)> = guests
        .iter()
        .map(|(cluster, caller, plane)| (cluster.parse().unwrap(), *caller, *plane))
        .collect();
    let guests: Vec<Guest<'_>> = names
        .iter()
        .map(|(cluster, caller, plane)| Guest {
            cluster,
            caller: *caller,
            plane: *plane,
        })
        .collect();
    let domain = "mesh.example".parse().unwrap();
    let rules = IstioRules::default();
    doors(&"region1".parse().unwrap(), &contract, &seen())
        .into_values()
        .flatten()
        .map(|door| {
            let backend = door.backend.name.clone();
            (door, entries(&domain, &rules, &contract, &backend, &guests))
        })
        .collect()
}

/// A delivery in the Istio plane.
fn in_istio(mut delivery: Delivery, doors: Vec<(Door, Entries)>) -> Delivery {
    delivery.plane = Plane::Istio;
    delivery.gateway = false;
    delivery.serve.clear();
    delivery.trust_domain = "mesh.example".parse().unwrap();
    delivery.istio = Some(IstioDelivery {
        network: network(&delivery.cluster),
        revision: "default".to_owned(),
        served: true,
        injects: true,
        discovery: Discovery::Static,
        readers: BTreeSet::new(),
        read_secrets: false,
        flavour: Flavour::Classic,
        tracing: None,
        doors,
    });
    delivery
}

pub(super) fn region() -> Delivery {
    let guests = [
        ("child1", Caller::Child, Plane::Envoy),
        ("management", Caller::Management, Plane::Envoy),
    ];
    in_istio(delivery(Role::Region, "child1", &[]), open(&guests))
}

pub(super) fn child() -> Delivery {
    let mut child = in_istio(delivery(Role::Child, "region1", &["192.0.2.1"]), Vec::new());
    let host = Host {
        service: "region1-vmauth".to_owned(),
        port: 8427,
        protocol: Protocol::Http,
        accounts: ["vmauth".to_owned()].into(),
    };
    let prefixes = BTreeSet::from(["/vm/insert/".to_owned()]);
    for consume in child.consume.values_mut() {
        consume.through = Through::Istio {
            hosts: [("vmauth".to_owned(), (host.clone(), prefixes.clone()))].into(),
            trust_domain: "mesh.example".parse().unwrap(),
        };
    }
    child
}

fn find(objects: &[Rendered], kind: &str, name: &str) -> Value {
    let found = objects
        .iter()
        .find(|o| o.kind.kind == kind && o.name == name);
    found.map(|o| o.body.clone()).unwrap_or_default()
}

#[test]
fn a_region_opens_exactly_the_hosts_of_the_contract() {
    let objects = member_objects(&region(), &settings());
    let gateway = find(&objects, "Gateway", "mesh-eastwest");
    assert_eq!(
        gateway["spec"],
        json!({
            "selector": { "istio": "eastwestgateway" },
            "servers": [{
                "port": { "number": 15443, "name": "tls", "protocol": "TLS" },
                "tls": { "mode": "AUTO_PASSTHROUGH" },
                "hosts": ["region1-vmauth.kof.svc.cluster.local"],
            }],
        })
    );
    let alias = find(&objects, "Service", "region1-vmauth");
    assert_eq!(alias["spec"]["selector"], json!({ "app": "vmauth" }));
    assert_eq!(alias["spec"]["ports"][0]["targetPort"], json!(8427));
    assert_eq!(
        find(&objects, "Service", "mesh-gateway"),
        Value::Null,
        "the door is Istio's"
    );
    assert!(
        objects
            .iter()
            .all(|o| !o.body.to_string().contains("*.local")),
        "never everything"
    );
}

#[test]
fn gateways_of_the_gateway_api_have_a_listener_a_host() {
    let mut region = region();
    region.istio.as_mut().unwrap().flavour = Flavour::GatewayApi;
    let objects = member_objects(&region, &settings());
    let gateway = find(&objects, "Gateway", "mesh-eastwest");
    assert_eq!(gateway["apiVersion"], "gateway.networking.k8s.io/v1");
    assert_eq!(
        gateway["spec"]["listeners"][0]["hostname"],
        "region1-vmauth.kof.svc.cluster.local"
    );
    assert_eq!(
        gateway["spec"]["listeners"][0]["tls"]["mode"],
        "Passthrough"
    );
    assert_eq!(
        gateway["metadata"]["labels"]["topology.istio.io/network"],
        "region1-network"
    );
}

#[test]
fn a_policy_refuses_everybody_who_is_not_a_guest_and_every_path_that_is_not_granted() {
    let objects = member_objects(&region(), &settings());
    let policy = find(&objects, "AuthorizationPolicy", "mesh-region1-vmauth");
    assert_eq!(policy["spec"]["action"], "DENY");
    let rules = policy["spec"]["rules"].as_array().unwrap();
    let sni = json!([{ "key": "connection.sni", "values": ["outbound_.8427_._.region1-vmauth.kof.svc.cluster.local"] }]);
    assert!(
        rules.iter().all(|rule| rule["when"] == sni),
        "calls within the region are left alone"
    );
    let known = rules[0]["from"][0]["source"]["notPrincipals"]
        .as_array()
        .unwrap();
    assert!(known.contains(&json!(
        "mesh.example/ns/istio-system/sa/mesh-gateway.child1"
    )));
    let of = |account: &str| {
        let principal = json!(format!("mesh.example/ns/istio-system/sa/{account}"));
        let rule = rules.iter().find(|rule| {
            let principals = rule["from"][0]["source"]["principals"].as_array();
            principals.is_some_and(|all| all.contains(&principal))
        });
        rule.map(|rule| rule["to"][0]["operation"].clone()).unwrap()
    };
    let child = of("mesh-gateway.child1");
    let paths = child["notPaths"].as_array().unwrap();
    assert!(paths.contains(&json!("/vm/insert/*")));
    assert!(!paths.contains(&json!("/vls/*")), "children read no logs");
    assert_eq!(child["ports"], json!(["8427"]));
    let management = of("mesh-gateway.management");
    assert!(
        management["notPaths"]
            .as_array()
            .unwrap()
            .contains(&json!("/vls/*"))
    );
}

#[test]
fn nothing_of_istios_kinds_is_written_before_they_are_served() {
    let mut region = region();
    region.istio.as_mut().unwrap().served = false;
    let objects = member_objects(&region, &settings());
    let istios = |o: &&Rendered| o.kind.api_version.contains("istio.io");
    assert_eq!(objects.iter().find(istios), None);
    assert_ne!(find(&objects, "Service", "region1-vmauth"), Value::Null);
    let labels = &find(&objects, "Namespace", "istio-system")["metadata"]["labels"];
    assert_eq!(labels["topology.istio.io/network"], "region1-network");
}

#[test]
fn a_consumer_names_the_region_and_its_agent_may_write_entries() {
    let objects = member_objects(&child(), &settings());
    let service = find(&objects, "Service", "region1-vmauth");
    assert_eq!(
        service["spec"]["selector"],
        json!({ "mesh.kof.k0rdent.mirantis.com/service": "region1-vmauth" })
    );
    let may = |objects: &[Rendered]| {
        let role = objects
            .iter()
            .find(|o| o.kind.kind == "Role" && o.namespace.as_deref() == Some("kof"));
        role.unwrap().body.to_string().contains("workloadentries")
    };
    assert!(may(&objects));
    assert!(!may(&member_objects(&region_in_envoy(), &settings())));
    let agent = mesh_agent(&child(), &settings());
    let host = &agent.consume[0].hosts[0];
    assert_eq!(host.identities, ["spiffe://mesh.example/ns/kof/sa/vmauth"]);
    assert_eq!(
        host.sni,
        "outbound_.8427_._.region1-vmauth.kof.svc.cluster.local"
    );
    assert_eq!(agent.consume[0].sidecars, crate::agent::Sidecars::Static);
}

fn region_in_envoy() -> Delivery {
    delivery(Role::Region, "child1", &[])
}

#[test]
fn a_region_behind_which_nothing_is_known_is_not_called() {
    let mut child = child();
    for consume in child.consume.values_mut() {
        consume.through = Through::Istio {
            hosts: BTreeMap::new(),
            trust_domain: "mesh.example".parse().unwrap(),
        };
    }
    assert!(mesh_agent(&child, &settings()).consume.is_empty());
}

#[test]
fn another_revision_is_injected_by_its_own_label() {
    let mut child = child();
    child.istio.as_mut().unwrap().revision = "canary".to_owned();
    let objects = member_objects(&child, &settings());
    let labels = &find(&objects, "Namespace", "kof")["metadata"]["labels"];
    assert_eq!(labels["istio.io/rev"], "canary");
    assert_eq!(labels.get("istio-injection"), None);
}
