//! Who leads: one replica at a time, by a Lease.
//!
//! A replica leads from the moment its renewal was *sent* (not answered) for `HOLD`; others wait for the whole
//! [`DURATION`] without a change, measured with their own clocks, before they take over. A request that the leader sent at the
//! last moment has its answer or its deadline before that.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use mesh_api::labels;
use tokio::{sync::watch, time::Instant};

use crate::call::{CallError, call, call_opt};

/// Name of the Lease.
pub const NAME: &str = "kof-istio-controller";
/// How long a Lease without a sign of life belongs to its holder.
pub const DURATION: Duration = Duration::from_secs(13);
/// How long a renewal lets its holder write: requests take at most [`crate::call::CALL`] beyond it.
const HOLD: Duration = Duration::from_secs(8);
/// Between renewals.
const RENEW: Duration = Duration::from_secs(3);
/// How long one request about the Lease may take: one that is lost leaves time for another within [`HOLD`].
const REQUEST: Duration = Duration::from_millis(2500);
/// Between looks of those who wait, and between attempts that failed. With it, a killed leader is replaced within 15 s.
const RETRY: Duration = Duration::from_millis(500);

/// Whether this replica leads. Cheap to clone; asked before every write.
#[derive(Clone, Debug)]
pub struct Claim(watch::Receiver<Option<Instant>>);

impl Claim {
    /// Whether this replica may write now.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until the answer may have changed.
    pub async fn changed(&mut self) {
        let was = self.is_current();
        loop {
            let until = *self.0.borrow_and_update();
            let expiry = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.0.changed() => if changed.is_err() { return },
                () = expiry => {}
            }
            if self.is_current() != was {
                return;
            }
        }
    }
}

/// What one replica remembers about the Lease.
struct Candidate {
    api: Api<Lease>,
    me: String,
    claim: watch::Sender<Option<Instant>>,
    /// The Lease as last seen, and when it was first seen so.
    seen: Option<(String, Instant)>,
}

/// A claim on the Lease and the task that fights for it, which runs until `shutdown` and then lets go, so that the next
/// leader need not wait.
pub fn contend(
    client: Client,
    namespace: &str,
    me: &str,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> (Claim, impl Future<Output = ()> + Send + 'static) {
    let (claim, receiver) = watch::channel(None);
    let api = Api::namespaced(client, namespace);
    let mut candidate = Candidate {
        api,
        me: me.to_owned(),
        claim,
        seen: None,
    };
    let task = async move {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let pause = candidate.turn().await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut shutdown => break,
            }
        }
        candidate.release().await;
    };
    (Claim(receiver), task)
}

impl Candidate {
    /// One look at the Lease; says how long to wait until the next.
    async fn turn(&mut self) -> Duration {
        let sent = Instant::now();
        let was = self.claim.borrow().is_some();
        let held = match tokio::time::timeout(REQUEST, self.try_hold(sent)).await {
            Ok(held) => held,
            Err(_elapsed) => Err(CallError::Timeout {
                verb: "hold",
                object: format!("Lease {NAME}"),
            }),
        };
        match held {
            Ok(true) => {
                self.claim.send_if_modified(|until| {
                    let first = until.is_none_or(|until| until < sent);
                    *until = Some(sent + HOLD);
                    first
                });
                if !was {
                    tracing::info!(lease = NAME, "Leading");
                }
                RENEW
            }
            Ok(false) => {
                self.lose(was);
                jittered(RETRY)
            }
            Err(error) => {
                if was {
                    tracing::warn!(
                        why = mesh_core::text::chain(&error),
                        "Failed to renew the lease"
                    );
                } else {
                    tracing::debug!(
                        why = mesh_core::text::chain(&error),
                        "Failed to look at the lease"
                    );
                }
                jittered(RETRY)
            }
        }
    }

    fn lose(&self, was: bool) {
        if was {
            tracing::warn!(lease = NAME, "No longer leading");
            self.claim.send_replace(None);
        }
    }

    /// Whether we hold it, from `sent` on.
    async fn try_hold(&mut self, sent: Instant) -> Result<bool, CallError> {
        let Some(lease) = call_opt("get", format!("Lease {NAME}"), self.api.get_opt(NAME))
            .await?
            .flatten()
        else {
            let lease = self.written(None);
            return taken(
                call(
                    "create",
                    format!("Lease {NAME}"),
                    self.api.create(&PostParams::default(), &lease),
                )
                .await,
            );
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, sent));
        }
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.clone())
            .unwrap_or_default();
        let silent = self
            .seen
            .as_ref()
            .is_some_and(|(_, since)| sent.duration_since(*since) >= DURATION);
        if holder != self.me && !holder.is_empty() && !silent {
            return Ok(false);
        }
        let lease = self.written(Some(lease));
        taken(
            call(
                "update",
                format!("Lease {NAME}"),
                self.api.replace(NAME, &PostParams::default(), &lease),
            )
            .await,
        )
    }

    fn written(&self, before: Option<Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let before = before.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                labels: Some(
                    [(
                        labels::MANAGED_BY.to_owned(),
                        labels::MANAGED_BY_US.to_owned(),
                    )]
                    .into(),
                ),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let spec = before.spec.clone().unwrap_or_default();
        let mine = spec.holder_identity.as_deref() == Some(&self.me);
        let transitions = spec.lease_transitions.unwrap_or(0);
        Lease {
            metadata: before.metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: if mine {
                    spec.acquire_time
                } else {
                    Some(now.clone())
                },
                renew_time: Some(now),
                lease_transitions: Some(if mine {
                    transitions
                } else {
                    transitions.saturating_add(1)
                }),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Lets go, if it is ours.
    async fn release(&mut self) {
        let led = self.claim.borrow().is_some();
        self.claim.send_replace(None);
        if !led {
            return;
        }
        let found = call_opt("get", format!("Lease {NAME}"), self.api.get_opt(NAME))
            .await
            .ok()
            .flatten()
            .flatten();
        let Some(mut lease) = found else { return };
        let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_deref() == Some(&self.me))
        else {
            return;
        };
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        let released = call(
            "release",
            format!("Lease {NAME}"),
            self.api.replace(NAME, &PostParams::default(), &lease),
        )
        .await;
        match released {
            Ok(_) => tracing::info!(lease = NAME, "Released"),
            Err(error) => tracing::warn!(
                why = mesh_core::text::chain(&error),
                "Failed to release the lease"
            ),
        }
    }
}

/// Somebody else was faster: no failure, but not ours either.
fn taken(answer: Result<Lease, CallError>) -> Result<bool, CallError> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Up to half as long again, so that replicas do not step in time.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let part = Timestamp::now().subsec_nanosecond().unsigned_abs() / 1000 % 512;
    pause + pause * part / 1024
}

#[cfg(test)]
mod tests;
