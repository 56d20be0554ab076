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

/// On whatever an own sidecar answers.
const OWN: (&str, &str) = ("server", "envoy");
const BEYOND: (&str, &str) = ("x-envoy-upstream-service-time", "3");

#[test]
fn what_the_backend_says_proves_the_path() {
    // As sidecars are, and in a mesh that hides what they are.
    for headers in [&[OWN, BEYOND][..], &[OWN], &[BEYOND], &[]] {
        for status in [200, 204, 301, 400, 401, 403, 422, 429] {
            assert_eq!(class(&answer(status, headers, "x")), None, "{status}");
        }
        for status in [500, 501] {
            let class = class(&answer(status, headers, "x"));
            assert_eq!(class, Some(Class::Upstream), "{status}");
        }
    }
    for (status, class_of_it) in [(404, None), (503, Some(Class::Upstream))] {
        assert_eq!(class(&answer(status, &[OWN, BEYOND], "")), class_of_it);
    }
    assert_eq!(class(&answer(404, &[OWN], "no such page")), None);
}

#[test]
fn what_the_regions_sidecar_says_in_its_stead_does_not() {
    let beyond = [OWN, BEYOND];
    let rbac = "RBAC: access denied";
    assert_eq!(class(&answer(403, &beyond, rbac)), Some(Class::Path));
    assert_eq!(class(&answer(403, &[OWN], rbac)), Some(Class::Path));
    for body in [
        "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, transport failure reason: \
         delayed connect error: Connection refused",
        "no healthy upstream",
    ] {
        let why = classify(&answer(503, &beyond, body)).unwrap_err();
        assert_eq!(why.class, Class::Upstream);
        assert!(
            why.message.starts_with("the region's sidecar"),
            "{}",
            why.message
        );
    }
}

/// The request reached somebody, and not by the way that is to be proved.
#[test]
fn an_answer_that_did_not_come_by_the_sidecar_proves_nothing() {
    for other in [
        ("server", "istio-envoy"),
        (GATEWAY_HEADER, "region1"),
        (INTAKE_HEADER, "child1"),
    ] {
        let headers = [other, BEYOND];
        assert_eq!(
            class(&answer(200, &headers, "")),
            Some(Class::Sidecar),
            "{other:?}"
        );
    }
    assert_eq!(class(&Seen::NoSidecar), Some(Class::Sidecar));
    assert_eq!(class(&Seen::Nothing), Some(Class::Deadline));
    assert_eq!(class(&Seen::NoName("no such host")), Some(Class::Name));
}

/// As seen with Istio 1.31 and Envoy 1.40, one broken thing at a time: status, body, flags, and what the transport said.
#[expect(clippy::too_many_lines, reason = "one table")]
#[test]
fn own_sidecars_headers() {
    const B1: &str = "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure";
    let table = [
        (
            "nobody listens",
            "URX,UF",
            "delayed_connect_error:_Connection_refused",
            Class::Connect,
        ),
        (
            "no such host",
            "URX,UF",
            "delayed_connect_error:_No_route_to_host",
            Class::Connect,
        ),
        (
            "no TLS there",
            "URX,UF",
            "TLS_error:|268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end",
            Class::Tls,
        ),
        (
            "its certificate is of another root",
            "URX,UF",
            "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:_certificate_verification_error_at_depth_1:_self_signed_certificate_in_certificate_chain:TLS_error_end",
            Class::Tls,
        ),
        (
            "another answers",
            "URX,UF",
            "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_SAN_matcher,_certificate_SANs_are_[spiffe://mesh.kof.internal/ns/kof/sa/vmauth]:TLS_error_end",
            Class::Server,
        ),
        (
            "the gateway does not know the name, or has no pod behind it",
            "URX,UF",
            "TLS_error:|33554536:system_library:OPENSSL_internal:Connection_reset_by_peer:TLS_error_end",
            Class::Identity,
        ),
        (
            "it does not take our certificate",
            "UC",
            "-",
            Class::Identity,
        ),
        ("no address", "UH", "-", Class::Name),
        ("something else", "DC", "-", Class::Sidecar),
    ];
    for (name, flags, tls, expected) in table {
        let headers = [
            OWN,
            (SIDECAR_HEADER, "1"),
            (FLAGS_HEADER, flags),
            (TLS_HEADER, tls),
        ];
        let why = classify(&answer(503, &headers, B1)).unwrap_err();
        assert_eq!(why.class, expected, "{name}");
        assert!(
            !why.message.contains("reset reason"),
            "{name}: {}",
            why.message
        );
        let elsewhere = format!("{tls}|remote_address:192.0.2.98:15443");
        let headers = [
            OWN,
            (SIDECAR_HEADER, "1"),
            (FLAGS_HEADER, flags),
            (TLS_HEADER, &elsewhere),
        ];
        let other = classify(&answer(503, &headers, B1));
        assert!(tls == "-" || other == Err(why), "{name}: {other:?}");
    }
    for (status, expected) in [
        (404, Class::Sidecar),
        (502, Class::Sidecar),
        (504, Class::Deadline),
    ] {
        let headers = [OWN, (SIDECAR_HEADER, "1")];
        assert_eq!(
            class(&answer(status, &headers, "x")),
            Some(expected),
            "{status}"
        );
    }
}

/// Without our headers: the words of Envoys that say more than newer ones.
#[expect(clippy::too_many_lines, reason = "one table")]
#[test]
fn own_sidecars_words() {
    const RETRIED: &str = "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: ";
    let table = [
        (
            "no gateway listens",
            "remote connection failure, transport failure reason: delayed connect error: Connection refused",
            Class::Connect,
        ),
        (
            "no route",
            "remote connection failure, transport failure reason: immediate connect error: Network is unreachable|remote address:192.0.2.99:15443",
            Class::Connect,
        ),
        ("it is silent", "connection timeout", Class::Connect),
        (
            "the gateway does not know the name",
            "remote connection failure, transport failure reason: TLS_error:|33554536:system library:OPENSSL_internal:Connection reset by peer:TLS_error_end",
            Class::Identity,
        ),
        (
            "it does not take our certificate (TLS 1.2)",
            "remote connection failure, transport failure reason: TLS_error:|268436502:SSL routines:OPENSSL_internal:SSLV3_ALERT_CERTIFICATE_UNKNOWN:TLS_error_end",
            Class::Identity,
        ),
        (
            "it does not take our certificate (TLS 1.3)",
            "connection termination",
            Class::Identity,
        ),
        (
            "its certificate is of another root",
            "remote connection failure, transport failure reason: TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: X509_verify_cert: certificate verification error at depth 1: unable to get local issuer certificate:TLS_error_end",
            Class::Tls,
        ),
        (
            "another answers",
            "remote connection failure, transport failure reason: TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: SAN matcher, certificate SANs are [spiffe://mesh.test/ns/kof/sa/other]:TLS_error_end",
            Class::Server,
        ),
        (
            "another answers, in the words of older Envoys",
            "remote connection failure, transport failure reason: TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify SAN list:TLS_error_end",
            Class::Server,
        ),
        (
            "it is not said why",
            "remote connection failure",
            Class::Connect,
        ),
        ("something else", "protocol error", Class::Sidecar),
    ];
    for (name, said, expected) in table {
        let body = format!("{RETRIED}{said}");
        let why = classify(&answer(503, &[OWN], &body)).unwrap_err();
        assert_eq!(why.class, expected, "{name}");
        // The same without a second attempt, and at another address.
        let first = format!(
            "upstream connect error or disconnect/reset before headers. reset reason: {}",
            said.replace("192.0.2.99", "192.0.2.98")
        );
        assert_eq!(classify(&answer(503, &[OWN], &first)), Err(why), "{name}");
    }
    let own = |status, body| class(&answer(status, &[OWN], body));
    assert_eq!(own(503, "no healthy upstream"), Some(Class::Name));
    assert_eq!(own(503, "?"), Some(Class::Sidecar));
    assert_eq!(own(504, "upstream request timeout"), Some(Class::Deadline));
    assert_eq!(own(404, ""), Some(Class::Sidecar));
    assert_eq!(own(502, ""), Some(Class::Sidecar));
}
