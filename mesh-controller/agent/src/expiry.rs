//! When every certificate ends that is known here, as a metric: true right after each change, and silent about what is gone.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use mesh_ca::CertFacts;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::sync::watch;

use crate::{
    intermediate::{Signer, told},
    issue::Serving,
    leaf::Leaf,
    report::Draft,
    wanted::Wanted,
};

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Which {
    /// `root`, `intermediate`, `gateway` or `serving`.
    kind: &'static str,
    /// Of the root or intermediate, or of the one that signed it; 0 if it has none.
    generation: u32,
    /// The first of its SHA-256.
    fingerprint: String,
}

impl Which {
    fn new(kind: &'static str, generation: u32, fingerprint: &str) -> Self {
        Self {
            kind,
            generation,
            fingerprint: fingerprint.chars().take(16).collect(),
        }
    }
}

type Ends = BTreeMap<Which, Timestamp>;

/// What tells of certificates.
pub(crate) struct Expiry {
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(crate) signer: watch::Receiver<Option<Signer>>,
    pub(crate) leaf: watch::Receiver<Option<Arc<Leaf>>>,
    pub(crate) serving: watch::Receiver<Option<Arc<Serving>>>,
    pub(crate) said: watch::Receiver<Draft>,
}

impl Expiry {
    /// Keeps the metric true, for ever.
    pub(crate) fn run(self, registry: &mut Registry) -> impl Future<Output = ()> + Send + use<> {
        let ends: Family<Which, Gauge> = Family::default();
        registry.sub_registry_with_prefix("agent").register(
            "certificate_not_after_seconds",
            "When each certificate ends that is known here, Unix time",
            ends.clone(),
        );
        self.keep(ends)
    }

    async fn keep(mut self, ends: Family<Which, Gauge>) {
        let mut shown = Ends::new();
        loop {
            let known = self.known();
            for which in shown.keys().filter(|which| !known.contains_key(*which)) {
                ends.remove(which);
            }
            for (which, end) in &known {
                ends.get_or_create(which).set(end.as_second());
            }
            shown = known;
            let changed = tokio::select! {
                changed = self.wanted.changed() => changed,
                changed = self.signer.changed() => changed,
                changed = self.leaf.changed() => changed,
                changed = self.serving.changed() => changed,
                changed = self.said.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn known(&mut self) -> Ends {
        let mut ends = Ends::new();
        let mut note = |kind, generation, facts: &CertFacts| {
            let which = Which::new(kind, generation, &facts.fingerprint);
            ends.insert(which, facts.not_after);
        };
        if let Some(wanted) = self.wanted.borrow_and_update().as_deref() {
            let bundle = wanted.spec.workloads.iter().flat_map(|w| &w.bundle.roots);
            for facts in bundle.flat_map(|text| mesh_ca::facts(text).unwrap_or_default()) {
                note("root", 0, &facts);
            }
            for facts in mesh_ca::facts(&wanted.spec.root.certificate).unwrap_or_default() {
                note("root", wanted.spec.root.generation, &facts);
            }
        }
        let mut held = self.said.borrow_and_update().held().to_vec();
        held.extend(self.signer.borrow_and_update().as_ref().map(told));
        if let Some(leaf) = self.leaf.borrow_and_update().as_deref() {
            let signer = held.iter().find(|one| one.fingerprint == leaf.wish.signer);
            note(
                "gateway",
                signer.map_or(0, |one| one.generation),
                &leaf.facts,
            );
        }
        if let Some(serving) = self.serving.borrow_and_update().as_deref() {
            note("serving", serving.signer, &serving.facts);
        }
        for one in held {
            if let Ok(end) = one.not_after.parse() {
                let which = Which::new("intermediate", one.generation, &one.fingerprint);
                ends.insert(which, end);
            }
        }
        // The root that the intermediate comes from is in the bundle too: once, under its generation.
        let named: Vec<String> = ends
            .keys()
            .filter(|which| which.kind == "root" && which.generation > 0)
            .map(|which| which.fingerprint.clone())
            .collect();
        ends.retain(|which, _| {
            which.kind != "root" || which.generation > 0 || !named.contains(&which.fingerprint)
        });
        ends
    }
}

#[cfg(test)]
mod tests;
