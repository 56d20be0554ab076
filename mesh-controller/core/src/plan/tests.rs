use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::*;
use crate::{
    conditions::{Kind, State},
    facts::{AgentFacts, Delivered, PathFacts, ReplicaFacts},
    istio::{IstioRules, Plane},
};

mod istio;
mod peers;
mod probes;
mod remotes;
mod seats;
mod trust;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn key(name: &str) -> MemberKey {
    MemberKey {
        namespace: "kcm-system".to_owned(),
        name: name.to_owned(),
    }
}

fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

fn anchor(of: &str) -> Anchor {
    Anchor {
        generation: 1,
        certificate: format!("PEM of {of}"),
        fingerprint: of.to_owned(),
        serial: of.to_owned(),
        not_before: at(-1_000_000),
        not_after: at(9_000_000),
    }
}

fn target(host: &str) -> Target {
    Target {
        host: host.to_owned(),
        port: 15443,
    }
}

/// A member that works, before anything was delivered.
fn member(cluster: &str, role: Role, region: Option<&str>) -> MemberFacts {
    MemberFacts {
        created: at(1000),
        claim: Ok(Claim {
            cluster: name(cluster),
            role,
            region: region.map(name),
            gateway_override: BTreeSet::new(),
            plane: None,
        }),
        life: Life::Active,
        access: Access::Found,
        reach: Reach::Answers {
            cluster_uid: format!("uid of {cluster}"),
        },
        delivered: None,
        hindrances: Vec::new(),
        agent: None,
        anchors: vec![anchor(cluster)],
        crls: Vec::new(),
        signs: 1,
        gateway: if role == Role::Region {
            BTreeSet::from([target("192.0.2.1")])
        } else {
            BTreeSet::new()
        },
        istio: None,
        hosts: BTreeMap::new(),
        remote: crate::remote::RemoteFacts::default(),
    }
}

fn fleet() -> Facts {
    Facts {
        mesh: "default".parse().unwrap(),
        trust_domain: "mesh.example".parse().unwrap(),
        contract: Contract::default(),
        plane: Plane::Envoy,
        istio: IstioRules::default(),
        dead_peer: peer::Rules::default(),
        root: Ok(RootFacts {
            generation: 1,
            certificate: "root".to_owned(),
            ends: None,
        }),
        revoked: BTreeSet::new(),
        epochs: BTreeMap::new(),
        crl: None,
        members: BTreeMap::from([
            (
                key("management"),
                member("management", Role::Management, None),
            ),
            (key("region1"), member("region1", Role::Region, None)),
            (key("region2"), member("region2", Role::Region, None)),
            (
                key("child1"),
                member("child1", Role::Child, Some("region1")),
            ),
        ]),
    }
}

/// Does in the facts what the plan asks for, as members that work would.
fn carry_out(facts: &mut Facts) {
    let planned = look(facts);
    for (key, planned) in planned.members {
        let Action::Deliver(delivery) = planned.action else {
            continue;
        };
        let paths = delivery
            .consume
            .keys()
            .map(|region| {
                (
                    region.clone(),
                    PathFacts {
                        outcome: Ok(()),
                        since: at(2000),
                        dead: None,
                    },
                )
            })
            .collect();
        let good = PathFacts {
            outcome: Ok(()),
            since: at(2000),
            dead: None,
        };
        let by_sidecars = delivery.probed_by_sidecars();
        let by_sidecars = by_sidecars.map(|region| (region.clone(), good.clone()));
        let probers = BTreeMap::from([("probe".to_owned(), by_sidecars.collect())]);
        let member = facts.members.get_mut(&key).unwrap();
        let replica = ReplicaFacts {
            accepted: Some(7),
            paths,
            ..ReplicaFacts::default()
        };
        member.delivered = Some(Delivered {
            delivery: *delivery,
            generation: 7,
            since: at(2000),
        });
        member.agent = Some(AgentFacts {
            workloads_obstacle: None,
            intermediate_obstacle: None,
            replicas: BTreeMap::from([("pod".to_owned(), replica)]),
            probers,
        });
    }
}

fn look(facts: &Facts) -> Plan {
    plan(facts, at(5000))
}

fn delivered<'a>(plan: &'a Plan, name: &str) -> &'a Delivery {
    match &plan.members[&key(name)].action {
        Action::Deliver(delivery) => delivery,
        other @ (Action::Wait | Action::Withdraw | Action::Release) => panic!("{name}: {other:?}"),
    }
}

fn state(plan: &Plan, name: &str, kind: Kind) -> (State, String) {
    let verdict = plan.members[&key(name)]
        .verdicts
        .iter()
        .find(|v| v.kind == kind)
        .unwrap();
    (verdict.state, verdict.reason.clone())
}

#[test]
fn links_lead_from_children_and_management_to_regions_and_nowhere_else() {
    let plan = look(&fleet());
    let calls = |of: &str| {
        delivered(&plan, of)
            .consume
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let serves = |of: &str| {
        delivered(&plan, of)
            .serve
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(calls("child1"), ["region1"]);
    assert_eq!(calls("management"), ["region1", "region2"]);
    assert_eq!(calls("region1"), Vec::<String>::new());
    assert_eq!(serves("region1"), ["child1", "management"]);
    assert_eq!(serves("region2"), ["management"]);
    assert_eq!(serves("child1"), Vec::<String>::new());
    assert!(delivered(&plan, "region1").gateway);
    assert!(!delivered(&plan, "child1").gateway);
}

#[test]
fn each_member_trusts_only_those_at_the_other_end_of_its_links() {
    let plan = look(&fleet());
    let trusts = |of: &str| {
        delivered(&plan, of)
            .trusts
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(trusts("child1"), ["region1"]);
    assert_eq!(trusts("region2"), ["management"]);
}

#[test]
fn what_was_carried_out_is_ready_and_leaves_nothing_to_plan() {
    let mut facts = fleet();
    carry_out(&mut facts);
    let after = look(&facts);
    for (key, member) in &after.members {
        assert!(member.settled);
        let not: Vec<_> = member
            .verdicts
            .iter()
            .filter(|v| v.state != State::True)
            .collect();
        assert!(not.is_empty(), "{key}: {not:?}");
    }
    assert_eq!(after, look(&facts), "same facts, same plan");
}

#[expect(clippy::too_many_lines, reason = "one line a condition, in order")]
#[test]
fn the_first_condition_that_is_not_true_is_the_answer() {
    let mut facts = fleet();
    carry_out(&mut facts);
    let first = |facts: &Facts| {
        let plan = look(facts);
        plan.members[&key("child1")]
            .verdicts
            .iter()
            .find(|v| v.state != State::True)
            .map(|v| (v.kind, v.reason.clone()))
    };
    let edit = |change: fn(&mut MemberFacts)| {
        let mut facts = facts.clone();
        change(facts.members.get_mut(&key("child1")).unwrap());
        first(&facts).unwrap()
    };
    assert_eq!(first(&facts), None);
    assert_eq!(
        edit(|m| m.access = Access::Refused(Obstacle::new("X", "x"))).0,
        Kind::Reachable
    );
    assert_eq!(
        edit(|m| m.hindrances.push(Obstacle::new("Forbidden", "x"))).0,
        Kind::Enrolled
    );
    assert_eq!(edit(|m| m.anchors.clear()).0, Kind::IntermediateReady);
    assert_eq!(
        edit(|m| m.delivered.as_mut().unwrap().generation = 8).0,
        Kind::TrustDistributed
    );
    let rejected = |m: &mut MemberFacts| {
        m.agent
            .as_mut()
            .unwrap()
            .replicas
            .get_mut("pod")
            .unwrap()
            .rejected = Some("words of Envoy".to_owned());
    };
    assert_eq!(
        edit(rejected),
        (Kind::GatewayReady, "ConfigRejected".to_owned())
    );
    let unresolved = |m: &mut MemberFacts| {
        let replica = m.agent.as_mut().unwrap().replicas.get_mut("pod").unwrap();
        replica
            .unresolved
            .insert(name("region1"), Obstacle::new("NotResolved", "x"));
    };
    assert_eq!(edit(unresolved).0, Kind::DiscoveryReady);
    let taken = |m: &mut MemberFacts| {
        m.hindrances
            .push(Obstacle::new(conditions::NAME_TAKEN, "x"));
    };
    assert_eq!(edit(taken).0, Kind::NamesReady);
    let silent = |m: &mut MemberFacts| {
        m.agent
            .as_mut()
            .unwrap()
            .replicas
            .get_mut("pod")
            .unwrap()
            .paths
            .clear();
    };
    assert_eq!(edit(silent), (Kind::PathsReady, "NotProbed".to_owned()));
    let mut unknown_region = facts.clone();
    unknown_region.members.remove(&key("region1"));
    carry_out(&mut unknown_region);
    assert_eq!(
        first(&unknown_region).unwrap(),
        (Kind::DiscoveryReady, "NoRegion".to_owned())
    );
}

#[test]
fn without_a_root_nothing_is_delivered_and_everyone_is_told() {
    let mut facts = fleet();
    facts.root = Err(Obstacle::new(
        "RootMissing",
        "Secret istio-system/default-mesh-root is gone",
    ));
    for (key, member) in look(&facts).members {
        assert_eq!(member.action, Action::Wait, "{key}");
        assert!(member.verdicts.iter().any(|v| v.reason == "RootMissing"));
    }
}

#[test]
fn nothing_is_said_before_something_is_known() {
    let mut facts = fleet();
    for member in facts.members.values_mut() {
        member.reach = Reach::Unknown;
    }
    assert!(look(&facts).members.values().all(|member| !member.settled));
}

#[test]
fn a_change_is_given_time_before_it_is_called_late() {
    let mut facts = fleet();
    carry_out(&mut facts);
    let child = facts.members.get_mut(&key("child1")).unwrap();
    child.delivered.as_mut().unwrap().generation = 8;
    let early = plan(&facts, at(2001));
    assert_eq!(
        state(&early, "child1", Kind::TrustDistributed).0,
        State::True
    );
    assert_eq!(early.wake_at, Some(at(2010)));
    let late = plan(&facts, at(2010));
    assert_eq!(
        state(&late, "child1", Kind::TrustDistributed),
        (State::False, "AgentBehind".to_owned())
    );
    let next = late.wake_at.unwrap();
    assert!(next > at(5_000_000), "the next renewal: {next}");
}
