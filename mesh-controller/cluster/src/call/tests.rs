use super::*;

fn service(inner: impl StdError + Send + Sync + 'static) -> kube::Error {
    kube::Error::Service(Box::new(inner))
}

fn status(code: u16) -> kube::Error {
    kube::Error::Api(Box::new(Status {
        code,
        message: "said".to_owned(),
        ..Status::default()
    }))
}

#[test]
fn tells_failures_apart() {
    let tls = io::Error::other(rustls::Error::InvalidCertificate(
        rustls::CertificateError::UnknownIssuer,
    ));
    let cases = [
        (
            service(io::Error::from(io::ErrorKind::ConnectionRefused)),
            "ConnectionRefused",
        ),
        (
            service(io::Error::other(io::Error::from(io::ErrorKind::TimedOut))),
            "Timeout",
        ),
        (service(tls), "CertificateInvalid"),
        (status(401), "Unauthorized"),
        (status(403), "Forbidden"),
        (status(404), "NotFound"),
        (status(409), "Conflict"),
        (status(503), "ServerError"),
    ];
    for (error, reason) in cases {
        assert_eq!(trouble(&error).reason(), reason, "{error}");
    }
}

#[test]
fn says_verb_object_and_cause() {
    let error = CallError::Api {
        verb: "apply",
        object: "Service kof/a".to_owned(),
        source: Box::new(status(403)),
    };
    assert_eq!(
        error.obstacle(),
        Obstacle::new("Forbidden", "failed to apply Service kof/a: said")
    );
}

#[test]
fn says_the_same_of_the_same_failure_at_any_time() {
    let expired = |at: u64| {
        let time = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(at));
        let not_after = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(5));
        let error = rustls::CertificateError::ExpiredContext { time, not_after };
        let source = service(io::Error::other(rustls::Error::InvalidCertificate(error)));
        CallError::Api {
            verb: "get",
            object: "x".to_owned(),
            source: Box::new(source),
        }
        .obstacle()
    };
    assert_eq!(expired(10), expired(20));
    assert!(expired(10).message.contains("expired"), "{:?}", expired(10));
}

#[tokio::test(start_paused = true)]
async fn gives_up_on_a_server_that_never_answers() {
    let error = call("get", "x", std::future::pending::<kube::Result<()>>())
        .await
        .unwrap_err();
    assert_eq!(error.trouble(), Trouble::Timeout);
}
