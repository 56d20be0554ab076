//! The gRPC shell: a [`Store`] of snapshots, and ADS and SDS on a Unix socket.

mod service;
mod session;
mod store;

#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;

pub use crate::engine::Nack;
pub use service::{Service, ads, sds};
pub use store::{NodeStatus, SetError, Store};

/// How long a listener or a removal waits for the ACK it depends on.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Mode of the socket: the user and the group of the pod (`fsGroup`), nobody else.
const SOCKET_MODE: u32 = 0o660;

/// How long open connections may take to end at shutdown.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another server answers on the socket.
    #[error("failed to listen on {path:?}: another process serves it")]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// The socket could not be made.
    #[error("failed to listen on {path:?}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The gRPC server stopped by itself.
    #[error("failed to serve xDS")]
    Serve(#[source] tonic::transport::Error),
}

/// Serves ADS and SDS of `store` on a Unix socket until `shutdown` is done.
///
/// A socket file that a dead process left behind is replaced; one that answers is not. Open
/// streams are ended at shutdown, the Envoys keep what they have.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve_uds(
    path: &Path,
    store: Arc<Store>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let listener = listen(path).await?;
    let (stop, stopped) = watch::channel(false);
    let service = Service::new(store, stopped.clone());
    let mut ended = stopped;
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(ads(service.clone()))
        .add_service(sds(service))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            // An error means that the sender is gone, which also is an end.
            drop(ended.wait_for(|stop| *stop).await);
        });
    tokio::pin!(server);
    let result = tokio::select! {
        result = &mut server => result,
        () = shutdown => {
            stop.send_replace(true);
            // A peer that does not close its connection must not keep us.
            tokio::time::timeout(FAREWELL, server).await.unwrap_or(Ok(()))
        }
    };
    if let Err(source) = std::fs::remove_file(path) {
        tracing::debug!(%source, "socket file was already gone");
    }
    result.map_err(ServeError::Serve)
}

async fn listen(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Listen {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(ServeError::Taken {
                    path: path.to_owned(),
                });
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(failed(io::ErrorKind::AlreadyExists.into())),
        Err(source) if source.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed(source)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok(listener)
}
