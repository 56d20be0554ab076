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
        assert!(why.message.starts_with("the region's sidecar"), "{}", why.message);
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
        assert_eq!(class(&answer(200, &headers, "")), Some(Class::Sidecar), "{other:?}");
    }
    assert_eq!(class(&Seen::NoSidecar), Some(Class::Sidecar));
    assert_eq!(class(&Seen::Nothing), Some(Class::Deadline));
    assert_eq!(class(&Seen::NoName("no such host")), Some(Class::Name));
}

/// Envoy's words for one broken thing at a time.
#[test]
fn own_sidecars_words() {
    const RETRIED: &str =
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: ";
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
