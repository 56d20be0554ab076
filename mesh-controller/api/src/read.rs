//! From objects to words. What cannot be read becomes an [`Obstacle`] with the object in its message.

mod access;
mod agent;
mod enrolment;
mod mesh;

pub use access::{Auth, ClusterAccess, Redacted, SecretRef, kubeconfig, kubeconfig_ref};
pub use agent::{agent, gateway, remembered};
pub use enrolment::{Membership, claim, membership};
pub use mesh::{MeshRules, WorkloadRules, mesh};
use mesh_core::facts::Obstacle;

fn obstacle(reason: &str, message: impl Into<String>) -> Obstacle {
    Obstacle::new(reason, message)
}

#[cfg(test)]
mod tests;
