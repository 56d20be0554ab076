use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;
use tonic::Code;

use super::{
    super::{
        Limits,
        audit::{Audit, Line},
        denied::Denied,
    },
    world::{Changes, StandIn, World, ask, claims, csr, plain, send},
};

/// 5,000 agents at once, each with a token of its own, and an API server that takes its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_is_queued_and_what_is_beyond_is_sent_away() {
    const AGENTS: usize = 5000;
    const SHARED: usize = 100;
    let limits = Limits {
        reviews: 8,
        queue: 100,
        in_flight: 400,
        // This is about numbers, not about how fast the machine is.
        patience: Duration::from_mins(2),
        ..Limits::default()
    };
    let world = World::with(Changes {
        api: Box::new(|api: &mut StandIn| api.slow = Duration::from_millis(5)),
        limits,
        ..Changes::default()
    })
    .await;
    let request = csr();
    let mut clients = Vec::new();
    for _ in 0..SHARED {
        clients.push(world.client().await);
    }
    // What is in the agent at most, looked at all the time.
    let world = Arc::new(world);
    let (mut most_inside, mut most_queued) = (0, 0);
    let mut calls = tokio::task::JoinSet::new();
    for agent in 0..AGENTS {
        let client = clients[agent % SHARED].clone();
        let token = world.key.token(&claims("kof", "collector", agent));
        let message = plain(request.clone());
        calls.spawn(async move {
            match send(&client, ask(&token, message)).await {
                Ok(answer) => (Code::Ok, answer.len() == 3),
                Err(status) => {
                    let hint = status.metadata().get("grpc-retry-pushback-ms").is_some();
                    (status.code(), hint)
                }
            }
        });
    }
    let mut codes = BTreeMap::new();
    while let Some(answered) = calls.join_next().await {
        let (code, whole) = answered.unwrap();
        assert!(whole, "{code:?}");
        *codes.entry(format!("{code:?}")).or_insert(0) += 1;
        if codes.values().sum::<usize>().is_multiple_of(50) {
            most_inside = most_inside.max(world.metric("mesh_agent_workload_requests_in_flight"));
            most_queued = most_queued.max(world.metric("mesh_agent_token_reviews_queued"));
        }
    }
    println!("{codes:?}, at most {most_inside} inside and {most_queued} queued");
    assert_eq!(codes.values().sum::<usize>(), AGENTS);
    assert!(
        codes
            .keys()
            .all(|code| code == "Ok" || code == "ResourceExhausted"),
        "{codes:?}"
    );
    assert!(
        codes["Ok"] > 0 && codes["ResourceExhausted"] > 0,
        "{codes:?}"
    );
    assert!(world.api.most.load(Ordering::SeqCst) <= 8);
    assert!(most_inside <= 400 && most_queued <= 100);
    // Each certificate has its line; refusals are counted, and their lines are few.
    let lines = world.lines();
    let issued = lines.iter().filter(|line| line.outcome == "issued").count();
    assert_eq!(issued, codes["Ok"]);
    let refused = lines.len() - issued;
    assert!(refused < codes["ResourceExhausted"], "{refused}");
    // When it is over, everything is as before.
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.metric("mesh_agent_workload_requests_in_flight") > 0 {
        assert!(Instant::now() < deadline, "requests are left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    send(&clients[0], ask(&world.token(1), plain(csr())))
        .await
        .unwrap();
}

#[test]
fn refusals_are_written_so_often_and_the_rest_is_counted() {
    let lines: Arc<parking_lot::Mutex<Vec<Line>>> = Arc::default();
    let paper = Arc::clone(&lines);
    let audit = Audit::to(Box::new(move |line| paper.lock().push(line.clone())));
    let busy = Denied::busy("Busy", "too many");
    let other = Denied::busy("QueueFull", "too many");
    let begun = std::time::Instant::now();
    for _ in 0..1000 {
        audit.refused(&busy, Line::default(), begun);
    }
    audit.refused(&other, Line::default(), begun);
    assert_eq!(lines.lock().len(), 11);
    audit.settle(begun);
    assert_eq!(lines.lock().len(), 11);
    // The next line of that reason says what was left out; or somebody does when there is none.
    let later = begun + Duration::from_secs(2);
    audit.refused(&busy, Line::default(), later);
    assert_eq!(lines.lock().last().unwrap().left_out, 990);
    for _ in 0..12 {
        audit.refused(&busy, Line::default(), later);
    }
    audit.settle(later + Duration::from_secs(2));
    let last = lines.lock().last().cloned().unwrap();
    assert_eq!((last.reason, last.left_out), ("Busy", 3));
    let count = lines.lock().len();
    audit.settle(later + Duration::from_secs(4));
    assert_eq!(lines.lock().len(), count);
    // What was given is never left out.
    for _ in 0..1000 {
        audit.given(&Line {
            outcome: "issued",
            ..Line::default()
        });
    }
    assert_eq!(lines.lock().len(), count + 1000);
}
