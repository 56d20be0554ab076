//! When every certificate and list ends that is known in management, for the metric.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{index::State, look::Look};
use crate::{
    metrics::{ByCertificate, Ending},
    watches::Key,
};

/// When every certificate and list that is known ends.
pub(super) fn endings(state: &State, found: &Look) -> Vec<(ByCertificate, Timestamp)> {
    let mut endings = Vec::new();
    let mut put = |mesh: &str, cluster: &str, kind: Ending, generation: u32, at: Timestamp| {
        let certificate = ByCertificate {
            mesh: mesh.to_owned(),
            cluster: cluster.to_owned(),
            kind,
            generation,
        };
        endings.push((certificate, at));
    };
    for (name, root) in &state.roots {
        let Ok(root) = root else { continue };
        put(
            name,
            "",
            Ending::Root,
            root.status.generation,
            root.not_after,
        );
        let mesh = state.meshes.get(&Key::new("", name));
        let list = mesh
            .and_then(|mesh| mesh.status.as_ref()?.crl.as_ref())
            .and_then(|list| mesh_ca::crl_facts(list.as_bytes()).ok());
        if let Some(list) = list {
            put(
                name,
                "",
                Ending::Crl,
                root.status.generation,
                list.next_update,
            );
        }
    }
    for told in found.told.values() {
        let (mesh, cluster) = (told.mesh.as_str(), told.object.spec.cluster.as_str());
        for anchor in told.facts.trusted_by(&BTreeSet::new()) {
            put(
                mesh,
                cluster,
                Ending::Intermediate,
                anchor.generation,
                anchor.not_after,
            );
        }
        // Which generation signed which list is only in the key; the soonest end is what matters.
        if let Some(until) = told.facts.crls.iter().filter_map(|list| list.until).min() {
            put(mesh, cluster, Ending::Crl, 0, until);
        }
    }
    endings
}

#[cfg(test)]
mod tests;
