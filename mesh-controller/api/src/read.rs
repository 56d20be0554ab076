//! From objects to words. What cannot be read becomes an [`Obstacle`] with the object in its message.

mod access;
mod agent;
mod enrolment;
mod istio;
mod mesh;
mod remote;
mod revocation;

pub use access::{Auth, ClusterAccess, Redacted, SecretRef, kubeconfig, kubeconfig_ref};
pub use agent::{
    LIST_MAX, agent, dead, gateway, lists, remembered, remembered_hosts, remembered_lists,
};
pub use enrolment::{Membership, claim, membership};
pub use istio::{IstioObjects, is_ours, istio};
pub use mesh::{MeshRules, WorkloadRules, data_plane, dead_peer, mesh};
use mesh_core::facts::Obstacle;
pub use remote::{remote_secret, server};
pub use revocation::revocations;

fn obstacle(reason: &str, message: impl Into<String>) -> Obstacle {
    Obstacle::new(reason, message)
}

#[cfg(test)]
mod tests;
