use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use mesh_api::{
    member::{MeshMemberStatus, Path},
    mesh::{MeshStatus, RevocationStatus, RootFinding, RootStatus},
};

use super::{changes, news_of_peers};

fn conditions(said: &[(&str, &str, &str)]) -> Vec<Condition> {
    said.iter()
        .map(|(kind, status, reason)| Condition {
            type_: (*kind).to_owned(),
            status: (*status).to_owned(),
            reason: (*reason).to_owned(),
            message: String::new(),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        })
        .collect()
}

fn news(before: &[(&str, &str, &str)], after: &[(&str, &str, &str)]) -> Vec<String> {
    let (before, after) = (conditions(before), conditions(after));
    changes(&before, &after)
        .iter()
        .map(|c| format!("{} {}", c.type_, c.reason))
        .collect()
}

#[test]
fn an_event_is_news_and_what_follows_from_it_is_none() {
    let well = [
        ("Reachable", "True", "Answers"),
        ("Enrolled", "True", "Delivered"),
        ("Ready", "True", "Ready"),
    ];
    let lost = [
        ("Reachable", "False", "Timeout"),
        ("Enrolled", "False", "Delivering"),
        ("Ready", "False", "Reachable"),
    ];
    let refused = [
        ("Reachable", "False", "ConnectionRefused"),
        ("Enrolled", "False", "Delivering"),
        ("Ready", "False", "Reachable"),
    ];
    assert_eq!(news(&well, &lost), ["Reachable Timeout"]);
    assert_eq!(news(&lost, &lost), Vec::<String>::new());
    assert_eq!(news(&lost, &refused), ["Reachable ConnectionRefused"]);
    assert_eq!(
        news(&lost, &well),
        ["Reachable Answers", "Enrolled Delivered", "Ready Ready"]
    );
}

#[test]
fn a_revocation_begins_and_ends_with_an_event_and_a_root_is_adopted_with_its_warnings() {
    let reasons = |before: &MeshStatus, after: &MeshStatus| {
        super::news(before, after)
            .into_iter()
            .map(|news| news.reason)
            .collect::<Vec<_>>()
    };
    let finding = |severity: &str| RootFinding {
        severity: severity.to_owned(),
        ..RootFinding::default()
    };
    let none = MeshStatus::default();
    let mut adopted = MeshStatus {
        root: Some(RootStatus {
            findings: vec![finding("Note")],
            ..RootStatus::default()
        }),
        ..MeshStatus::default()
    };
    assert_eq!(reasons(&none, &adopted), Vec::<&str>::new());
    let findings = &mut adopted.root.as_mut().unwrap().findings;
    findings.insert(0, finding("Warning"));
    assert_eq!(reasons(&none, &adopted), ["RootAdopted"]);
    assert_eq!(reasons(&adopted, &adopted), Vec::<&str>::new());

    let mut begun = adopted.clone();
    begun.revocations = vec![RevocationStatus {
        serial: "a".to_owned(),
        cluster: Some("child1".to_owned()),
        waiting_for: vec!["kcm-system/region1".to_owned()],
        ..RevocationStatus::default()
    }];
    assert_eq!(reasons(&adopted, &begun), ["Revoking"]);
    let mut done = begun.clone();
    done.revocations[0].done_after_seconds = Some(3);
    assert_eq!(reasons(&begun, &done), ["Revoked"]);
    let mut undone = done.clone();
    undone.revocations[0].note = Some("stays".to_owned());
    assert_eq!(reasons(&done, &undone), ["RevocationStays"]);
    assert_eq!(reasons(&undone, &undone), Vec::<&str>::new());
}

#[test]
fn a_region_that_dies_and_returns_is_an_event_for_each_region() {
    let status = |paths: &[(&str, Option<bool>)]| {
        let path = |(region, dead): &(&str, Option<bool>)| Path {
            region: (*region).to_owned(),
            service: String::new(),
            ready: "False".to_owned(),
            reason: String::new(),
            message: "words".to_owned(),
            since: None,
            dead_since: dead.map(|_| "2026-11-21T04:00:00Z".to_owned()),
            withdrawn: dead == &Some(true),
        };
        MeshMemberStatus {
            paths: paths.iter().map(path).collect(),
            ..MeshMemberStatus::default()
        }
    };
    let said = |before: &[(&str, Option<bool>)], after: &[(&str, Option<bool>)]| {
        let news = news_of_peers(&status(before), &status(after)).into_iter();
        news.map(|news| format!("{} {} {}", news.warning, news.reason, news.note))
            .collect::<Vec<_>>()
    };
    let (alive, dead, gone) = (None, Some(false), Some(true));
    let one = |dead| [("r1", dead), ("r2", alive)];
    let words = |said: &str| vec![format!("{said} path to region r1: words")];
    assert_eq!(said(&one(alive), &one(dead)), words("true PeerDead"));
    assert_eq!(said(&one(alive), &one(gone)), words("true PeerDead"));
    assert_eq!(said(&one(dead), &one(gone)), words("true PeerWithdrawn"));
    assert_eq!(said(&one(gone), &one(alive)), words("false PeerReturned"));
    assert_eq!(
        said(&[], &one(dead)),
        words("true PeerDead"),
        "it is news to us"
    );
    for same in [alive, dead, gone] {
        assert!(said(&one(same), &one(same)).is_empty());
    }
    assert!(
        said(&one(gone), &one(dead)).is_empty(),
        "a change of the policy"
    );
    assert!(
        said(&one(dead), &[]).is_empty(),
        "it is not called any more"
    );
}

#[test]
fn a_dead_region_is_told_once() {
    let well = [
        ("PathsReady", "True", "Answered"),
        ("Ready", "True", "Ready"),
    ];
    let failing = [
        ("PathsReady", "False", "ConnectFailed"),
        ("Ready", "False", "PathsReady"),
    ];
    let dead = [
        ("PathsReady", "False", "PeerDead"),
        ("Ready", "False", "PathsReady"),
    ];
    assert_eq!(news(&well, &failing), ["PathsReady ConnectFailed"]);
    assert!(
        news(&failing, &dead).is_empty(),
        "the path has an event of its own"
    );
    assert_eq!(news(&dead, &well), ["PathsReady Answered", "Ready Ready"]);
}
