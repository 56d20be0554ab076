use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;
use crate::watches::Refusal;

fn config(name: &str, version: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            uid: Some(format!("uid-{name}")),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

fn version(store: &Store<ConfigMap>, name: &str) -> Option<String> {
    store
        .get(&Key::new("", name))
        .and_then(|object| object.metadata.resource_version.clone())
}

#[test]
fn a_late_watch_does_not_undo_our_own_write() {
    let mut store = Store::default();
    assert!(store.see(Seen::Applied(config("a", "20"))));
    assert!(!store.see(Seen::Applied(config("a", "9"))));
    assert_eq!(version(&store, "a").as_deref(), Some("20"));
    let mut reborn = config("a", "9");
    reborn.metadata.uid = Some("another".to_owned());
    assert!(store.see(Seen::Applied(reborn)));
    assert_eq!(version(&store, "a").as_deref(), Some("9"));
}

#[test]
fn a_list_says_what_is_gone_and_what_cannot_be_read_stays() {
    let mut store = Store::default();
    assert!(!store.is_warm());
    store.see(Seen::Applied(config("a", "1")));
    store.see(Seen::Applied(config("b", "2")));
    store.see(Seen::Applied(config("c", "3")));
    let refused = vec![Refusal {
        key: Key::new("", "b"),
        why: "broken".to_owned(),
    }];
    assert!(store.see(Seen::All {
        objects: vec![config("a", "1")],
        refused
    }));
    assert!(store.is_warm());
    assert_eq!(
        (
            version(&store, "b").is_some(),
            version(&store, "c").is_some()
        ),
        (true, false)
    );
    assert!(!store.see(Seen::All {
        objects: vec![config("a", "1"), config("b", "2")],
        refused: Vec::new()
    }));
}

#[test]
fn an_interrupted_watch_takes_nothing_away() {
    let mut store = Store::default();
    store.see(Seen::All {
        objects: vec![config("a", "1")],
        refused: Vec::new(),
    });
    let why = Obstacle::new("NotFound", "no such kind");
    assert!(!store.see(Seen::Interrupted { absent: true, why }));
    assert!(store.is_warm() && version(&store, "a").is_some());
}

#[tokio::test]
async fn rings_only_when_something_changed() {
    let index = Index::default();
    let key = MemberKey {
        namespace: "n".to_owned(),
        name: "m".to_owned(),
    };
    index.report(&key, |seen| seen.withdrawn = true);
    index.rung().await;
    let before = index.version();
    index.report(&key, |seen| seen.withdrawn = true);
    assert_eq!(index.version(), before);
}
