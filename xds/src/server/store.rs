//! What each node should have, and how far it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::engine::{Nack, StreamStatus};
use crate::model::{CheckError, Snapshot};

/// How far one node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// An ADS stream of this node is open.
    pub connected: bool,
    /// Generation that is being delivered on the open stream, or was on the last one.
    pub sent: Option<u64>,
    /// Last generation that the node acknowledged completely. On a new stream it is known again only
    /// when the node has shown that it still has all of it.
    pub acked: Option<u64>,
    /// What the node refuses now, in its own words; a name is in at most one entry of its kind.
    /// Gone with the ACK of what replaces it.
    pub nacks: Vec<Nack>,
}

impl NodeStatus {
    /// The node runs exactly this generation.
    pub fn runs(&self, generation: u64) -> bool {
        self.connected && self.acked == Some(generation) && self.nacks.is_empty()
    }
}

/// Why a snapshot was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// The store does not serve this node.
    #[error("failed to set the snapshot of node {0:?}: it is not one of the configured nodes")]
    UnknownNode(String),
    /// The snapshot is not whole.
    #[error("failed to take a snapshot that is not whole")]
    Check(#[source] CheckError),
}

/// The snapshots of the nodes that this server serves, and nothing of any other node.
#[derive(Debug)]
pub struct Store {
    nodes: BTreeMap<String, Node>,
}

#[derive(Debug)]
struct Node {
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    status: watch::Sender<NodeStatus>,
    /// Which stream is the newest: only that one reports.
    newest: Mutex<u64>,
}

impl Store {
    /// A store for these node IDs.
    pub fn new(nodes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let node = |id: String| {
            let node = Node {
                snapshot: watch::Sender::new(None),
                status: watch::Sender::new(NodeStatus::default()),
                newest: Mutex::new(0),
            };
            (id, node)
        };
        Self {
            nodes: nodes.into_iter().map(|id| node(id.into())).collect(),
        }
    }

    /// Sets what a node should have, and returns the generation that stands for it: a new one if
    /// the content changed, the current one otherwise (then nothing is sent).
    ///
    /// # Errors
    /// [`SetError`] for a node that is not configured or a snapshot with a dangling reference;
    /// the node keeps what it has.
    pub fn set(&self, node: &str, mut snapshot: Snapshot) -> Result<u64, SetError> {
        snapshot.check().map_err(SetError::Check)?;
        let found = self.nodes.get(node);
        let found = found.ok_or_else(|| SetError::UnknownNode(node.to_owned()))?;
        let mut generation = 0;
        found.snapshot.send_if_modified(|current| {
            let before = current.as_ref().map_or(0, |c| c.generation);
            if current
                .as_ref()
                .is_some_and(|c| c.digest() == snapshot.digest())
            {
                generation = before;
                return false;
            }
            generation = before.saturating_add(1);
            snapshot.generation = generation;
            *current = Some(Arc::new(std::mem::take(&mut snapshot)));
            true
        });
        Ok(generation)
    }

    /// What the node should have now.
    pub fn snapshot(&self, node: &str) -> Option<Arc<Snapshot>> {
        self.nodes.get(node)?.snapshot.borrow().clone()
    }

    /// How far the node is, now and from now on. `None` for a node that is not configured.
    pub fn status(&self, node: &str) -> Option<watch::Receiver<NodeStatus>> {
        self.nodes.get(node).map(|found| found.status.subscribe())
    }

    pub(super) fn watch(&self, node: &str) -> Option<watch::Receiver<Option<Arc<Snapshot>>>> {
        self.nodes.get(node).map(|found| found.snapshot.subscribe())
    }

    /// Announces a new ADS stream of the node.
    pub(super) fn open(&self, node: &str) -> u64 {
        let Some(found) = self.nodes.get(node) else {
            return 0;
        };
        let mut newest = found.newest.lock();
        *newest = newest.wrapping_add(1);
        found.status.send_modify(|status| {
            status.connected = true;
            status.acked = None;
            status.nacks.clear();
        });
        *newest
    }

    /// Reports how far the stream is; an older stream of the node is not listened to.
    pub(super) fn report(&self, node: &str, stream: u64, now: StreamStatus) {
        self.update(node, stream, |status| {
            let next = NodeStatus {
                connected: true,
                sent: now.sent,
                acked: now.acked,
                nacks: now.nacks,
            };
            let changed = *status != next;
            *status = next;
            changed
        });
    }

    /// The stream ended.
    pub(super) fn close(&self, node: &str, stream: u64) {
        self.update(node, stream, |status| {
            std::mem::replace(&mut status.connected, false)
        });
    }

    fn update(&self, node: &str, stream: u64, change: impl FnOnce(&mut NodeStatus) -> bool) {
        if let Some(found) = self.nodes.get(node) {
            let newest = found.newest.lock();
            if *newest == stream {
                found.status.send_if_modified(change);
            }
        }
    }
}
