//! The pod that probes through a sidecar.

use mesh_core::{
    contract::Protocol,
    istio::{Discovery, Flavour, Host},
    plan::IstioDelivery,
};
use serde_json::json;

use super::*;

fn child(revision: &str) -> Delivery {
    let mut child = delivery(Role::Child, "region1", &["192.0.2.1"]);
    child.plane = Plane::Istio;
    child.istio = Some(IstioDelivery {
        network: "child1-network".to_owned(),
        revision: revision.to_owned(),
        served: true,
        injects: true,
        discovery: Discovery::Static,
        readers: BTreeSet::new(),
        read_secrets: false,
        flavour: Flavour::Classic,
        tracing: None,
        doors: Vec::new(),
    });
    let host = Host {
        service: "region1-vmauth".to_owned(),
        port: 8427,
        protocol: Protocol::Http,
        accounts: BTreeSet::from(["vmauth".to_owned()]),
    };
    let region = child.consume.values_mut().next().unwrap();
    region.through = Through::Istio {
        hosts: [("vmauth".to_owned(), (host, BTreeSet::new()))].into(),
        trust_domain: "mesh.example".parse().unwrap(),
    };
    child
}

fn of_prober(delivery: &Delivery) -> BTreeMap<String, serde_json::Value> {
    let objects = member_objects(delivery, &settings()).into_iter();
    let objects = objects.filter(|object| object.name == crate::labels::PROBE_NAME);
    let mut by_kind = BTreeMap::new();
    for object in objects {
        assert_eq!(object.namespace.as_deref(), Some("istio-system"));
        assert!(prunable().contains(&object.kind));
        assert!(
            by_kind
                .insert(object.kind.kind.to_owned(), object.body)
                .is_none()
        );
    }
    by_kind
}

#[test]
fn it_is_there_where_sidecars_go_to_regions_by_themselves() {
    let kinds: Vec<String> = of_prober(&child("default")).into_keys().collect();
    let all = [
        "Deployment",
        "EnvoyFilter",
        "Role",
        "RoleBinding",
        "ServiceAccount",
    ];
    assert_eq!(kinds, all);
    let none = |change: fn(&mut Delivery)| {
        let mut child = child("default");
        change(&mut child);
        of_prober(&child).is_empty()
    };
    assert!(none(|child| child.istio.as_mut().unwrap().injects = false));
    assert!(none(|child| child.istio = None), "it has no sidecars");
    assert!(none(|child| child.consume.clear()));
    assert!(none(|child| child.trusts.clear()), "it is not called yet");
    assert!(none(|child| {
        child.consume.values_mut().next().unwrap().through = Through::Envoy;
    }));
    // What is probed is what the agent is told.
    let spec = mesh_agent(&child("default"), &settings());
    let [region] = spec.consume.as_slice() else {
        panic!("one region");
    };
    assert_eq!(region.sidecars, crate::agent::Sidecars::Static);
    assert!(
        region
            .hosts
            .iter()
            .any(|host| host.service == region.service)
    );
}

#[test]
fn its_pod_is_given_a_sidecar_that_takes_what_goes_to_regions_only() {
    let objects = of_prober(&child("default"));
    let template = &objects["Deployment"]["spec"]["template"];
    let labels = json!({ "app": "mesh-probe", "sidecar.istio.io/inject": "true" });
    assert_eq!(template["metadata"]["labels"], labels);
    let selector = &objects["Deployment"]["spec"]["selector"]["matchLabels"];
    assert_eq!(*selector, json!({ "app": "mesh-probe" }));
    let annotations = &template["metadata"]["annotations"];
    let says = |name: &str| annotations[name].as_str().unwrap();
    assert_eq!(
        says("traffic.sidecar.istio.io/excludeOutboundPorts"),
        "443,6443"
    );
    assert_eq!(
        says("traffic.sidecar.istio.io/excludeInboundPorts"),
        "15014"
    );
    assert_eq!(says("sidecar.istio.io/rewriteAppHTTPProbers"), "false");
    let proxy: serde_json::Value = serde_json::from_str(says("proxy.istio.io/config")).unwrap();
    assert_eq!(proxy["holdApplicationUntilProxyStarts"], true);
    let other = of_prober(&child("1-31"));
    let labels = &other["Deployment"]["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["istio.io/rev"], "1-31");
    // As restricted as the agent's, before istiod adds to it.
    let pod = &template["spec"];
    assert_eq!(pod["serviceAccountName"], mesh_core::istio::PROBE_ACCOUNT);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    let container = &pod["containers"][0];
    assert_eq!(container["args"], json!(["probe"]));
    let restricted = json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } });
    assert_eq!(container["securityContext"], restricted);
}

#[test]
fn it_may_read_one_object_and_write_its_status() {
    let objects = of_prober(&child("default"));
    let rules = objects["Role"]["rules"].as_array().unwrap();
    for rule in rules {
        assert_eq!(rule["resourceNames"], json!(["mesh"]), "{rule}");
        assert_eq!(rule["apiGroups"], json!([crate::GROUP]), "{rule}");
    }
    let verbs = |resource: &str| {
        let rule = rules
            .iter()
            .find(|rule| rule["resources"] == json!([resource]));
        rule.unwrap()["verbs"].clone()
    };
    assert_eq!(verbs("meshagents"), json!(["get", "list", "watch"]));
    assert_eq!(verbs("meshagents/status"), json!(["get", "patch"]));
    assert_eq!(rules.len(), 2);
    let subjects = &objects["RoleBinding"]["subjects"];
    let account =
        json!([{ "kind": "ServiceAccount", "name": "mesh-probe", "namespace": "istio-system" }]);
    assert_eq!(*subjects, account);
}

#[test]
fn its_sidecar_and_no_other_says_why_it_answers_itself() {
    let objects = of_prober(&child("default"));
    let filter = &objects["EnvoyFilter"]["spec"];
    let pod = &objects["Deployment"]["spec"]["template"]["metadata"]["labels"];
    let selected = filter["workloadSelector"]["labels"].as_object().unwrap();
    assert!(!selected.is_empty() && selected.iter().all(|(name, value)| pod[name] == *value));
    let patch = &filter["configPatches"][0];
    assert_eq!(patch["match"]["context"], "SIDECAR_OUTBOUND");
    let headers =
        patch.pointer("/patch/value/typed_config/local_reply_config/mappers/0/headers_to_add");
    let headers: BTreeMap<&str, &str> = headers
        .and_then(|headers| headers.as_array())
        .unwrap()
        .iter()
        .map(|it| {
            (
                it["header"]["key"].as_str().unwrap(),
                it["header"]["value"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("x-kof-detail", "%RESPONSE_CODE_DETAILS%"),
        ("x-kof-flags", "%RESPONSE_FLAGS%"),
        ("x-kof-sidecar", "1"),
        ("x-kof-tls", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ];
    assert_eq!(headers, BTreeMap::from(expected));
}
