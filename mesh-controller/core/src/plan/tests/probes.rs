//! What is said of paths that sidecars go by themselves.

use super::*;
use crate::istio::{IstioFacts, Istiod, ServiceFacts};

/// The child and its region in the Istio plane, with istiods that are ready.
fn fleet_of_istio() -> Facts {
    let mut facts = fleet();
    for cluster in ["child1", "region1"] {
        let member = facts.members.get_mut(&key(cluster)).unwrap();
        member.claim.as_mut().unwrap().plane = Some(Plane::Istio);
        member.istio = Some(istio());
    }
    carry_out(&mut facts);
    carry_out(&mut facts);
    let child = facts.members.get_mut(&key("child1")).unwrap();
    child.agent.as_mut().unwrap().probers.clear();
    facts
}

fn istio() -> IstioFacts {
    let istiod = Istiod {
        revision: "default".to_owned(),
        ready: true,
        ..Istiod::default()
    };
    let services = Contract::default().backends.into_iter().map(|backend| {
        let service = ServiceFacts {
            selector: [("app".to_owned(), backend.name)].into(),
            ports: [(backend.port, "8427".to_owned())].into(),
            accounts: ["vmauth".to_owned()].into(),
            ..ServiceFacts::default()
        };
        (backend.service, service)
    });
    IstioFacts {
        istiods: vec![istiod],
        services: services.collect(),
        ..IstioFacts::default()
    }
}

/// A pod of the child that probes, and what it sees of its region.
fn probe(facts: &mut Facts, pod: &str, outcome: Result<(), &str>, since: i64) {
    let outcome = outcome.map_err(|reason| Obstacle::new(reason, "words"));
    let path = PathFacts {
        outcome,
        since: at(since),
        dead: None,
    };
    let child = facts.members.get_mut(&key("child1")).unwrap();
    let agent = child.agent.as_mut().unwrap();
    agent
        .probers
        .insert(pod.to_owned(), [(name("region1"), path)].into());
}

fn by_envoy(facts: &mut Facts, path: Option<&PathFacts>) {
    let child = facts.members.get_mut(&key("child1")).unwrap();
    let agent = child.agent.as_mut().unwrap();
    for replica in agent.replicas.values_mut() {
        replica.paths = path
            .into_iter()
            .map(|path| (name("region1"), path.clone()))
            .collect();
    }
}

/// State, reason, message and begin of the child's one path.
fn path(facts: &Facts) -> (State, String, String, Option<Timestamp>) {
    let planned = look(facts);
    let [path] = planned.members[&key("child1")].paths.as_slice() else {
        panic!("one path");
    };
    let (_, reason) = state(&planned, "child1", Kind::PathsReady);
    assert_eq!(reason, path.reason, "the condition says the same");
    (
        path.state,
        path.reason.clone(),
        path.message.clone(),
        path.since,
    )
}

#[test]
fn a_path_with_two_ways_is_as_good_as_the_worse() {
    let mut facts = fleet_of_istio();
    let (state, reason, message, since) = path(&facts);
    assert_eq!(
        (state, reason.as_str(), since),
        (State::Unknown, "NotProbed", None)
    );
    assert!(message.contains("mesh-probe"), "{message}");
    // Good on both, since the later of the two: the agent's is since 2000.
    probe(&mut facts, "a", Ok(()), 3000);
    let (state, _, _, since) = path(&facts);
    assert_eq!((state, since), (State::True, Some(at(3000))));
    probe(&mut facts, "a", Ok(()), 1000);
    assert_eq!(path(&facts).3, Some(at(2000)));
    // One of several is enough.
    probe(&mut facts, "b", Err("PathRefused"), 1500);
    let (state, reason, message, since) = path(&facts);
    assert_eq!((state, reason.as_str()), (State::False, "PathRefused"));
    assert_eq!(
        (message.as_str(), since),
        ("from a sidecar: words", Some(at(1500)))
    );
    let bad = PathFacts {
        outcome: Err(Obstacle::new("ConnectFailed", "words")),
        since: at(2500),
        dead: None,
    };
    by_envoy(&mut facts, Some(&bad));
    let (state, reason, message, since) = path(&facts);
    assert_eq!((state, reason.as_str()), (State::False, "ConnectFailed"));
    assert_eq!(
        (message.as_str(), since),
        ("without a sidecar: words", Some(at(2500)))
    );
    by_envoy(&mut facts, None);
    assert_eq!(
        path(&facts).1,
        "PathRefused",
        "what is known to be bad is said"
    );
    probe(&mut facts, "b", Ok(()), 1500);
    assert_eq!(path(&facts).0, State::Unknown);
}

/// Where nobody goes by a sidecar, what is left of a prober says nothing.
#[test]
fn a_path_with_one_way_is_what_agents_say() {
    let mut facts = fleet();
    carry_out(&mut facts);
    carry_out(&mut facts);
    probe(&mut facts, "a", Err("PathRefused"), 1500);
    let (state, _, _, since) = path(&facts);
    assert_eq!((state, since), (State::True, Some(at(2000))));
}

/// It has no Envoy of ours, so there is nothing that it could be behind with.
#[test]
fn a_prober_holds_nothing_up() {
    let mut facts = fleet_of_istio();
    let (trust, gateway) = (Kind::TrustDistributed, Kind::GatewayReady);
    let before = look(&facts);
    let said = |plan: &Plan| [trust, gateway].map(|kind| state(plan, "child1", kind));
    probe(&mut facts, "a", Ok(()), 3000);
    assert_eq!(said(&look(&facts)), said(&before));
    assert_eq!(state(&before, "child1", trust).0, State::True);
    // And it is no agent either.
    let child = facts.members.get_mut(&key("child1")).unwrap();
    child.agent.as_mut().unwrap().replicas.clear();
    assert_eq!(state(&look(&facts), "child1", trust).1, "AgentBehind");
}

#[test]
fn only_what_sidecars_can_reach_is_probed_from_them() {
    let mut facts = fleet_of_istio();
    let probed = |facts: &Facts, of: &str| {
        let plan = look(facts);
        let delivery = delivered(&plan, of);
        delivery
            .probed_by_sidecars()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(probed(&facts, "child1"), ["region1"]);
    assert!(probed(&facts, "region1").is_empty());
    assert!(
        probed(&facts, "management").is_empty(),
        "it has no sidecars"
    );
    let change = |facts: &mut Facts, cluster: &str, change: fn(&mut IstioFacts)| {
        let member = facts.members.get_mut(&key(cluster)).unwrap();
        change(member.istio.as_mut().unwrap());
    };
    change(&mut facts, "child1", |seen| seen.istiods.clear());
    assert!(probed(&facts, "child1").is_empty(), "Istio is not served");
    change(&mut facts, "child1", |seen| *seen = istio());
    change(&mut facts, "child1", |seen| seen.istiods[0].ready = false);
    assert_eq!(
        probed(&facts, "child1"),
        ["region1"],
        "the pod has its sidecar"
    );
    let child = facts.members.get_mut(&key("child1")).unwrap();
    let before = child.delivered.take();
    assert!(
        probed(&facts, "child1").is_empty(),
        "a new pod would have none"
    );
    facts.members.get_mut(&key("child1")).unwrap().delivered = before;
    change(&mut facts, "child1", |seen| {
        seen.istiods[0].revision = "other".to_owned();
    });
    assert!(probed(&facts, "child1").is_empty(), "that one is not meant");
    change(&mut facts, "child1", |seen| *seen = istio());
    change(&mut facts, "region1", |seen| seen.services.clear());
    assert!(probed(&facts, "child1").is_empty(), "nothing is open");
    change(&mut facts, "region1", |seen| *seen = istio());
    let region = facts.members.get_mut(&key("region1")).unwrap();
    region.anchors.clear();
    assert!(probed(&facts, "child1").is_empty(), "it is not called yet");
}
