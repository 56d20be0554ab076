//! A pod that only probes: through a sidecar of Istio, as the pods do that have one. It reports beside the agents, and does nothing else.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use mesh_cluster::{
    agent_io::{Intent, OwnCluster, Seen},
    tasks::Tasks,
};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::{
    AgentError,
    metrics::Metrics,
    prober::{self, Paths, Prober, Way},
    report::{Board, Reporter, present},
};

/// What a deployment decides about a pod that probes.
#[derive(Clone, Debug)]
pub struct ProbeSettings {
    /// Name of this pod.
    pub pod: String,
    /// Version of this program.
    pub version: String,
    /// Kubeconfig of the own cluster, in place of the service account.
    pub kubeconfig: Option<PathBuf>,
}

/// Whether it does its work.
#[derive(Clone, Debug)]
pub struct ProbeReadiness(watch::Receiver<Seen<Intent>>);

impl ProbeReadiness {
    /// Ready: it knows what to probe. What probes show does not matter here.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub fn check(&self) -> Result<(), String> {
        match self.0.borrow().as_deref() {
            Some(seen) if !seen.is_empty() => Ok(()),
            Some(_) | None => Err("the MeshAgent was not read yet".to_owned()),
        }
    }
}

/// Starts probing and reporting. It never waits for the API server: that may be away for now.
///
/// # Errors
///
/// When there is no kubeconfig and no service account.
pub async fn probe(
    settings: ProbeSettings,
    registry: &mut Registry,
    tasks: &mut Tasks,
) -> Result<ProbeReadiness, AgentError> {
    let cluster = OwnCluster::new(settings.kubeconfig.as_deref())
        .await
        .map_err(AgentError::FindCluster)?;
    let board = Board::of_prober();
    let (to_intents, intents) = watch::channel(None);
    let (to_paths, paths) = watch::channel(Arc::new(Paths::default()));
    tasks.spawn("watch MeshAgent", cluster.follow_intent(to_intents));
    tasks.spawn("paths", tell(intents.clone(), to_paths, board.clone()));
    let prober = Prober {
        way: Way::Sidecar,
        peers: None,
        board: board.clone(),
        metrics: Metrics::register_paths(registry),
    };
    tasks.spawn("probes", prober.run(paths));
    let reporter = Reporter {
        cluster,
        pod: settings.pod,
        version: settings.version,
        board,
        intents: intents.clone(),
    };
    reporter.start_probes(tasks);
    Ok(ProbeReadiness(intents))
}

/// Passes on which regions are to be probed, for ever. Without a `MeshAgent` there is none.
async fn tell(
    mut intents: watch::Receiver<Seen<Intent>>,
    to: watch::Sender<Arc<Paths>>,
    board: Board,
) {
    loop {
        let paths = present(&mut intents).map_or_else(Paths::default, |intent| {
            board.read(intent.generation);
            wanted(&intent)
        });
        to.send_if_modified(|known| {
            let other = **known != paths;
            if other {
                *known = Arc::new(paths);
            }
            other
        });
        if intents.changed().await.is_err() {
            return;
        }
    }
}

/// The regions that sidecars go to by themselves.
fn wanted(intent: &Intent) -> Paths {
    let consume = intent.spec.consume.iter();
    let consume: BTreeMap<_, _> = consume
        .filter(|consume| prober::host(consume).is_some())
        .map(|consume| (consume.region.clone(), consume.clone()))
        .collect();
    Paths {
        consume,
        accepted: u64::try_from(intent.generation).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
