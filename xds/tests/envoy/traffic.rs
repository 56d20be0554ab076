//! What passes, and what it looks like on the other side.

use std::sync::atomic::Ordering;

use http::{Method, Request, Version};
use http_body_util::Full;
use hyper::body::Bytes;

use crate::backend::Echo;
use crate::client::{get, post, raw, send};
use crate::lab::{HOST, Pair, identity};

#[tokio::test]
async fn a_request_passes_both_envoys_and_the_backend_sees_who_called() {
    let echo = Echo::start().await;
    let pair = Pair::up(echo.at).await;
    let answer = pair.child.ask(HOST, "/vm/insert/0/prometheus/api/v1/write?x=1").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-kof-gateway"), "r1");
    assert_eq!(answer.header("x-kof-intake"), "");
    assert!(answer.body.contains("GET /vm/insert/0/prometheus/api/v1/write?x=1"));
    assert!(answer.body.contains(&format!("URI={}", identity("c1"))), "{answer:?}");
    assert!(answer.body.contains("HTTP/1.1"));
    // No field that this Envoy calls deprecated, on either side.
    for proxy in [&pair.child, &pair.region] {
        assert_eq!(proxy.stat("runtime.deprecated_feature_use").await, 0);
        assert_eq!(proxy.log(), "", "{}", proxy.spec.cluster);
    }
}
