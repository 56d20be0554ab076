//! The telemetry names: for each region a Service in namespace `kof`, whose endpoints are the agent's pods of
//! this cluster. The controller makes the Service; its endpoint slices are kept here, since pods come and go
//! while management is away.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use mesh_api::{
    agent::{Consume, Host, Sidecars},
    mesh::Protocol,
};
use mesh_cluster::agent_io::{
    AgentIoError, Entry, Intent, OwnCluster, PodSeen, Seen, ServiceSeen, Slice,
};
use mesh_core::contract::SERVICE_PORT;
use tokio::{sync::watch, time::timeout};

use crate::{jitter, metrics::Metrics, peers::Peers, places::Places, report::present};

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

/// A Service by which a region is called.
struct Name {
    service: String,
    /// Name of its port.
    port: &'static str,
    /// Sidecars know a shorter way.
    hidden: bool,
}

fn port_name(host: &Host) -> &'static str {
    match host.protocol {
        Protocol::Http => "http",
        Protocol::Grpc => "grpc",
    }
}

/// The regions that are called and not taken away.
fn called<'a>(
    intent: &'a Intent,
    withdrawn: &'a BTreeSet<String>,
) -> impl Iterator<Item = &'a Consume> {
    let consume = intent.spec.consume.iter();
    consume.filter(|consume| !withdrawn.contains(&consume.region))
}

fn services_of(intent: &Intent, withdrawn: &BTreeSet<String>) -> Vec<Name> {
    let of = |consume: &Consume| {
        if consume.hosts.is_empty() {
            return vec![Name {
                service: consume.service.clone(),
                port: "http",
                hidden: false,
            }];
        }
        let hidden = consume.sidecars != Sidecars::Intake;
        let hosts = consume.hosts.iter().map(|host| Name {
            service: host.service.clone(),
            port: port_name(host),
            hidden,
        });
        hosts.collect()
    };
    called(intent, withdrawn).flat_map(of).collect()
}

/// Where sidecars find the regions it calls: each address of a gateway, with each account that may answer behind it.
fn entries(
    intent: &Intent,
    places: &Places,
    withdrawn: &BTreeSet<String>,
) -> BTreeMap<String, Entry> {
    let mut entries = BTreeMap::new();
    let straight = called(intent, withdrawn);
    for consume in straight.filter(|consume| consume.sidecars == Sidecars::Static) {
        let addresses = places.addresses.get(&consume.region);
        for (host, at) in consume.hosts.iter().flat_map(|host| {
            let addresses = addresses.into_iter().flatten();
            addresses.map(move |at| (host, at))
        }) {
            for account in &host.accounts {
                let place = at.to_string().replace([':', '.', '[', ']'], "-");
                let name = format!("{}-{}-{account}", host.service, place.trim_matches('-'));
                let entry = Entry {
                    service: host.service.clone(),
                    address: at.ip(),
                    port: (port_name(host).to_owned(), at.port()),
                    account: account.clone(),
                    marks: intent.marks.clone(),
                };
                entries.insert(name, entry);
            }
        }
    }
    entries
}

/// The slices of the regions it calls, for Services that are ours.
fn wanted(
    intent: &Intent,
    pods: &BTreeMap<String, PodSeen>,
    services: &BTreeMap<String, ServiceSeen>,
    withdrawn: &BTreeSet<String>,
) -> BTreeMap<String, Slice> {
    let addresses = addresses(pods);
    let mut slices = BTreeMap::new();
    for name in services_of(intent, withdrawn) {
        // A Service of somebody else may have that name: its endpoints are not ours to add to.
        let Some(service) = services
            .get(&name.service)
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
                service: name.service.clone(),
                v6,
                addresses: of_family,
                port: (name.port.to_owned(), SERVICE_PORT),
                hidden: name.hidden,
                marks: intent.marks.clone(),
            };
            // One that becomes hidden is another: istiod keeps what it saw before.
            let kind = if name.hidden { "plain" } else { "mesh" };
            let family = if v6 { "v6" } else { "v4" };
            slices.insert(format!("{}-{kind}-{family}", name.service), slice);
        }
    }
    slices
}

/// Whether sidecars are to find this Service.
fn is_called(intent: &Intent, service: &str, withdrawn: &BTreeSet<String>) -> bool {
    let straight = called(intent, withdrawn);
    let mut straight = straight.filter(|consume| consume.sidecars == Sidecars::Static);
    straight.any(|consume| consume.hosts.iter().any(|host| host.service == service))
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
    /// Where gateways are, once somebody looked.
    pub(crate) places: watch::Receiver<Option<Arc<Places>>>,
    /// Which regions are dead.
    pub(crate) peers: Peers,
    pub(crate) metrics: Metrics,
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
                    gone = self.places.changed() => gone,
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
        let withdrawn = self.peers.withdrawn(&intent);
        for act in acts(&wanted(&intent, &pods, &services, &withdrawn), &slices) {
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
        self.keep_entries(&intent, &withdrawn).await?;
        for consume in &intent.spec.consume {
            let is_withdrawn = withdrawn.contains(&consume.region);
            self.metrics.withdrawn(&consume.region, is_withdrawn);
        }
        Ok(())
    }

    async fn keep_entries(
        &mut self,
        intent: &Intent,
        withdrawn: &BTreeSet<String>,
    ) -> Result<(), AgentIoError> {
        let places = self.places.borrow_and_update().clone();
        let is_static = |consume: &Consume| consume.sidecars == Sidecars::Static;
        let (Some(places), true) = (places, intent.spec.consume.iter().any(is_static)) else {
            return Ok(());
        };
        // Istio may come later.
        let Some(there) = self.cluster.list_entries().await? else {
            return Ok(());
        };
        let wanted = entries(intent, &places, withdrawn);
        for (name, entry) in &wanted {
            if there.get(name).and_then(Option::as_ref) != Some(entry) {
                tracing::info!(name, address = %entry.address, "applying a workload entry");
                self.cluster.apply_entry(name, entry).await?;
            }
        }
        // A region of which nothing is known now keeps what it had.
        let known = |name: &str| {
            let entry = there.get(name).and_then(Option::as_ref);
            entry.is_none_or(|entry| {
                let of_service = |other: &Entry| other.service == entry.service;
                wanted.values().any(of_service) || !is_called(intent, &entry.service, withdrawn)
            })
        };
        for name in there.keys().filter(|name| !wanted.contains_key(*name)) {
            if known(name) {
                tracing::info!(name, "deleting a workload entry");
                self.cluster.delete_entry(name).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
