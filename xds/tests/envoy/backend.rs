//! The service behind the region: says what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

type Body = BoxBody<Bytes, Infallible>;

/// A running backend.
pub struct Echo {
    pub at: SocketAddr,
    seen: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Echo {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let seen = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        count.fetch_add(1, Ordering::Relaxed);
                        answer(request)
                    });
                    auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .unwrap_or_default();
                });
            }
        });
        Self { at, seen, task }
    }

    /// How many requests arrived.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let text = |name: &str| {
        let value = parts.headers.get(name).map(HeaderValue::as_bytes);
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    let body = body.collect().await.unwrap().to_bytes();
    if text("content-type").starts_with("application/grpc") {
        return Ok(grpc(body, parts.version));
    }
    if let Some(pause) = parts.uri.query().and_then(|q| q.strip_prefix("drip=")) {
        return Ok(drip(pause.parse().unwrap()));
    }
    let said = format!(
        "{} {} host={} xfcc={} body={} {:?}",
        parts.method,
        parts.uri,
        text("host"),
        text("x-forwarded-client-cert"),
        body.len(),
        parts.version,
    );
    let mut response = Response::new(Full::new(Bytes::from(said)).boxed());
    if parts.uri.query() == Some("status=503") {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    if parts.uri.query() == Some("forge") {
        for name in ["gateway", "intake", "refused", "detail", "flags", "tls"] {
            let name = HeaderName::from_bytes(format!("x-kof-{name}").as_bytes()).unwrap();
            let forged = HeaderValue::from_static("forged");
            response.headers_mut().insert(name, forged);
        }
    }
    Ok(response)
}

fn grpc(body: Bytes, version: Version) -> Response<Body> {
    assert_eq!(version, Version::HTTP_2);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(body).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed());
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

/// Ten chunks with pauses of so many milliseconds.
fn drip(pause: u64) -> Response<Body> {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        for _ in 0..10 {
            sleep(Duration::from_millis(pause)).await;
            if sender
                .send_data(Bytes::from_static(b"drop;"))
                .await
                .is_err()
            {
                return;
            }
        }
    });
    Response::new(body.boxed())
}
