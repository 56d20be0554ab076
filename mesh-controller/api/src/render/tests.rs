use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use mesh_core::{
    contract::{Caller, Contract},
    facts::{Anchor, Role, RootFacts, Target},
    istio::Plane,
    names::SpiffeId,
    plan::{Consume, Delivery, Through, Trust},
};

use super::*;

mod istio;
mod probe;
mod rights;

fn settings() -> MemberSettings {
    MemberSettings {
        image: "example/mesh-controller:1".to_owned(),
        envoy_image: "example/envoy:1".to_owned(),
        envoy_bootstrap: "{}".to_owned(),
        pull_secrets: Vec::new(),
        install: "install-uid".to_owned(),
        member: "member-uid".to_owned(),
        replicas: 2,
        leaf_seconds: 86_400,
        intermediate_seconds: 31_536_000,
        workloads: None,
        log: "info".to_owned(),
    }
}

fn identity(cluster: &str) -> SpiffeId {
    format!("spiffe://{cluster}.mesh.example/ns/istio-system/sa/mesh-gateway")
        .parse()
        .unwrap()
}

fn delivery(role: Role, peer: &str, targets: &[&str]) -> Delivery {
    let trust = Trust {
        trust_domain: format!("{peer}.mesh.example").parse().unwrap(),
        identity: identity(peer),
        anchors: vec![Anchor {
            generation: 1,
            certificate: format!("PEM of {peer}"),
            fingerprint: "ff".to_owned(),
            serial: "5".to_owned(),
            not_before: "2029-12-01T00:00:00Z".parse().unwrap(),
            not_after: "2030-01-01T00:00:00Z".parse().unwrap(),
        }],
        epoch: 3,
    };
    let cluster = if role == Role::Region {
        "region1"
    } else {
        "child1"
    };
    let mut delivery = Delivery {
        mesh: "default".parse().unwrap(),
        cluster: cluster.parse().unwrap(),
        role,
        plane: Plane::Envoy,
        trust_domain: format!("{cluster}.mesh.example").parse().unwrap(),
        identity: identity(cluster),
        shared_identity: None,
        istio: None,
        root: RootFacts {
            generation: 1,
            certificate: "PEM of root".to_owned(),
            ends: None,
        },
        signer: 1,
        prepare: None,
        gateway: role == Role::Region,
        trusts: BTreeMap::from([(peer.parse().unwrap(), trust)]),
        serve: BTreeMap::new(),
        consume: BTreeMap::new(),
        contract: Contract::default(),
        dead_peer: mesh_core::peer::Rules::default(),
        crls: BTreeMap::from([("print".to_owned(), "list".to_owned())]),
    };
    if role == Role::Region {
        delivery.serve.insert(peer.parse().unwrap(), Caller::Child);
    } else {
        let targets = targets
            .iter()
            .map(|host| Target {
                host: (*host).to_owned(),
                port: 15443,
            })
            .collect::<BTreeSet<_>>();
        let consume = Consume {
            caller: Caller::Child,
            service: format!("{peer}-vmauth"),
            targets,
            through: Through::Envoy,
        };
        delivery.consume.insert(peer.parse().unwrap(), consume);
    }
    delivery
}

#[test]
fn both_ends_of_a_link_agree_on_its_sni_and_identities() {
    let child = mesh_agent(
        &delivery(Role::Child, "region1", &["192.0.2.1"]),
        &settings(),
    );
    let region = mesh_agent(&delivery(Role::Region, "child1", &[]), &settings());
    let (calls, serves) = (&child.consume[0], &region.serve[0]);
    assert_eq!(calls.sni, serves.sni);
    assert_eq!(calls.sni, "child1.region1-vmauth.kof.svc.cluster.local");
    assert_eq!(calls.identity, region.identity);
    assert_eq!(serves.identities, std::slice::from_ref(&child.identity));
    assert_eq!(
        child.identity,
        "spiffe://child1.mesh.example/ns/istio-system/sa/mesh-gateway"
    );
    assert!(
        serves
            .grants
            .iter()
            .any(|grant| calls.probe.starts_with(&grant.prefix)),
        "a probe must be granted"
    );
}

#[test]
fn a_region_without_a_certificate_is_not_called_yet() {
    let mut early = delivery(Role::Child, "region1", &["192.0.2.1"]);
    early.trusts.clear();
    assert!(mesh_agent(&early, &settings()).consume.is_empty());
    let kinds: Vec<_> = member_objects(&early, &settings())
        .into_iter()
        .map(|o| (o.kind.kind, o.name))
        .collect();
    assert!(
        kinds.contains(&("Service", "region1-vmauth".to_owned())),
        "its name is there already: {kinds:?}"
    );
}

#[test]
fn everything_is_labelled_namespaced_and_prunable() {
    for delivery in [
        delivery(Role::Child, "region1", &[]),
        delivery(Role::Region, "child1", &[]),
    ] {
        for object in member_objects(&delivery, &settings()) {
            let labels = object.body.pointer("/metadata/labels").unwrap();
            assert_eq!(
                labels[crate::labels::INSTALL],
                "install-uid",
                "{}",
                object.name
            );
            assert_eq!(
                labels[crate::labels::MEMBER],
                "member-uid",
                "{}",
                object.name
            );
            assert_eq!(
                object.kind.namespaced,
                object.namespace.is_some(),
                "{}",
                object.name
            );
            assert!(
                prunable().contains(&object.kind),
                "{:?} would be left behind",
                object.kind
            );
        }
    }
}

#[test]
fn pods_satisfy_the_restricted_level() {
    let objects = member_objects(&delivery(Role::Region, "child1", &[]), &settings());
    let pod = objects
        .iter()
        .find(|o| o.kind.kind == "Deployment")
        .unwrap()
        .body
        .pointer("/spec/template/spec")
        .unwrap();
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    for container in pod["containers"].as_array().unwrap() {
        assert_eq!(
            container["securityContext"]["allowPrivilegeEscalation"],
            false
        );
        assert_eq!(
            container["securityContext"]["capabilities"]["drop"][0],
            "ALL"
        );
    }
}

#[test]
fn the_charts_crds_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/kof-istio/crds");
    for crd in crate::crds() {
        let file = folder.join(format!("{}.yaml", crd.metadata.name.clone().unwrap()));
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|e| panic!("{}: {e}; run `make crds`", file.display()));
        let in_chart: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(
            in_chart,
            serde_json::to_value(&crd).unwrap(),
            "{} is old; run `make crds`",
            file.display()
        );
    }
}

#[test]
fn the_charts_values_know_the_fields_of_a_mesh() {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/kof-istio/values.schema.json");
    let schema: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(
        schema["definitions"]["meshSpec"],
        crate::mesh_values(),
        "{} is old; run `make crds`",
        file.display()
    );
}

#[test]
fn a_schema_for_values_is_closed_and_has_no_words_of_kubernetes() {
    fn check(at: &str, schema: &serde_json::Value) {
        for (keyword, value) in schema.as_object().into_iter().flatten() {
            assert!(!keyword.starts_with("x-kubernetes"), "{at}.{keyword}");
            if keyword == "properties" {
                assert!(schema.get("additionalProperties").is_some(), "{at}");
                for (name, field) in value.as_object().unwrap() {
                    check(&format!("{at}.{name}"), field);
                }
            }
            if keyword == "items" || keyword == "additionalProperties" {
                check(&format!("{at}[]"), value);
            }
        }
    }
    let schema = crate::mesh_values();
    assert!(schema["properties"]["dataPlane"].is_object(), "{schema}");
    check("spec", &schema);
}

#[test]
fn every_field_of_our_objects_is_documented() {
    fn check(at: &str, schema: &serde_json::Value) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            // Conditions are described by Kubernetes; an object of ours by the type behind it.
            assert!(
                property.get("description").is_some(),
                "{at} has no description"
            );
            check(&at, property);
            check(&at, &property["items"]);
        }
    }
    for crd in [crate::crds(), vec![crate::crd::<crate::agent::MeshAgent>()]].concat() {
        let crd = serde_json::to_value(crd).unwrap();
        for part in ["spec", "status"] {
            let schema =
                &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part];
            check(part, schema);
        }
    }
}

#[test]
fn those_who_call_regions_are_told_what_to_do_about_dead_ones_and_old_ones_do_nothing() {
    use mesh_core::{lifetime::Lifetime, peer};
    let mut child = delivery(Role::Child, "region1", &["192.0.2.1"]);
    child.dead_peer = peer::Rules {
        policy: peer::Policy::Withdraw,
        after: Lifetime::from_secs(77),
        return_after: Lifetime::from_secs(7),
    };
    let spec = mesh_agent(&child, &settings());
    assert_eq!(
        crate::read::dead_peer(spec.dead_peer.as_ref()),
        child.dead_peer,
        "what is written is what is read"
    );
    let mut region = delivery(Role::Region, "child1", &[]);
    region.dead_peer = child.dead_peer;
    assert_eq!(mesh_agent(&region, &settings()).dead_peer, None);
    child.dead_peer.policy = peer::Policy::Keep;
    assert_eq!(mesh_agent(&child, &settings()).dead_peer, None);
    assert_eq!(crate::read::dead_peer(None).policy, peer::Policy::Keep);
    // What a controller of before has written.
    let mut before = serde_json::to_value(&spec).unwrap();
    before.as_object_mut().unwrap().remove("deadPeer").unwrap();
    let read: crate::agent::MeshAgentSpec = serde_json::from_value(before).unwrap();
    assert_eq!(read.dead_peer, None);
}
