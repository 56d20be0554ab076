//! What the controller counts. Labels are enums; names of objects stand in logs and status.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::apply::Outcome;

/// Outcome of applying one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Applied {
    /// It was written.
    Written,
    /// It was as it should be.
    Unchanged,
    /// It is there and not ours, and that is fine.
    Shared,
    /// It is there and not ours.
    Refused,
    /// It could not be written.
    Failed,
}

impl From<&Outcome> for Applied {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Written => Self::Written,
            Outcome::Unchanged => Self::Unchanged,
            Outcome::Shared => Self::Shared,
            Outcome::Refused(_) => Self::Refused,
            Outcome::Failed(_) => Self::Failed,
        }
    }
}

/// The first condition of a member that is not true.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Station {
    /// Its API server does not answer.
    Reachable,
    /// Not everything of ours is there.
    Enrolled,
    /// It has no intermediate.
    IntermediateReady,
    /// Certificates were not exchanged.
    TrustDistributed,
    /// Its gateway is not ready.
    GatewayReady,
    /// It does not know where gateways are.
    DiscoveryReady,
    /// A name is missing.
    NamesReady,
    /// A path does not work.
    PathsReady,
    /// None: all are true.
    Ready,
}

impl From<mesh_core::conditions::Kind> for Station {
    fn from(kind: mesh_core::conditions::Kind) -> Self {
        use mesh_core::conditions::Kind;
        match kind {
            Kind::Reachable => Self::Reachable,
            Kind::Enrolled => Self::Enrolled,
            Kind::IntermediateReady => Self::IntermediateReady,
            Kind::TrustDistributed => Self::TrustDistributed,
            Kind::GatewayReady => Self::GatewayReady,
            Kind::DiscoveryReady => Self::DiscoveryReady,
            Kind::NamesReady => Self::NamesReady,
            Kind::PathsReady => Self::PathsReady,
            Kind::Ready => Self::Ready,
        }
    }
}

/// Whether API servers of members answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Reached {
    /// Not asked yet, or there is no way to ask.
    Unknown,
    /// It answers.
    Answers,
    /// It does not.
    Lost,
}

/// What became of a certificate request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Judged {
    /// Signed.
    Signed,
    /// Denied.
    Denied,
    /// Could not be answered.
    Failed,
    /// Has no answer yet: its sender asks too often, or has not said everything.
    Waits,
}

/// What ends at some time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelValue)]
pub enum Ending {
    /// A root.
    Root,
    /// The intermediate of a member.
    Intermediate,
    /// A revocation list; `cluster` is empty for the root's.
    Crl,
}

/// A certificate or list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub(crate) struct ByCertificate {
    pub(crate) mesh: String,
    pub(crate) cluster: String,
    pub(crate) kind: Ending,
    pub(crate) generation: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: Applied,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStation {
    waits_for: Station,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReach {
    state: Reached,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerdict {
    verdict: Judged,
}

/// The metrics of the controller.
#[derive(Clone, Debug)]
pub struct Metrics {
    looks: Counter,
    applied: Family<ByOutcome, Counter>,
    members: Family<ByStation, Gauge>,
    reach: Family<ByReach, Gauge>,
    requests: Family<ByVerdict, Counter>,
    not_after: Family<ByCertificate, Gauge>,
    /// Those that are shown there.
    shown: Arc<Mutex<BTreeSet<ByCertificate>>>,
    leading: Gauge,
    first_object: Histogram,
    remote_tokens: Counter,
    remote_secrets: Counter,
}

impl Metrics {
    /// Registers them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            looks: Counter::default(),
            applied: Family::default(),
            members: Family::default(),
            reach: Family::default(),
            requests: Family::default(),
            not_after: Family::default(),
            shown: Arc::default(),
            leading: Gauge::default(),
            first_object: Histogram::new([
                0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0, 20.0,
            ]),
            remote_tokens: Counter::default(),
            remote_secrets: Counter::default(),
        };
        registry.register(
            "looks",
            "Count of looks at everything",
            metrics.looks.clone(),
        );
        registry.register(
            "objects_applied",
            "Count of objects applied in members, by outcome",
            metrics.applied.clone(),
        );
        registry.register(
            "members",
            "Members by the first condition that is not true",
            metrics.members.clone(),
        );
        registry.register(
            "members_reach",
            "Members by whether their API server answers",
            metrics.reach.clone(),
        );
        registry.register(
            "certificate_requests",
            "Count of requests for intermediates, by verdict",
            metrics.requests.clone(),
        );
        registry.register(
            "certificate_not_after_seconds",
            "When certificates and revocation lists end, Unix time",
            metrics.not_after.clone(),
        );
        registry.register(
            "leading",
            "Whether this replica leads",
            metrics.leading.clone(),
        );
        registry.register_with_unit(
            "first_object",
            "Time from seeing a cluster ask for membership to the first object in it",
            Unit::Seconds,
            metrics.first_object.clone(),
        );
        registry.register(
            "remote_tokens",
            "Count of tokens that were asked for in regions, for remote secrets",
            metrics.remote_tokens.clone(),
        );
        registry.register(
            "remote_secrets_written",
            "Count of writes of remote secrets",
            metrics.remote_secrets.clone(),
        );
        metrics
    }

    pub(crate) fn remote_token(&self) {
        self.remote_tokens.inc();
    }

    pub(crate) fn remote_secret(&self) {
        self.remote_secrets.inc();
    }

    pub(crate) fn looked(&self) {
        self.looks.inc();
    }

    pub(crate) fn applied(&self, outcome: &Outcome) {
        self.applied
            .get_or_create(&ByOutcome {
                outcome: outcome.into(),
            })
            .inc();
    }

    pub(crate) fn judged(&self, verdict: Judged) {
        self.requests.get_or_create(&ByVerdict { verdict }).inc();
    }

    pub(crate) fn leading(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }

    pub(crate) fn first_object(&self, after: std::time::Duration) {
        self.first_object.observe(after.as_secs_f64());
    }

    /// When what is known ends. What is not known any more is not told any more; what stays is never missing for a moment.
    pub(crate) fn endings(&self, endings: impl Iterator<Item = (ByCertificate, jiff::Timestamp)>) {
        let mut shown = self.shown.lock();
        let mut now = BTreeSet::new();
        for (certificate, at) in endings {
            self.not_after
                .get_or_create(&certificate)
                .set(at.as_second());
            now.insert(certificate);
        }
        for gone in shown.difference(&now) {
            self.not_after.remove(gone);
        }
        *shown = now;
    }

    pub(crate) fn members(&self, members: impl Iterator<Item = (Station, Reached)>) {
        self.members.clear();
        self.reach.clear();
        for (waits_for, state) in members {
            self.members.get_or_create(&ByStation { waits_for }).inc();
            self.reach.get_or_create(&ByReach { state }).inc();
        }
    }
}
