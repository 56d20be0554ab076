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
const GATEWAY: (&str, &str) = (GATEWAY_HEADER, "region1");

#[test]
fn what_the_backend_says_proves_the_path() {
    for status in [200, 204, 301, 400, 401, 403, 404, 422, 429] {
        assert_eq!(
            class(&answer(status, &[THROUGH, GATEWAY], "")),
            None,
            "{status}"
        );
        // A gateway of Istio does not tell who it is.
        assert_eq!(class(&answer(status, &[THROUGH], "")), None, "{status}");
    }
    for status in [500, 502, 503] {
        assert_eq!(
            class(&answer(status, &[THROUGH, GATEWAY], "")),
            Some(Class::Upstream),
            "{status}"
        );
    }
}

#[test]
fn what_the_gateway_says_in_its_stead_does_not() {
    let refused = [
        THROUGH,
        GATEWAY,
        (REFUSED_HEADER, "path"),
        (DETAIL_HEADER, "rbac_access_denied_matched_policy[none]"),
    ];
    assert_eq!(class(&answer(403, &refused, "")), Some(Class::Path));
    let lost = [
        THROUGH,
        GATEWAY,
        (DETAIL_HEADER, "route_not_found"),
        (FLAGS_HEADER, "NR"),
    ];
    assert_eq!(class(&answer(404, &lost, "")), Some(Class::Path));
    for (flags, detail) in [
        (
            "UF",
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
        ),
        ("UH", "no_healthy_upstream"),
    ] {
        let headers = [
            THROUGH,
            GATEWAY,
            (DETAIL_HEADER, detail),
            (FLAGS_HEADER, flags),
        ];
        let why = classify(&answer(503, &headers, "x")).unwrap_err();
        assert_eq!(why.class, Class::Upstream);
        assert!(!why.message.contains(['_', '{']), "{}", why.message);
    }
}

/// An Envoy of ours, and Istio's gateway with a sidecar behind it: what the sidecar says itself it marks with nothing but the name
/// of its program, and that only if it is not set otherwise.
#[test]
fn what_the_regions_sidecar_says_in_its_stead_does_not() {
    const ISTIO: (&str, &str) = ("server", "istio-envoy");
    let refused = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
                   transport failure reason: delayed connect error: Connection refused";
    for headers in [&[ISTIO][..], &[]] {
        let class = |status, body| class(&answer(status, headers, body));
        assert_eq!(class(403, "RBAC: access denied"), Some(Class::Path));
        assert_eq!(class(403, "wrong password"), None);
        assert_eq!(class(200, ""), None);
        assert_eq!(class(401, ""), None);
        assert_eq!(class(503, "no healthy upstream"), Some(Class::Upstream));
        let why = classify(&answer(503, headers, refused)).unwrap_err();
        assert_eq!(why.class, Class::Upstream);
        assert_eq!(
            why.message,
            "the region's sidecar does not reach its backend (503): delayed connect error: Connection refused"
        );
    }
    let own = [(INTAKE_HEADER, "child1")];
    assert_eq!(
        class(&answer(403, &own, "RBAC: access denied")),
        Some(Class::Intake),
        "nobody else says what the own Envoy says"
    );
}

/// As seen with Envoy 1.40 on both sides, one broken thing at a time.
#[expect(clippy::too_many_lines, reason = "one table")]
#[test]
fn own_envoys_words() {
    let table = [
        (
            "no gateway listens",
            "UF",
            "delayed_connect_error:_Connection_refused",
            Class::Connect,
        ),
        (
            "no route",
            "UF",
            "immediate_connect_error:_Network_is_unreachable|remote_address:192.0.2.99:15443",
            Class::Connect,
        ),
        (
            "the gateway has no chain for our SNI",
            "UF",
            "TLS_error:|33554536:system_library:OPENSSL_internal:Connection_reset_by_peer:TLS_error_end",
            Class::Identity,
        ),
        (
            "the gateway trusts another certificate for us, or expects another identity (TLS 1.3)",
            "UC",
            "",
            Class::Identity,
        ),
        (
            "the same with TLS 1.2",
            "UF",
            "TLS_error:|268436502:SSL_routines:OPENSSL_internal:SSLV3_ALERT_CERTIFICATE_UNKNOWN:TLS_error_end",
            Class::Identity,
        ),
        (
            "we trust another certificate",
            "UF",
            "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:_certificate_verification_error_at_depth_1:_unable_to_get_local_issuer_certificate:TLS_error_end",
            Class::Tls,
        ),
        (
            "we expect another identity",
            "UF",
            "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_SAN_matcher,_certificate_SANs_are_[spiffe://region1.mesh.test/ns/istio-system/sa/mesh-gateway]:TLS_error_end",
            Class::Server,
        ),
        ("no address", "UH", "", Class::Name),
        ("something else", "DC", "", Class::Intake),
    ];
    for (name, flags, tls, expected) in table {
        let headers = [
            (INTAKE_HEADER, "child1"),
            (FLAGS_HEADER, flags),
            (TLS_HEADER, tls),
            (DETAIL_HEADER, "x"),
        ];
        assert_eq!(class(&answer(503, &headers, "")), Some(expected), "{name}");
    }
    let host = [(INTAKE_HEADER, "child1"), (REFUSED_HEADER, "host")];
    assert_eq!(class(&answer(404, &host, "")), Some(Class::Intake));
    assert_eq!(
        class(&answer(504, &[(INTAKE_HEADER, "child1")], "")),
        Some(Class::Deadline)
    );
    assert_eq!(
        class(&answer(500, &[(INTAKE_HEADER, "child1")], "?")),
        Some(Class::Intake)
    );
    assert_eq!(class(&Seen::NoIntake), Some(Class::Intake));
    assert_eq!(class(&Seen::Nothing), Some(Class::Deadline));
}

#[test]
fn words_of_others_stay_on_one_short_line() {
    let body = format!("a\nb\r\u{7}{}", "x".repeat(5000));
    let own = [(INTAKE_HEADER, "child1")];
    let failure = classify(&answer(500, &own, &body)).unwrap_err();
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
