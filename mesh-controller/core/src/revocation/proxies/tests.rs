use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3600;
const LIFE: i64 = 7 * 24;

fn at(hours: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + hours * HOUR).unwrap()
}

/// A list that is `age` hours old at hour 0.
fn list(number: u64, age: i64, serials: &[&str]) -> List {
    List {
        number,
        from: at(-age),
        until: at(LIFE - age),
        serials: set(serials),
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn lists(of: &[(&str, List)]) -> Lists {
    of.iter()
        .map(|(ca, list)| ((*ca).to_owned(), list.clone()))
        .collect()
}

fn decided(met: &[&str], known: &Lists, standing: &Lists, reader: Reader) -> Decision {
    let met = set(met);
    let case = Case {
        met: &met,
        known,
        standing,
        begun: !standing.is_empty(),
        reader,
    };
    decide(case, at(0))
}

fn write(newest: &[&str], kept: &[&str]) -> Step {
    Step::Write {
        newest: set(newest),
        kept: set(kept),
    }
}

#[test]
fn nothing_is_begun_before_something_is_revoked_and_every_ca_has_a_list() {
    use Reader::{Istiod, Proxies};
    let none = Lists::new();
    let fresh = |serials: &[&str]| list(1, 0, serials);
    let dead = list(1, LIFE, &[]);
    let clean = lists(&[("root", fresh(&[])), ("a", fresh(&[]))]);
    let revoked = lists(&[("root", fresh(&["7"])), ("a", fresh(&[]))]);
    let half = lists(&[("root", fresh(&["7"]))]);
    let ended = lists(&[("root", fresh(&["7"])), ("a", dead)]);
    let unknown = lists(&[("a", fresh(&[]))]);
    let table = [
        (&clean, Step::Withdraw, set(&[])),
        (&revoked, write(&["root", "a"], &[]), set(&[])),
        (&half, Step::Keep, set(&["a"])),
        (&ended, Step::Keep, set(&["a"])),
        (&unknown, Step::Keep, set(&[])),
    ];
    for reader in [Proxies, Istiod] {
        for (known, step, missing) in &table {
            let found = decided(&["root", "a"], known, &none, reader);
            let expected = Decision {
                step: step.clone(),
                missing: missing.clone(),
            };
            assert_eq!(found, expected, "{reader:?} {known:?}");
        }
    }
    // What nobody here meets decides nothing.
    assert_eq!(
        decided(&["a"], &revoked, &none, Proxies).step,
        Step::Withdraw
    );
}

#[test]
fn what_was_begun_is_kept_alive_and_written_anew_only_when_it_must_be() {
    let standing = lists(&[("root", list(5, 100, &["7"])), ("a", list(5, 100, &[]))]);
    let met = ["root", "a"];
    let step =
        |known: &[(&str, List)]| decided(&met, &lists(known), &standing, Reader::Proxies).step;
    let root = || ("root", list(5, 100, &["7"]));
    assert_eq!(step(&[root(), ("a", list(5, 100, &[]))]), Step::Keep);
    // Renewed, and the old one still has more than a quarter of its life.
    assert_eq!(step(&[root(), ("a", list(6, 0, &[]))]), Step::Keep);
    // A serial number more, at once.
    let more = ("root", list(6, 0, &["7", "8"]));
    assert_eq!(step(&[more, ("a", list(6, 0, &[]))]), write(&met, &[]));
    // A serial number less can wait, and so can what is older than what stands.
    let less = ("root", list(6, 0, &["9"]));
    assert_eq!(
        step(&[less, ("a", list(5, 100, &[]))]),
        write(&["root"], &["a"])
    );
    let late = ("root", list(4, 120, &["6"]));
    assert_eq!(step(&[late, ("a", list(5, 100, &[]))]), Step::Keep);

    let old = lists(&[("root", list(5, 130, &["7"])), ("a", list(5, 100, &[]))]);
    let known = lists(&[("root", list(6, 40, &["7"])), ("a", list(6, 10, &[]))]);
    let found = decided(&met, &known, &old, Reader::Proxies).step;
    assert_eq!(found, write(&met, &[]), "all that is newer goes along");
    let unrenewed = lists(&[("root", list(5, 130, &["7"])), ("a", list(6, 10, &[]))]);
    let found = decided(&met, &unrenewed, &old, Reader::Proxies).step;
    assert_eq!(found, Step::Keep, "there is nothing newer to write");
    // Near the end of a CA its lists end with it: another with the same end is of no use.
    let mut same_end = list(6, 0, &["7"]);
    same_end.until = old["root"].until;
    let known = lists(&[("root", same_end), ("a", list(5, 100, &[]))]);
    let found = decided(&met, &known, &old, Reader::Proxies).step;
    assert_eq!(found, Step::Keep);
}

#[test]
fn a_ca_without_a_list_costs_nobody_else_theirs() {
    let standing = lists(&[("root", list(5, 100, &["7"])), ("a", list(5, 100, &[]))]);
    let known = lists(&[("root", list(6, 0, &["7"]))]);
    let found = decided(&["root", "a", "new"], &known, &standing, Reader::Proxies);
    assert_eq!(found.step, Step::Keep);
    assert_eq!(
        found.missing,
        set(&["new"]),
        "the standing one of a is good"
    );
    let known = lists(&[("root", list(6, 0, &["7", "8"]))]);
    let found = decided(&["root", "a", "new"], &known, &standing, Reader::Proxies);
    assert_eq!(found.step, write(&["root"], &["a"]));
    // Whoever withholds a list does not have revocation switched off.
    let withheld = lists(&[("root", list(6, 0, &[]))]);
    let found = decided(&["root", "a"], &withheld, &standing, Reader::Proxies);
    assert_eq!(found.step, Step::Keep);
    // A CA that comes later is written as soon as it has one.
    let known = lists(&[
        ("root", list(6, 0, &["7"])),
        ("a", list(5, 100, &[])),
        ("new", list(1, 0, &[])),
    ]);
    let found = decided(&["root", "a", "new"], &known, &standing, Reader::Proxies);
    assert_eq!(found.step, write(&["new", "root"], &["a"]));
}

#[test]
fn when_nothing_is_revoked_any_more_it_is_taken_back_where_that_works() {
    let standing = lists(&[("root", list(5, 0, &["7"])), ("a", list(5, 0, &[]))]);
    let known = lists(&[("root", list(6, 0, &[])), ("a", list(5, 0, &[]))]);
    let step = |reader| decided(&["root", "a"], &known, &standing, reader).step;
    assert_eq!(step(Reader::Proxies), Step::Withdraw);
    assert_eq!(step(Reader::Istiod), Step::Keep);
    let old = lists(&[("root", list(5, 140, &["7"])), ("a", list(5, 140, &[]))]);
    let found = decided(&["root", "a"], &known, &old, Reader::Istiod).step;
    assert_eq!(found, write(&["root"], &["a"]), "it is kept alive");
}

#[test]
fn who_knows_less_than_what_stands_does_not_take_it_back() {
    let standing = lists(&[("root", list(6, 0, &["7"])), ("a", list(5, 0, &[]))]);
    let step = |root: List| {
        let known = lists(&[("root", root), ("a", list(5, 0, &[]))]);
        decided(&["root", "a"], &known, &standing, Reader::Proxies).step
    };
    assert_eq!(step(list(5, 0, &[])), Step::Keep);
    assert_eq!(step(list(7, 0, &[])), Step::Withdraw);
    // What has ended is not newer than anything.
    let ended = lists(&[("root", list(6, LIFE, &["7"]))]);
    let known = lists(&[("root", list(5, 0, &[]))]);
    let found = decided(&["root"], &known, &ended, Reader::Proxies).step;
    assert_eq!(found, Step::Withdraw);
}

#[test]
fn what_was_begun_goes_on_also_when_every_list_has_ended() {
    let met = set(&["root", "a"]);
    let step = |known: &[(&str, List)], reader| {
        let case = Case {
            met: &met,
            known: &lists(known),
            standing: &Lists::new(),
            begun: true,
            reader,
        };
        decide(case, at(0))
    };
    let root = |serials: &[&str]| ("root", list(6, 0, serials));
    let found = step(&[root(&["7"])], Reader::Proxies);
    assert_eq!(found.step, write(&["root"], &[]), "it does not wait for a");
    assert_eq!(found.missing, set(&["a"]));
    let clean = [root(&[]), ("a", list(1, 0, &[]))];
    assert_eq!(step(&clean, Reader::Proxies).step, Step::Withdraw);
    let found = step(&clean, Reader::Istiod).step;
    assert_eq!(found, write(&["root", "a"], &[]), "istiod never forgets");
    let found = step(&[], Reader::Istiod);
    assert_eq!((found.step, found.missing), (Step::Keep, met.clone()));
}

#[test]
fn who_fills_his_list_loses_it() {
    let mut lists: BTreeMap<String, (bool, usize)> = (0..80)
        .map(|index| (format!("greedy{index}"), (false, 16 * 1024)))
        .collect();
    lists.extend((0..200).map(|index| (format!("honest{index}"), (false, 500))));
    lists.insert("root".to_owned(), (true, 16 * 1024));
    let told = fitting(&lists);
    let of = |kind: &str| told.iter().filter(|ca| ca.starts_with(kind)).count();
    assert_eq!((of("root"), of("honest")), (1, 200));
    // Beside the others' there is room for all that a controller tells.
    assert!((32..48).contains(&of("greedy")));
    assert!(told.iter().map(|ca| lists[ca].1).sum::<usize>() <= TEXT_MAX);
}

/// The text after a step.
fn after(step: &Step, known: &Lists, standing: &Lists) -> Lists {
    match step {
        Step::Keep => standing.clone(),
        Step::Withdraw => Lists::new(),
        Step::Write { newest, kept } => {
            let of = |cas: &BTreeSet<String>, lists: &Lists| -> Lists {
                cas.iter()
                    .map(|ca| (ca.clone(), lists[ca].clone()))
                    .collect()
            };
            let mut text = of(newest, known);
            text.extend(of(kept, standing));
            text
        }
    }
}

fn any_list() -> impl Strategy<Value = List> {
    let serials = proptest::collection::btree_set("[1-3]", 0..3);
    (0..4_u64, 0..LIFE + 10, serials).prop_map(|(number, age, serials)| List {
        number,
        from: at(-age),
        until: at(LIFE - age),
        serials,
    })
}

fn any_lists() -> impl Strategy<Value = Lists> {
    proptest::collection::btree_map("[a-d]", any_list(), 0..5)
}

proptest! {
    #[test]
    fn every_text_is_good_for_whom_it_can_be_and_then_stays(
        met in proptest::collection::btree_set("[a-d]", 1..5),
        (known, standing) in (any_lists(), any_lists()),
        (istiod, ended) in any::<(bool, bool)>(),
    ) {
        let begun = ended || !standing.is_empty();
        let reader = if istiod { Reader::Istiod } else { Reader::Proxies };
        let decision = decide(Case { met: &met, known: &known, standing: &standing, begun, reader }, at(0));
        let text = after(&decision.step, &known, &standing);
        let stands = match decision.step {
            Step::Keep => begun,
            Step::Write { .. } => true,
            Step::Withdraw => false,
        };
        let alive = |lists: &Lists, ca: &String| lists.get(ca).is_some_and(|list| list.is_alive(at(0)));
        let complete = met.iter().all(|ca| alive(&text, ca));
        if let Step::Write { .. } = decision.step {
            prop_assert!(begun || complete, "begun without all");
            for (ca, list) in &text {
                prop_assert!(met.contains(ca) && list.is_alive(at(0)));
            }
        }
        if stands {
            for ca in &met {
                // Nobody is refused for a list that is known, nobody believed for one that was not told.
                prop_assert!(alive(&text, ca) || !alive(&known, ca));
                prop_assert_eq!(alive(&text, ca), !decision.missing.contains(ca));
                if alive(&known, ca) && known[ca].number > text[ca].number {
                    prop_assert!(known[ca].serials.is_subset(&text[ca].serials));
                }
            }
        }
        if istiod && begun {
            prop_assert!(decision.step != Step::Withdraw);
        }
        // Nobody takes back what is newer than what he knows.
        for (ca, old) in &standing {
            let is_newer = known.get(ca).is_some_and(|list| list.number < old.number);
            if met.contains(ca) && old.is_alive(at(0)) && is_newer {
                prop_assert_eq!(text.get(ca), Some(old));
            }
        }
        let again = decide(Case { met: &met, known: &known, standing: &text, begun: stands, reader }, at(0));
        let rests = again.step == Step::Keep || (again.step == Step::Withdraw && !stands);
        prop_assert!(rests, "{:?} then {:?}", decision, again);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However many CAs renew their lists whenever they like: the text is written at most once in a quarter of a list's life, and none in it
    /// ever comes near its end.
    #[test]
    fn a_text_is_not_written_for_each_list_that_is_renewed(
        phases in proptest::collection::vec(0..LIFE / 2, 1..12),
    ) {
        let met: BTreeSet<String> = (0..phases.len()).map(|index| format!("ca{index:02}")).collect();
        let mut standing = Lists::new();
        let (mut writes, days) = (0, 60);
        for hour in (0..days * 24).step_by(6) {
            let known: Lists = met.iter().zip(&phases).map(|(ca, phase)| {
                let round = (hour + phase) / (LIFE / 2);
                let made = round * (LIFE / 2) - phase;
                let serials = set(&["7"]);
                let list = List { number: u64::try_from(round).unwrap(), from: at(made), until: at(made + LIFE), serials };
                (ca.clone(), list)
            }).collect();
            let begun = !standing.is_empty();
            let case = Case { met: &met, known: &known, standing: &standing, begun, reader: Reader::Proxies };
            let step = decide(case, at(hour)).step;
            writes += i64::from(step != Step::Keep);
            standing = after(&step, &known, &standing);
            prop_assert!(standing.values().all(|list| list.until.duration_since(at(hour)) > SignedDuration::from_hours(24)));
        }
        prop_assert!(writes <= 1 + days * 24 / (LIFE / 4), "{writes} writes");
    }
}
