//! Asks each region, the way its users do, with a real request: through the Envoy beside, by the Service's name; or from a pod with a
//! sidecar, which goes there by itself.

mod sidecar;

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
use mesh_api::agent::{Consume, Host, Sidecars};
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
    peers::Peers,
    report::Board,
};

/// Longest that a probe may take.
const DEADLINE: Duration = Duration::from_secs(DEADLINE_SECS as u64);
/// Most of an answer that is read.
const BODY: usize = 4096;

/// What a sidecar is told comes later than what a probe is told. So long a path that never worked is not called broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// The paths to probe, as Envoy has them now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Paths {
    /// By region.
    pub(crate) consume: BTreeMap<String, Consume>,
    /// Grows with each configuration that Envoy has accepted, or that is read: reason to probe at once.
    pub(crate) accepted: u64,
}

/// How regions are asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// Through the Envoy beside, which listens here.
    Intake(SocketAddr),
    /// Straight, by their names: the sidecar of this pod takes it from there.
    Sidecar,
}

/// Whether a path of this age that never worked may be called broken.
fn is_old_enough(way: Way, age: Duration) -> bool {
    match way {
        // Envoy has said that it has taken it.
        Way::Intake(_) => true,
        Way::Sidecar => age >= PATIENCE,
    }
}

/// The Service that is probed from a pod with a sidecar, if sidecars go to that region by themselves.
pub(crate) fn host(consume: &Consume) -> Option<&Host> {
    match consume.sidecars {
        Sidecars::Intake => None,
        Sidecars::Static | Sidecars::Remote => {
            let mut hosts = consume.hosts.iter();
            hosts.find(|host| host.service == consume.service)
        }
    }
}

/// What a probe says and asks; all else of a region is somebody else's business.
fn asked(consume: &Consume) -> (&str, &str, Option<u16>) {
    let port = host(consume).map(|host| host.port);
    (&consume.service, &consume.probe, port)
}

/// What probing needs.
#[derive(Clone, Debug)]
pub(crate) struct Prober {
    pub(crate) way: Way,
    /// Who judges the regions by what is seen; nobody does by what a sidecar sees, since that goes by what may be taken away.
    pub(crate) peers: Option<Peers>,
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
                let now = wanted.consume.get(region);
                let keep = now.is_some_and(|now| asked(now) == asked(consume));
                if !keep {
                    task.abort();
                    if !wanted.consume.contains_key(region) {
                        self.metrics.forget(region);
                        if let Some(peers) = &self.peers {
                            peers.forget(region);
                        }
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
        let born = Instant::now();
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
            let is_believed = result.is_ok()
                || track.state().is_some()
                || is_old_enough(self.way, born.elapsed());
            let changed = is_believed && track.observe(result, Timestamp::now());
            // Before its path is told: what a pod writes of a path holds its word about the region.
            self.judge(&region, &track);
            if changed && let Some(state) = track.state() {
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

    /// Whether the region is dead, by what its path shows now: time passes also while nothing changes.
    fn judge(&self, region: &str, track: &Track) {
        if let (Some(peers), Some(state)) = (&self.peers, track.state()) {
            let dead = peers.observe(region, state);
            self.metrics.dead(region, dead.is_some());
            self.board.dead(region, dead);
        }
    }

    async fn ask(&self, consume: &Consume) -> Result<(), Failure> {
        match self.way {
            Way::Intake(intake) => ask_intake(intake, consume).await,
            Way::Sidecar => sidecar::ask(consume).await,
        }
    }
}

/// Asks through the Envoy beside.
async fn ask_intake(intake: SocketAddr, consume: &Consume) -> Result<(), Failure> {
    let exchange = async {
        let stream = TcpStream::connect(intake).await?;
        exchange(stream, &consume.service, &consume.probe).await
    };
    match timeout(DEADLINE, exchange).await {
        Err(_elapsed) => classify(&Seen::Nothing),
        Ok(Err(error)) => {
            broke(consume, &*error);
            classify(&Seen::NoIntake)
        }
        Ok(Ok(response)) => response.read(|answer| classify(&Seen::Answer(answer))),
    }
}

fn broke(consume: &Consume, error: &(dyn std::error::Error + 'static)) {
    tracing::debug!(region = consume.region, error, "a probe broke");
}

/// What came back, as far as it is looked at.
struct Response {
    head: http::response::Parts,
    body: Bytes,
}

impl Response {
    fn read<T>(&self, read: impl FnOnce(Answer<'_>) -> T) -> T {
        let headers: Vec<(&str, &str)> = self
            .head
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
            .collect();
        read(Answer {
            status: self.head.status.as_u16(),
            headers: &headers,
            body: &String::from_utf8_lossy(&self.body),
        })
    }
}

/// One request, and its answer.
async fn exchange(
    stream: TcpStream,
    host: &str,
    path: &str,
) -> Result<Response, Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(header::HOST, host)
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
        Ok::<_, hyper::Error>(Response { head, body })
    };
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    let response = tokio::select! {
        biased;
        done = &mut exchange => done?,
        ended = &mut connection => {
            ended?;
            exchange.await?
        }
    };
    Ok(response)
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
