//! The same for a probe from a pod with a sidecar of Istio: the sidecar takes the request as it leaves the pod, and goes straight to the
//! region's gateway.
//!
//! What the sidecar says itself has headers of ours, by an `EnvoyFilter` for this pod: its own words are the same for a refused
//! connection, a certificate that is not trusted and a name that the gateway does not know. Without the filter less can be told.
//! What comes from beyond carries `x-envoy-upstream-service-time`, unless the mesh is set not to show that.

use super::{
    Answer, Class, FLAGS_HEADER, Failure, GATEWAY_HEADER, INTAKE_HEADER, NOT_GRANTED,
    SIDECAR_HEADER, TLS_HEADER, failure, handshake, plain,
};

/// What a probe saw.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// The region's Service has no address here: why.
    NoName(&'a str),
    /// An answer.
    Answer(Answer<'a>),
    /// Nobody took the connection, or it was broken without an answer. A sidecar takes every connection and answers every request.
    NoSidecar,
    /// Nothing within the deadline.
    Nothing,
}

/// Reads one probe.
///
/// # Errors
///
/// What stands in the way.
pub fn classify(seen: &Seen<'_>) -> Result<(), Failure> {
    match seen {
        Seen::NoName(why) => failure(
            Class::Name,
            format!(
                "the name of the region's Service has no address: {}",
                plain(why)
            ),
        ),
        Seen::NoSidecar => failure(
            Class::Sidecar,
            "no sidecar answers in the pod that asks: was it injected, and is container istio-proxy ready?",
        ),
        Seen::Nothing => failure(Class::Deadline, "no answer within the deadline"),
        Seen::Answer(answer) => read(answer),
    }
}

fn read(answer: &Answer<'_>) -> Result<(), Failure> {
    if is_past_the_sidecar(answer) {
        return failure(
            Class::Sidecar,
            "the request went by way of the Envoy beside the agent: the pod that asks has no sidecar, or its sidecar does not know the \
             region's Service",
        );
    }
    if answer.header(SIDECAR_HEADER).is_some() {
        return own_sidecar(answer);
    }
    if answer.is_refused_by_policy() {
        return failure(Class::Path, NOT_GRANTED);
    }
    if answer.header("x-envoy-upstream-service-time").is_some() {
        return beyond(answer);
    }
    match (answer.status, answer.body.trim()) {
        (404, "") => failure(Class::Sidecar, NO_ROUTE),
        (502, "") => failure(Class::Sidecar, NOT_OUT),
        (503, said) => by_words(said),
        (504, _) => failure(Class::Deadline, NOT_IN_TIME),
        (_, _) => beyond(answer),
    }
}

const NO_ROUTE: &str = "the sidecar has no route to the region's Service";
const NOT_OUT: &str =
    "the sidecar does not let the request out: see outboundTrafficPolicy and Sidecar objects";
const NOT_IN_TIME: &str = "no answer from the region's gateway in time";
const NO_ADDRESS: &str = "the sidecar knows no address of the region's gateway, or none that works";
const CLOSED: &str = "the region's gateway closed the connection after the handshake: the certificate of the sidecar is not trusted there";
/// Istio's gateway does not tell these apart: it knows servers' names and nobody who calls.
const ENDED: &str =
    "it does not open the Service to anybody, or no pod with a sidecar is ready behind it";

/// The own sidecar writes `server: envoy` over whatever was there; one that stands before a backend, `istio-envoy`. Our own Envoy
/// leaves that as it is, and puts its marks on what it says itself.
fn is_past_the_sidecar(answer: &Answer<'_>) -> bool {
    answer.header(INTAKE_HEADER).is_some()
        || answer.header(GATEWAY_HEADER).is_some()
        || answer.header("server") == Some("istio-envoy")
}

/// Said by the region's sidecar or its backend.
fn beyond(answer: &Answer<'_>) -> Result<(), Failure> {
    let status = answer.status;
    if answer.is_of_an_envoy() {
        return failure(
            Class::Upstream,
            format!(
                "the region's sidecar does not reach its backend ({status}): {}",
                cause(answer.body)
            ),
        );
    }
    if status >= 500 {
        return failure(
            Class::Upstream,
            format!("the backend behind the region's gateway answered {status}"),
        );
    }
    Ok(())
}

/// Said by the own sidecar: the request did not get out, or nothing came back.
fn own_sidecar(answer: &Answer<'_>) -> Result<(), Failure> {
    let said = answer.cause();
    let cause = cause(&said);
    let tls = answer.header(TLS_HEADER).unwrap_or_default();
    if tls.contains("TLS_error") {
        return handshake(tls, &cause, ENDED);
    }
    let flags = answer.header(FLAGS_HEADER).unwrap_or_default();
    let has = |flag: &str| flags.split(',').any(|it| it == flag);
    match answer.status {
        _ if has("UC") => failure(Class::Identity, CLOSED),
        _ if has("UH") => failure(Class::Name, NO_ADDRESS),
        _ if has("UF") || has("UO") => failure(
            Class::Connect,
            format!("the region's gateway takes no connection: {cause}"),
        ),
        404 => failure(Class::Sidecar, NO_ROUTE),
        502 => failure(Class::Sidecar, NOT_OUT),
        504 => failure(Class::Deadline, NOT_IN_TIME),
        status => failure(
            Class::Sidecar,
            format!("the sidecar answered {status}: {cause}"),
        ),
    }
}

/// The same without our headers. Newer Envoys do not say why a connection failed, older ones do.
fn by_words(said: &str) -> Result<(), Failure> {
    let cause = cause(said);
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["TLS_error", "TLS error"]) {
        return handshake(said, &cause, ENDED);
    }
    if says(&["no healthy upstream"]) {
        return failure(Class::Name, NO_ADDRESS);
    }
    if says(&["connection termination"]) {
        return failure(Class::Identity, CLOSED);
    }
    if says(&["connect error:", "connection timeout", "overflow"]) {
        return failure(
            Class::Connect,
            format!("the region's gateway takes no connection: {cause}"),
        );
    }
    if says(&["connection failure"]) {
        return failure(
            Class::Connect,
            "the region's gateway takes no connection, or the handshake with it fails; the sidecar does not say which: is EnvoyFilter \
             istio-system/mesh-probe there?",
        );
    }
    failure(Class::Sidecar, format!("the sidecar answered 503: {cause}"))
}

/// Why an Envoy got no answer: the last part of what it says. Before it stands whether it tried again, behind it which address it
/// tried: both may differ between two equal failures.
pub(super) fn cause(said: &str) -> String {
    let after = |text, mark| str::rsplit_once(text, mark).map(|(_, rest): (_, &str)| rest);
    let said = after(said, "transport failure reason: ")
        .or_else(|| after(said, "reset reason: "))
        .unwrap_or(said);
    // Behind the reason an Envoy may name the address.
    let marks = ["|remote address:", "|remote_address:"];
    let found = marks.iter().find_map(|mark| said.split_once(mark));
    plain(found.map_or(said, |(before, _)| before))
}

#[cfg(test)]
mod tests;
