//! Tests of the state machine.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{Answer, Change, Family, GIVE_UP, Known, Miss, Pace, STALE_AFTER, State};

fn start() -> Timestamp {
    Timestamp::from_second(1_795_233_600).unwrap()
}

fn set(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn found(texts: &[&str]) -> Answer {
    Answer::Addresses {
        addresses: set(texts),
        ttl: Duration::from_mins(1),
    }
}

/// A name with one good IPv4 address and an honestly empty IPv6 answer.
fn v4_only() -> Known {
    let mut known = Known::default();
    assert_eq!(
        known.observe(Family::V4, found(&["192.0.2.1"]), start()),
        Change::Addresses
    );
    assert_eq!(
        known.observe(Family::V6, Answer::Miss(Miss::NoData), start()),
        Change::Nothing
    );
    known
}

fn later(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

#[test]
fn nothing_is_known_before_the_first_answer() {
    let known = Known::default();
    assert_eq!(
        (known.state(), known.addresses().len()),
        (State::Unknown, 0)
    );
    assert_eq!(
        known.next_refresh(Pace::default(), 0.0),
        Pace::default().min
    );
}

#[test]
fn a_name_with_ipv4_only_is_fresh_and_stays_so() {
    let mut known = v4_only();
    for round in 1..100 {
        assert_eq!(
            known.observe(Family::V4, found(&["192.0.2.1"]), later(round * 60)),
            Change::Nothing
        );
        assert_eq!(
            known.observe(Family::V6, Answer::Miss(Miss::NoData), later(round * 60)),
            Change::Nothing
        );
        assert_eq!(known.state(), State::Fresh);
    }
}

/// The hazard of resolvers that judge both families together: A fails for a moment, AAAA is honestly empty.
#[test]
fn a_failing_a_beside_an_empty_aaaa_takes_nothing_away() {
    for miss in [Miss::ServFail, Miss::Timeout, Miss::NxDomain, Miss::NoData] {
        let mut known = v4_only();
        for round in 1..10 {
            known.observe(Family::V4, Answer::Miss(miss), later(round * 30));
            known.observe(Family::V6, Answer::Miss(Miss::NoData), later(round * 30));
            assert_eq!(known.addresses(), set(&["192.0.2.1"]), "{miss:?}");
        }
    }
}

#[test]
fn a_changed_answer_replaces_at_once() {
    let mut known = v4_only();
    assert_eq!(
        known.observe(Family::V4, found(&["192.0.2.2", "192.0.2.3"]), later(60)),
        Change::Addresses
    );
    assert_eq!(known.addresses(), set(&["192.0.2.2", "192.0.2.3"]));
}

#[test]
fn addresses_are_stale_after_three_misses_and_recover_with_one_answer() {
    let mut known = v4_only();
    assert_eq!(
        known.observe(Family::V4, Answer::Miss(Miss::ServFail), later(60)),
        Change::Nothing
    );
    assert_eq!(
        known.observe(Family::V4, Answer::Miss(Miss::Timeout), later(90)),
        Change::Nothing
    );
    assert_eq!(
        known.observe(Family::V4, Answer::Miss(Miss::Timeout), later(120)),
        Change::State
    );
    assert_eq!(
        known.state(),
        State::Stale {
            since: later(60),
            miss: Miss::Timeout
        }
    );
    // The state does not change with time alone.
    assert_eq!(
        known.observe(Family::V4, Answer::Miss(Miss::Timeout), later(150)),
        Change::Nothing
    );
    assert_eq!(
        known.observe(Family::V4, found(&["192.0.2.1"]), later(180)),
        Change::State
    );
    assert_eq!(known.state(), State::Fresh);
}

#[test]
fn silence_takes_nothing_away_ever() {
    let mut known = v4_only();
    for day in 1..30 {
        known.observe(Family::V4, Answer::Miss(Miss::Timeout), later(day * 86_400));
        known.observe(
            Family::V6,
            Answer::Miss(Miss::ServFail),
            later(day * 86_400),
        );
    }
    assert_eq!(known.addresses(), set(&["192.0.2.1"]));
}

#[test]
fn a_denial_is_believed_after_a_day() {
    let day = GIVE_UP.as_secs();
    for denial in [
        Answer::Miss(Miss::NxDomain),
        Answer::Miss(Miss::NoData),
        found(&["127.0.0.1"]),
    ] {
        let mut known = v4_only();
        // A day of silence first does not count.
        known.observe(Family::V4, Answer::Miss(Miss::Timeout), later(60));
        known.observe(Family::V4, denial.clone(), later(60 + day));
        assert_eq!(known.addresses().len(), 1, "{denial:?}");
        known.observe(Family::V4, denial.clone(), later(59 + 2 * day));
        assert_eq!(known.addresses().len(), 1, "{denial:?}");
        // Silence at the end of the day does not decide either.
        known.observe(Family::V4, Answer::Miss(Miss::Timeout), later(61 + 2 * day));
        assert_eq!(known.addresses().len(), 1, "{denial:?}");
        assert_eq!(
            known.observe(Family::V4, denial.clone(), later(62 + 2 * day)),
            Change::Addresses
        );
        assert_eq!(known.addresses().len(), 0, "{denial:?}");
        assert!(matches!(known.state(), State::Unresolved(_)));
    }
}

#[test]
fn a_family_that_is_gone_while_the_other_answers_is_dropped_after_three_rounds() {
    let mut known = v4_only();
    known.observe(Family::V6, found(&["2001:db8::1"]), later(60));
    assert_eq!(known.addresses().len(), 2);
    for round in 1..=i64::from(STALE_AFTER) {
        assert_eq!(known.addresses().len(), 2);
        known.observe(Family::V4, found(&["192.0.2.1"]), later(60 + round * 60));
        known.observe(
            Family::V6,
            Answer::Miss(Miss::NoData),
            later(60 + round * 60),
        );
    }
    assert_eq!(known.addresses(), set(&["192.0.2.1"]));
    assert_eq!(known.state(), State::Fresh);
}

#[test]
fn refused_addresses_are_shown_and_never_used() {
    let mut known = Known::default();
    let change = known.observe(
        Family::V4,
        found(&["127.0.0.1", "192.0.2.1", "169.254.169.254"]),
        start(),
    );
    assert_eq!(change, Change::Addresses);
    assert_eq!(known.addresses(), set(&["192.0.2.1"]));
    assert_eq!(known.refused(), set(&["127.0.0.1", "169.254.169.254"]));
    assert_eq!(
        known.observe(Family::V4, found(&["192.0.2.1"]), later(60)),
        Change::State
    );
    assert_eq!(known.refused(), set(&[]));
    let mut known = Known::default();
    known.observe(Family::V4, found(&["127.0.0.1"]), start());
    known.observe(Family::V6, Answer::Miss(Miss::NoData), start());
    assert_eq!(
        (known.state(), known.refused()),
        (State::Unresolved(Miss::Refused), set(&["127.0.0.1"]))
    );
}

#[test]
fn addresses_of_the_other_family_are_not_taken() {
    let mut known = Known::default();
    known.observe(Family::V4, found(&["2001:db8::1"]), start());
    assert_eq!(
        (known.addresses().len(), known.state()),
        (0, State::Unresolved(Miss::NoData))
    );
}

#[test]
fn the_time_to_ask_again_follows_ttl_and_misses() {
    let pace = Pace::default();
    let seconds = |known: &Known, jitter| known.next_refresh(pace, jitter).as_secs_f64();
    let with_ttl = |ttl| {
        let mut known = Known::default();
        known.observe(
            Family::V4,
            Answer::Addresses {
                addresses: set(&["192.0.2.1"]),
                ttl: Duration::from_secs(ttl),
            },
            start(),
        );
        known.observe(Family::V6, Answer::Miss(Miss::NoData), start());
        known
    };
    for (ttl, wait) in [
        (0, 30.0),
        (30, 30.0),
        (60, 60.0),
        (300, 300.0),
        (u64::from(u32::MAX), 300.0),
    ] {
        assert!((seconds(&with_ttl(ttl), 0.0) - wait).abs() < 1e-6, "{ttl}");
    }
    assert!((seconds(&with_ttl(60), 1.0) - 66.0).abs() < 1e-6);
    assert!((seconds(&with_ttl(60), f64::NAN) - 60.0).abs() < 1e-6);
    let mut known = with_ttl(300);
    let waits: Vec<u64> = (1..8)
        .map(|round| {
            known.observe(Family::V4, Answer::Miss(Miss::ServFail), later(round));
            known.next_refresh(pace, 0.0).as_secs()
        })
        .collect();
    assert_eq!(waits, [2, 4, 8, 16, 30, 30, 30]);
    let mut known = Known::default();
    let waits: Vec<u64> = (1..11)
        .map(|round| {
            known.observe(Family::V4, Answer::Miss(Miss::NxDomain), later(round));
            known.observe(Family::V6, Answer::Miss(Miss::NxDomain), later(round));
            known.next_refresh(pace, 0.0).as_secs()
        })
        .collect();
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let address = prop_oneof![
        (0..4_u8).prop_map(|last| IpAddr::from([192, 0, 2, last])),
        (0..4_u16).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])),
        any::<[u8; 4]>().prop_map(IpAddr::from),
    ];
    let found =
        (prop::collection::btree_set(address, 0..4), 0..1000_u64).prop_map(|(addresses, ttl)| {
            Answer::Addresses {
                addresses,
                ttl: Duration::from_secs(ttl),
            }
        });
    let miss = prop::sample::select(vec![
        Miss::NxDomain,
        Miss::NoData,
        Miss::Refused,
        Miss::ServFail,
        Miss::Timeout,
    ]);
    prop_oneof![found, miss.prop_map(Answer::Miss)]
}

fn any_story() -> impl Strategy<Value = Vec<(bool, Answer, i64)>> {
    prop::collection::vec((any::<bool>(), any_answer(), 0..3600_i64), 1..40)
}

fn family(v4: bool) -> Family {
    if v4 { Family::V4 } else { Family::V6 }
}

proptest! {
    /// I3: within the day, no story makes a set empty that was not. I4: no refused address ever comes out.
    #[test]
    fn a_set_never_becomes_empty_within_the_day(story in any_story()) {
        let (mut known, mut had, mut now) = (Known::default(), false, start());
        for (v4, answer, wait) in story {
            now += SignedDuration::from_secs(wait.min(2000));
            known.observe(family(v4), answer, now);
            let addresses = known.addresses();
            prop_assert!(addresses.iter().all(|address| crate::check_address(*address).is_ok()));
            prop_assert!(!had || !addresses.is_empty());
            had = !addresses.is_empty();
        }
    }

    /// The change that is reported is the change that can be seen.
    #[test]
    fn changes_are_what_can_be_seen(story in any_story()) {
        let (mut known, mut now) = (Known::default(), start());
        for (v4, answer, wait) in story {
            now += SignedDuration::from_secs(wait * 10);
            let before = known.clone();
            let change = known.observe(family(v4), answer, now);
            let seen = if before.addresses() != known.addresses() {
                Change::Addresses
            } else if (before.state(), before.refused()) != (known.state(), known.refused()) {
                Change::State
            } else {
                Change::Nothing
            };
            prop_assert_eq!(change, seen);
            prop_assert_eq!(known.addresses().is_empty(), matches!(known.state(), State::Unknown | State::Unresolved(_)));
        }
    }

    /// A good answer is in force at once, whatever happened before, and silence changes no address.
    #[test]
    fn the_last_good_answer_is_in_force(story in any_story(), silence in 0..10_i64) {
        let (mut known, mut now) = (Known::default(), start());
        for (v4, answer, wait) in story {
            now += SignedDuration::from_secs(wait * 10);
            known.observe(family(v4), answer, now);
        }
        known.observe(Family::V4, found(&["198.51.100.7"]), now);
        let v4 = |known: &Known| known.addresses().into_iter().filter(IpAddr::is_ipv4).collect::<BTreeSet<_>>();
        prop_assert_eq!(v4(&known), set(&["198.51.100.7"]));
        for day in 0..silence {
            known.observe(Family::V4, Answer::Miss(Miss::Timeout), now + GIVE_UP * i32::try_from(day).unwrap());
        }
        prop_assert_eq!(v4(&known), set(&["198.51.100.7"]));
    }

    #[test]
    fn the_next_question_is_neither_at_once_nor_never(story in any_story(), jitter in any::<f64>()) {
        let (mut known, pace) = (Known::default(), Pace::default());
        for (v4, answer, wait) in story {
            known.observe(family(v4), answer, later(wait));
            let next = known.next_refresh(pace, jitter);
            prop_assert!(next >= pace.retry && next <= pace.max * 11 / 10, "{next:?}");
        }
    }
}
