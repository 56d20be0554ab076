use super::*;
use crate::{
    contract::Contract,
    facts::{Access, AgentFacts, Delivered, Life, Obstacle, Reach, ReplicaFacts, Role, RootFacts},
    plan::{Action, plan},
};

const LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn key(name: &str) -> MemberKey {
    MemberKey {
        namespace: "kcm-system".to_owned(),
        name: name.to_owned(),
    }
}

fn member(cluster: &str, role: Role, region: Option<&str>) -> (MemberKey, MemberFacts) {
    let member = MemberFacts {
        created: at(1),
        claim: Ok(Claim {
            cluster: cluster.parse().unwrap(),
            role,
            region: region.map(|name| name.parse().unwrap()),
            gateway_override: BTreeSet::new(),
            plane: None,
        }),
        life: Life::Active,
        access: Access::Found,
        reach: Reach::Answers {
            cluster_uid: cluster.to_owned(),
        },
        delivered: None,
        hindrances: Vec::new(),
        agent: None,
        anchors: vec![Anchor {
            generation: 1,
            certificate: String::new(),
            fingerprint: cluster.to_owned(),
            serial: format!("0{}", serial(cluster)),
            not_before: at(-1_000_000),
            not_after: at(1_000_000),
        }],
        crls: Vec::new(),
        signs: 1,
        gateway: BTreeSet::new(),
        istio: None,
        hosts: BTreeMap::new(),
        remote: crate::remote::RemoteFacts::default(),
    };
    (key(cluster), member)
}

fn serial(cluster: &str) -> String {
    cluster
        .bytes()
        .fold(1_u64, |sum, byte| sum * 31 % 100_003 + u64::from(byte))
        .to_string()
}

/// child1 sends to region1, which sends nothing to region2.
fn fleet() -> Facts {
    Facts {
        mesh: "default".parse().unwrap(),
        trust_domain: "mesh.example".parse().unwrap(),
        contract: Contract::default(),
        plane: crate::istio::Plane::Envoy,
        istio: crate::istio::IstioRules::default(),
        dead_peer: crate::peer::Rules::default(),
        root: Ok(RootFacts {
            generation: 1,
            certificate: "root".to_owned(),
            ends: None,
        }),
        revoked: BTreeSet::new(),
        epochs: BTreeMap::new(),
        crl: None,
        members: BTreeMap::from([
            member("region1", Role::Region, None),
            member("region2", Role::Region, None),
            member("child1", Role::Child, Some("region1")),
        ]),
    }
}

/// Delivers what is planned, as this generation of each `MeshAgent`.
fn deliver(facts: &mut Facts, generation: i64) {
    let planned = plan(facts, at(100));
    for (key, planned) in planned.members {
        let Action::Deliver(delivery) = planned.action else {
            panic!("{key}: {:?}", planned.action)
        };
        facts.members.get_mut(&key).unwrap().delivered = Some(Delivered {
            delivery: *delivery,
            generation,
            since: at(100),
        });
    }
}

fn accept(facts: &mut Facts, name: &str, generations: &[i64]) {
    let replica = |accepted| ReplicaFacts {
        accepted: Some(accepted),
        ..ReplicaFacts::default()
    };
    let replicas = generations
        .iter()
        .enumerate()
        .map(|(i, accepted)| (format!("pod{i}"), replica(*accepted)))
        .collect();
    facts.members.get_mut(&key(name)).unwrap().agent = Some(AgentFacts {
        workloads_obstacle: None,
        intermediate_obstacle: None,
        replicas,
        probers: BTreeMap::new(),
    });
}

/// A mesh that works, in which child1's intermediate was just revoked.
fn revoked() -> (Facts, BTreeSet<String>) {
    let mut facts = fleet();
    deliver(&mut facts, 7);
    for name in ["region1", "region2", "child1"] {
        accept(&mut facts, name, &[7, 7]);
    }
    let wished = BTreeSet::from([serial("child1")]);
    facts.revoked.clone_from(&wished);
    (facts, wished)
}

fn one(facts: &Facts, wished: &BTreeSet<String>, before: &[Revocation], now: i64) -> Revocation {
    let mut found = progress(facts, wished, before, LIFE, at(now));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn it_is_done_when_every_envoy_that_believed_it_said_so() {
    let (mut facts, wished) = revoked();
    let first = one(&facts, &wished, &[], 200);
    let found = first.found.as_ref().unwrap();
    assert_eq!((found.cluster.as_str(), found.generation), ("child1", 1));
    assert_eq!(first.waiting_for, [key("region1")]);
    assert_eq!((first.since, first.until), (at(200), at(1_000_000)));

    // Delivered is not accepted.
    deliver(&mut facts, 8);
    let second = one(&facts, &wished, std::slice::from_ref(&first), 201);
    assert_eq!((second.waiting_for.len(), second.done_after), (1, None));
    // Neither is accepted by one of two.
    accept(&mut facts, "region1", &[8, 7]);
    assert_eq!(
        one(&facts, &wished, std::slice::from_ref(&first), 202).done_after,
        None
    );
    accept(&mut facts, "region1", &[8, 8]);
    let done = one(&facts, &wished, &[second], 203);
    assert_eq!(done.done_after, Some(SignedDuration::from_secs(3)));
    assert!(done.waiting_for.is_empty());

    // What comes later is no part of it.
    deliver(&mut facts, 9);
    let later = one(&facts, &wished, std::slice::from_ref(&done), 300);
    assert_eq!(later, done);
}

#[test]
fn one_of_whom_nothing_is_known_any_more_is_waited_for() {
    let (mut facts, wished) = revoked();
    deliver(&mut facts, 8);
    let region = facts.members.get_mut(&key("region1")).unwrap();
    region.delivered = None;
    region.reach = Reach::Lost(Obstacle::new("Timeout", "lost"));
    assert_eq!(one(&facts, &wished, &[], 200).waiting_for, [key("region1")]);
    accept(&mut facts, "region1", &[]);
    assert_eq!(one(&facts, &wished, &[], 200).waiting_for, [key("region1")]);
    // Nobody met one that never had a certificate.
    facts
        .members
        .get_mut(&key("region1"))
        .unwrap()
        .anchors
        .clear();
    assert!(one(&facts, &wished, &[], 200).waiting_for.is_empty());
}

#[test]
fn a_serial_of_nobody_is_kept_and_never_called_done() {
    let mut facts = fleet();
    let wished = BTreeSet::from(["abc".to_owned()]);
    facts.revoked.clone_from(&wished);
    let kept = one(&facts, &wished, &[], 200);
    assert_eq!((&kept.found, kept.done_after), (&None, None));
    assert_eq!(kept.until, at(200) + LIFE);
    // Its owner shows up.
    let child = facts.members.get_mut(&key("child1")).unwrap();
    child.anchors[0].serial = "0ABC".to_owned();
    let owned = one(&facts, &wished, &[kept], 300);
    assert_eq!(owned.found.unwrap().cluster.as_str(), "child1");
    assert_eq!(owned.since, at(200));
}

#[test]
fn who_takes_the_wish_away_changes_nothing_until_the_certificate_has_ended() {
    let (facts, wished) = revoked();
    let first = one(&facts, &wished, &[], 200);
    let kept = one(&facts, &BTreeSet::new(), std::slice::from_ref(&first), 300);
    assert!(!kept.wished);
    assert_eq!(kept.since, first.since);
    let end = progress(&facts, &BTreeSet::new(), &[kept], LIFE, at(1_000_001));
    assert_eq!(end, []);
    assert!(one(&facts, &wished, &[first], 1_000_001).wished);
}

#[test]
fn what_is_known_of_one_that_was_dropped_by_its_member_is_remembered() {
    let (mut facts, wished) = revoked();
    let mut first = one(&facts, &wished, &[], 200);
    first.found.as_mut().unwrap().key = Some("print".to_owned());
    let child = facts.members.get_mut(&key("child1")).unwrap();
    child.anchors[0].serial = "123".to_owned();
    child.anchors[0].generation = 2;
    let later = one(&facts, &wished, std::slice::from_ref(&first), 300);
    assert_eq!((&later.found, later.until), (&first.found, first.until));
    facts.members.remove(&key("child1"));
    assert_eq!(
        one(&facts, &wished, std::slice::from_ref(&first), 300).found,
        first.found
    );
}

#[test]
fn each_revocation_of_a_member_is_another_epoch() {
    let (facts, wished) = revoked();
    let first = one(&facts, &wished, &[], 200);
    let mut second = first.clone();
    second.serial = "77".to_owned();
    second.found.as_mut().unwrap().generation = 2;
    let epoch = |revocations: &[Revocation]| {
        epochs(revocations)
            .get(&"child1".parse().unwrap())
            .copied()
            .unwrap_or_default()
    };
    let seen = [
        epoch(&[]),
        epoch(std::slice::from_ref(&first)),
        epoch(&[first.clone(), second.clone()]),
        epoch(&[second]),
    ];
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 4, "{seen:?}");

    let mut facts = facts;
    facts.epochs = epochs(&[first]);
    facts.revoked.clear();
    let planned = plan(&facts, at(200));
    let Action::Deliver(delivery) = &planned.members[&key("region1")].action else {
        panic!("nothing delivered")
    };
    assert_eq!(delivery.trusts[&"child1".parse().unwrap()].epoch, 1);
}

#[test]
fn a_list_is_due_when_it_is_missing_old_or_not_complete() {
    let list = ListFacts {
        issuer: "key".to_owned(),
        from: at(1000),
        until: at(3000),
        serials: BTreeSet::from(["a".to_owned()]),
    };
    let due = |list: Option<&ListFacts>, issuer: &str, revoked: &[&str], now: i64| {
        let revoked = revoked.iter().map(|serial| (*serial).to_owned()).collect();
        is_list_due(list, issuer, &revoked, at(now))
    };
    assert!(due(None, "key", &[], 1000));
    assert!(!due(Some(&list), "key", &["a"], 1999));
    assert!(!due(Some(&list), "key", &[], 1999));
    assert!(due(Some(&list), "key", &["a"], 2000));
    assert!(due(Some(&list), "key", &["a", "b"], 1001));
    assert!(due(Some(&list), "another", &["a"], 1001));
}
