//! The agent in a member: keeps the intermediate, issues the gateway's certificate, drives the Envoy beside it,
//! keeps the telemetry names, probes every path, reports.
//!
//! | room | what it does |
//! |---|---|
//! | `wanted` | reads the `MeshAgent` |
//! | `intermediate`, `keeper` | decides about the intermediate; does it |
//! | `leaf`, `signing` | makes leaves; keeps one fresh, ledger first |
//! | `ledger` | nothing is handed out before what is written speaks of its end |
//! | [`issue`] | certificates for workloads |
//! | `expiry` | when every certificate ends that is known here, as a metric |
//! | `places` | where the gateways of regions are |
//! | `gateway` | configuration, addresses and certificates to Envoy, and what Envoy says to them |
//! | `prober` | real requests on every path |
//! | [`probe`] | the same from a pod with a sidecar of Istio, which does nothing else |
//! | `peers` | which regions are dead |
//! | `names` | endpoint slices behind the telemetry Services |
//! | `cacerts` | what a stock istiod signs with |
//! | `remotes` | whether istiod reads the regions that it is led to by remote secrets |
//! | `roots` | the roots in every namespace |
//! | `lists` | which revocation lists are good; those in every namespace |
//! | `report` | status, on changes of meaning only |
//!
//! Everything is passed on through watch channels: each room sees the latest and nothing else. All of it goes on
//! from memory while the API server is away.

mod cacerts;
mod expiry;
mod gateway;
mod intermediate;
pub mod issue;
mod jitter;
mod keeper;
mod leaf;
mod ledger;
mod lists;
mod metrics;
mod names;
mod peers;
mod places;
mod probe;
mod prober;
mod remotes;
mod report;
mod roots;
mod signing;
mod wanted;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use mesh_cluster::{
    agent_io::{AgentIoError, CsrSeen, Intent, OwnCluster, PodSeen, Seen, ServiceSeen, Slice},
    tasks::Tasks,
};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

pub use gateway::bootstrap;
pub use probe::{ProbeReadiness, ProbeSettings, probe};

use crate::{
    gateway::{Accepted, Gateway},
    keeper::Keeper,
    leaf::Leaf,
    metrics::Metrics,
    names::Names,
    peers::Peers,
    prober::{Paths, Prober, Way},
    report::{Board, Living, Reporter},
    roots::Roots,
    signing::{Signing, Which},
    wanted::Wanted,
};

/// What a deployment decides about an agent.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// Name of this pod.
    pub pod: String,
    /// Version of this program.
    pub version: String,
    /// Socket on which Envoy is served.
    pub xds_socket: PathBuf,
    /// Where that Envoy takes telemetry; probes go in there too.
    pub intake: SocketAddr,
    /// Where that Envoy takes the calls of other members.
    pub gateway: SocketAddr,
    /// Where workloads ask for certificates.
    pub ca: SocketAddr,
    /// Kubeconfig of the own cluster, in place of the service account.
    pub kubeconfig: Option<PathBuf>,
}

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// There is no way to the own API server.
    #[error("failed to find the own cluster")]
    FindCluster(#[source] AgentIoError),
    /// Names cannot be resolved.
    #[error("failed to start the resolver")]
    StartResolver(#[source] mesh_dns::StartError),
}

/// Whether the agent does its work.
#[derive(Clone, Debug)]
pub struct Readiness {
    leaf: watch::Receiver<Option<Arc<Leaf>>>,
    accepted: watch::Receiver<Accepted>,
}

impl Readiness {
    /// Ready: there is a leaf, and Envoy has accepted a configuration. What probes show does not matter here.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub fn check(&self) -> Result<(), String> {
        match self.leaf.borrow().as_deref() {
            None => return Err("there is no certificate for the gateway yet".to_owned()),
            Some(leaf) if leaf.facts.not_after <= jiff::Timestamp::now() => {
                return Err(format!(
                    "the certificate of the gateway ended at {}",
                    leaf.facts.not_after
                ));
            }
            Some(_) => {}
        }
        if self.accepted.borrow().generation.is_none() {
            return Err("Envoy has not accepted a configuration yet".to_owned());
        }
        Ok(())
    }
}

/// Starts the agent's tasks. It never waits for the API server: that may be away for now.
///
/// # Errors
///
/// When there is no kubeconfig and no service account.
#[expect(clippy::too_many_lines, reason = "wiring, one room after the other")]
pub async fn start(
    settings: AgentSettings,
    registry: &mut Registry,
    tasks: &mut Tasks,
) -> Result<Readiness, AgentError> {
    let cluster = OwnCluster::new(settings.kubeconfig.as_deref())
        .await
        .map_err(AgentError::FindCluster)?;
    let metrics = Metrics::register(registry);
    let board = Board::new();

    let Watches {
        intents,
        pods,
        probers,
        services,
        slices,
        requests,
    } = Watches::start(&cluster, tasks);

    let (wanted_tx, wanted) = watch::channel(None);
    let (signer_tx, signer) = watch::channel(None);
    let (leaf_tx, leaf) = watch::channel(None);
    let (paths_tx, paths) = watch::channel(Arc::new(Paths::default()));
    let (accepted_tx, accepted) = watch::channel(Accepted::default());
    tasks.spawn(
        "read MeshAgent",
        read(intents.clone(), wanted_tx, board.clone()),
    );

    let keeper = Keeper {
        cluster: cluster.clone(),
        intents: intents.clone(),
        wanted: wanted.clone(),
        requests,
        signer: signer_tx,
        board: board.clone(),
    };
    tasks.spawn("intermediate", keeper.run());
    let issuing = issue::Room {
        address: settings.ca,
        cluster: cluster.clone(),
        wanted: wanted.clone(),
        signer: signer.clone(),
        ledger: Arc::new(board.ledger.clone()),
    };
    let serving = issuing.start(registry, tasks);
    let expiry = expiry::Expiry {
        wanted: wanted.clone(),
        signer: signer.clone(),
        leaf: leaf.clone(),
        serving,
        said: board.news(),
    };
    tasks.spawn("ends of certificates", expiry.run(registry));
    let roots = Roots {
        cluster: cluster.clone(),
        intents: intents.clone(),
        wanted: wanted.clone(),
        board: board.clone(),
    };
    tasks.spawn("roots", roots.run());
    let cacerts = cacerts::Keeper {
        cluster: cluster.clone(),
        intents: intents.clone(),
        wanted: wanted.clone(),
        signer: signer.clone(),
        board: board.clone(),
        met: lists::Worked::default(),
    };
    tasks.spawn("cacerts", cacerts.run());
    let (shared_tx, shared) = watch::channel(None);
    let (places_tx, places) = watch::channel(None);
    let signing = Signing {
        which: Which::Shared,
        wanted: wanted.clone(),
        signer: signer.clone(),
        leaf: shared_tx,
        board: board.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn("shared leaf", signing.run());
    let signing = Signing {
        which: Which::Own,
        wanted: wanted.clone(),
        signer,
        leaf: leaf_tx,
        board: board.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn("leaf", signing.run());
    let remotes = remotes::Remotes {
        cluster: cluster.clone(),
        pod: settings.pod.clone(),
        wanted: wanted.clone(),
        leaf: leaf.clone(),
        board: board.clone(),
    };
    tasks.spawn("remote clusters of istiod", remotes.run());
    let gateway = Gateway {
        node: settings.pod.clone(),
        intake: settings.intake,
        door: settings.gateway,
        socket: settings.xds_socket,
        wanted,
        leaf: leaf.clone(),
        shared,
        places: places_tx,
        paths: paths_tx,
        accepted: accepted_tx,
        board: board.clone(),
        metrics: metrics.clone(),
    };
    gateway.start(tasks).map_err(AgentError::StartResolver)?;
    let peers = Peers::new(intents.clone());
    let prober = Prober {
        way: Way::Intake(from_inside(settings.intake)),
        peers: Some(peers.clone()),
        board: board.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn("probes", prober.run(paths));
    let (there, agents) = (cluster.clone(), pods.clone());
    let names = Names {
        cluster: there,
        intents: intents.clone(),
        pods,
        services,
        slices,
        places,
        peers,
        metrics,
    };
    tasks.spawn("names", names.run());

    let reporter = Reporter {
        cluster,
        pod: settings.pod,
        version: settings.version,
        board,
        intents,
    };
    reporter.start(Living { agents, probers }, tasks);
    Ok(Readiness { leaf, accepted })
}

/// An address to call, for an address to listen on.
fn from_inside(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// What is watched in the own cluster.
struct Watches {
    intents: watch::Receiver<Seen<Intent>>,
    pods: watch::Receiver<Seen<PodSeen>>,
    probers: watch::Receiver<Seen<PodSeen>>,
    services: watch::Receiver<Seen<ServiceSeen>>,
    slices: watch::Receiver<Seen<Slice>>,
    requests: watch::Receiver<Seen<CsrSeen>>,
}

impl Watches {
    fn start(cluster: &OwnCluster, tasks: &mut Tasks) -> Self {
        let (to_intents, intents) = watch::channel(None);
        let (to_pods, pods) = watch::channel(None);
        let (to_probers, probers) = watch::channel(None);
        let (to_services, services) = watch::channel(None);
        let (to_slices, slices) = watch::channel(None);
        let (to_requests, requests) = watch::channel(None);
        tasks.spawn("watch MeshAgent", cluster.follow_intent(to_intents));
        tasks.spawn("watch pods", cluster.follow_pods(to_pods));
        tasks.spawn("watch probing pods", cluster.follow_probers(to_probers));
        tasks.spawn("watch services", cluster.follow_services(to_services));
        tasks.spawn("watch endpoint slices", cluster.follow_slices(to_slices));
        tasks.spawn(
            "watch certificate requests",
            cluster.follow_requests(to_requests),
        );
        Self {
            intents,
            pods,
            probers,
            services,
            slices,
            requests,
        }
    }
}

/// Reads each new `MeshAgent`. One that cannot be read, and one that is deleted, leave the last in force.
async fn read(
    mut intents: watch::Receiver<Seen<Intent>>,
    wanted: watch::Sender<Option<Arc<Wanted>>>,
    board: Board,
) {
    loop {
        let seen = intents.borrow_and_update().clone();
        if let Some(intent) = seen.and_then(|seen| seen.values().next().cloned()) {
            match Wanted::read(&intent) {
                Ok(new) => {
                    board.unreadable(None);
                    wanted.send_if_modified(|known| {
                        let other = known.as_deref() != Some(&new);
                        if other {
                            tracing::info!(generation = new.generation, "read the MeshAgent");
                            *known = Some(Arc::new(new));
                        }
                        other
                    });
                }
                Err(why) => {
                    tracing::error!(message = why.message, "failed to read the MeshAgent");
                    board.unreadable(Some(why));
                }
            }
        }
        if intents.changed().await.is_err() {
            return;
        }
    }
}

/// For tests of several rooms.
#[cfg(test)]
mod testing;
