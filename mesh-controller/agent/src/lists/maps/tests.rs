use mesh_ca::RevokedSerial;

use super::*;
use crate::testing::{Mesh, now};

fn marks(member: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(labels::MEMBER.to_owned(), member.to_owned())])
}

fn seen(member: &str, text: &str, shared: bool) -> MapSeen {
    MapSeen {
        uid: format!("uid of {text}"),
        marks: marks(member),
        hash: draft(text.to_owned(), &marks("m1")).hash(),
        shared,
        text: (!shared).then(|| text.into()),
    }
}

fn withdrawn(maps: &[(&str, MapSeen)]) -> (Vec<String>, Vec<String>) {
    let maps = maps
        .iter()
        .map(|(namespace, map)| ((*namespace).to_owned(), map.clone()))
        .collect();
    let empty = draft(String::new(), &marks("m1"));
    let (todo, gone) = withdraw(&empty, &maps);
    assert!(todo.put.values().all(Option::is_some), "nothing is made");
    (todo.put.into_keys().collect(), gone.into_keys().collect())
}

#[test]
fn ours_are_emptied_before_any_is_deleted_and_others_are_left_alone() {
    let theirs = ("theirs", seen("m2", "lists", false));
    let (full, empty) = (seen("m1", "lists", false), seen("m1", "", false));
    let none = Vec::<String>::new();
    let first = withdrawn(&[("a", full.clone()), ("b", empty.clone()), theirs.clone()]);
    assert_eq!(first, (vec!["a".to_owned()], none.clone()));
    let second = withdrawn(&[("a", empty.clone()), ("b", empty), theirs.clone()]);
    assert_eq!(second, (none.clone(), vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(withdrawn(&[theirs]), (none.clone(), none.clone()));
    let taken = [("a", seen("m1", "lists", true)), ("b", full)];
    assert_eq!(withdrawn(&taken), (vec!["b".to_owned()], none));
}

#[test]
fn what_stands_stays_or_gives_way() {
    assert_eq!(goal(Text::Keep, "one"), Goal::Text("one".to_owned()));
    let text = || "two".to_owned();
    assert_eq!(goal(Text::Write(text()), "one"), Goal::Text(text()));
    assert_eq!(goal(Text::Leave, "one"), Goal::Leave);
    // An empty map is there from the first day: a sidecar that starts with it follows whatever comes.
    assert_eq!(goal(Text::Withdraw, ""), Goal::Text(String::new()));
    assert_eq!(goal(Text::Withdraw, "one"), Goal::Text(String::new()));
}

fn namespaces(names: &[&str]) -> BTreeMap<String, NamespaceSeen> {
    let seen = NamespaceSeen { leaving: false };
    names
        .iter()
        .map(|name| ((*name).to_owned(), seen.clone()))
        .collect()
}

fn maps(maps: &[(&str, MapSeen)]) -> BTreeMap<String, MapSeen> {
    maps.iter()
        .map(|(namespace, map)| ((*namespace).to_owned(), map.clone()))
        .collect()
}

#[test]
fn what_stands_in_one_of_ours_is_the_measure_for_the_others() {
    let own = mesh_api::NAMESPACE;
    let measure = |seen: &[(&str, MapSeen)]| standing(&marks("m1"), &maps(seen)).to_owned();
    let (one, two) = (seen("m1", "one", false), seen("m1", "two", false));
    assert_eq!(measure(&[("a", one.clone()), (own, two)]), "two");
    // The own map is gone, was just made, or is istiod's by now.
    for lost in [
        seen("m1", "", false),
        seen("m1", "x", true),
        seen("m2", "x", false),
    ] {
        assert_eq!(measure(&[("a", one.clone()), (own, lost)]), "one");
    }
    assert_eq!(measure(&[("a", one)]), "one");
    assert_eq!(measure(&[]), "");
}

#[test]
fn what_istiod_has_taken_over_is_left_alone_and_named() {
    let there = namespaces(&["a", "b", "c", "d"]);
    let known = maps(&[
        ("a", seen("m1", "old", false)),
        ("b", seen("m1", "old", true)),
        ("c", seen("m2", "old", true)),
    ]);
    let todo = spread(&draft("new".to_owned(), &marks("m1")), &there, &known);
    let put: Vec<&str> = todo.put.keys().map(String::as_str).collect();
    assert_eq!(put, ["a", "d"]);
    let foreign: BTreeSet<&str> = todo.foreign.iter().map(String::as_str).collect();
    assert_eq!(
        (foreign, todo.foreign.len()),
        (BTreeSet::from(["b", "c"]), 2)
    );
}

#[test]
fn a_map_is_there_from_the_first_day_also_while_a_list_is_missing() {
    let there = namespaces(&["a", "b", "c"]);
    let known = maps(&[
        ("a", seen("m1", "whatever", false)),
        ("b", seen("m2", "whatever", false)),
    ]);
    let todo = begin(&draft(String::new(), &marks("m1")), &there, &known);
    assert_eq!(todo.put, BTreeMap::from([("c".to_owned(), None)]));
    assert_eq!(todo.foreign, ["b"]);
}

#[test]
fn while_lists_should_stand_a_foreign_map_is_an_obstacle() {
    let foreign = || vec!["a".to_owned()];
    let said = told("lists", foreign(), None, None);
    let why = said.obstacle.unwrap();
    assert_eq!(
        (why.reason.as_str(), said.foreign),
        ("ListsForeign", foreign())
    );
    assert!(why.message.contains("left alone in a:"), "{}", why.message);
    assert_eq!(told("", foreign(), None, None).obstacle, None);
    let revoked = RevokedSerial {
        serial: "7".to_owned(),
        at: now(),
        reason: None,
    };
    let (root, hour) = (Mesh::new().root, jiff::SignedDuration::from_hours(1));
    let text = root.sign_crl(&[revoked], 1, hour, now()).unwrap().pem;
    assert_eq!(told(&text, Vec::new(), None, None).revoked, Some(1));
    assert_eq!(told(&text, foreign(), None, None).revoked, None);
    let other = Obstacle::new("ListsNotWritten", "x");
    let said = told("lists", foreign(), Some(other.clone()), None);
    assert_eq!(said.obstacle, Some(other));
}
