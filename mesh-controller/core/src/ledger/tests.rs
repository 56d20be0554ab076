use proptest::prelude::*;

use super::*;

const G1: Pair = Pair {
    signer: 1,
    bundle: 0,
};
const G2: Pair = Pair {
    signer: 2,
    bundle: 0,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn clock(second: i64) -> Clock {
    Clock::new(at(second), SignedDuration::from_mins(2))
}

fn ledger(entries: &[(Pair, i64)]) -> Ledger {
    entries
        .iter()
        .map(|(pair, end)| (*pair, at(*end)))
        .collect()
}

#[test]
fn is_ahead_and_seldom_moves() {
    let minute = SignedDuration::from_mins(1);
    let day = SignedDuration::from_hours(24);
    for (life, stride) in [(minute, 6 * 3600), (day, 24 * 3600)] {
        for (rule, room) in [
            (ahead as fn(_, _) -> _, 0),
            (far_ahead, (2 * life.as_secs()).max(6 * 3600)),
        ] {
            let mut said = Vec::new();
            for second in (0..10 * 24 * 3600).step_by(31) {
                let end = at(second) + life;
                let until: Timestamp = rule(end, life);
                let further = until.duration_since(end).as_secs();
                assert!(further > room && further <= room + stride, "{further}");
                if said.last() != Some(&until) {
                    said.push(until);
                }
            }
            assert!(i64::try_from(said.len()).unwrap() <= 10 * 24 * 3600 / stride + 1);
        }
    }
}

#[test]
fn clocks_may_differ_by_twice_the_backdate_and_ten_minutes_at_least() {
    for (backdate, skew) in [(0, 600), (120, 600), (1800, 3600)] {
        let clock = |second| Clock::new(at(second), SignedDuration::from_secs(backdate));
        assert!(!clock(skew).is_past(at(0)));
        assert!(clock(skew + 1).is_past(at(0)));
        assert!(!clock(0).is_past(Timestamp::MAX));
    }
}

#[test]
fn a_replica_goes_on_saying_what_an_earlier_life_said() {
    let before = ledger(&[(G1, 5000), (G2, -9999)]);
    let asked = ledger(&[(G1, 100), (G2, 7000)]);
    assert_eq!(
        to_write(&before, &asked, clock(0)),
        ledger(&[(G1, 5000), (G2, 7000)])
    );
    assert_eq!(
        to_write(&before, &Ledger::default(), clock(0)),
        ledger(&[(G1, 5000)]),
        "what is past goes"
    );
}

#[test]
fn a_dead_replicas_lines_are_taken_over_before_it_is_forgotten() {
    let dead = ledger(&[(G1, 5000), (G2, -9999)]);
    let survivor = ledger(&[(G1, 4999)]);
    assert_eq!(
        burial(&dead, &survivor, clock(0)),
        Burial::TakeOver(ledger(&[(G1, 5000)]))
    );
    assert_eq!(
        burial(&dead, &ledger(&[(G1, 5000)]), clock(0)),
        Burial::Forget
    );
    assert_eq!(burial(&dead, &survivor, clock(5601)), Burial::Forget);
}

#[test]
fn a_generation_is_over_when_no_replica_speaks_of_it_any_more() {
    let ledgers = [
        ledger(&[(G1, 100), (G2, 9000)]),
        ledger(&[(
            Pair {
                signer: 1,
                bundle: 7,
            },
            200,
        )]),
    ];
    assert!(!is_over(&ledgers, 1, clock(800)));
    assert!(is_over(&ledgers, 1, clock(801)));
    assert!(!is_over(&ledgers, 2, clock(801)));
    assert!(is_over(&ledgers, 3, clock(0)));
    assert!(is_over(&[], 1, clock(0)));
}

fn some_ledger() -> impl Strategy<Value = Ledger> {
    prop::collection::vec((0_u32..3, 0_u32..3, -5000_i64..5000), 0..6).prop_map(|lines| {
        lines
            .into_iter()
            .map(|(signer, bundle, end)| (Pair { signer, bundle }, at(end)))
            .collect()
    })
}

proptest! {
    #[test]
    fn nothing_that_is_alive_is_ever_lost(a in some_ledger(), b in some_ledger(), now in -6000_i64..6000) {
        let written = to_write(&a, &b, clock(now));
        prop_assert!(written.includes(&a.alive(clock(now))));
        prop_assert!(written.includes(&b.alive(clock(now))));
        // Who takes over what it is told to may forget the rest.
        let survivor = match burial(&a, &b, clock(now)) {
            Burial::Forget => b,
            Burial::TakeOver(lines) => to_write(&b, &lines, clock(now)),
        };
        prop_assert!(survivor.includes(&a.alive(clock(now))));
        prop_assert_eq!(burial(&a, &survivor, clock(now)), Burial::Forget);
    }

    #[test]
    fn over_means_that_nothing_covers_a_living_leaf(a in some_ledger(), b in some_ledger(), now in -6000_i64..6000, signer in 0_u32..3) {
        let alive = |ledger: &Ledger| (0..3).any(|bundle| ledger.covers(Pair { signer, bundle }, at(now)));
        if is_over(&[a.clone(), b.clone()], signer, clock(now)) {
            prop_assert!(!alive(&a) && !alive(&b));
        }
    }

    #[test]
    fn writing_ahead_is_total(end in prop::num::i64::ANY, life in prop::num::i64::ANY) {
        let end = Timestamp::from_second(end.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second())).unwrap();
        let life = SignedDuration::from_secs(life);
        prop_assert!(ahead(end, life) >= end);
        prop_assert!(far_ahead(end, life) >= end);
    }
}
