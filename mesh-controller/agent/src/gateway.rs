//! Placeholder.
use crate::{leaf::Leaf, metrics::Metrics, prober::Paths, report::Board, wanted::Wanted};
use mesh_cluster::tasks::Tasks;
use prometheus_client::registry::Registry;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;

#[derive(Clone, Debug, Default)]
pub(crate) struct Accepted {
    pub(crate) generation: Option<i64>,
}
pub(crate) struct Gateway {
    pub(crate) pod: String,
    pub(crate) socket: PathBuf,
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(crate) leaf: watch::Receiver<Option<Arc<Leaf>>>,
    pub(crate) paths: watch::Sender<Arc<Paths>>,
    pub(crate) accepted: watch::Sender<Accepted>,
    pub(crate) board: Board,
    pub(crate) metrics: Metrics,
}
impl Gateway {
    pub(crate) fn start(self, _registry: &mut Registry, _tasks: &mut Tasks) {}
}
/// Envoy's start configuration.
pub fn bootstrap(_socket: &Path) -> String {
    String::new()
}
