//! What runs clusters. Tests know this interface only, so another provider (kind, where a
//! container engine answers) can stand behind the same tests.

use std::path::PathBuf;

use anyhow::Result;

use crate::images::Image;

/// One cluster as its provider knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    /// Name, such as `region1`; also the name of its node without `-node`.
    pub name: String,
    /// Small number that its addresses are made from.
    pub index: u8,
    /// Kubeconfig of a cluster administrator, usable from the fleet's network.
    pub kubeconfig: PathBuf,
    /// The API server's audit log: every write, one JSON object a line.
    pub audit_log: PathBuf,
    /// Logs of the node's components.
    pub logs: PathBuf,
}

/// State of a cluster for people.
#[derive(Clone, Debug)]
pub struct State {
    /// The cluster.
    pub handle: Handle,
    /// Whether its node runs.
    pub running: bool,
    /// Memory of everything in it (resident, without page cache), in bytes.
    pub memory: Option<u64>,
    /// Components that are stopped or frozen by a fault.
    pub hurt: Vec<String>,
}

/// Ways to hurt a cluster that only its provider can arrange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hurt {
    /// The whole node dies at once, as by a power failure. Mended by a boot with its data.
    NodeKilled,
    /// The node is cut off from every other cluster and from tests; inside it all goes on.
    Partitioned,
    /// A component (`kube-apiserver`, `kubelet`, …) does not run.
    Stopped(String),
    /// A component exists but does nothing: connections are accepted and never answered.
    Frozen(String),
}

/// Something that runs clusters.
///
/// # Guarantees
///
/// A provider is safe to call again after any crash of the caller, and [`Provider::down`] of all
/// clusters leaves the machine as it was.
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// Starts these clusters, or finds them running. They are then ready for pods.
    fn up(&self, names: &[String]) -> impl Future<Output = Result<Vec<Handle>>> + Send;
    /// Stops these clusters and deletes everything of them; all when none is named.
    fn down(&self, names: &[String]) -> impl Future<Output = Result<()>> + Send;
    /// Every cluster this provider knows of.
    fn states(&self) -> Result<Vec<State>>;
    /// Puts images into a cluster; those it has already cost nothing.
    fn load(&self, cluster: &Handle, images: &[Image]) -> impl Future<Output = Result<()>> + Send;
    /// Gives an image, which is loaded, another image's name. Loading that one then takes the name back.
    fn rename(
        &self,
        cluster: &Handle,
        image: &Image,
        name: &str,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Breaks something. Breaking what is broken already is no error.
    fn hurt(&self, cluster: &Handle, what: &Hurt) -> impl Future<Output = Result<()>> + Send;
    /// Mends what [`Provider::hurt`] broke. Mending what is whole is no error.
    fn mend(&self, cluster: &Handle, what: &Hurt) -> impl Future<Output = Result<()>> + Send;
}
