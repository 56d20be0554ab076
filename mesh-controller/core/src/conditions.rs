//! What a person is told about a member: conditions in the order in which a link comes to life. The first
//! that is not true is the answer to "why".

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::{
    facts::{
        Access, Anchor, Facts, Life, MemberFacts, Obstacle, PathFacts, Reach, ReplicaFacts, Role,
    },
    names::ClusterName,
    plan::{Action, Peer, Seat, generations::Generations},
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
    /// Whether requests come through: of the replicas that report, the worst.
    pub state: State,
    /// One word.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// Since when.
    pub since: Option<Timestamp>,
}

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

/// Everything that the conditions of one member are read from.
pub(crate) struct View<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) seat: &'a Seat,
    pub(crate) member: &'a MemberFacts,
    pub(crate) regions: &'a BTreeMap<ClusterName, Peer<'a>>,
    /// Those that verify this member, or are verified by it.
    pub(crate) links: &'a [Peer<'a>],
    pub(crate) generations: &'a Generations,
    pub(crate) now: Timestamp,
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

impl View<'_> {
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        let words = [
            (Kind::Reachable, self.reachable()),
            (Kind::Enrolled, self.enrolled()),
            (Kind::IntermediateReady, self.intermediate()),
            (Kind::TrustDistributed, self.trust()),
            (Kind::GatewayReady, self.gateway()),
            (Kind::DiscoveryReady, self.discovery()),
            (Kind::NamesReady, self.names()),
            (Kind::PathsReady, self.paths_ready()),
        ];
        with_ready(
            words
                .into_iter()
                .map(|(kind, word)| verdict(kind, word))
                .collect(),
        )
    }

    fn reachable(&self) -> Word {
        reachable(&self.member.access, &self.member.reach)
    }

    fn enrolled(&self) -> Word {
        if let Err(why) = &self.facts.root {
            return Err(why.clone());
        }
        if let Some(why) = self.member.hindrances.iter().find(|h| !is_name(h)) {
            return Err(why.clone());
        }
        let others: Vec<String> = self
            .seat
            .contested_by
            .iter()
            .map(ToString::to_string)
            .collect();
        match &self.member.delivered {
            None => wait(
                "Delivering",
                "waiting for a first complete delivery to the member",
            ),
            Some(_) if others.is_empty() => {
                fine("Delivered", "everything of ours is in the member")
            }
            Some(_) => fine(
                "ClusterIdContested",
                format!("also claimed by {}, refused", others.join(", ")),
            ),
        }
    }

    fn intermediate(&self) -> Word {
        let revoked = &self.facts.revoked;
        let anchors = &self.member.anchors;
        let mut usable = anchors.iter().filter(|anchor| !anchor.is_among(revoked));
        let first = usable.clone().next();
        let signs = self.generations.sign;
        if let Some(anchor) = usable.find(|anchor| anchor.generation == signs).or(first) {
            return self.issued(anchor);
        }
        if let Some(anchor) = anchors.first() {
            return wait(
                "Revoked",
                format!(
                    "generation {}, serial {}, is revoked; waiting for the next generation",
                    anchor.generation, anchor.serial
                ),
            );
        }
        let told = self
            .member
            .agent
            .as_ref()
            .and_then(|agent| agent.intermediate_obstacle.clone());
        told.map_or_else(
            || {
                wait(
                    "AwaitingRequest",
                    "the agent has not asked for an intermediate yet; is its pod running?",
                )
            },
            Err,
        )
    }

    /// The intermediate is there; what its successor waits for, and who does not believe in it yet.
    fn issued(&self, anchor: &Anchor) -> Word {
        let said = format!(
            "generation {}, until {}",
            anchor.generation, anchor.not_after
        );
        let Generations { sign, prepare, .. } = *self.generations;
        let next = self.member.anchors.iter();
        let next = next
            .filter(|anchor| Some(anchor.generation) == prepare)
            .max_by_key(|a| a.not_after);
        match (next, prepare) {
            (Some(next), _) => {
                let waits = self
                    .unbelieving(next)
                    .unwrap_or_else(|| "its turn".to_owned());
                let said = format!(
                    "{said}; generation {} is prepared and waits for {waits}",
                    next.generation
                );
                fine("Renewing", said)
            }
            (None, Some(next)) => fine(
                "Renewing",
                format!("{said}; generation {next} is being made"),
            ),
            (None, None) => match self.unbelieving(anchor).filter(|_| sign > 1) {
                Some(peers) => fine(
                    "PeersBehind",
                    format!("{said}; it is signed with, and not accepted yet by {peers}"),
                ),
                None => fine("Issued", said),
            },
        }
    }

    /// Peers that have not accepted a certificate of this member; at most three are named.
    fn unbelieving(&self, anchor: &Anchor) -> Option<String> {
        let cluster = &self.seat.claim.cluster;
        let peers: Vec<&str> = self
            .links
            .iter()
            .filter(|peer| !peer.believes(cluster, anchor))
            .map(|peer| peer.seat.claim.cluster.as_str())
            .collect();
        let (first, rest) = peers.split_at_checked(3).unwrap_or((peers.as_slice(), &[]));
        match (first.join(", "), rest.len()) {
            (text, _) if text.is_empty() => None,
            (text, 0) => Some(text),
            (text, more) => Some(format!("{text} and {more} more")),
        }
    }

    fn replicas(&self) -> impl Iterator<Item = (&String, &ReplicaFacts)> {
        self.member
            .agent
            .iter()
            .flat_map(|agent| agent.replicas.iter())
    }

    /// The first replica that has not accepted what was delivered.
    fn behind(&self) -> Option<String> {
        let Some(delivered) = &self.member.delivered else {
            return Some("nothing was delivered yet".to_owned());
        };
        if self.replicas().next().is_none() {
            return Some("no replica of the agent has reported".to_owned());
        }
        let in_grace = grace_ends(self.member, self.now).is_some();
        let behind = |r: &ReplicaFacts| match r.accepted {
            None => true,
            Some(accepted) => accepted < delivered.generation && !in_grace,
        };
        self.replicas().find(|(_, r)| behind(r)).map(|(pod, r)| {
            let accepted = r
                .accepted
                .map_or_else(|| "none".to_owned(), |g| g.to_string());
            format!(
                "pod {pod} accepted generation {accepted} of MeshAgent, {} was delivered",
                delivered.generation
            )
        })
    }

    fn trust(&self) -> Word {
        if let Some(behind) = self.behind() {
            return wait("AgentBehind", behind);
        }
        for (name, peer) in self.regions {
            if peer.facts.trusted_by(&self.facts.revoked).is_empty() {
                return wait(
                    "RegionWithoutIntermediate",
                    format!("region {name} has no intermediate yet"),
                );
            }
            let knows_us = peer.facts.delivered.as_ref().is_some_and(|d| {
                d.delivery
                    .trusts
                    .get(&self.seat.claim.cluster)
                    .is_some_and(|t| t.anchors == self.member.trusted_by(&self.facts.revoked))
            });
            // After a restart nobody has asked the region yet; its probe tells the truth sooner.
            if !knows_us && peer.facts.delivered.is_some() {
                return wait(
                    "RegionBehind",
                    format!("region {name} has not received this member's certificate"),
                );
            }
        }
        fine("Trusted", "certificates were exchanged")
    }

    fn gateway(&self) -> Word {
        for (pod, replica) in self.replicas() {
            if let Some(words) = &replica.rejected {
                return wait(
                    "ConfigRejected",
                    format!("Envoy of pod {pod} refused its configuration: {words}"),
                );
            }
        }
        let addressed =
            !self.seat.claim.gateway_override.is_empty() || !self.member.gateway.is_empty();
        match self.seat.claim.role {
            Role::Region if !addressed => wait(
                "NoAddress",
                "Service istio-system/mesh-gateway has no load balancer address",
            ),
            Role::Region => {
                let targets = if self.seat.claim.gateway_override.is_empty() {
                    &self.member.gateway
                } else {
                    &self.seat.claim.gateway_override
                };
                let list: Vec<String> = targets
                    .iter()
                    .map(|t| format!("{}:{}", t.host, t.port))
                    .collect();
                fine("Addressed", list.join(", "))
            }
            Role::Management | Role::Child => fine("NotNeeded", "nobody calls this member"),
        }
    }

    fn discovery(&self) -> Word {
        if self.seat.claim.role == Role::Child && self.regions.is_empty() {
            return match &self.seat.claim.region {
                Some(region) => wait(
                    "NoRegion",
                    format!(
                        "region {region} is not a member of mesh {}",
                        self.facts.mesh
                    ),
                ),
                None => wait(
                    "NoRegion",
                    "no region is known for this child: set label k0rdent.mirantis.com/kof-regional-cluster-name",
                ),
            };
        }
        for (name, peer) in self.regions {
            if peer.facts.gateway.is_empty() && peer.seat.claim.gateway_override.is_empty() {
                return wait(
                    "NoGatewayAddress",
                    format!("the gateway of region {name} has no address yet"),
                );
            }
        }
        for (pod, replica) in self.replicas() {
            if let Some((region, why)) = replica.unresolved.iter().next() {
                let message = format!("pod {pod}, gateway of region {region}: {}", why.message);
                return wait(&why.reason, message);
            }
        }
        match self.seat.claim.role {
            Role::Region => fine("NotNeeded", "a region calls nobody"),
            Role::Management if self.regions.is_empty() => {
                fine("NoRegions", "no region is enrolled yet")
            }
            Role::Management | Role::Child => fine("Known", "gateway addresses are known"),
        }
    }

    fn names(&self) -> Word {
        if let Some(why) = self.member.hindrances.iter().find(|h| is_name(h)) {
            return Err(why.clone());
        }
        if self.regions.is_empty() {
            return fine("NotNeeded", "this member calls nobody");
        }
        let Some(delivered) = &self.member.delivered else {
            return wait("Delivering", "the Services are not there yet");
        };
        match self
            .regions
            .keys()
            .find(|name| !delivered.delivery.consume.contains_key(*name))
        {
            Some(name) => wait(
                "Delivering",
                format!("the Service of region {name} is not there yet"),
            ),
            None => fine("Present", "Services are in namespace kof"),
        }
    }

    pub(crate) fn paths(&self) -> Vec<PathReport> {
        self.regions
            .iter()
            .map(|(name, peer)| self.path(name, &peer.seat.service))
            .collect()
    }

    fn path(&self, region: &ClusterName, service: &str) -> PathReport {
        let reports: Vec<&PathFacts> = self
            .replicas()
            .filter_map(|(_, r)| r.paths.get(region))
            .collect();
        let worst = reports
            .iter()
            .find(|p| p.outcome.is_err())
            .or_else(|| reports.first());
        let (state, reason, message, since) = match worst {
            None => (
                State::Unknown,
                "NotProbed".to_owned(),
                "no probe has reported yet".to_owned(),
                None,
            ),
            Some(PathFacts {
                outcome: Ok(()),
                since,
            }) => (
                State::True,
                "Answered".to_owned(),
                "requests come through".to_owned(),
                Some(*since),
            ),
            Some(PathFacts {
                outcome: Err(why),
                since,
            }) => (
                State::False,
                why.reason.clone(),
                why.message.clone(),
                Some(*since),
            ),
        };
        PathReport {
            region: region.clone(),
            service: service.to_owned(),
            state,
            reason,
            message,
            since,
        }
    }

    fn paths_ready(&self) -> Word {
        let paths = self.paths();
        match paths.iter().find(|path| path.state != State::True) {
            Some(path) => wait(
                &path.reason,
                format!("path to region {}: {}", path.region, path.message),
            ),
            None if paths.is_empty() => fine("NotNeeded", "no path begins in this member"),
            None => fine("Answered", "requests come through on every path"),
        }
    }
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
