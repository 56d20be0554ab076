use mesh_api::{
    agent::{LedgerEntry, MeshAgentStatus, WorkloadsStatus},
    member::Intermediate,
};
use mesh_core::{
    facts::Obstacle,
    peer::Dead,
    probe::{Class, Failure, State},
};

use super::{board::NAMED, *};
use crate::testing::now;

#[test]
fn a_replica_is_told_as_it_is() {
    let board = Board::new();
    board.envoy(Some(3), None);
    board.path(
        "region1",
        &State {
            outcome: Ok(()),
            since: now(),
        },
    );
    let down = Failure {
        class: Class::Connect,
        message: "refused".to_owned(),
    };
    board.path(
        "region2",
        &State {
            outcome: Err(down),
            since: now(),
        },
    );
    board.unresolved(BTreeMap::from([(
        "region2".to_owned(),
        Obstacle::new("NoSuchName", "nothing"),
    )]));
    let dead = Dead {
        since: now(),
        withdrawn: true,
    };
    board.dead("region2", Some(dead));
    let line = LedgerEntry {
        signer: 1,
        bundle: 0,
        until: now().to_string(),
    };
    let replica = board
        .draft
        .borrow()
        .replica("pod-a", "0.1.0", vec![line.clone()]);
    assert_eq!(replica.accepted_generation, Some(3));
    assert_eq!(replica.ledger, [line]);
    assert_eq!(replica.paths[0].reason, "Answered");
    assert!(replica.paths[0].ready && !replica.paths[1].ready);
    assert_eq!(replica.paths[1].reason, "ConnectFailed");
    assert_eq!(
        replica.paths[1].unresolved.as_ref().unwrap().reason,
        "NoSuchName"
    );
    assert_eq!(replica.paths[0].dead, None);
    let told = replica.paths[1].dead.clone().unwrap();
    assert_eq!((told.since, told.withdrawn), (now().to_string(), true));
    board.dead("region2", None);
    assert_eq!(board.draft.borrow().dead, BTreeMap::new());
    board.dead("region2", Some(dead));
    board.only(&["region1".to_owned()]);
    assert_eq!(board.draft.borrow().dead, BTreeMap::new());
    assert_eq!(board.draft.borrow().paths.len(), 1);
}

#[test]
fn nobody_is_woken_by_what_is_known() {
    let board = Board::new();
    let mut news = board.draft.subscribe();
    board.envoy(Some(3), None);
    assert!(news.has_changed().unwrap());
    news.borrow_and_update();
    board.envoy(Some(3), None);
    board.envoy(None, None);
    board.only(&[]);
    board.unresolved(BTreeMap::new());
    assert!(!news.has_changed().unwrap());
}

#[test]
fn a_path_that_did_not_change_over_a_restart_keeps_its_date() {
    let said = |since, outcome: Result<(), Failure>| {
        let board = Board::new();
        board.path("region1", &State { outcome, since });
        let draft = board.draft.borrow().clone();
        draft.replica("pod-a", "0.1.0", Vec::new())
    };
    let before = said(now(), Ok(()));
    assert_eq!(
        since_before(said(crate::testing::after(60), Ok(())), Some(&before)),
        before
    );
    let down = Err(Failure {
        class: Class::Name,
        message: "x".to_owned(),
    });
    let after = said(crate::testing::after(60), down);
    assert_eq!(since_before(after.clone(), Some(&before)), after);
    assert_eq!(since_before(after.clone(), None), after);
}

#[test]
fn what_is_shared_keeps_the_last_intermediates_and_tells_the_nearest_obstacle() {
    let one = Intermediate {
        generation: 1,
        fingerprint: "f".to_owned(),
        serial: "5".to_owned(),
        not_before: String::new(),
        not_after: "2026-11-21T04:00:00Z".to_owned(),
        certificate: "c".to_owned(),
    };
    let board = Board::new();
    let shared = |before: &[Intermediate]| {
        let before = MeshAgentStatus {
            intermediates: before.to_vec(),
            ..MeshAgentStatus::default()
        };
        board.draft.borrow().shared(&before)
    };
    board.intermediates(&[], None);
    let said = shared(std::slice::from_ref(&one));
    assert_eq!(
        said.intermediates,
        std::slice::from_ref(&one),
        "there is none: the last stays"
    );
    assert_eq!(said.obstacle, None);
    board.intermediates(
        std::slice::from_ref(&one),
        Some(&Obstacle::new("RequestDenied", "x")),
    );
    assert_eq!(shared(&[]).intermediates, [one]);
    board.unreadable(Some(Obstacle::new("BadIntent", "y")));
    assert_eq!(shared(&[]).obstacle.unwrap().reason, "BadIntent");
    board.unreadable(None);
    assert_eq!(shared(&[]).obstacle.unwrap().reason, "RequestDenied");
}

#[test]
fn what_workloads_are_given_stays_until_it_was_looked_at() {
    let board = Board::new();
    let status = WorkloadsStatus {
        bundle: Some(3),
        cacerts: Some(7),
        revoked: Some(2),
        foreign_lists: vec!["ns".to_owned()],
        ..WorkloadsStatus::default()
    };
    let before = MeshAgentStatus {
        workloads: Some(status.clone()),
        ..MeshAgentStatus::default()
    };
    let shared = || board.draft.borrow().shared(&before).workloads;
    assert_eq!(shared(), Some(status));
    board.workloads(Workloads::Given {
        bundle: Some(4),
        foreign: (0..20).map(|n| format!("ns{n}")).collect(),
        obstacle: None,
    });
    let said = shared().unwrap();
    assert_eq!((said.bundle, said.foreign.len()), (Some(4), NAMED));
    assert_eq!((said.cacerts, said.revoked), (Some(7), Some(2)));
    assert_eq!(said.foreign_lists, ["ns"]);
    board.cacerts(Cacerts {
        revoked: Some(3),
        ..Cacerts::default()
    });
    assert_eq!(shared().unwrap().revoked, Some(2));
    let why = Obstacle::new("ListsIncomplete", "one");
    board.lists(Lists {
        obstacle: Some(why),
        ..Lists::default()
    });
    let said = shared().unwrap();
    assert_eq!((said.cacerts, said.revoked), (None, Some(3)));
    assert_eq!(said.obstacle.unwrap().reason, "ListsIncomplete");
    assert!(said.foreign_lists.is_empty());
    board.lists(Lists {
        foreign: vec!["other".to_owned()],
        ..Lists::default()
    });
    let said = shared().unwrap();
    assert_eq!(said.foreign_lists, ["other"]);
    assert_eq!(said.revoked, None, "they do not stand everywhere");
    board.no_workloads();
    assert_eq!(shared(), None);
    assert_eq!(board.said().lists, Some(Lists::default()));
}

#[test]
fn a_pod_that_only_probes_says_so_and_what_it_has_read() {
    let board = Board::of_prober();
    board.read(5);
    let said = board.draft.borrow().replica("probe-a", "0.1.0", Vec::new());
    assert!(said.sidecar);
    assert_eq!(said.accepted_generation, Some(5));
    assert!(
        !Board::new()
            .said()
            .replica("pod-a", "0.1.0", Vec::new())
            .sidecar
    );
}

/// Each is looked for where its like are: an agent takes a prober that lives for no dead agent, and forgets one that is dead.
#[test]
fn who_is_gone_is_told_by_the_list_of_its_like() {
    let replica = |pod: &str, sidecar| Replica {
        pod: pod.to_owned(),
        sidecar,
        ..Replica::default()
    };
    let replicas = [
        replica("agent-a", false),
        replica("agent-b", false),
        replica("agent-c", false),
        replica("probe-a", true),
        replica("probe-b", true),
    ];
    let list = |pods: &[&str]| -> BTreeMap<String, PodSeen> {
        let seen = PodSeen {
            ips: std::collections::BTreeSet::new(),
            ready: false,
            leaving: true,
        };
        pods.iter()
            .map(|pod| ((*pod).to_owned(), seen.clone()))
            .collect()
    };
    let (agents, probers) = (list(&["agent-b"]), list(&["probe-a"]));
    let gone = |alive| gone(&replicas, "agent-a", alive);
    assert_eq!(
        gone([Some(&agents), Some(&probers)]),
        ["agent-c", "probe-b"]
    );
    // Nothing is known before a list is whole.
    assert_eq!(gone([Some(&agents), None]), ["agent-c"]);
    assert_eq!(gone([None, Some(&probers)]), ["probe-b"]);
    assert!(gone([None, None]).is_empty());
    // The lists do not stand in for each other.
    let (swapped, none) = (list(&["agent-b", "probe-a", "probe-b"]), list(&[]));
    assert_eq!(
        gone([Some(&swapped), Some(&none)]),
        ["agent-c", "probe-a", "probe-b"]
    );
}
