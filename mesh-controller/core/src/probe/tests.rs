use super::*;

fn answer<'a>(status: u16, headers: &'a [(&'a str, &'a str)], body: &'a str) -> Seen<'a> {
    Seen::Answer(Answer {
        status,
        headers,
        body,
    })
}

fn class(seen: &Seen<'_>) -> Option<Class> {
    classify(seen).err().map(|failure| failure.class)
}

const THROUGH: (&str, &str) = ("x-envoy-upstream-service-time", "3");

#[test]
fn what_the_backend_says_proves_the_path() {
    for status in [200, 204, 301, 400, 401, 403, 404, 422, 429, 500] {
        assert_eq!(class(&answer(status, &[THROUGH], "")), None, "{status}");
    }
}

#[test]
fn what_the_gateway_says_in_its_stead_does_not() {
    assert_eq!(
        class(&answer(403, &[THROUGH, (REFUSED_HEADER, "path")], "")),
        Some(Class::Path)
    );
    for status in [502, 503, 504] {
        assert_eq!(
            class(&answer(status, &[THROUGH], "no healthy upstream")),
            Some(Class::Upstream)
        );
    }
}

#[test]
fn own_envoys_words() {
    let table = [
        (503, "no healthy upstream", Class::Name),
        (
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, transport failure reason: delayed connect error: Connection refused",
            Class::Connect,
        ),
        (
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
            Class::Connect,
        ),
        (
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, transport failure reason: TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed",
            Class::Tls,
        ),
        (
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
            Class::Identity,
        ),
        (404, "", Class::Intake),
        (500, "?", Class::Intake),
        (504, "upstream request timeout", Class::Deadline),
    ];
    for (status, body, expected) in table {
        assert_eq!(class(&answer(status, &[], body)), Some(expected), "{body}");
    }
    assert_eq!(class(&Seen::NoIntake), Some(Class::Intake));
    assert_eq!(class(&Seen::Nothing), Some(Class::Deadline));
}

#[test]
fn words_of_others_stay_on_one_short_line() {
    let body = format!("a\nb\r\u{7}{}", "x".repeat(5000));
    let failure = classify(&answer(500, &[], &body)).unwrap_err();
    assert!(failure.message.len() < 400);
    assert!(!failure.message.chars().any(char::is_control));
}

fn bad(class: Class, message: &str) -> Result<(), Failure> {
    Err(Failure {
        class,
        message: message.to_owned(),
    })
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

#[test]
fn the_first_result_is_believed_at_once() {
    for first in [Ok(()), bad(Class::Tls, "x")] {
        let mut track = Track::default();
        assert!(track.observe(first.clone(), at(0)));
        assert_eq!(
            track.state(),
            Some(&State {
                outcome: first,
                since: at(0)
            })
        );
    }
}

#[test]
fn one_bad_answer_changes_nothing_two_do() {
    let mut track = Track::default();
    track.observe(Ok(()), at(0));
    assert!(!track.observe(bad(Class::Connect, "a"), at(3)));
    assert!(!track.observe(Ok(()), at(6)));
    assert!(!track.observe(bad(Class::Connect, "a"), at(9)));
    assert!(
        !track.observe(bad(Class::Tls, "b"), at(12)),
        "they are not equal"
    );
    assert!(track.observe(bad(Class::Tls, "c"), at(15)));
    assert_eq!(track.state().unwrap().since, at(15));
    assert!(track.observe(Ok(()), at(18)), "one good answer is enough");
    assert_eq!(
        track.state(),
        Some(&State {
            outcome: Ok(()),
            since: at(18)
        })
    );
}

#[test]
fn a_path_that_is_down_tells_another_cause_once_and_keeps_its_date() {
    let mut track = Track::default();
    track.observe(bad(Class::Name, "a"), at(0));
    assert!(!track.observe(bad(Class::Connect, "b"), at(3)));
    assert!(track.observe(bad(Class::Connect, "b"), at(6)));
    assert_eq!(track.state().unwrap().since, at(0));
    // Words that alternate (two addresses, two texts) write nothing.
    for round in 0..20 {
        let words = if round % 2 == 0 { "c" } else { "d" };
        assert!(!track.observe(bad(Class::Connect, words), at(9 + round)));
    }
    for round in 0..20 {
        assert!(
            !track.observe(bad(Class::Connect, "b"), at(60 + round)),
            "nothing new"
        );
    }
}
