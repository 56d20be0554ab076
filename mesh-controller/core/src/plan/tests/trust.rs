//! By which certificates members trust each other.

use super::*;

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
