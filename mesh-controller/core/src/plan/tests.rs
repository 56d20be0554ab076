use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::*;
use crate::{
    conditions::{Kind, State},
    facts::{AgentFacts, Delivered, PathFacts, ReplicaFacts},
};

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
    }
}

fn fleet() -> Facts {
    Facts {
        mesh: "default".parse().unwrap(),
        trust_domain: "mesh.example".parse().unwrap(),
        contract: Contract::default(),
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
                    },
                )
            })
            .collect();
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
            intermediate_obstacle: None,
            replicas: BTreeMap::from([("pod".to_owned(), replica)]),
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

#[test]
fn the_elder_of_two_keeps_a_cluster_id_and_both_are_told() {
    let mut facts = fleet();
    let other = MemberKey {
        namespace: "other".to_owned(),
        name: "child1".to_owned(),
    };
    let mut twin = member("child1", Role::Child, Some("region1"));
    twin.created = at(2000);
    twin.reach = Reach::Answers {
        cluster_uid: "another".to_owned(),
    };
    facts.members.insert(other.clone(), twin);
    carry_out(&mut facts);
    let plan = look(&facts);
    assert_eq!(plan.members[&other].action, Action::Wait);
    let told = plan.members[&other]
        .verdicts
        .iter()
        .find(|v| v.kind == Kind::Enrolled)
        .unwrap();
    assert_eq!(told.reason, "ClusterIdTaken");
    assert_eq!(
        state(&plan, "child1", Kind::Enrolled),
        (State::True, "ClusterIdContested".to_owned())
    );
    assert_eq!(
        state(&plan, "child1", Kind::Ready).0,
        State::True,
        "the elder goes on"
    );
}

#[test]
fn one_cluster_is_enrolled_once() {
    let mut facts = fleet();
    let mut twin = member("child2", Role::Child, Some("region1"));
    twin.created = at(2000);
    twin.reach = Reach::Answers {
        cluster_uid: "uid of child1".to_owned(),
    };
    facts.members.insert(key("child2"), twin);
    let plan = look(&facts);
    assert_eq!(plan.members[&key("child2")].action, Action::Wait);
    assert_eq!(state(&plan, "child2", Kind::Enrolled).1, "ClusterTaken");
    assert!(
        !delivered(&plan, "region1")
            .serve
            .contains_key(&name("child2"))
    );
}

#[test]
fn who_leaves_is_forgotten_by_its_peers_at_once() {
    let mut facts = fleet();
    carry_out(&mut facts);
    let child = facts.members.get_mut(&key("child1")).unwrap();
    child.life = Life::Leaving {
        since: at(3000),
        forced: false,
        gone: false,
    };
    assert_eq!(
        look(&facts).members[&key("child1")].action,
        Action::Withdraw
    );
    assert!(
        !delivered(&look(&facts), "region1")
            .serve
            .contains_key(&name("child1"))
    );
    assert!(
        !delivered(&look(&facts), "region1")
            .trusts
            .contains_key(&name("child1"))
    );

    let lost = Reach::Lost(Obstacle::new("Timeout", "no answer"));
    facts.members.get_mut(&key("child1")).unwrap().reach = lost;
    assert_eq!(
        look(&facts).members[&key("child1")].action,
        Action::Wait,
        "it is waited for"
    );
    assert!(
        !delivered(&look(&facts), "region1")
            .serve
            .contains_key(&name("child1"))
    );
    for (forced, gone) in [(true, false), (false, true)] {
        facts.members.get_mut(&key("child1")).unwrap().life = Life::Leaving {
            since: at(3000),
            forced,
            gone,
        };
        assert_eq!(look(&facts).members[&key("child1")].action, Action::Release);
    }
}

#[test]
fn an_unreachable_member_keeps_its_place_in_the_plans_of_others() {
    let mut facts = fleet();
    carry_out(&mut facts);
    let before = delivered(&look(&facts), "region1").clone();
    facts.members.get_mut(&key("child1")).unwrap().reach =
        Reach::Lost(Obstacle::new("Timeout", "no answer"));
    let after = look(&facts);
    assert_eq!(delivered(&after, "region1"), &before);
    assert_eq!(after.members[&key("child1")].action, Action::Wait);
    assert_eq!(
        state(&after, "child1", Kind::Ready),
        (State::False, "Reachable".to_owned())
    );
    assert_eq!(state(&after, "region1", Kind::Ready).0, State::True);
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

/// The root signs whatever intermediate a member asks for, however often; its peers' objects have an end.
#[test]
fn a_member_does_not_fill_its_peers_with_certificates() {
    let mut facts = fleet();
    let many = |n: u32| Anchor {
        fingerprint: format!("{n}"),
        ..anchor("child1")
    };
    let child = facts.members.get_mut(&key("child1")).unwrap();
    child.anchors = (0..1000).flat_map(|n| [many(n), many(n)]).collect();
    carry_out(&mut facts);
    carry_out(&mut facts);
    let planned = look(&facts);
    let wanted: Vec<Anchor> = (0..4).map(many).collect();
    let trusts = &delivered(&planned, "region1").trusts;
    assert_eq!(trusts[&name("child1")].anchors, wanted);
    // And the member is not told that its region is behind.
    assert_eq!(
        state(&planned, "child1", Kind::TrustDistributed).0,
        State::True
    );
}

/// A claim that could not be kept may become one that can (a label is mended), and a server may say tomorrow that it is another
/// cluster: neither takes a seat from a member that the root has signed for, however young that is.
#[test]
fn what_is_revoked_vanishes_from_all_peers_at_once_and_the_member_keeps_its_seat() {
    let mut facts = fleet();
    carry_out(&mut facts);
    let mut second = anchor("child1");
    second.generation = 2;
    second.serial = "0bb".to_owned();
    second.fingerprint = "second".to_owned();
    let child = facts.members.get_mut(&key("child1")).unwrap();
    child.anchors[0].serial = "0aa".to_owned();
    child.anchors.insert(0, second.clone());
    facts.revoked = BTreeSet::from(["aa".to_owned()]);
    let plan = look(&facts);
    let region = delivered(&plan, "region1");
    assert_eq!(region.trusts[&name("child1")].anchors, [second]);
    assert!(region.serve.contains_key(&name("child1")));

    facts.revoked.insert("bb".to_owned());
    let plan = look(&facts);
    let region = delivered(&plan, "region1");
    assert!(!region.trusts.contains_key(&name("child1")));
    assert!(!region.serve.contains_key(&name("child1")));
    assert_eq!(
        state(&plan, "child1", Kind::IntermediateReady),
        (State::False, "Revoked".to_owned())
    );
    // It goes on to the next generation, and stays there when its agent shows the old one no longer.
    assert_eq!(delivered(&plan, "child1").prepare, Some(3));
    let child = facts.members.get_mut(&key("child1")).unwrap();
    child.anchors.truncate(1);
    child.anchors[0].generation = 3;
    child.anchors[0].serial = "0cc".to_owned();
    assert_eq!(look(&facts).members[&key("child1")].generations.sign, 3);
    facts.members.get_mut(&key("child1")).unwrap().signs = 3;
    assert_eq!(delivered(&look(&facts), "child1").signer, 3);
    assert_eq!(delivered(&look(&facts), "region1").signer, 1);
}

#[test]
fn nobody_takes_the_seat_of_a_member_that_is_established() {
    let mut facts = fleet();
    carry_out(&mut facts);
    let mut elder = member("child1", Role::Region, None);
    elder.created = at(1);
    elder.anchors.clear();
    let other = MemberKey {
        namespace: "tenant".to_owned(),
        name: "child1".to_owned(),
    };
    let mut twin = elder.clone();
    facts.members.insert(other.clone(), elder);
    let planned = look(&facts);
    assert_eq!(
        state(&planned, "child1", Kind::Enrolled),
        (State::True, "ClusterIdContested".to_owned())
    );
    assert_eq!(planned.members[&other].action, Action::Wait);
    twin.claim = member("evil", Role::Child, None).claim;
    facts.members.insert(other.clone(), twin);
    let planned = look(&facts);
    assert_eq!(state(&planned, "child1", Kind::Enrolled).0, State::True);
    assert!(
        delivered(&planned, "region1")
            .serve
            .contains_key(&name("child1"))
    );
    assert_eq!(planned.members[&other].action, Action::Wait);
}

/// What the child is told to sign with and to hold besides, and what was decided, when its intermediate is old.
fn generations(facts: &Facts) -> (u32, Option<u32>, u32) {
    let planned = plan(facts, at(7_000_000));
    let delivery = delivered(&planned, "child1");
    let decided = planned.members[&key("child1")].generations.sign;
    (delivery.signer, delivery.prepare, decided)
}

/// What is said of the child's intermediate then.
fn word(facts: &Facts) -> String {
    let planned = plan(facts, at(7_000_000));
    let verdicts = &planned.members[&key("child1")].verdicts;
    let said = verdicts.iter().find(|v| v.kind == Kind::IntermediateReady);
    said.map(|v| format!("{}: {}", v.reason, v.message))
        .unwrap()
}

/// Each step of a renewal waits for what the step before was for.
#[test]
fn a_new_key_is_signed_with_when_every_peer_has_accepted_it() {
    let mut facts = fleet();
    carry_out(&mut facts);
    carry_out(&mut facts);
    assert_eq!(generations(&facts), (1, Some(2), 1));
    let second = Anchor {
        generation: 2,
        fingerprint: "second".to_owned(),
        not_before: at(6_900_000),
        not_after: at(17_000_000),
        ..anchor("child1")
    };
    let child = facts.members.get_mut(&key("child1")).unwrap();
    child.anchors.insert(0, second);
    assert_eq!(
        generations(&facts),
        (1, Some(2), 1),
        "its region has not heard"
    );
    let planned = plan(&facts, at(7_000_000));
    let told = delivered(&planned, "region1").clone();
    assert_eq!(told.trusts[&name("child1")].anchors.len(), 2);
    let region = facts.members.get_mut(&key("region1")).unwrap();
    let known = region.delivered.as_mut().unwrap();
    (known.delivery, known.generation) = (told, 8);
    assert_eq!(
        generations(&facts),
        (1, Some(2), 1),
        "its Envoy has not accepted"
    );
    let said = word(&facts);
    assert!(
        said.starts_with("Renewing") && said.ends_with("waits for region1"),
        "{said}"
    );
    let region = facts.members.get_mut(&key("region1")).unwrap();
    for replica in region.agent.as_mut().unwrap().replicas.values_mut() {
        replica.accepted = Some(8);
    }
    assert_eq!(
        generations(&facts),
        (1, Some(2), 2),
        "recorded before it is told"
    );
    facts.members.get_mut(&key("child1")).unwrap().signs = 2;
    assert_eq!(generations(&facts), (2, None, 2));
    // A region that does not know it yet takes nothing back.
    facts.members.get_mut(&key("region1")).unwrap().delivered = None;
    assert_eq!(generations(&facts), (2, None, 2));
    let said = word(&facts);
    assert!(
        said.starts_with("PeersBehind") && said.ends_with("by region1"),
        "{said}"
    );
}
