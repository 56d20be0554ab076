use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn rules(policy: Policy) -> Rules {
    Rules {
        policy,
        after: Lifetime::from_secs(60),
        return_after: Lifetime::from_secs(20),
    }
}

/// Looks every five seconds, from and to these, each end included.
fn looks(mut peer: Peer, rules: &Rules, (from, to): (i64, i64), look: (Verdict, bool)) -> Peer {
    let (verdict, beside) = look;
    for second in (from..=to).step_by(5) {
        peer = peer.step(Look { verdict, beside }, at(second), rules);
    }
    peer
}

const ANSWERS: (Verdict, bool) = (Verdict::Answers, true);
const SILENT: (Verdict, bool) = (Verdict::Silent, true);
const UNCLEAR: (Verdict, bool) = (Verdict::Unclear, true);
/// Nobody else answers either.
const ALONE: (Verdict, bool) = (Verdict::Silent, false);

#[expect(clippy::unnecessary_wraps, reason = "it stands where a word stands")]
fn dead(since: i64, withdrawn: bool) -> Option<Dead> {
    let since = at(since);
    Some(Dead { since, withdrawn })
}

/// Alive until 0, then silent from 5 on until dead and withdrawn at 65.
fn gone(rules: &Rules) -> Peer {
    let peer = looks(Peer::Unknown, rules, (0, 0), ANSWERS);
    looks(peer, rules, (5, 65), SILENT)
}

#[test]
fn a_region_is_dead_after_so_long_and_what_is_done_then_is_the_policy() {
    for (policy, then) in [
        (Policy::Keep, None),
        (Policy::Mark, dead(5, false)),
        (Policy::Withdraw, dead(5, true)),
    ] {
        let rules = rules(policy);
        let before = looks(Peer::Alive, &rules, (5, 60), SILENT);
        assert_eq!(before.dead(), None, "{policy:?}: too soon");
        assert_eq!(gone(&rules).dead(), then, "{policy:?}");
    }
}

#[test]
fn a_break_in_the_silence_begins_it_anew() {
    let rules = rules(Policy::Withdraw);
    let peer = looks(Peer::Alive, &rules, (5, 60), SILENT);
    let peer = looks(peer, &rules, (62, 62), ANSWERS);
    assert_eq!(peer, Peer::Alive);
    let peer = looks(peer, &rules, (65, 120), SILENT);
    assert_eq!(peer.dead(), None);
    assert_eq!(
        looks(peer, &rules, (125, 125), SILENT).dead(),
        dead(65, true)
    );
}

#[test]
fn what_is_withdrawn_comes_back_after_so_long_without_a_break() {
    let rules = rules(Policy::Withdraw);
    let peer = looks(gone(&rules), &rules, (70, 85), ANSWERS);
    assert_eq!(peer.dead(), dead(5, true), "too soon");
    for broken in [SILENT, UNCLEAR, ALONE] {
        let peer = looks(peer, &rules, (88, 88), broken);
        let peer = looks(peer, &rules, (90, 105), ANSWERS);
        assert_eq!(peer.dead(), dead(5, true), "{broken:?} is a break");
        assert_eq!(looks(peer, &rules, (110, 110), ANSWERS), Peer::Alive);
    }
    assert_eq!(looks(peer, &rules, (90, 90), ANSWERS), Peer::Alive);
}

#[test]
fn nothing_is_withdrawn_unless_another_answered_for_as_long() {
    let rules = rules(Policy::Withdraw);
    let peer = looks(Peer::Alive, &rules, (5, 600), ALONE);
    assert_eq!(peer.dead(), dead(5, false), "it is told all the same");
    // The others are back first: that alone says nothing about this one.
    let peer = looks(peer, &rules, (605, 660), SILENT);
    assert_eq!(peer.dead(), dead(5, false));
    let lonely = looks(peer, &rules, (662, 662), ALONE);
    assert_eq!(
        looks(lonely, &rules, (665, 720), SILENT).dead(),
        dead(5, false)
    );
    assert_eq!(
        looks(peer, &rules, (665, 665), SILENT).dead(),
        dead(5, true)
    );
}

#[test]
fn what_is_withdrawn_stays_so_when_the_others_fail_too() {
    let rules = rules(Policy::Withdraw);
    let peer = looks(gone(&rules), &rules, (70, 600), ALONE);
    assert_eq!(peer.dead(), dead(5, true));
    let alone = (Verdict::Answers, false);
    let peer = looks(peer, &rules, (605, 625), alone);
    assert_eq!(peer, Peer::Alive, "its own answers are enough");
}

#[test]
fn only_silence_is_evidence() {
    let of = |class: Class| {
        let message = String::new();
        Verdict::from(&Err(Failure { class, message }))
    };
    let silent = Class::ALL.map(of).map(|it| it == Verdict::Silent);
    let said: Vec<&str> = Class::ALL
        .iter()
        .zip(silent)
        .filter(|(_, silent)| *silent)
        .map(|(class, _)| class.as_str())
        .collect();
    assert_eq!(
        said,
        [
            "NameUnresolved",
            "ConnectFailed",
            "TlsFailed",
            "ServerIdentityRefused",
            "DeadlineExceeded"
        ]
    );
    assert_eq!(Verdict::from(&Ok(())), Verdict::Answers);
    assert!(Class::ALL.map(of).iter().all(|it| *it != Verdict::Answers));
    let rules = rules(Policy::Withdraw);
    for from in [Peer::Unknown, Peer::Alive] {
        let peer = looks(from, &rules, (5, 600), UNCLEAR);
        assert_eq!(
            peer,
            Peer::Unknown,
            "one that refuses does not vouch for others"
        );
    }
    // Some of it in between is no answer, and no silence either.
    let peer = looks(Peer::Alive, &rules, (5, 30), SILENT);
    let peer = looks(peer, &rules, (35, 40), UNCLEAR);
    let short = looks(peer, &rules, (45, 65), SILENT);
    assert_eq!(short.dead(), dead(5, true));
    let long = looks(peer, &rules, (45, 55), UNCLEAR);
    let long = looks(long, &rules, (60, 115), SILENT);
    assert_eq!(
        long.dead(),
        None,
        "half a minute without evidence is a break"
    );
}

#[test]
fn a_process_that_was_stopped_has_seen_nothing() {
    let rules = rules(Policy::Withdraw);
    let failing = looks(Peer::Alive, &rules, (5, 10), SILENT);
    let woken = looks(failing, &rules, (610, 665), SILENT);
    assert_eq!(woken.dead(), None);
    let returning = looks(gone(&rules), &rules, (70, 75), ANSWERS);
    assert!(
        looks(returning, &rules, (600, 610), ANSWERS)
            .dead()
            .is_some()
    );
}

#[test]
fn a_restart_withdraws_nothing_and_gives_nothing_back() {
    let rules = rules(Policy::Withdraw);
    let cold = looks(Peer::start(None, at(0)), &rules, (5, 60), SILENT);
    assert_eq!(cold.dead(), None);
    for withdrawn in [false, true] {
        let before = dead(-500, withdrawn);
        let peer = Peer::start(before, at(0));
        assert_eq!(peer.dead(), before);
        assert_eq!(looks(peer, &rules, (5, 60), SILENT).dead(), before);
        assert_eq!(looks(peer, &rules, (5, 20), ANSWERS).dead(), before);
        assert_eq!(looks(peer, &rules, (5, 25), ANSWERS), Peer::Alive);
    }
}

#[test]
fn another_policy_holds_from_the_next_look_on() {
    let withdraw = rules(Policy::Withdraw);
    for step in [SILENT, ANSWERS] {
        let peer = looks(gone(&withdraw), &rules(Policy::Mark), (70, 70), step);
        assert_eq!(peer.dead(), dead(5, false), "{step:?}");
        let peer = looks(gone(&withdraw), &rules(Policy::Keep), (70, 70), step);
        assert_eq!(peer, Peer::Unknown);
    }
    let marked = gone(&rules(Policy::Mark));
    let peer = looks(marked, &withdraw, (70, 70), SILENT);
    assert_eq!(peer.dead(), dead(5, true));
    let peer = looks(marked, &withdraw, (70, 75), ANSWERS);
    assert_eq!(
        peer.dead(),
        dead(5, false),
        "one that answers is not taken away"
    );
}

#[test]
fn all_must_agree() {
    let (soon, late) = (dead(5, true), dead(9, true));
    assert_eq!(agreed([]), None);
    assert_eq!(agreed([soon]), soon);
    assert_eq!(agreed([soon, late]), late);
    assert_eq!(agreed([late, soon]), late);
    assert_eq!(agreed([soon, dead(1, false)]), dead(5, false));
    assert_eq!(agreed([soon, None]), None);
    assert_eq!(agreed([None, soon]), None);
}

#[derive(Clone, Debug)]
struct Minute {
    /// Seconds between two looks.
    pause: i64,
    verdicts: Vec<Verdict>,
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        5 => Just(Verdict::Silent),
        4 => Just(Verdict::Answers),
        1 => Just(Verdict::Unclear),
    ]
}

/// Long stretches of the same: else nothing is ever dead.
fn stretches(regions: usize) -> impl Strategy<Value = Vec<(usize, Minute)>> {
    let minute = (1_i64..40, proptest::collection::vec(verdict(), regions))
        .prop_map(|(pause, verdicts)| Minute { pause, verdicts });
    proptest::collection::vec((1_usize..30, minute), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Regions as one pod sees them, whatever happens to them: what the rules promise.
    #[test]
    fn whatever_happens(
        regions in 1_usize..4,
        stretches in stretches(3),
        withdraws in any::<bool>(),
    ) {
        let rules = rules(if withdraws { Policy::Withdraw } else { Policy::Mark });
        let (after, back) = (rules.after.signed(), rules.return_after.signed());
        let mut peers: BTreeMap<usize, Peer> = (0..regions).map(|n| (n, Peer::Unknown)).collect();
        let mut now = at(0);
        // Of each region: since when it is seen silent, or answering, and when its endpoints last came or went.
        let mut silent: BTreeMap<usize, Timestamp> = BTreeMap::new();
        let mut answers: BTreeMap<usize, Timestamp> = BTreeMap::new();
        let mut moved: BTreeMap<usize, Timestamp> = BTreeMap::new();
        for (count, minute) in stretches {
            for _ in 0..count {
                now += SignedDuration::from_secs(minute.pause);
                for region in 0..regions {
                    let verdict = minute.verdicts[region];
                    let beside = peers
                        .iter()
                        .any(|(other, peer)| *other != region && *peer == Peer::Alive);
                    let before = peers[&region];
                    let after_it = before.step(Look { verdict, beside }, now, &rules);
                    peers.insert(region, after_it);
                    match verdict {
                        Verdict::Silent => { silent.entry(region).or_insert(now); }
                        Verdict::Answers => { silent.remove(&region); }
                        Verdict::Unclear => {}
                    }
                    match verdict {
                        Verdict::Answers => { answers.entry(region).or_insert(now); }
                        Verdict::Silent | Verdict::Unclear => { answers.remove(&region); }
                    }
                    let is = |peer: Peer| peer.dead().is_some_and(|dead| dead.withdrawn);
                    if is(after_it) && !is(before) {
                        prop_assert!(beside, "while nobody else answers");
                        prop_assert!(now.duration_since(silent[&region]) >= after, "too soon");
                        prop_assert!(moved.insert(region, now).is_none_or(|then| now.duration_since(then) >= after));
                    }
                    if is(before) && !is(after_it) {
                        prop_assert!(now.duration_since(answers[&region]) >= back, "too soon back");
                        prop_assert!(moved.insert(region, now).is_none_or(|then| now.duration_since(then) >= back));
                    }
                }
                let withdrawn = peers.values().filter_map(Peer::dead).filter(|dead| dead.withdrawn).count();
                prop_assert!(withdrawn < regions, "the last one was withdrawn");
                prop_assert!(withdraws || withdrawn == 0);
            }
        }
    }
}
