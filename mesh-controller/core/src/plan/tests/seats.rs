//! Who is in, and who stays in.

use super::*;

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

/// A claim that could not be kept may become one that can (a label is mended), and a server may say tomorrow that it is another
/// cluster: neither takes a seat from a member that the root has signed for, however young that is.
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
