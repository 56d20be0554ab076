//! What a person is told about a member: conditions in the order in which a link comes to life. The first
//! that is not true is the answer to "why".

mod paths;
mod remotes;
mod view;

use jiff::{SignedDuration, Timestamp};

pub(crate) use self::view::View;
use crate::{
    facts::{Access, Life, MemberFacts, Obstacle, Reach},
    names::ClusterName,
    peer::Dead,
    plan::Action,
};

/// The conditions of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Its API server answers, and it is the cluster it should be.
    Reachable,
    /// It is a member, and everything of ours is there.
    Enrolled,
    /// It has an intermediate that the root signed.
    IntermediateReady,
    /// It and the regions it calls hold each other's certificates.
    TrustDistributed,
    /// Its Envoy accepted its configuration; a region's gateway has an address.
    GatewayReady,
    /// It knows where the gateways are that it calls.
    DiscoveryReady,
    /// The telemetry names are there.
    NamesReady,
    /// Real requests come through on each of its paths.
    PathsReady,
    /// All of these.
    Ready,
}

impl Kind {
    /// All, in order.
    pub const ALL: [Self; 9] = [
        Self::Reachable,
        Self::Enrolled,
        Self::IntermediateReady,
        Self::TrustDistributed,
        Self::GatewayReady,
        Self::DiscoveryReady,
        Self::NamesReady,
        Self::PathsReady,
        Self::Ready,
    ];

    /// As it stands in status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reachable => "Reachable",
            Self::Enrolled => "Enrolled",
            Self::IntermediateReady => "IntermediateReady",
            Self::TrustDistributed => "TrustDistributed",
            Self::GatewayReady => "GatewayReady",
            Self::DiscoveryReady => "DiscoveryReady",
            Self::NamesReady => "NamesReady",
            Self::PathsReady => "PathsReady",
            Self::Ready => "Ready",
        }
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody can tell.
    Unknown,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub kind: Kind,
    /// Whether it holds.
    pub state: State,
    /// One `CamelCase` word.
    pub reason: String,
    /// For a person: object and cause.
    pub message: String,
}

/// One path of a member, as told in its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathReport {
    /// The region at its other end.
    pub region: ClusterName,
    /// The Service by which it is called.
    pub service: String,
    /// Whether requests come through: of all pods that report, the worst.
    pub state: State,
    /// One word.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// The region is called dead.
    pub dead: Option<Dead>,
}

/// Reason of a path to a region that is called dead.
pub const PEER_DEAD: &str = "PeerDead";

/// What one condition says: fine (and why), or what stands in the way.
type Word = Result<Said, Obstacle>;

struct Said {
    reason: &'static str,
    message: String,
}

#[expect(clippy::unnecessary_wraps, reason = "it stands where `wait` stands")]
fn fine(reason: &'static str, message: impl Into<String>) -> Word {
    Ok(Said {
        reason,
        message: message.into(),
    })
}

fn wait(reason: &str, message: impl Into<String>) -> Word {
    Err(Obstacle::new(reason, message))
}

/// How long an agent may take over a change before it is told. A change reaches Envoy within a second; saying so
/// each time would only be noise.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

/// When it must be told that the agent of this member is behind, if it still is.
pub(crate) fn grace_ends(member: &MemberFacts, now: Timestamp) -> Option<Timestamp> {
    let delivered = member.delivered.as_ref()?;
    let replicas = &member.agent.as_ref()?.replicas;
    let end = delivered.since.checked_add(GRACE).ok()?;
    (end > now
        && replicas
            .values()
            .any(|r| r.accepted < Some(delivered.generation)))
    .then_some(end)
}

/// Hindrances that concern the telemetry names only; the rest of the member is not held up by them.
pub const NAME_TAKEN: &str = "NameTaken";

fn is_name(obstacle: &Obstacle) -> bool {
    obstacle.reason == NAME_TAKEN
}

fn verdict(kind: Kind, word: Word) -> Verdict {
    match word {
        Ok(said) => Verdict {
            kind,
            state: State::True,
            reason: said.reason.to_owned(),
            message: said.message,
        },
        Err(why) => Verdict {
            kind,
            state: State::False,
            reason: why.reason,
            message: why.message,
        },
    }
}

fn unknown(kind: Kind, reason: &str, message: &str) -> Verdict {
    Verdict {
        kind,
        state: State::Unknown,
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

fn with_ready(mut verdicts: Vec<Verdict>) -> Vec<Verdict> {
    let ready = verdicts
        .iter()
        .find(|v| v.state != State::True)
        .map_or_else(
            || Verdict {
                kind: Kind::Ready,
                state: State::True,
                reason: "Ready".to_owned(),
                message: "the member and its paths work".to_owned(),
            },
            |first| Verdict {
                kind: Kind::Ready,
                state: State::False,
                reason: first.kind.as_str().to_owned(),
                message: format!("{}: {}", first.reason, first.message),
            },
        );
    verdicts.push(ready);
    verdicts
}

fn reachable(access: &Access, reach: &Reach) -> Word {
    match (access, reach) {
        (Access::Refused(why), _) | (Access::Found, Reach::Lost(why)) => Err(why.clone()),
        (Access::Unknown, _) => wait(
            "LookingForKubeconfig",
            "the kubeconfig was not looked for yet",
        ),
        (Access::Found, Reach::Unknown) => wait("Connecting", "the API server was not asked yet"),
        (Access::Found, Reach::Answers { .. }) => fine("Answers", "the API server answers"),
    }
}

/// The conditions of one that may not be a member.
pub(crate) fn refused(access: &Access, reach: &Reach, why: &Obstacle) -> Vec<Verdict> {
    let mut verdicts = vec![
        verdict(Kind::Reachable, reachable(access, reach)),
        verdict(Kind::Enrolled, Err(why.clone())),
    ];
    if matches!(
        (access, reach),
        (Access::Unknown, _) | (Access::Found, Reach::Unknown)
    ) {
        verdicts = vec![
            unknown(
                Kind::Reachable,
                "NotTried",
                "refused before anything was tried",
            ),
            verdict(Kind::Enrolled, Err(why.clone())),
        ];
    }
    for kind in Kind::ALL
        .into_iter()
        .filter(|k| !matches!(k, Kind::Reachable | Kind::Enrolled | Kind::Ready))
    {
        verdicts.push(unknown(kind, "NotEnrolled", "the cluster is not enrolled"));
    }
    verdicts.push(Verdict {
        kind: Kind::Ready,
        state: State::False,
        reason: Kind::Enrolled.as_str().to_owned(),
        message: format!("{}: {}", why.reason, why.message),
    });
    verdicts
}

/// The conditions of one that is being removed.
pub(crate) fn leaving(member: &MemberFacts, action: &Action) -> Vec<Verdict> {
    let since = match member.life {
        Life::Leaving { since, .. } => since.to_string(),
        Life::Active => String::new(),
    };
    let message = match action {
        Action::Withdraw => member.hindrances.first().map_or_else(
            || format!("leaving since {since}: taking our objects out of the member"),
            |why| format!("leaving since {since}: {}", why.message),
        ),
        Action::Release => format!("leaving since {since}: nothing is left to take back"),
        Action::Wait | Action::Deliver(_) => format!(
            "leaving since {since}: its peers have forgotten it; our objects in it stay until it answers, \
             or until annotation mesh.kof.k0rdent.mirantis.com/force-removal says not to wait"
        ),
    };
    let mut verdicts = vec![
        verdict(Kind::Reachable, reachable(&member.access, &member.reach)),
        verdict(Kind::Enrolled, wait("Leaving", message.clone())),
    ];
    verdicts.push(Verdict {
        kind: Kind::Ready,
        state: State::False,
        reason: "Leaving".to_owned(),
        message,
    });
    verdicts
}
