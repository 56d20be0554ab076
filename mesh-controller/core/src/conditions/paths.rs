//! One path of a member, as all pods see it that probe it. Where sidecars have a way of their own to the region there are two ways,
//! and the path is as good as the worse of them.

use crate::{
    facts::{MemberFacts, Obstacle, PathFacts},
    names::ClusterName,
};

/// What is known of the path from a member to a region, or what is not.
pub(super) fn path(member: &MemberFacts, region: &ClusterName) -> Result<PathFacts, &'static str> {
    let agent = member.agent.as_ref();
    let replicas = agent.into_iter().flat_map(|agent| agent.replicas.values());
    let by_envoy = worst(replicas.filter_map(|replica| replica.paths.get(region)));
    let probers = agent.into_iter().flat_map(|agent| agent.probers.values());
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
    }
}
