use super::*;
use crate::testing::Mesh;

fn marks(member: &str) -> BTreeMap<String, String> {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    BTreeMap::from([
        pair(labels::MANAGED_BY, labels::MANAGED_BY_US),
        pair(labels::MEMBER, member),
    ])
}

fn wish() -> MapDraft {
    MapDraft {
        name: labels::ROOT_CONFIG_MAP,
        entry: ENTRY,
        text: "roots\n".to_owned(),
        marks: marks("m1"),
    }
}

fn seen(member: &str, text: &str, shared: bool) -> MapSeen {
    let draft = MapDraft {
        text: text.to_owned(),
        ..wish()
    };
    MapSeen {
        uid: format!("uid of {text}"),
        marks: marks(member),
        hash: draft.hash(),
        shared,
        text: None,
    }
}

fn decided(yields: bool, there: &[(&str, Option<MapSeen>)], leaving: &[&str]) -> Todo {
    let namespaces = there
        .iter()
        .map(|(name, _)| {
            let leaving = leaving.contains(name);
            ((*name).to_owned(), NamespaceSeen { leaving })
        })
        .collect();
    let maps = there
        .iter()
        .filter_map(|(name, map)| Some(((*name).to_owned(), map.clone()?)))
        .collect();
    decide(&wish(), yields, &namespaces, &maps)
}

#[test]
fn what_is_missing_is_made_and_what_is_ours_is_mended_and_nothing_else_is_touched() {
    let there = [
        ("equal", Some(seen("m1", "roots\n", false))),
        ("changed", Some(seen("m1", "other", true))),
        ("missing", None),
        ("going", None),
        ("old", Some(seen("m1", "other", false))),
        ("theirs", Some(seen("m2", "roots\n", false))),
    ];
    let todo = decided(false, &there, &["going", "old"]);
    let put = BTreeMap::from([
        ("changed".to_owned(), Some("uid of other".to_owned())),
        ("missing".to_owned(), None),
    ]);
    assert_eq!((todo.put, todo.foreign), (put, vec!["theirs".to_owned()]));
    let rest = [there[0].clone(), ("theirs", there[5].1.clone())];
    assert_eq!(decided(false, &rest, &[]).put, BTreeMap::new(), "at rest");
}

#[test]
fn what_istiod_has_taken_over_is_left_to_it() {
    let there = [
        ("missing", None),
        ("shared", Some(seen("m1", "other", true))),
        ("ours", Some(seen("m1", "other", false))),
        ("istiods", Some(seen("", "other", true))),
    ];
    let todo = decided(true, &there, &[]);
    let put: Vec<&str> = todo.put.keys().map(String::as_str).collect();
    assert_eq!(put, ["missing", "ours"]);
    assert_eq!(todo.foreign, Vec::<String>::new());
}

#[test]
fn the_bytes_stay_while_the_bundle_does() {
    let mesh = Mesh::new();
    let mut wanted = mesh.wanted();
    let wish = |roots: &[&str]| Wish {
        issuer: WorkloadIssuer::Agent,
        trust_domain: "child1.mesh.test".to_owned(),
        bundle: mesh_api::agent::Bundle {
            generation: 1,
            roots: roots.iter().map(|root| (*root).to_owned()).collect(),
        },
        default_seconds: 60,
        max_seconds: 60,
        node_accounts: Vec::new(),
        service_names: Vec::new(),
    };
    wanted.marks = marks("m1");
    let text = |roots: &[&str]| draft(&wanted, &wish(roots)).text;
    assert_eq!(text(&["a\n", "b"]), "a\nb\n");
    assert_eq!(text(&["a", "b\n\n"]), "a\nb\n");
}
