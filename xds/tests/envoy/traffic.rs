//! What passes, and what it looks like on the other side.

use std::time::{Duration, Instant};

use crate::backend::Echo;
use crate::client::{grpc, post};
use crate::lab::{HOST, Pair, identity};

#[tokio::test]
async fn a_request_passes_both_envoys_and_the_backend_sees_who_called() {
    let echo = Echo::start().await;
    let pair = Pair::up(echo.at).await;
    let answer = pair
        .child
        .ask(HOST, "/vm/insert/0/prometheus/api/v1/write?x=1")
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-kof-gateway"), "r1");
    assert_eq!(answer.header("x-kof-intake"), "");
    assert!(
        answer
            .body
            .contains("GET /vm/insert/0/prometheus/api/v1/write?x=1")
    );
    assert!(
        answer.body.contains(&format!("URI={}", identity("c1"))),
        "{answer:?}"
    );
    assert!(answer.body.contains("HTTP/1.1"));
    // No field that this Envoy calls deprecated, on either side.
    for proxy in [&pair.child, &pair.region] {
        assert_eq!(proxy.stat("runtime.deprecated_feature_use").await, 0);
        assert_eq!(proxy.log(), "", "{}", proxy.spec.cluster);
    }
}

#[tokio::test]
async fn a_grpc_call_passes_with_its_trailers() {
    let echo = Echo::start().await;
    let pair = Pair::up(echo.at).await;
    let method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let answer = grpc(pair.child.spec.intake, HOST, method, b"spans").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.trailers["grpc-status"], "0");
    assert_eq!(answer.header("x-kof-gateway"), "r1");
    assert!(answer.body.ends_with("spans"));
    // The same path without gRPC is not in the contract.
    let plain = post(pair.child.spec.intake, HOST, method, b"spans").await;
    assert_eq!(plain.status, 403, "{plain:?}");
}

#[tokio::test]
async fn a_large_body_arrives_whole() {
    let echo = Echo::start().await;
    let pair = Pair::up(echo.at).await;
    let body = vec![7; 12 << 20];
    let answer = post(pair.child.spec.intake, HOST, "/vli/push", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains(&format!("body={}", body.len())));
}

#[tokio::test]
async fn an_answer_streams_through_as_it_comes() {
    let echo = Echo::start().await;
    let pair = Pair::up(echo.at).await;
    let start = Instant::now();
    let mut stream =
        crate::client::stream(pair.child.spec.intake, HOST, "/vli/tail?drip=200").await;
    assert!(stream.next().await.is_some());
    assert!(
        start.elapsed() < Duration::from_millis(1500),
        "it was held back"
    );
    let mut rest = 0;
    while stream.next().await.is_some() {
        rest += 1;
    }
    assert!(rest >= 5, "{rest} more pieces");
    assert!(start.elapsed() >= Duration::from_secs(2));
}
