//! The same for a probe from a pod with a sidecar of Istio: the sidecar takes the request as it leaves the pod, and goes straight to the
//! region's gateway.
//!
//! A sidecar adds no headers of ours to what it says itself, so its words are read. What comes from beyond it carries
//! `x-envoy-upstream-service-time`, unless the mesh is set not to show that.

use super::{
    Answer, Class, Failure, GATEWAY_HEADER, INTAKE_HEADER, NOT_GRANTED, failure, handshake, plain,
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
            format!("the name of the region's Service has no address: {}", plain(why)),
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
    if answer.is_refused_by_policy() {
        return failure(Class::Path, NOT_GRANTED);
    }
    if answer.header("x-envoy-upstream-service-time").is_some() {
        return beyond(answer);
    }
    match (answer.status, answer.body.trim()) {
        (404, "") => failure(
            Class::Sidecar,
            "the sidecar has no route to the region's Service",
        ),
        (502, "") => failure(
            Class::Sidecar,
            "the sidecar does not let the request out: see outboundTrafficPolicy and Sidecar objects",
        ),
        (503, _) => own_sidecar(answer),
        (504, _) => failure(
            Class::Deadline,
            "no answer from the region's gateway in time",
        ),
        (_, _) => beyond(answer),
    }
}

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
    let said = answer.body;
    let cause = cause(said);
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["TLS_error", "TLS error"]) {
        return handshake(said, &cause);
    }
    if says(&["no healthy upstream"]) {
        return failure(
            Class::Name,
            "the sidecar knows no address of the region's gateway, or none that works",
        );
    }
    if says(&["connection termination"]) {
        return failure(
            Class::Identity,
            "the region's gateway closed the connection after the handshake: it does not trust this member's certificate, or has no pod \
             behind the name",
        );
    }
    if says(&["connect error:", "connection failure", "connection timeout", "overflow"]) {
        return failure(
            Class::Connect,
            format!("the region's gateway takes no connection: {cause}"),
        );
    }
    failure(
        Class::Sidecar,
        format!("the sidecar answered {}: {cause}", answer.status),
    )
}

/// Why an Envoy got no answer: the last part of what it says. Before it stands whether it tried again, behind it which address it
/// tried: both may differ between two equal failures.
pub(super) fn cause(said: &str) -> String {
    let after = |text, mark| str::rsplit_once(text, mark).map(|(_, rest): (_, &str)| rest);
    let said = after(said, "transport failure reason: ")
        .or_else(|| after(said, "reset reason: "))
        .unwrap_or(said);
    let said = ["|remote address:", "|remote_address:"]
        .iter()
        .find_map(|mark| said.split_once(mark))
        .map_or(said, |(before, _)| before);
    plain(said)
}

#[cfg(test)]
mod tests;
