//! What the agent counts. Regions are labels: a member calls few of them, and their names are bounded by the
//! `MeshAgent`.

use std::sync::atomic::AtomicU64;

use mesh_core::probe::Class;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// A region.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Region {
    pub(crate) region: String,
}

/// A region and what its probe showed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub(crate) region: String,
    pub(crate) result: &'static str,
}

type Histograms = Family<Region, Histogram, fn() -> Histogram>;

/// All of them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) leaf_expiry: Gauge,
    pub(crate) leaf_renewals: Counter,
    pub(crate) leaf_failures: Counter,
    pub(crate) probe_seconds: Histograms,
    pub(crate) probes: Family<Outcome, Counter>,
    pub(crate) path_ready: Family<Region, Gauge>,
    pub(crate) peer_dead: Family<Region, Gauge>,
    pub(crate) peer_withdrawn: Family<Region, Gauge>,
    pub(crate) path_success: Family<Region, Gauge<f64, AtomicU64>>,
    pub(crate) resolution_stale: Family<Region, Gauge>,
    pub(crate) xds_accepted: Gauge,
    pub(crate) xds_accepts: Counter,
    pub(crate) xds_refusals: Counter,
}

fn seconds() -> Histogram {
    Histogram::new([
        0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    ])
}

impl Metrics {
    fn new() -> Self {
        Self {
            leaf_expiry: Gauge::default(),
            leaf_renewals: Counter::default(),
            leaf_failures: Counter::default(),
            probe_seconds: Family::new_with_constructor(seconds),
            probes: Family::default(),
            path_ready: Family::default(),
            peer_dead: Family::default(),
            peer_withdrawn: Family::default(),
            path_success: Family::default(),
            resolution_stale: Family::default(),
            xds_accepted: Gauge::default(),
            xds_accepts: Counter::default(),
            xds_refusals: Counter::default(),
        }
    }

    /// What probes show, and nothing else.
    pub(crate) fn register_paths(registry: &mut Registry) -> Self {
        let all = Self::new();
        let r = registry.sub_registry_with_prefix("agent");
        r.register(
            "probe_duration_seconds",
            "How long probes took",
            all.probe_seconds.clone(),
        );
        r.register("probes", "Probes by what they showed", all.probes.clone());
        r.register(
            "path_ready",
            "1 if requests come through to the region",
            all.path_ready.clone(),
        );
        r.register(
            "path_last_success_seconds",
            "When a probe last came through, Unix time",
            all.path_success.clone(),
        );
        all
    }

    /// All that an agent counts.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let all = Self::register_paths(registry);
        let r = registry.sub_registry_with_prefix("agent");
        r.register(
            "peer_dead",
            "1 if this pod calls the region dead",
            all.peer_dead.clone(),
        );
        r.register(
            "peer_withdrawn",
            "1 if the endpoints of the region are taken away",
            all.peer_withdrawn.clone(),
        );
        r.register(
            "leaf_not_after_seconds",
            "When the gateway's leaf ends, Unix time",
            all.leaf_expiry.clone(),
        );
        r.register(
            "leaf_renewals",
            "Leaves made for the gateway",
            all.leaf_renewals.clone(),
        );
        r.register(
            "leaf_failures",
            "Leaves that could not be made",
            all.leaf_failures.clone(),
        );
        r.register(
            "gateway_stale_since_seconds",
            "Since when the gateway's name is not answered and its last addresses are kept, Unix time; 0 if it is",
            all.resolution_stale.clone(),
        );
        r.register(
            "xds_accepted_generation",
            "The generation of the MeshAgent that Envoy accepted whole",
            all.xds_accepted.clone(),
        );
        r.register(
            "xds_accepts",
            "Configurations that Envoy accepted whole",
            all.xds_accepts.clone(),
        );
        r.register(
            "xds_refusals",
            "Configurations that Envoy refused",
            all.xds_refusals.clone(),
        );
        all
    }

    /// Counts one probe.
    pub(crate) fn probed(&self, region: &str, took: std::time::Duration, failed: Option<Class>) {
        let label = Region {
            region: region.to_owned(),
        };
        self.probe_seconds
            .get_or_create(&label)
            .observe(took.as_secs_f64());
        let result = failed.map_or("Answered", Class::as_str);
        self.probes
            .get_or_create(&Outcome {
                region: region.to_owned(),
                result,
            })
            .inc();
        if failed.is_none() {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
            self.path_success
                .get_or_create(&label)
                .set(now.as_secs_f64());
        }
    }

    /// Whether a region is called dead.
    pub(crate) fn dead(&self, region: &str, dead: bool) {
        let region = region.to_owned();
        let gauge = self.peer_dead.get_or_create(&Region { region });
        gauge.set(i64::from(dead));
    }

    /// Whether the endpoints of a region are taken away.
    pub(crate) fn withdrawn(&self, region: &str, withdrawn: bool) {
        let region = region.to_owned();
        let gauge = self.peer_withdrawn.get_or_create(&Region { region });
        gauge.set(i64::from(withdrawn));
    }

    /// Forgets a region.
    pub(crate) fn forget(&self, region: &str) {
        let label = Region {
            region: region.to_owned(),
        };
        self.probe_seconds.remove(&label);
        self.path_ready.remove(&label);
        self.peer_dead.remove(&label);
        self.peer_withdrawn.remove(&label);
        self.path_success.remove(&label);
        self.resolution_stale.remove(&label);
        for result in Class::ALL
            .map(Class::as_str)
            .into_iter()
            .chain(["Answered"])
        {
            self.probes.remove(&Outcome {
                region: region.to_owned(),
                result,
            });
        }
    }
}
