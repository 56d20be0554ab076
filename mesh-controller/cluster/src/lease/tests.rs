use futures::FutureExt as _;
use tokio::sync::oneshot;

use super::*;
use crate::testing::Fake;

fn contender(fake: &Fake, name: &str) -> (Claim, oneshot::Sender<()>, tokio::task::JoinSet<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let (claim, task) = contend(fake.client(), "istio-system", name, stopped.map(|_| ()));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(task);
    (claim, stop, tasks)
}

/// Seconds until the claim holds.
async fn leads(claim: &mut Claim) -> f64 {
    let start = Instant::now();
    while !claim.is_current() {
        claim.changed().await;
    }
    start.elapsed().as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_replaced_in_time_and_never_overlaps() {
    let fake = Fake::default();
    let (mut first, _stop, tasks) = contender(&fake, "first");
    assert!(leads(&mut first).await < 1.0);
    let (mut second, _stop, _tasks) = contender(&fake, "second");
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(first.is_current() && !second.is_current());
    drop(tasks);
    let after = leads(&mut second).await;
    assert!(after < 15.0, "{after}");
    assert!(!first.is_current(), "both lead");
}

#[tokio::test(start_paused = true)]
async fn one_that_stops_lets_go_at_once() {
    let fake = Fake::default();
    let (mut first, stop, mut tasks) = contender(&fake, "first");
    leads(&mut first).await;
    let (mut second, _stop, _tasks) = contender(&fake, "second");
    tokio::time::sleep(Duration::from_secs(7)).await;
    stop.send(()).unwrap();
    tasks.join_next().await.unwrap().unwrap();
    assert!(!first.is_current());
    assert!(leads(&mut second).await < 3.0);
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_renew_stops_leading_before_others_begin() {
    let fake = Fake::default();
    let (mut first, _stop, _tasks) = contender(&fake, "first");
    leads(&mut first).await;
    fake.fall_silent();
    let start = Instant::now();
    while first.is_current() {
        first.changed().await;
    }
    // A request sent at the last moment ends before others may begin.
    assert!(
        start.elapsed() + crate::call::CALL <= DURATION,
        "{:?}",
        start.elapsed()
    );
}
