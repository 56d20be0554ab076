//! How a probe is read: what one answer means, and when a path has changed its state.
//!
//! A probe is a real request through the member's own Envoy (`intake`) and the region's gateway to the
//! backend. Whatever the backend itself says, also "who are you" or "no such page", proves the path; only what
//! the two Envoys say in the backend's stead is a failure.
//!
//! Where the region's gateway is Istio's, the sidecar of the backend stands at its other end. What is asked from a pod that
//! has a sidecar itself is read by [`sidecar`].

pub mod sidecar;

use jiff::Timestamp;

use crate::facts::Obstacle;

/// Seconds between two probes of a path, before jitter.
pub const INTERVAL_SECS: u32 = 3;

/// Seconds after which a probe is given up.
pub const DEADLINE_SECS: u32 = 5;

// Headers by which the two Envoys say who answered, and why. `mesh-xds` writes them.

/// On every answer of a region's gateway: the region.
pub const GATEWAY_HEADER: &str = "x-kof-gateway";
/// On answers that the own Envoy gave itself: the own cluster.
pub const INTAKE_HEADER: &str = "x-kof-intake";
/// On answers that the sidecar of a probing pod gave itself: an `EnvoyFilter` of ours puts it there, with the three below.
pub const SIDECAR_HEADER: &str = "x-kof-sidecar";
/// What was refused: `path` or `host`.
pub const REFUSED_HEADER: &str = "x-kof-refused";
/// On answers that an Envoy gave itself: why, in its words.
pub const DETAIL_HEADER: &str = "x-kof-detail";
/// On answers that an Envoy gave itself: its response flags.
pub const FLAGS_HEADER: &str = "x-kof-flags";
/// On answers that the own Envoy gave itself: what the transport said.
pub const TLS_HEADER: &str = "x-kof-tls";

/// What stands in the way of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The Envoy beside the agent does not answer, or knows no such name yet.
    Intake,
    /// The pod that asks has no sidecar, or its sidecar does not answer, or does not know the name.
    Sidecar,
    /// The region's gateway has no address.
    Name,
    /// Its address does not take connections.
    Connect,
    /// Its certificate is not one that this member trusts.
    Tls,
    /// Its certificate is trusted, and names somebody else.
    Server,
    /// It does not trust this member.
    Identity,
    /// It knows this member and does not let it ask this.
    Path,
    /// It let the request in, and its backend did not answer.
    Upstream,
    /// Nothing came within the deadline.
    Deadline,
}

impl Class {
    /// All, in the order in which a request meets them.
    pub const ALL: [Self; 10] = [
        Self::Intake,
        Self::Sidecar,
        Self::Name,
        Self::Connect,
        Self::Tls,
        Self::Server,
        Self::Identity,
        Self::Path,
        Self::Upstream,
        Self::Deadline,
    ];

    /// As it stands in status and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intake => "IntakeNotReady",
            Self::Sidecar => "SidecarNotReady",
            Self::Name => "NameUnresolved",
            Self::Connect => "ConnectFailed",
            Self::Tls => "TlsFailed",
            Self::Server => "ServerIdentityRefused",
            Self::Identity => "IdentityRefused",
            Self::Path => "PathRefused",
            Self::Upstream => "UpstreamFailed",
            Self::Deadline => "DeadlineExceeded",
        }
    }
}

/// Why a path does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where it broke.
    pub class: Class,
    /// For a person. Holds nothing that differs between two equal failures.
    pub message: String,
}

impl From<Failure> for Obstacle {
    fn from(failure: Failure) -> Self {
        Self::new(failure.class.as_str(), failure.message)
    }
}

/// What a probe saw.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// An answer.
    Answer(Answer<'a>),
    /// The own Envoy took no connection, or broke it without an answer.
    NoIntake,
    /// Nothing within the deadline.
    Nothing,
}

/// An answer to a probe.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// Headers; names in lower case.
    pub headers: &'a [(&'a str, &'a str)],
    /// Beginning of the body.
    pub body: &'a str,
}

impl<'a> Answer<'a> {
    fn header(&self, name: &str) -> Option<&'a str> {
        let found = self
            .headers
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| *value);
        found.filter(|value| !value.is_empty() && *value != "-")
    }

    /// Whether it came from beyond the own Envoy, which marks all that it says itself. What is beyond need not be marked: a
    /// gateway of Istio says nothing, and what sidecars say of themselves is a setting.
    fn came_through(&self) -> bool {
        self.header(INTAKE_HEADER).is_none()
    }

    /// Whether the region's sidecar refused by its policies. It says so in these words and in no header.
    fn is_refused_by_policy(&self) -> bool {
        self.status == 403 && self.body.trim() == "RBAC: access denied"
    }

    /// Whether an Envoy says in its own words that it got no answer from whoever it asked.
    fn is_of_an_envoy(&self) -> bool {
        self.status >= 500
            && [
                "upstream connect error",
                "no healthy upstream",
                "upstream request timeout",
            ]
            .iter()
            .any(|words| self.body.starts_with(words))
    }

    /// Why an Envoy answered itself, in its words.
    fn cause(&self) -> String {
        let said = self
            .header(TLS_HEADER)
            .or_else(|| self.header(DETAIL_HEADER))
            .unwrap_or(self.body);
        let said = said
            .strip_prefix("upstream_reset_before_response_started")
            .unwrap_or(said);
        plain(said)
    }
}

/// An Envoy's words on one short line.
fn plain(said: &str) -> String {
    let plain = |c: char| {
        if c.is_control() || matches!(c, '_' | '{' | '}') {
            ' '
        } else {
            c
        }
    };
    let line: String = said.chars().map(plain).take(300).collect();
    line.trim().to_owned()
}

/// Reads one probe.
///
/// # Errors
///
/// What stands in the way.
pub fn classify(seen: &Seen<'_>) -> Result<(), Failure> {
    match seen {
        Seen::NoIntake => failure(
            Class::Intake,
            "the Envoy beside the agent does not answer on its intake",
        ),
        Seen::Nothing => failure(Class::Deadline, "no answer within the deadline"),
        Seen::Answer(answer) if answer.came_through() => beyond(answer),
        Seen::Answer(answer) => own_envoy(answer),
    }
}

fn failure(class: Class, message: impl Into<String>) -> Result<(), Failure> {
    Err(Failure {
        class,
        message: message.into(),
    })
}

/// A region in the Istio plane refused what was asked.
const NOT_GRANTED: &str = "a policy of the region does not let this member ask the probe's path: AuthorizationPolicy objects in its namespace kof, and \
     the contract of the mesh";

/// Said by the region's gateway or its backend.
fn beyond(answer: &Answer<'_>) -> Result<(), Failure> {
    let status = answer.status;
    if answer.header(REFUSED_HEADER).is_some() {
        return failure(
            Class::Path,
            "the region's gateway does not let this member ask the probe's path; see the contract of the mesh",
        );
    }
    if answer.is_refused_by_policy() {
        return failure(Class::Path, NOT_GRANTED);
    }
    if answer.header(GATEWAY_HEADER).is_none() && answer.is_of_an_envoy() {
        return failure(
            Class::Upstream,
            format!(
                "the region's sidecar does not reach its backend ({status}): {}",
                sidecar::cause(answer.body)
            ),
        );
    }
    match (answer.header(DETAIL_HEADER).is_some(), status) {
        (true, 404) => failure(
            Class::Path,
            "the region's gateway leads the probe's path nowhere",
        ),
        (true, _) => failure(
            Class::Upstream,
            format!(
                "the region's gateway does not reach its backend ({status}): {}",
                answer.cause()
            ),
        ),
        (false, 500..) => failure(
            Class::Upstream,
            format!("the backend behind the region's gateway answered {status}"),
        ),
        (false, _) => Ok(()),
    }
}

/// Said by the Envoy beside the agent: the request did not get out, or nothing came back.
fn own_envoy(answer: &Answer<'_>) -> Result<(), Failure> {
    let cause = answer.cause();
    let flags = answer.header(FLAGS_HEADER).unwrap_or_default();
    let tls = answer
        .header(TLS_HEADER)
        .filter(|text| text.contains("TLS_error"));
    if answer.status == 404 || answer.header(REFUSED_HEADER) == Some("host") {
        return failure(
            Class::Intake,
            "the Envoy beside the agent has no route to the region yet",
        );
    }
    if let Some(tls) = tls {
        return handshake(tls, &cause, "it does not know this member, or not yet");
    }
    match (answer.status, flags) {
        (_, "UC") => failure(
            Class::Identity,
            "the region's gateway closed the connection after the handshake: it does not trust this member's certificate",
        ),
        (_, "UH") => failure(
            Class::Name,
            "the region's gateway has no address that could be used",
        ),
        (_, "UF" | "UO") => failure(
            Class::Connect,
            format!("the region's gateway takes no connection: {cause}"),
        ),
        (504, _) => failure(
            Class::Deadline,
            "no answer from the region's gateway in time",
        ),
        (status, _) => failure(
            Class::Intake,
            format!("the Envoy beside the agent answered {status}: {cause}"),
        ),
    }
}

/// What a handshake with the region's gateway broke at, by the words of the one who began it; `ended`: why the other may have ended it.
fn handshake(tls: &str, cause: &str, ended: &str) -> Result<(), Failure> {
    let says = |words: &[&str]| words.iter().any(|word| tls.contains(word));
    // Whoever closes in the middle of the handshake, or sends an alert, is the gateway: it has no door for this
    // member's name, or does not take its certificate. All else is our own judgement of the gateway.
    let theirs = says(&[
        "reset_by_peer",
        "reset by peer",
        "system_library",
        "system library",
        "ALERT",
        "alert",
        "EOF",
        "eof",
    ]);
    if theirs && !says(&["CERTIFICATE_VERIFY_FAILED"]) {
        return failure(
            Class::Identity,
            format!("the region's gateway ended the handshake: {ended}"),
        );
    }
    // Two generations of Envoy, in a header (underscores) or in a body.
    if says(&["SAN_matcher", "SAN matcher", "verify_SAN", "verify SAN"]) {
        return failure(
            Class::Server,
            format!(
                "the certificate that the region answers with is not of whom it should be: {cause}"
            ),
        );
    }
    failure(
        Class::Tls,
        format!("the certificate of the region's gateway is not trusted here: {cause}"),
    )
}

/// One path as its probes have shown it: steady against a single bad answer, quick to believe a good one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Track {
    state: Option<State>,
    doubt: Option<Failure>,
}

/// The state of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Requests come through, or what stands in the way.
    pub outcome: Result<(), Failure>,
    /// Since when they do, or do not.
    pub since: Timestamp,
}

impl Track {
    /// Takes the result of one probe; true if the state is another one now.
    ///
    /// The first result is believed at once, and so is every good one; a bad one only when the next is equal.
    pub fn observe(&mut self, result: Result<(), Failure>, now: Timestamp) -> bool {
        let Some(state) = &mut self.state else {
            self.state = Some(State {
                outcome: result,
                since: now,
            });
            return true;
        };
        match (&mut state.outcome, result) {
            (Ok(()), Ok(())) => {
                self.doubt = None;
                false
            }
            (Err(_), Ok(())) => {
                *state = State {
                    outcome: Ok(()),
                    since: now,
                };
                self.doubt = None;
                true
            }
            (Ok(()), Err(bad)) => {
                if self
                    .doubt
                    .as_ref()
                    .is_some_and(|doubt| doubt.class == bad.class)
                {
                    *state = State {
                        outcome: Err(bad),
                        since: now,
                    };
                    self.doubt = None;
                    return true;
                }
                self.doubt = Some(bad);
                false
            }
            (Err(known), Err(bad)) => {
                if *known == bad {
                    self.doubt = None;
                    return false;
                }
                // Another failure of a path that is down: told when it repeats word for word, so that
                // alternating words write nothing. It is down as long as before.
                if self.doubt.as_ref() == Some(&bad) {
                    *known = bad;
                    self.doubt = None;
                    return true;
                }
                self.doubt = Some(bad);
                false
            }
        }
    }

    /// The state, if anything was observed.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }
}

#[cfg(test)]
mod tests;
