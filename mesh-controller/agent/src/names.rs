//! The telemetry names: for each region a Service in namespace `kof`, whose endpoints are the agent's pods of
//! this cluster. The controller makes the Service; its endpoint slices are kept here, since pods come and go
//! while management is away.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use mesh_cluster::agent_io::{AgentIoError, Intent, OwnCluster, PodSeen, Seen, ServiceSeen, Slice};
use mesh_core::contract::SERVICE_PORT;
use tokio::{sync::watch, time::timeout};

use crate::{jitter, report::present};

/// Name of the port in Service and slice.
const PORT: &str = "http";
/// How often everything is compared again when nothing happens.
const LOOK: Duration = Duration::from_mins(1);

/// What to do about one slice.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    Apply(String, Slice),
    Delete(String),
}

/// The addresses behind every name: pods that are ready; if none is, all that are not about to end, because a
/// glitch of all probes at once must not cut what still works.
fn addresses(pods: &BTreeMap<String, PodSeen>) -> BTreeSet<IpAddr> {
    let of = |keep: fn(&PodSeen) -> bool| -> BTreeSet<IpAddr> {
        pods.values()
            .filter(|pod| keep(pod))
            .flat_map(|pod| pod.ips.iter().copied())
            .collect()
    };
    let ready = of(|pod| pod.ready);
    if ready.is_empty() {
        of(|pod| !pod.leaving)
    } else {
        ready
    }
}

/// The slices of the regions it calls, for Services that are ours.
fn wanted(
    intent: &Intent,
    pods: &BTreeMap<String, PodSeen>,
    services: &BTreeMap<String, ServiceSeen>,
) -> BTreeMap<String, Slice> {
    let addresses = addresses(pods);
    let mut slices = BTreeMap::new();
    for consume in &intent.spec.consume {
        // A Service of somebody else may have that name: its endpoints are not ours to add to.
        let Some(service) = services
            .get(&consume.service)
            .filter(|service| !service.selects)
        else {
            continue;
        };
        let families = &service.families;
        for v6 in [false, true] {
            let of_family: BTreeSet<IpAddr> = addresses
                .iter()
                .copied()
                .filter(|ip| ip.is_ipv6() == v6)
                .collect();
            let family = if v6 { "IPv6" } else { "IPv4" };
            if of_family.is_empty() || !(families.is_empty() || families.contains(family)) {
                continue;
            }
            let slice = Slice {
                service: consume.service.clone(),
                v6,
                addresses: of_family,
                port: (PORT.to_owned(), SERVICE_PORT),
                marks: intent.marks.clone(),
            };
            slices.insert(
                format!("{}-mesh-{}", consume.service, if v6 { "v6" } else { "v4" }),
                slice,
            );
        }
    }
    slices
}

fn acts(wanted: &BTreeMap<String, Slice>, there: &BTreeMap<String, Slice>) -> Vec<Act> {
    let apply = wanted
        .iter()
        .filter(|(name, slice)| there.get(*name) != Some(slice))
        .map(|(name, slice)| Act::Apply(name.clone(), slice.clone()));
    let delete = there
        .keys()
        .filter(|name| !wanted.contains_key(*name))
        .map(|name| Act::Delete(name.clone()));
    apply.chain(delete).collect()
}

/// Keeps the slices.
pub(crate) struct Names {
    pub(crate) cluster: OwnCluster,
    pub(crate) intents: watch::Receiver<Seen<Intent>>,
    pub(crate) pods: watch::Receiver<Seen<PodSeen>>,
    pub(crate) services: watch::Receiver<Seen<ServiceSeen>>,
    pub(crate) slices: watch::Receiver<Seen<Slice>>,
}

impl Names {
    /// Keeps them, for ever. Nothing is touched before everything was seen once, nor when the `MeshAgent` is
    /// gone: then the controller is taking us away.
    pub(crate) async fn run(mut self) {
        let mut failures = 0;
        loop {
            let pause = match self.look().await {
                Ok(()) => {
                    failures = 0;
                    LOOK
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "failed to keep the telemetry names"
                        );
                    }
                    failures += 1;
                    jitter::backoff(failures)
                }
            };
            let news = async {
                tokio::select! {
                    gone = self.intents.changed() => gone,
                    gone = self.pods.changed() => gone,
                    gone = self.services.changed() => gone,
                    gone = self.slices.changed() => gone,
                }
            };
            if let Ok(Err(_closed)) = timeout(pause, news).await {
                return;
            }
        }
    }

    async fn look(&mut self) -> Result<(), AgentIoError> {
        let intent = present(&mut self.intents);
        let pods = self.pods.borrow_and_update().clone();
        let services: Seen<ServiceSeen> = self.services.borrow_and_update().clone();
        let slices = self.slices.borrow_and_update().clone();
        let (Some(intent), Some(pods), Some(services), Some(slices)) =
            (intent, pods, services, slices)
        else {
            return Ok(());
        };
        for act in acts(&wanted(&intent, &pods, &services), &slices) {
            match act {
                Act::Apply(name, slice) => {
                    tracing::info!(name, addresses = ?slice.addresses, "applying an endpoint slice");
                    self.cluster.apply_slice(&name, &slice).await?;
                }
                Act::Delete(name) => {
                    tracing::info!(name, "deleting an endpoint slice");
                    self.cluster.delete_slice(&name).await?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
