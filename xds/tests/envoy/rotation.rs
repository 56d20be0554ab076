//! Certificates, anchors and callers change while requests are on their way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::backend::Echo;
use crate::client::{get, post, stream};
use crate::lab::{DRAIN, HOST, Pair, Proxy, consume, eventually, secrets, serve, spec};

/// Posts without a pause until told to stop; each one must pass.
struct Load {
    stop: Arc<AtomicBool>,
    /// The client certificate of the last answer of each worker.
    last: Arc<Mutex<BTreeMap<usize, String>>>,
    workers: JoinSet<(u64, BTreeSet<String>)>,
}

impl Load {
    fn on(child: &Proxy) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let last = Arc::new(Mutex::new(BTreeMap::new()));
        let mut workers = JoinSet::new();
        for worker in 0..3 {
            let (stop, at) = (Arc::clone(&stop), child.spec.intake);
            let last = Arc::clone(&last);
            workers.spawn(async move {
                let (mut passed, mut certificates) = (0, BTreeSet::new());
                while !stop.load(Ordering::Relaxed) {
                    let answer = post(at, HOST, "/vm/insert/load", &[1; 2000]).await;
                    assert_eq!(
                        answer.status, 200,
                        "request {passed} of {worker}: {answer:?}"
                    );
                    let hash = answer.body.split("Hash=").nth(1).unwrap();
                    let hash = hash.split(';').next().unwrap().to_owned();
                    last.lock().insert(worker, hash.clone());
                    certificates.insert(hash);
                    passed += 1;
                }
                (passed, certificates)
            });
        }
        Self {
            stop,
            last,
            workers,
        }
    }

    /// The client certificates of the last answers.
    fn now(&self) -> BTreeSet<String> {
        self.last.lock().values().cloned().collect()
    }

    /// How many passed, and under how many different client certificates.
    async fn end(mut self) -> (u64, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut passed, mut certificates) = (0, BTreeSet::new());
        while let Some(done) = self.workers.join_next().await {
            let (count, seen) = done.unwrap();
            passed += count;
            certificates.extend(seen);
        }
        (passed, certificates.len())
    }
}

/// Reads a slow answer to its end: how many pieces, and how long it took.
fn slow(child: &Proxy, pause: u64) -> JoinHandle<(usize, Duration)> {
    let at = child.spec.intake;
    tokio::spawn(async move {
        let start = Instant::now();
        let mut answer = stream(at, HOST, &format!("/vm/insert/slow?drip={pause}")).await;
        let mut bytes = 0;
        while let Some(piece) = answer.next().await {
            bytes += piece.len();
        }
        (bytes / "drop;".len(), start.elapsed())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_rotate_under_load_without_a_lost_request() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    let load = Load::on(&pair.child);
    let mut slow_ones = Vec::new();
    for _ in 0..15 {
        // Each holds a connection, so that the next request needs a new one.
        slow_ones.push(slow(&pair.child, 100));
        pair.child.secrets.default = Some(pair.child_ca.leaf());
        pair.region.secrets.default = Some(pair.region_ca.leaf());
        tokio::join!(pair.child.apply(), pair.region.apply());
        sleep(Duration::from_millis(100)).await;
    }
    let (passed, certificates) = load.end().await;
    assert!(passed > 100, "{passed} requests");
    assert!(certificates > 3, "{certificates} certificates");
    for one in slow_ones {
        assert_eq!(one.await.unwrap().0, 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_is_replaced_with_an_overlap_and_without_a_lost_request() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    let load = Load::on(&pair.child);
    eventually("every worker has had an answer", async || {
        load.last.lock().len() == 3
    })
    .await;
    let first = load.now();
    let next = pair.root.member("c1", 2);
    let both = format!("{}{}", pair.child_ca.anchor, next.anchor);
    let mut anchors = |pem: &str| {
        let anchors = &mut pair.region.secrets.anchors;
        anchors.insert("c1".to_owned(), pem.to_owned());
    };
    anchors(&both);
    pair.region.apply().await;
    let old = pair.child.secrets.default.replace(next.leaf());
    pair.child.apply().await;
    // Connections under the old leaf end, then the old anchor goes.
    pair.region.spec.serve[0].epoch += 1;
    pair.region.apply().await;
    sleep(Duration::from_secs(u64::from(DRAIN) + 1)).await;
    eventually(
        "every worker's answers came under the new leaf",
        async || load.now().is_disjoint(&first),
    )
    .await;
    pair.region
        .secrets
        .anchors
        .insert("c1".to_owned(), next.anchor.clone());
    pair.region.apply().await;
    let (passed, certificates) = load.end().await;
    assert!(passed > 100, "{passed} requests");
    assert_eq!(certificates, 2);
    // The old leaf is worth nothing now.
    pair.child.secrets.default = old;
    pair.child.apply().await;
    pair.region.spec.serve[0].epoch += 1;
    pair.region.apply().await;
    eventually("the old leaf was refused", async || {
        pair.child
            .ask(HOST, "/vm/insert/x")
            .await
            .header("x-kof-flags")
            == "UC"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_caller_is_cut_off_within_the_drain_time_and_nobody_else() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    let other_ca = pair.root.member("c2", 1);
    let mut other = spec("c2");
    other.consume = vec![consume("c2", pair.region.spec.gateway)];
    let other = Proxy::start(other, secrets(&other_ca, &[&pair.region_ca]));
    pair.region.spec.serve.push(serve("c2", echo.at));
    let anchors = &mut pair.region.secrets.anchors;
    anchors.insert("c2".to_owned(), other_ca.anchor.clone());
    tokio::join!(pair.region.apply(), other.apply());

    let (removed, kept) = (slow(&pair.child, 600), slow(&other, 600));
    eventually("both are on their way", async || echo.seen() >= 2).await;
    let start = Instant::now();
    pair.region.spec.serve.remove(0);
    pair.region.secrets.anchors.remove("c1");
    pair.region.apply().await;
    // New requests end at once: on a new connection, or after one last answer on an old one.
    eventually("new requests were refused", async || {
        pair.child.ask(HOST, "/vm/insert/x").await.status == 503
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(u64::from(DRAIN)));
    let refused = pair.child.ask(HOST, "/vm/insert/x").await;
    assert!(
        refused.header("x-kof-tls").contains("reset_by_peer"),
        "{refused:?}"
    );
    // The open stream of the removed caller breaks off, that of the other one comes to its end.
    let (pieces, _) = removed.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(u64::from(DRAIN) + 2));
    assert!(pieces < 10, "{pieces} pieces");
    assert_eq!(kept.await.unwrap().0, 10);
    let answer = get(other.spec.intake, HOST, "/vm/insert/x").await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// A small generator: the same changes in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_changes_on_both_sides_lose_no_request() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    let load = Load::on(&pair.child);
    let mut dice = Dice(7);
    let own = pair.child.spec.consume[0].clone();
    for n in ["r2", "r3"] {
        let anchors = &mut pair.child.secrets.anchors;
        anchors.insert(n.to_owned(), pair.region_ca.anchor.clone());
    }
    for n in ["c2", "c3"] {
        let anchors = &mut pair.region.secrets.anchors;
        anchors.insert(n.to_owned(), pair.child_ca.anchor.clone());
    }
    for _ in 0..100 {
        match dice.roll(6) {
            0 => pair.child.secrets.default = Some(pair.child_ca.leaf()),
            1 => pair.region.secrets.default = Some(pair.region_ca.leaf()),
            2 => {
                // Other regions come, go and change.
                pair.child.spec.consume.truncate(1);
                for name in ["r2", "r3"] {
                    if dice.roll(2) == 0 {
                        let mut other = own.clone();
                        other.region = name.to_owned();
                        other.hosts = vec![format!("{name}-vmauth")];
                        other.sni = format!("x{}.{name}", dice.roll(3));
                        pair.child.spec.consume.push(other);
                    }
                }
            }
            3 => {
                // Other callers come, go and change.
                pair.region.spec.serve.truncate(1);
                for name in ["c2", "c3"] {
                    if dice.roll(2) == 0 {
                        let mut other = serve(name, echo.at);
                        other.epoch = dice.roll(3);
                        pair.region.spec.serve.push(other);
                    }
                }
            }
            4 => {
                // The same gateway, once or twice in the list.
                let at = own.endpoints[0];
                let times = usize::try_from(dice.roll(2) + 1).unwrap();
                pair.child.spec.consume[0].endpoints = vec![at; times];
            }
            _ => {
                // A name of our own region more or less.
                pair.child.spec.consume[0].hosts.truncate(4);
                if dice.roll(2) == 0 {
                    pair.child.spec.consume[0]
                        .hosts
                        .push("another-name".to_owned());
                }
            }
        }
        pair.child.set();
        pair.region.set();
        // Often the next change comes before this one is taken.
        sleep(Duration::from_millis(dice.roll(40))).await;
    }
    let start = Instant::now();
    tokio::join!(pair.child.apply(), pair.region.apply());
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let (passed, _) = load.end().await;
    assert!(passed > 100, "{passed} requests");
}

#[tokio::test]
async fn an_envoy_that_dies_comes_back_with_everything() {
    let echo = Echo::start().await;
    let mut pair = Pair::up(echo.at).await;
    let generation = pair.child.status().acked;
    pair.child.kill_envoy().await;
    pair.child.until("it is gone", |s| !s.connected).await;
    pair.child.start_envoy();
    pair.child
        .until("it is back", |s| s.connected && s.acked == generation)
        .await;
    assert_eq!(pair.child.ask(HOST, "/vm/insert/x").await.status, 200);
}
