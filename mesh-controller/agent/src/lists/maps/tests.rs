use super::*;

fn marks(member: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(labels::MEMBER.to_owned(), member.to_owned())])
}

fn seen(member: &str, text: &str, shared: bool) -> MapSeen {
    MapSeen {
        uid: format!("uid of {text}"),
        marks: marks(member),
        hash: draft(text.to_owned(), &marks("m1")).hash(),
        shared,
        text: None,
    }
}

fn withdrawn(yields: bool, maps: &[(&str, MapSeen)]) -> (Vec<String>, Vec<String>) {
    let maps = maps
        .iter()
        .map(|(namespace, map)| ((*namespace).to_owned(), map.clone()))
        .collect();
    let empty = draft(String::new(), &marks("m1"));
    let (todo, gone) = withdraw(&empty, yields, &maps);
    assert!(todo.put.values().all(Option::is_some), "nothing is made");
    (todo.put.into_keys().collect(), gone.into_keys().collect())
}

#[test]
fn ours_are_emptied_before_any_is_deleted_and_others_are_left_alone() {
    let theirs = ("theirs", seen("m2", "lists", false));
    let (full, empty) = (seen("m1", "lists", false), seen("m1", "", false));
    let none = Vec::<String>::new();
    let first = withdrawn(
        false,
        &[("a", full.clone()), ("b", empty.clone()), theirs.clone()],
    );
    assert_eq!(first, (vec!["a".to_owned()], none.clone()));
    let second = withdrawn(false, &[("a", empty.clone()), ("b", empty), theirs.clone()]);
    assert_eq!(second, (none.clone(), vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(withdrawn(false, &[theirs]), (none.clone(), none.clone()));
    let taken = [("a", seen("m1", "lists", true)), ("b", full)];
    assert_eq!(withdrawn(true, &taken), (vec!["b".to_owned()], none));
}

#[test]
fn what_stands_in_the_own_namespace_is_the_measure_for_the_others() {
    assert_eq!(goal(Text::Keep, "one"), Goal::Text("one".to_owned()));
    let text = || "two".to_owned();
    assert_eq!(goal(Text::Write(text()), "one"), Goal::Text(text()));
    assert_eq!(goal(Text::Leave, "one"), Goal::Leave);
    // An empty map is there from the first day: a sidecar that starts with it follows whatever comes.
    assert_eq!(goal(Text::Withdraw, ""), Goal::Text(String::new()));
    assert_eq!(goal(Text::Withdraw, "one"), Goal::Text(String::new()));
}
