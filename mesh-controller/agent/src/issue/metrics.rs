//! What is counted of workload certificates.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// How a token was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Reviewed {
    /// The API server was asked.
    Asked,
    /// The answer was known.
    Cached,
    /// Somebody else was asking the same.
    Coalesced,
    /// It was refused without asking.
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByHow {
    pub(super) how: Reviewed,
}

/// Words of our own, so their number is bounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByReason {
    pub(super) reason: &'static str,
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pub(super) issued: Counter,
    pub(super) refused: Family<ByReason, Counter>,
    pub(super) in_flight: Gauge,
    pub(super) queued: Gauge,
    pub(super) connections: Gauge,
    pub(super) handshakes_failed: Counter,
    pub(super) reviews: Family<ByHow, Counter>,
    pub(super) seconds: Histogram,
}

impl Counts {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let all = Self {
            issued: Counter::default(),
            refused: Family::default(),
            in_flight: Gauge::default(),
            queued: Gauge::default(),
            connections: Gauge::default(),
            handshakes_failed: Counter::default(),
            reviews: Family::default(),
            seconds: Histogram::new([
                0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
            ]),
        };
        let r = registry.sub_registry_with_prefix("agent");
        r.register(
            "workload_certificates_issued",
            "Certificates given to workloads",
            all.issued.clone(),
        );
        r.register(
            "workload_certificates_refused",
            "Requests of workloads that were refused, by reason",
            all.refused.clone(),
        );
        r.register(
            "workload_certificate_duration_seconds",
            "How long requests of workloads took, given or refused",
            all.seconds.clone(),
        );
        r.register(
            "workload_requests_in_flight",
            "Requests of workloads that are being answered",
            all.in_flight.clone(),
        );
        r.register(
            "workload_connections",
            "Connections to the CA that are open",
            all.connections.clone(),
        );
        r.register(
            "workload_handshakes_failed",
            "Connections to the CA that did not get through their TLS handshake",
            all.handshakes_failed.clone(),
        );
        r.register(
            "token_reviews",
            "Tokens of workloads by how they were judged",
            all.reviews.clone(),
        );
        r.register(
            "token_reviews_queued",
            "Tokens that wait for the API server to be asked",
            all.queued.clone(),
        );
        all
    }

    pub(super) fn reviewed(&self, how: Reviewed) {
        self.reviews.get_or_create(&ByHow { how }).inc();
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ByReason { reason }).inc();
    }

    pub(super) fn took(&self, time: Duration) {
        self.seconds.observe(time.as_secs_f64());
    }
}
