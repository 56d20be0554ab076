//! The agent in a member: keeps the intermediate, issues the gateway's certificate, drives the Envoy beside it,
//! keeps the telemetry names, probes every path, reports.
//!
//! | room | what it does |
//! |---|---|
//! | `wanted` | reads the `MeshAgent` |
//! | `intermediate`, `keeper` | decides about the intermediate; does it |
//! | `leaf`, `signing` | makes leaves; keeps one fresh, ledger first |
//! | `places` | where the gateways of regions are |
//! | `gateway` | configuration, addresses and certificates to Envoy, and what Envoy says to them |
//! | `prober` | real requests on every path |
//! | `names` | endpoint slices behind the telemetry Services |
//! | `report` | status, on changes of meaning only |
//!
//! Everything is passed on through watch channels: each room sees the latest and nothing else. All of it goes on
//! from memory while the API server is away.

mod gateway;
mod intermediate;
mod jitter;
mod keeper;
mod leaf;
mod metrics;
mod names;
mod places;
mod prober;
mod report;
mod signing;
mod wanted;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use mesh_cluster::{
    agent_io::{AgentIoError, Intent, OwnCluster, Seen},
    tasks::Tasks,
};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

pub use gateway::bootstrap;

use crate::{
    gateway::{Accepted, Gateway},
    keeper::Keeper,
    leaf::Leaf,
    metrics::Metrics,
    names::Names,
    prober::{Paths, Prober},
    report::{Board, Reporter},
    signing::Signing,
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
    /// Where that Envoy takes telemetry.
    pub intake: SocketAddr,
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

    let (intent_tx, intents) = watch::channel(None);
    let (pods_tx, pods) = watch::channel(None);
    let (services_tx, services) = watch::channel(None);
    let (slices_tx, slices) = watch::channel(None);
    let (requests_tx, requests) = watch::channel(None);
    tasks.spawn("watch MeshAgent", cluster.follow_intent(intent_tx));
    tasks.spawn("watch pods", cluster.follow_pods(pods_tx));
    tasks.spawn("watch services", cluster.follow_services(services_tx));
    tasks.spawn("watch endpoint slices", cluster.follow_slices(slices_tx));
    tasks.spawn(
        "watch certificate requests",
        cluster.follow_requests(requests_tx),
    );

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
        wanted: wanted.clone(),
        requests,
        signer: signer_tx,
        board: board.clone(),
    };
    tasks.spawn("intermediate", keeper.run());
    let signing = Signing {
        wanted: wanted.clone(),
        signer,
        leaf: leaf_tx,
        board: board.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn("leaf", signing.run());
    let gateway = Gateway {
        pod: settings.pod.clone(),
        socket: settings.xds_socket,
        wanted,
        leaf: leaf.clone(),
        paths: paths_tx,
        accepted: accepted_tx,
        board: board.clone(),
        metrics: metrics.clone(),
    };
    gateway.start(registry, tasks);
    tasks.spawn(
        "probes",
        Prober {
            intake: settings.intake,
            board: board.clone(),
            metrics,
        }
        .run(paths),
    );
    let names = Names {
        cluster: cluster.clone(),
        intents: intents.clone(),
        pods: pods.clone(),
        services,
        slices,
    };
    tasks.spawn("names", names.run());

    let reporter = || Reporter {
        cluster: cluster.clone(),
        pod: settings.pod.clone(),
        version: settings.version.clone(),
        board: board.clone(),
        intents: intents.clone(),
    };
    tasks.spawn("report of this replica", reporter().replica());
    tasks.spawn("report of the intermediate", reporter().shared());
    tasks.spawn("reports of pods that are gone", reporter().bury(pods));
    Ok(Readiness { leaf, accepted })
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
                    board.obstacle(why);
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
