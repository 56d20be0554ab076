//! Members in the Istio plane.

use super::*;
use crate::istio::{IstioFacts, Istiod, ServiceFacts};

/// What is seen in a member whose Istio works.
pub(super) fn istio(cluster: &str) -> IstioFacts {
    let backend = ServiceFacts {
        selector: [("app".to_owned(), "vmauth".to_owned())].into(),
        ports: [(8427, "8427".to_owned())].into(),
        accounts: ["vmauth".to_owned()].into(),
        ..ServiceFacts::default()
    };
    IstioFacts {
        istiods: vec![Istiod {
            name: "istiod".to_owned(),
            revision: "default".to_owned(),
            version: Some("1.31.0".to_owned()),
            cluster: Some(cluster.to_owned()),
            trust_domain: Some("mesh.example".to_owned()),
            ready: true,
            leaves_out_secrets: false,
        }],
        network: Some(format!("{cluster}-network")),
        gateways: ["istio-eastwestgateway".to_owned()].into(),
        services: [("vmauth-cluster".to_owned(), backend)].into(),
    }
}

/// A fleet in which these members are in the Istio plane.
fn mixed(members: &[&str]) -> Facts {
    let mut facts = fleet();
    for name in members {
        let member = facts.members.get_mut(&key(name)).unwrap();
        member.claim.as_mut().unwrap().plane = Some(Plane::Istio);
        member.istio = Some(istio(name));
    }
    facts
}

#[test]
fn a_whole_fleet_in_the_istio_plane_comes_to_work() {
    let mut facts = mixed(&["management", "region1", "region2", "child1"]);
    facts.plane = Plane::Istio;
    carry_out(&mut facts);
    let plan = look(&facts);
    for name in ["management", "region1", "region2", "child1"] {
        assert_eq!(
            state(&plan, name, Kind::Ready),
            (State::True, "Ready".to_owned()),
            "{name}"
        );
    }
    let child = delivered(&plan, "child1");
    assert_eq!(child.trust_domain.to_string(), "mesh.example");
    assert_eq!(
        child.identity.as_str(),
        "spiffe://mesh.example/ns/istio-system/sa/mesh-gateway.child1"
    );
    assert_eq!(child.shared_identity, None, "it has one identity");
    let region = delivered(&plan, "region1");
    assert!(!region.gateway, "the gateway is Istio's");
    assert!(region.serve.is_empty());
    let doors = &region.istio.as_ref().unwrap().doors;
    assert_eq!(doors.len(), 1, "of the two backends one is there");
    let (door, entries) = &doors[0];
    assert_eq!(door.service, "region1-vmauth");
    assert!(entries.keys().any(|p| p.ends_with("mesh-gateway.child1")));
}

#[test]
fn a_member_of_the_other_plane_shows_an_identity_of_the_shared_domain() {
    let facts = mixed(&["region1"]);
    let plan = look(&facts);
    let child = delivered(&plan, "child1");
    assert_eq!(child.trust_domain.to_string(), "child1.mesh.example");
    let shared = "spiffe://mesh.example/ns/istio-system/sa/mesh-gateway.child1";
    assert_eq!(
        child.shared_identity.as_ref().map(SpiffeId::as_str),
        Some(shared)
    );
    match &child.consume[&name("region1")].through {
        Through::Istio { hosts, .. } => assert!(hosts.contains_key("vmauth")),
        Through::Envoy => panic!("region1 is behind Istio's gateway"),
    }
    let management = delivered(&plan, "management");
    assert_eq!(management.consume[&name("region2")].through, Through::Envoy);
    assert_eq!(
        management.trusts[&name("region1")].identity.as_str(),
        "spiffe://mesh.example/ns/istio-system/sa/mesh-gateway.region1"
    );
}

#[test]
fn nothing_is_delivered_before_istio_was_looked_for() {
    let mut facts = mixed(&["region1"]);
    facts.members.get_mut(&key("region1")).unwrap().istio = None;
    let plan = look(&facts);
    let region = &plan.members[&key("region1")];
    assert_eq!(region.action, Action::Wait);
    assert!(!region.settled, "what was said before stays");
}

#[test]
fn a_region_that_was_not_looked_at_yet_is_called_as_last_known() {
    let mut facts = mixed(&["region1"]);
    let known = look(&facts).members[&key("region1")].hosts.clone();
    assert!(known.contains_key("vmauth"));
    let region = facts.members.get_mut(&key("region1")).unwrap();
    region.istio = None;
    region.hosts = known;
    let plan = look(&facts);
    match &delivered(&plan, "child1").consume[&name("region1")].through {
        Through::Istio { hosts, .. } => assert!(hosts.contains_key("vmauth")),
        Through::Envoy => panic!("region1 is behind Istio's gateway"),
    }
}

#[test]
fn each_wait_is_a_condition_with_object_and_reason() {
    type Change = fn(&mut IstioFacts);
    let cases: [(&str, Change); 4] = [
        ("IstiodMissing", |f| f.istiods.clear()),
        ("GatewayMissing", |f| f.gateways.clear()),
        ("BackendMissing", |f| f.services.clear()),
        ("BackendWithoutSidecar", |f| {
            for service in f.services.values_mut() {
                service.accounts.clear();
            }
        }),
    ];
    for (reason, change) in cases {
        let mut facts = mixed(&["region1"]);
        change(
            facts
                .members
                .get_mut(&key("region1"))
                .unwrap()
                .istio
                .as_mut()
                .unwrap(),
        );
        let plan = look(&facts);
        assert_eq!(
            state(&plan, "region1", Kind::GatewayReady),
            (State::False, reason.to_owned())
        );
        if reason.starts_with("Backend") {
            let waits = state(&plan, "child1", Kind::DiscoveryReady);
            assert_eq!(waits, (State::False, "NothingOpen".to_owned()));
        }
    }
}
