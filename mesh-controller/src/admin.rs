//! The admin port: `/healthz` (the process is alive), `/readyz` (it does its work), `/metrics`.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::timeout};

/// Connections served at once; who comes later waits.
const CONNECTIONS: usize = 64;
/// Longest that one connection lives.
const CONNECTION_DEADLINE: Duration = Duration::from_mins(2);

/// One question about the process; the answer, if it is no, says why.
pub(crate) type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the admin port tells.
pub(crate) struct Admin {
    /// Whether the process still works at all; if not, it is restarted.
    pub(crate) alive: Check,
    /// Whether it does what it is there for.
    pub(crate) ready: Check,
    /// All metrics.
    pub(crate) registry: Registry,
}

/// A port that is bound but not served yet.
pub(crate) struct Bound(TcpListener);

/// Binds the port, so that a second process on it is noticed at the start.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<Bound> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("failed to listen on {address} for the admin port"))?;
    Ok(Bound(listener))
}

impl Bound {
    /// Where it is.
    #[cfg(test)]
    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Serves for ever.
    pub(crate) async fn serve(self, admin: Arc<Admin>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let stream = match self.0.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "failed to accept on the admin port"
                    );
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let admin = Arc::clone(&admin);
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer(&admin, &request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(10))
                    .serve_connection(TokioIo::new(stream), service);
                if let Ok(Err(error)) = timeout(CONNECTION_DEADLINE, connection).await {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "an admin connection broke"
                    );
                }
                drop(slot);
            });
        }
    }
}

fn answer(admin: &Admin, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/healthz" | "/livez" => said((admin.alive)()),
        "/readyz" => said((admin.ready)()),
        "/metrics" => metrics(&admin.registry),
        _ => text(
            StatusCode::NOT_FOUND,
            "here are /healthz, /readyz and /metrics\n".to_owned(),
        ),
    }
}

fn said(check: Result<(), String>) -> Response<Full<Bytes>> {
    match check {
        Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn metrics(registry: &Registry) -> Response<Full<Bytes>> {
    let mut body = String::new();
    if let Err(error) = prometheus_client::encoding::text::encode(&mut body, registry) {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("failed to encode metrics: {error}\n"),
        );
    }
    let mut response = text(StatusCode::OK, body);
    let kind = header::HeaderValue::from_static(
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    );
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
