//! One path of a member, as all pods see it that probe it. Where sidecars have a way of their own to the region there are two ways,
//! and the path is as good as the worse of them.

use super::{PEER_DEAD, PathReport, State, View};
use crate::{
    facts::{MemberFacts, Obstacle, PathFacts},
    istio::{Discovery, Plane},
    names::ClusterName,
    peer::{self, Dead, Policy},
    plan::Peer,
};

impl View<'_> {
    /// What is told of the path to a region.
    pub(super) fn path(&self, region: &ClusterName, peer: &Peer<'_>) -> PathReport {
        let known = path(self.member, region);
        let dead = dead(self.member, region);
        let told = dead.and_then(|dead| Some((dead, self.dead(region, peer, dead)?)));
        let (state, reason, message, since) = match (known, told) {
            (_, Some((dead, message))) => (
                State::False,
                PEER_DEAD.to_owned(),
                message,
                Some(dead.since),
            ),
            (Err(why), None) => (State::Unknown, "NotProbed".to_owned(), why.to_owned(), None),
            (
                Ok(PathFacts {
                    outcome: Ok(()),
                    since,
                    ..
                }),
                None,
            ) => (
                State::True,
                "Answered".to_owned(),
                "requests come through".to_owned(),
                Some(since),
            ),
            (
                Ok(PathFacts {
                    outcome: Err(why),
                    since,
                    ..
                }),
                None,
            ) => (State::False, why.reason, why.message, Some(since)),
        };
        PathReport {
            region: region.clone(),
            service: peer.seat.service.clone(),
            state,
            reason,
            message,
            since,
            dead,
        }
    }

    /// What is told of a dead region; nothing when it answers and is called by its name as ever.
    fn dead(&self, region: &ClusterName, peer: &Peer<'_>, dead: Dead) -> Option<String> {
        // The way through the Envoy beside an agent is what it is judged by.
        let why = by_envoy(self.member, region).map(|path| (&path.outcome, path.since));
        let fate = self.fate(peer, dead);
        match why {
            Some((Err(why), _)) => Some(format!(
                "dead since {} ({}: {}); {fate}",
                dead.since, why.reason, why.message
            )),
            Some((Ok(()), since)) if dead.withdrawn => Some(format!(
                "dead since {}, answers again since {since}; its endpoints here come back when it has for {} without a break",
                dead.since, self.facts.dead_peer.return_after
            )),
            Some((Ok(()), _)) | None => None,
        }
    }

    /// What becomes of the endpoints of a dead region, and why.
    fn fate(&self, peer: &Peer<'_>, dead: Dead) -> &'static str {
        if dead.withdrawn {
            return "its endpoints here are taken away until it answers";
        }
        let read_by_istiod = self.facts.istio.discovery == Discovery::RemoteSecrets
            && [self.seat.plane, peer.seat.plane] == [Plane::Istio; 2];
        match self.facts.dead_peer.policy {
            Policy::Keep | Policy::Mark => {
                "its endpoints stay, as spec.deadPeer of the mesh has it"
            }
            Policy::Withdraw if read_by_istiod => {
                "its endpoints stay: istiod has them by a remote secret"
            }
            Policy::Withdraw => {
                "its endpoints stay as long as no other region has answered here for as long: the cause may be on this side"
            }
        }
    }
}

/// Whether a region is called dead by all who judge it.
fn dead(member: &MemberFacts, region: &ClusterName) -> Option<Dead> {
    peer::agreed(seen(member, region).map(|path| path.dead))
}

/// A path as the agents see it, by way of the Envoys beside them.
fn seen<'a>(
    member: &'a MemberFacts,
    region: &'a ClusterName,
) -> impl Iterator<Item = &'a PathFacts> {
    let agent = member.agent.iter();
    let replicas = agent.flat_map(|agent| agent.replicas.values());
    replicas.filter_map(|replica| replica.paths.get(region))
}

fn by_envoy<'a>(member: &'a MemberFacts, region: &'a ClusterName) -> Option<&'a PathFacts> {
    worst(seen(member, region))
}

/// What is known of the path from a member to a region, or what is not.
fn path(member: &MemberFacts, region: &ClusterName) -> Result<PathFacts, &'static str> {
    let by_envoy = by_envoy(member, region);
    let agent = member.agent.iter();
    let probers = agent.flat_map(|agent| agent.probers.values());
    let by_sidecar = worst(probers.filter_map(|paths| paths.get(region)));
    let delivered = member.delivered.as_ref().map(|known| &known.delivery);
    let two = delivered.is_some_and(|it| it.probed_by_sidecars().any(|it| it == region));
    if !two {
        // What a pod still says that is being taken away is of a way that nobody goes any more.
        return by_envoy.cloned().ok_or("no probe has reported yet");
    }
    match (by_envoy, by_sidecar) {
        (Some(bad), _) if bad.outcome.is_err() => Ok(said(bad, "without a sidecar")),
        (_, Some(bad)) if bad.outcome.is_err() => Ok(said(bad, "from a sidecar")),
        (None, _) => Err("no probe has reported yet"),
        (Some(_), None) => Err(
            "no probe from a pod with a sidecar has reported yet: see Deployment istio-system/mesh-probe",
        ),
        // It has come through on both since the later of the two.
        (Some(one), Some(other)) => Ok(if other.since > one.since { other } else { one }.clone()),
    }
}

/// The first that is bad, or else the first.
fn worst<'a>(mut reports: impl Iterator<Item = &'a PathFacts>) -> Option<&'a PathFacts> {
    let first = reports.next()?;
    if first.outcome.is_err() {
        return Some(first);
    }
    Some(reports.find(|path| path.outcome.is_err()).unwrap_or(first))
}

/// A failure, and on which of the two ways.
fn said(path: &PathFacts, way: &str) -> PathFacts {
    let outcome = path.outcome.clone();
    PathFacts {
        outcome: outcome
            .map_err(|why| Obstacle::new(&why.reason, format!("{way}: {}", why.message))),
        since: path.since,
        dead: path.dead,
    }
}
