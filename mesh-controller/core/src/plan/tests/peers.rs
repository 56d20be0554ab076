//! What is said of regions that are called dead.

use super::*;
use crate::{
    conditions::{PEER_DEAD, PathReport},
    istio::Discovery,
    peer::{Dead, Policy},
};

/// Management, whose two pods call both regions.
fn two_pods(policy: Policy) -> Facts {
    let mut facts = fleet();
    facts.dead_peer.policy = policy;
    carry_out(&mut facts);
    let agent = agent(&mut facts);
    let pod = agent.replicas["pod"].clone();
    agent.replicas.insert("pod2".to_owned(), pod);
    facts
}

fn agent(facts: &mut Facts) -> &mut AgentFacts {
    let management = facts.members.get_mut(&key("management")).unwrap();
    management.agent.as_mut().unwrap()
}

/// What a pod says of the way to region1.
fn says(facts: &mut Facts, pod: &str, answers: bool, dead: Option<(i64, bool)>) {
    let outcome = if answers {
        Ok(())
    } else {
        Err(Obstacle::new("ConnectFailed", "words"))
    };
    let path = PathFacts {
        outcome,
        since: at(3000),
        dead: dead.map(|(since, withdrawn)| Dead {
            since: at(since),
            withdrawn,
        }),
    };
    let replica = agent(facts).replicas.get_mut(pod).unwrap();
    replica.paths.insert(name("region1"), path);
}

fn path(facts: &Facts, region: &str) -> PathReport {
    let paths = &look(facts).members[&key("management")].paths;
    let mut paths = paths.iter().filter(|path| path.region == name(region));
    paths.next().unwrap().clone()
}

#[test]
fn a_region_is_told_dead_when_all_pods_say_so() {
    let mut facts = two_pods(Policy::Withdraw);
    says(&mut facts, "pod", false, Some((1000, true)));
    says(&mut facts, "pod2", false, None);
    assert_eq!(path(&facts, "region1").reason, "ConnectFailed");
    assert_eq!(path(&facts, "region1").dead, None);
    says(&mut facts, "pod2", false, Some((1500, true)));
    let told = path(&facts, "region1");
    assert_eq!(
        (told.state, told.reason.as_str()),
        (State::False, PEER_DEAD)
    );
    assert_eq!(told.since, Some(at(1500)), "since all say so");
    let dead = told.dead.unwrap();
    assert_eq!((dead.since, dead.withdrawn), (at(1500), true));
    for part in ["1970-01-01T00:25:00Z", "ConnectFailed: words", "taken away"] {
        assert!(told.message.contains(part), "{part}: {}", told.message);
    }
    assert_eq!(path(&facts, "region2").state, State::True);
    let planned = look(&facts);
    let (state, reason) = state(&planned, "management", Kind::PathsReady);
    assert_eq!((state, reason.as_str()), (State::False, PEER_DEAD));
    let verdicts = &planned.members[&key("management")].verdicts;
    let paths = verdicts.iter().find(|it| it.kind == Kind::PathsReady);
    assert!(
        paths
            .unwrap()
            .message
            .contains("path to region region1: dead since")
    );
    // One of them does not take them away, so they are there.
    says(&mut facts, "pod2", false, Some((1500, false)));
    assert!(!path(&facts, "region1").dead.unwrap().withdrawn);
}

#[test]
fn one_that_answers_again_is_dead_only_as_long_as_its_endpoints_are_away() {
    let mut facts = two_pods(Policy::Withdraw);
    for pod in ["pod", "pod2"] {
        says(&mut facts, pod, true, Some((1000, true)));
    }
    let told = path(&facts, "region1");
    assert_eq!(
        (told.state, told.reason.as_str()),
        (State::False, PEER_DEAD)
    );
    for part in ["answers again since 1970-01-01T00:50:00Z", "for 30s"] {
        assert!(told.message.contains(part), "{part}: {}", told.message);
    }
    for pod in ["pod", "pod2"] {
        says(&mut facts, pod, true, Some((1000, false)));
    }
    let told = path(&facts, "region1");
    assert_eq!(
        (told.state, told.reason.as_str()),
        (State::True, "Answered")
    );
    assert!(told.dead.is_some(), "it is marked for a while yet");
}

#[test]
fn why_the_endpoints_of_a_dead_region_stay_is_told() {
    for (policy, why) in [
        (Policy::Mark, "spec.deadPeer"),
        (Policy::Withdraw, "this side"),
    ] {
        let mut facts = two_pods(policy);
        for pod in ["pod", "pod2"] {
            says(&mut facts, pod, false, Some((1000, false)));
        }
        let told = path(&facts, "region1").message;
        assert!(told.contains("stay") && told.contains(why), "{told}");
    }
    let mut facts = two_pods(Policy::Withdraw);
    for pod in ["pod", "pod2"] {
        says(&mut facts, pod, false, Some((1000, false)));
    }
    facts.istio.discovery = Discovery::RemoteSecrets;
    for cluster in ["management", "region1"] {
        let claim = &mut facts.members.get_mut(&key(cluster)).unwrap().claim;
        claim.as_mut().unwrap().plane = Some(Plane::Istio);
    }
    let told = path(&facts, "region1").message;
    assert!(told.contains("remote secret"), "{told}");
}

#[test]
fn what_was_decided_about_dead_regions_is_delivered() {
    let facts = two_pods(Policy::Withdraw);
    let planned = look(&facts);
    assert_eq!(delivered(&planned, "child1").dead_peer, facts.dead_peer);
}
