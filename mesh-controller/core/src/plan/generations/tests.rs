use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3600;

fn at(hours: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + hours * HOUR).unwrap()
}

/// Lives from `from` on, in hours.
fn anchor(generation: u32, from: i64, to: i64) -> Anchor {
    Anchor {
        generation,
        certificate: format!("c{generation}"),
        fingerprint: format!("f{generation}-{from}"),
        serial: format!("s{generation}-{from}"),
        not_before: at(from) - DATED_BACK,
        not_after: at(to),
    }
}

struct Case {
    signs: u32,
    held: Vec<Anchor>,
    revoked: BTreeSet<String>,
    accepted: BTreeSet<u32>,
    root_ends: Option<Timestamp>,
}

fn case(signs: u32, held: Vec<Anchor>) -> Case {
    Case {
        signs,
        held,
        revoked: BTreeSet::new(),
        accepted: BTreeSet::new(),
        root_ends: Some(at(100_000)),
    }
}

impl Case {
    fn at(&self, hours: i64) -> Generations {
        let known = Known {
            signs: self.signs,
            held: &self.held,
            revoked: &self.revoked,
            accepted: &self.accepted,
            root_ends: self.root_ends,
            seed: "child1",
        };
        generations(known, at(hours))
    }

    fn pair(&self, hours: i64) -> (u32, Option<u32>) {
        let it = self.at(hours);
        (it.sign, it.prepare)
    }
}

#[test]
fn the_next_is_prepared_at_two_thirds_and_signed_with_when_everybody_has_it() {
    let mut case = case(1, vec![anchor(1, 0, 300)]);
    assert_eq!(case.pair(0), (1, None));
    assert_eq!(case.pair(179), (1, None));
    assert_eq!(case.pair(201), (1, Some(2)));
    let wake = case.at(0).wake_at.unwrap();
    assert!(wake >= at(180) && wake <= at(200), "{wake}");
    assert_eq!(
        case.pair((wake.as_second() - at(0).as_second()) / HOUR + 1),
        (1, Some(2))
    );
    case.held.insert(0, anchor(2, 201, 501));
    assert_eq!(case.pair(202), (1, Some(2)), "not every peer has it");
    case.accepted.insert(2);
    assert_eq!(case.pair(202), (2, None));
    assert_eq!(case.at(202).emergency, None);
    case.signs = 2;
    assert_eq!(case.pair(203), (2, None), "the old one may still be held");
    case.accepted.clear();
    assert_eq!(case.pair(203), (2, None), "a new peer takes nothing back");
    case.held.pop();
    assert_eq!(case.pair(203), (2, None));
}

#[test]
fn a_peer_that_is_away_delays_the_switch_until_the_last_tenth() {
    let case = case(1, vec![anchor(2, 201, 501), anchor(1, 0, 300)]);
    assert_eq!(case.pair(269), (1, Some(2)));
    let late = case.at(270);
    assert_eq!((late.sign, late.prepare), (2, None));
    assert_eq!(late.emergency, Some(Emergency::Ends));
    assert_eq!(case.at(400).sign, 2, "it ended meanwhile");
}

#[test]
fn a_revoked_one_is_replaced_at_once() {
    let mut case = case(1, vec![anchor(1, 0, 300)]);
    case.revoked.insert("s1-0".to_owned());
    assert_eq!(case.pair(1), (1, Some(2)));
    assert_eq!(case.at(1).emergency, Some(Emergency::Revoked));
    case.held.insert(0, anchor(2, 1, 301));
    assert_eq!(case.pair(1), (2, None));
    // The prepared one was revoked: another is prepared, and it is not signed with.
    case.revoked = BTreeSet::from(["s2-1".to_owned()]);
    assert_eq!(case.pair(1), (1, None));
    assert_eq!(case.pair(250), (1, Some(3)));
    case.accepted = BTreeSet::from([2]);
    assert_eq!(case.pair(250), (1, Some(3)));
}

#[test]
fn nothing_is_prepared_that_would_not_live_longer() {
    let mut case = case(1, vec![anchor(1, 0, 300)]);
    case.root_ends = Some(at(310));
    assert_eq!(case.pair(250), (1, None));
    case.root_ends = None;
    assert_eq!(case.pair(250), (1, Some(2)));
}

#[test]
fn who_has_nothing_begins_with_the_first() {
    assert_eq!(case(0, Vec::new()).pair(0), (1, None));
    assert_eq!(case(4, Vec::new()).pair(0), (4, None));
    assert_eq!(
        case(u32::MAX, vec![anchor(u32::MAX, 0, 3)]).pair(5),
        (u32::MAX, None)
    );
}

#[test]
fn members_do_not_renew_together() {
    let anchor = anchor(1, 0, 720);
    let due: BTreeSet<Timestamp> = (0..50)
        .map(|n| due(&anchor, &format!("child{n}")))
        .collect();
    assert!(due.len() > 25, "{}", due.len());
    assert!(due.iter().all(|at_| *at_ >= at(432) && *at_ <= at(480)));
}

fn some_anchor() -> impl Strategy<Value = Anchor> {
    (0_u32..5, -500_i64..500, 0_i64..800)
        .prop_map(|(generation, from, life)| anchor(generation, from, from + life))
}

proptest! {
    #[test]
    fn never_goes_back_and_never_outruns_the_peers(
        signs in 0_u32..5,
        held in prop::collection::vec(some_anchor(), 0..6),
        revoked in prop::collection::btree_set(0_usize..6, 0..3),
        accepted in prop::collection::btree_set(0_u32..6, 0..6),
        root in prop::option::of(-100_i64..1000),
        hours in -600_i64..1400,
    ) {
        let revoked: BTreeSet<String> = revoked
            .into_iter()
            .filter_map(|at| held.get(at))
            .map(|anchor| anchor.serial.clone())
            .collect();
        let case = Case { signs, held, revoked, accepted, root_ends: root.map(at) };
        let it = case.at(hours);
        let signs = signs.max(1);
        prop_assert!(it.sign >= signs, "never goes back");
        prop_assert!(it.prepare.is_none_or(|next| next > it.sign));
        if it.sign > signs {
            let usable: Vec<&Anchor> = case.held.iter().filter(|a| a.generation == it.sign).collect();
            prop_assert!(usable.iter().any(|a| a.not_after > at(hours)), "it is held");
            prop_assert!(usable.iter().all(|a| !case.revoked.contains(&a.serial)), "it is not revoked");
            let old: Vec<&Anchor> = case.held.iter().filter(|a| a.generation == signs).collect();
            let last = old.iter().max_by_key(|a| a.not_after);
            let over = last.is_none_or(|a| at(hours) >= last_tenth(a));
            let revoked = old.iter().any(|a| case.revoked.contains(&a.serial));
            prop_assert!(case.accepted.contains(&it.sign) || over || revoked, "peers have it, or it is an emergency");
        }
        prop_assert_eq!(&it, &case.at(hours));
    }
}
