use mesh_api::{
    agent::{self as api, DeadPeer, ReplicaPath},
    mesh::DeadPeerPolicy,
};
use mesh_core::probe::{Class, Failure};

use super::*;
use crate::testing::{Mesh, after, now};

/// Two regions, and what is done about dead ones.
fn intent(policy: Option<DeadPeerPolicy>) -> Intent {
    let mut intent = Mesh::new().intent();
    let mut second = intent.spec.consume[0].clone();
    second.region = "region2".to_owned();
    intent.spec.consume.push(second);
    intent.spec.dead_peer = policy.map(|policy| DeadPeer {
        policy,
        after_seconds: 60,
        return_after_seconds: 20,
    });
    intent
}

fn withdrawing() -> Intent {
    intent(Some(DeadPeerPolicy::Withdraw))
}

/// What a pod has written of region1.
fn wrote(intent: &mut Intent, pod: &str, withdrawn: Option<bool>) {
    let dead = withdrawn.map(|withdrawn| api::Dead {
        since: now().to_string(),
        withdrawn,
    });
    let path = ReplicaPath {
        region: "region1".to_owned(),
        ready: false,
        reason: "ConnectFailed".to_owned(),
        message: String::new(),
        since: now().to_string(),
        unresolved: None,
        dead,
    };
    let replicas = &mut intent.status.replicas;
    replicas.retain(|replica| replica.pod != pod);
    replicas.push(Replica {
        pod: pod.to_owned(),
        sidecar: pod.starts_with("probe"),
        paths: vec![path],
        ..Replica::default()
    });
}

fn names(regions: &BTreeSet<String>) -> Vec<&str> {
    regions.iter().map(String::as_str).collect()
}

/// Looks every five seconds; one region is silent, the other answers.
fn looks(held: &mut Held, intent: &Intent, seconds: std::ops::RangeInclusive<i64>) {
    for second in seconds.step_by(5) {
        for (consume, verdict) in intent
            .spec
            .consume
            .iter()
            .zip([Verdict::Silent, Verdict::Answers])
        {
            let rules = rules_of(intent, consume);
            held.observe(&consume.region, verdict, after(second), &rules);
        }
    }
}

#[test]
fn endpoints_go_when_all_agents_have_written_so() {
    let mut intent = withdrawing();
    let held = Held::default();
    let withdrawn = |intent: &Intent| held.withdrawn(intent, now());
    for pod in ["a", "b"] {
        wrote(&mut intent, pod, Some(true));
    }
    assert_eq!(names(&withdrawn(&intent)), ["region1"]);
    for other in [None, Some(false)] {
        wrote(&mut intent, "b", other);
        assert!(withdrawn(&intent).is_empty(), "{other:?}");
    }
    // A pod that probes through its sidecar has no voice.
    wrote(&mut intent, "b", Some(true));
    wrote(&mut intent, "probe", None);
    assert_eq!(names(&withdrawn(&intent)), ["region1"]);
    intent.status.replicas.retain(|replica| replica.sidecar);
    wrote(&mut intent, "probe", Some(true));
    assert!(withdrawn(&intent).is_empty());
}

#[test]
fn what_stands_written_is_withdrawn_only_under_that_policy() {
    for (policy, sidecars, then) in [
        (None, Sidecars::Intake, 0),
        (Some(DeadPeerPolicy::Keep), Sidecars::Intake, 0),
        (Some(DeadPeerPolicy::Mark), Sidecars::Intake, 0),
        (Some(DeadPeerPolicy::Withdraw), Sidecars::Intake, 1),
        (Some(DeadPeerPolicy::Withdraw), Sidecars::Static, 1),
        // What istiod reads in the region is not ours.
        (Some(DeadPeerPolicy::Withdraw), Sidecars::Remote, 0),
    ] {
        let mut intent = intent(policy);
        intent.spec.consume[0].sidecars = sidecars;
        wrote(&mut intent, "a", Some(true));
        let withdrawn = Held::default().withdrawn(&intent, now());
        assert_eq!(withdrawn.len(), then, "{policy:?} {sidecars:?}");
        let mut held = Held::default();
        looks(&mut held, &intent, 0..=65);
        let dead = held.peer("region1", now()).dead();
        assert_eq!(dead.is_some_and(|dead| dead.withdrawn), then == 1);
    }
}

#[test]
fn one_region_answers_for_the_other_and_never_for_itself() {
    let mut intent = withdrawing();
    let mut held = Held::default();
    looks(&mut held, &intent, 0..=55);
    assert_eq!(held.peer("region1", now()).dead(), None);
    looks(&mut held, &intent, 60..=60);
    let dead = held.peer("region1", now()).dead().unwrap();
    assert!(!dead.withdrawn, "the other is known for a look less");
    looks(&mut held, &intent, 65..=65);
    assert!(held.peer("region1", now()).dead().unwrap().withdrawn);
    // There is only one.
    intent.spec.consume.truncate(1);
    let mut held = Held::default();
    looks(&mut held, &intent, 0..=600);
    assert!(!held.peer("region1", now()).dead().unwrap().withdrawn);
}

#[test]
fn a_pod_that_starts_goes_on_from_what_was_agreed_on() {
    let mut intent = withdrawing();
    wrote(&mut intent, "old-a", Some(true));
    wrote(&mut intent, "old-b", Some(true));
    let mut held = Held::default();
    held.remember(&intent);
    // They are gone and forgotten, and this one has not written yet.
    intent.status.replicas.clear();
    held.remember(&intent);
    assert_eq!(names(&held.withdrawn(&intent, now())), ["region1"]);
    looks(&mut held, &intent, 0..=5);
    assert_eq!(names(&held.withdrawn(&intent, now())), ["region1"]);
    // Where they did not agree, it begins anew.
    wrote(&mut intent, "old-a", Some(true));
    wrote(&mut intent, "old-b", None);
    let mut held = Held::default();
    held.remember(&intent);
    looks(&mut held, &intent, 0..=55);
    assert_eq!(held.peer("region1", now()).dead(), None);
}

#[tokio::test]
async fn a_region_that_is_not_called_any_more_is_forgotten() {
    let mut intent = withdrawing();
    wrote(&mut intent, "a", Some(true));
    let seen: Seen<Intent> = Some(Arc::new(BTreeMap::from([(
        "mesh".to_owned(),
        intent.clone(),
    )])));
    let (_tx, rx) = watch::channel(seen);
    let peers = Peers::new(rx);
    let silent = State {
        outcome: Err(Failure {
            class: Class::Connect,
            message: String::new(),
        }),
        since: now(),
    };
    assert!(peers.observe("region1", &silent).unwrap().withdrawn);
    assert_eq!(peers.observe("region3", &silent), None, "it is not called");
    peers.forget("region1");
    assert_eq!(peers.observe("region1", &silent), None);
    intent.status.replicas.clear();
    assert!(peers.withdrawn(&intent).is_empty());
}
