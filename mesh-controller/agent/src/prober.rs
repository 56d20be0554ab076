//! Asks each region, the way its users do: through the Envoy beside, by the Service's name, with a real request.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, header};
use http_body_util::{BodyExt as _, Collected, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use mesh_api::agent::Consume;
use mesh_core::probe::{Answer, DEADLINE_SECS, Failure, INTERVAL_SECS, Seen, Track, classify};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    jitter,
    metrics::{Metrics, Region},
    report::Board,
};

/// Most of an answer that is read.
const BODY: usize = 4096;

/// The paths to probe, as Envoy has them now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Paths {
    /// By region.
    pub(crate) consume: BTreeMap<String, Consume>,
    /// Grows with each configuration that Envoy has accepted: reason to probe at once.
    pub(crate) accepted: u64,
}

/// What probing needs.
#[derive(Clone, Debug)]
pub(crate) struct Prober {
    pub(crate) intake: SocketAddr,
    pub(crate) board: Board,
    pub(crate) metrics: Metrics,
}

impl Prober {
    /// Probes every path there is, for ever.
    pub(crate) async fn run(self, mut paths: watch::Receiver<Arc<Paths>>) {
        let mut tasks = JoinSet::new();
        let mut running: BTreeMap<String, (Consume, AbortHandle)> = BTreeMap::new();
        loop {
            let wanted = Arc::clone(&paths.borrow_and_update());
            running.retain(|region, (consume, task)| {
                // Addresses are Envoy's business; only what a probe says and asks matters here.
                let keep = wanted.consume.get(region).is_some_and(|now| {
                    now.service == consume.service && now.probe == consume.probe
                });
                if !keep {
                    task.abort();
                    if !wanted.consume.contains_key(region) {
                        self.metrics.forget(region);
                    }
                }
                keep
            });
            let regions: Vec<String> = wanted.consume.keys().cloned().collect();
            self.board.only(&regions);
            for (region, consume) in &wanted.consume {
                if !running.contains_key(region) {
                    let task = tasks.spawn(self.clone().path(
                        region.clone(),
                        consume.clone(),
                        paths.clone(),
                    ));
                    running.insert(region.clone(), (consume.clone(), task));
                }
            }
            while let Some(ended) = tasks.try_join_next() {
                if ended.is_err_and(|error| error.is_panic()) {
                    return;
                }
            }
            if paths.changed().await.is_err() {
                return;
            }
        }
    }

    /// Probes one path until it is aborted.
    async fn path(self, region: String, consume: Consume, mut paths: watch::Receiver<Arc<Paths>>) {
        let mut track = Track::default();
        let mut bad = 0_u32;
        loop {
            let accepted = paths.borrow_and_update().accepted;
            let begun = Instant::now();
            let result = self.ask(&consume).await;
            self.metrics.probed(
                &region,
                begun.elapsed(),
                result.as_ref().err().map(|failure| failure.class),
            );
            bad = if result.is_ok() {
                0
            } else {
                bad.saturating_add(1)
            };
            if track.observe(result, Timestamp::now())
                && let Some(state) = track.state()
            {
                match &state.outcome {
                    Ok(()) => tracing::info!(region, "requests come through"),
                    Err(failure) => {
                        tracing::warn!(
                            region,
                            reason = failure.class.as_str(),
                            message = failure.message,
                            "requests do not come through"
                        );
                    }
                }
                self.metrics
                    .path_ready
                    .get_or_create(&Region {
                        region: region.clone(),
                    })
                    .set(i64::from(state.outcome.is_ok()));
                self.board.path(&region, state);
            }
            let pause = jitter::around(pause(bad));
            // A new configuration is a reason to look sooner.
            let news = async {
                while paths.changed().await.is_ok() && paths.borrow().accepted == accepted {}
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = news => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn ask(&self, consume: &Consume) -> Result<(), Failure> {
        let deadline = Duration::from_secs(u64::from(DEADLINE_SECS));
        match timeout(deadline, self.exchange(consume)).await {
            Err(_elapsed) => classify(&Seen::Nothing),
            Ok(Err(error)) => {
                tracing::debug!(
                    region = consume.region,
                    error = &*error as &dyn std::error::Error,
                    "a probe broke"
                );
                classify(&Seen::NoIntake)
            }
            Ok(Ok(answer)) => answer,
        }
    }

    async fn exchange(
        &self,
        consume: &Consume,
    ) -> Result<Result<(), Failure>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.intake).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(&consume.probe)
            .header(header::HOST, &consume.service)
            .header(header::USER_AGENT, "mesh-probe")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            // A longer answer is an answer too.
            let body = Limited::new(body, BODY)
                .collect()
                .await
                .map(Collected::to_bytes)
                .unwrap_or_default();
            Ok::<_, hyper::Error>((head, body))
        };
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        let (head, body) = tokio::select! {
            biased;
            done = &mut exchange => done?,
            ended = &mut connection => {
                ended?;
                exchange.await?
            }
        };
        let headers: Vec<(&str, &str)> = head
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
            .collect();
        let body = String::from_utf8_lossy(&body);
        Ok(classify(&Seen::Answer(Answer {
            status: head.status.as_u16(),
            headers: &headers,
            body: &body,
        })))
    }
}

/// Sooner again after the first bad ones: most of what is wrong at the start is over in a moment.
fn pause(bad: u32) -> Duration {
    let steady = Duration::from_secs(u64::from(INTERVAL_SECS));
    if bad == 0 {
        steady
    } else {
        Duration::from_millis(200_u64 << (bad - 1).min(8)).min(steady)
    }
}

#[cfg(test)]
mod tests;
