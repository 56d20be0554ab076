use mesh_core::{facts::MemberKey, lifetime::Lifetime};

use super::*;

fn pair(step: Step, wake_at: Option<&str>) -> Pairs {
    let member = MemberKey {
        namespace: "n".to_owned(),
        name: "region1".to_owned(),
    };
    let pair = Pair {
        member,
        step,
        life: Lifetime::from_secs(3600),
        wake_at: wake_at.map(|at| at.parse().unwrap()),
    };
    Pairs::from([("region1".parse().unwrap(), pair)])
}

fn write() -> Step {
    Step::Write(Server {
        url: "https://192.0.2.7".to_owned(),
        tls_server_name: None,
        ca_pem: None,
    })
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_not_written_again_by_a_plan_that_has_not_heard_of_it() {
    let mut books = Books::default();
    let wanted = pair(write(), None);
    let due = books.due(&wanted);
    assert_eq!(due.len(), 1);
    for (region, pair, _) in due {
        books.done.insert(region, (pair, Instant::now()));
    }
    assert!(books.due(&wanted).is_empty(), "the same plan");
    let other = pair(write(), Some("2030-01-01T00:00:00Z"));
    assert_eq!(
        books.due(&other).len(),
        1,
        "another one: it has seen the last write"
    );
    assert!(books.due(&pair(Step::Keep, None)).is_empty());
    assert_eq!(books.due(&wanted).len(), 1, "it is wanted anew");
    for (region, pair) in &wanted {
        let done = (pair.clone(), Instant::now());
        books.done.insert(region.clone(), done);
    }
    tokio::time::advance(SETTLED).await;
    assert_eq!(
        books.due(&wanted).len(),
        1,
        "nothing is held back for longer"
    );
}

#[test]
fn a_version_is_looked_at_closely_once() {
    let owner = Owner {
        install: "install".to_owned(),
        member: "member".to_owned(),
        ..Owner::default()
    };
    let marks = [
        (labels::MANAGED_BY, labels::MANAGED_BY_US),
        (labels::INSTALL, "install"),
        (labels::MEMBER, "member"),
    ];
    let marks = marks.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let meta = |name: &str, version: &str, ours: bool| ObjectMeta {
        name: Some(name.to_owned()),
        resource_version: Some(version.to_owned()),
        labels: ours.then(|| marks.clone().into()),
        annotations: Some([(labels::REMOTE_CLUSTER.to_owned(), "region1".to_owned())].into()),
        ..ObjectMeta::default()
    };
    let seen = |metadata| PartialObjectMeta::<Secret> {
        metadata,
        ..PartialObjectMeta::default()
    };
    let mut books = Books::default();
    assert!(books.facts(&owner).is_none(), "not listed yet");
    books.secrets.see(Seen::All {
        objects: vec![
            seen(meta("ours", "1", true)),
            seen(meta("theirs", "1", false)),
        ],
        refused: Vec::new(),
    });
    assert_eq!(books.unknown(&owner), ["ours"]);
    assert!(books.facts(&owner).unwrap()["ours"].intact);
    // It has no managed fields of ours.
    books.look("ours", &meta("ours", "1", true));
    assert!(books.unknown(&owner).is_empty());
    let facts = books.facts(&owner).unwrap();
    assert!(!facts["ours"].intact && !facts["theirs"].ours);
    books
        .secrets
        .see(Seen::Applied(seen(meta("ours", "2", true))));
    assert_eq!(books.unknown(&owner), ["ours"]);
}
