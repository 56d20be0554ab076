//! The port: connections, TLS, HTTP/2, and their limits.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, ResolvesServerCert},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::door::Door;

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection on which nothing is asked for so long is closed, in good order.
const IDLE: Duration = Duration::from_mins(1);
/// The same while others wait for room.
const IDLE_CROWDED: Duration = Duration::from_secs(1);
/// How long a connection may take to end once it was asked to.
const FAREWELL: Duration = Duration::from_secs(5);
/// Clients are asked whether they are there this often, and must answer within the other.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Most requests at once on one connection.
const STREAMS: u32 = 64;
/// What of one connection's requests is kept before it is read; a request needs a few KiB.
const WINDOW: u32 = 64 * 1024 - 1;
/// Most bytes of a request's headers; a token has 1 to 2 KiB.
const HEADERS: u32 = 16 * 1024;

/// How TLS is spoken: 1.2 and later, with the certificate that is the latest at each handshake. Clients prove themselves with
/// tokens, not with certificates.
///
/// # Errors
///
/// When the library has no protocol version in common with itself.
pub(super) fn tls(serving: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Who asks comes again hours later: no session is kept for it to resume, and no ticket sent.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Requests on one connection, and since when there is none.
struct Activity(Mutex<(u32, Instant)>);

struct Busy(Arc<Activity>);

impl Activity {
    fn begin(self: &Arc<Self>) -> Busy {
        self.0.lock().0 += 1;
        Busy(Arc::clone(self))
    }

    /// When it will have been idle for that long; nothing while something is asked.
    fn idle_at(&self, patience: Duration) -> Option<Instant> {
        let (open, since) = *self.0.lock();
        (open == 0).then_some(since + patience)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut activity = self.0.0.lock();
        activity.0 = activity.0.saturating_sub(1);
        activity.1 = Instant::now();
    }
}

/// Serves until it is told to stop; then open requests are answered, for a few seconds.
pub(super) async fn serve(
    listener: TcpListener,
    door: Arc<Door>,
    config: Arc<ServerConfig>,
    most: usize,
    stop: impl Future<Output = ()> + Send,
) {
    let acceptor = TlsAcceptor::from(config);
    let room = Arc::new(Semaphore::new(most));
    let (crowded, is_crowded) = watch::channel(false);
    let (stopping, is_stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    let mut settle = tokio::time::interval(Duration::from_secs(1));
    loop {
        let free = room.available_permits();
        crowded.send_if_modified(|crowded| std::mem::replace(crowded, free == 0) != (free == 0));
        tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener, &room) => {
                let Some((stream, address, place)) = accepted else { continue };
                let connection = Connection {
                    door: Arc::clone(&door),
                    address,
                    crowded: is_crowded.clone(),
                    stopping: is_stopping.clone(),
                };
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    connection.run(stream, acceptor).await;
                    drop(place);
                });
            }
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(error = &error as &dyn std::error::Error, "a connection to the CA ended badly");
                }
            }
            _ = settle.tick() => door.service.audit.settle(Instant::now()),
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let ending = async { while connections.join_next().await.is_some() {} };
    if timeout(FAREWELL, ending).await.is_err() {
        connections.shutdown().await;
    }
}

/// The next connection, once there is room for it; until then it waits with the kernel.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, address)) => Some((stream, address, place)),
        Err(error) => {
            // Out of descriptors, mostly: better to wait than to spin.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to accept a connection to the CA"
            );
            sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

struct Connection {
    door: Arc<Door>,
    address: SocketAddr,
    crowded: watch::Receiver<bool>,
    stopping: watch::Receiver<bool>,
}

impl Connection {
    async fn run(mut self, stream: TcpStream, acceptor: TlsAcceptor) {
        let counts = self.door.service.counts.clone();
        counts.connections.inc();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "failed to set TCP_NODELAY"
            );
        }
        match timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.speak(stream).await,
            Ok(Err(_)) | Err(_) => {
                counts.handshakes_failed.inc();
            }
        }
        counts.connections.dec();
    }

    async fn speak(&mut self, stream: tokio_rustls::server::TlsStream<TcpStream>) {
        let activity = Arc::new(Activity(Mutex::new((0, Instant::now()))));
        let (door, address) = (Arc::clone(&self.door), self.address);
        let active = Arc::clone(&activity);
        let service = service_fn(move |request| {
            let (door, busy) = (Arc::clone(&door), active.begin());
            async move {
                let response = door.answer(request, address).await;
                drop(busy);
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let mut connection = pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(Some(KEEPALIVE.0))
                .keep_alive_timeout(KEEPALIVE.1)
                .max_concurrent_streams(STREAMS)
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_header_list_size(HEADERS)
                .max_send_buf_size(WINDOW as usize)
                .serve_connection(TokioIo::new(stream), service)
        );
        loop {
            let patience = if *self.crowded.borrow_and_update() {
                IDLE_CROWDED
            } else {
                IDLE
            };
            // Busy: look again when it may be idle.
            let at = activity
                .idle_at(patience)
                .unwrap_or_else(|| Instant::now() + patience);
            tokio::select! {
                _ended = connection.as_mut() => return,
                () = tokio::time::sleep_until(at.into()) => {
                    if activity.idle_at(patience).is_some_and(|at| at <= Instant::now()) {
                        break;
                    }
                }
                gone = self.crowded.changed() => if gone.is_err() { break },
                _told = self.stopping.changed() => break,
            }
        }
        connection.as_mut().graceful_shutdown();
        // What the other side makes of it does not matter any more.
        drop(timeout(FAREWELL, connection).await);
    }
}
