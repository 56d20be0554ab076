use super::*;

fn resource(name: &str, body: &'static [u8]) -> Resource {
    Resource::new(name, body)
}

#[test]
fn version_follows_the_body_and_nothing_else() {
    assert_eq!(resource("a", b"x").version, resource("b", b"x").version);
    assert_ne!(resource("a", b"x").version, resource("a", b"y").version);
    assert_eq!(resource("a", b"x").version.len(), 32);
}

#[test]
fn a_name_can_be_used_once_per_kind() {
    let mut snapshot = Snapshot::new();
    snapshot.insert(Kind::Cds, resource("a", b"1")).unwrap();
    snapshot.insert(Kind::Eds, resource("a", b"1")).unwrap();
    let err = snapshot.insert(Kind::Cds, resource("a", b"2")).unwrap_err();
    assert!(matches!(
        err,
        CheckError::Duplicate {
            kind: Kind::Cds,
            ..
        }
    ));
}

#[test]
fn a_reference_that_leads_nowhere_is_named() {
    let mut snapshot = Snapshot::new();
    let cluster = resource("c", b"1").with_refs([(Kind::Eds, "c".into())]);
    snapshot.insert(Kind::Cds, cluster).unwrap();
    assert_eq!(
        snapshot.check().unwrap_err().to_string(),
        r#"failed to resolve EDS "c", which CDS "c" refers to"#
    );
    snapshot.insert(Kind::Eds, resource("c", b"1")).unwrap();
    snapshot.check().unwrap();
}

#[test]
fn reachable_leaves_out_what_nothing_refers_to() {
    let mut snapshot = Snapshot::new();
    let cluster = resource("c", b"1").with_refs([(Kind::Sds, "used".into())]);
    snapshot.insert(Kind::Cds, cluster).unwrap();
    snapshot.insert(Kind::Sds, resource("used", b"1")).unwrap();
    snapshot.insert(Kind::Sds, resource("idle", b"1")).unwrap();
    let names: Vec<_> = snapshot
        .reachable()
        .into_iter()
        .map(|(_, n)| n.to_string())
        .collect();
    assert_eq!(names, ["c", "used"]);
}

#[test]
fn digest_sees_names_versions_and_kinds_but_not_the_generation() {
    let mut one = Snapshot::new();
    one.insert(Kind::Cds, resource("a", b"1")).unwrap();
    let mut two = one.clone();
    two.generation = 9;
    assert_eq!(one.digest(), two.digest());
    let mut three = Snapshot::new();
    three.insert(Kind::Eds, resource("a", b"1")).unwrap();
    assert_ne!(one.digest(), three.digest());
}

#[test]
fn debug_shows_no_body() {
    let text = format!("{:?}", resource("key", b"-----BEGIN PRIVATE KEY"));
    assert!(!text.contains("PRIVATE"), "{text}");
}

#[test]
fn type_urls_go_both_ways() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_type_url(kind.type_url()), Some(kind));
    }
    assert_eq!(Kind::from_type_url("type.googleapis.com/other"), None);
}
