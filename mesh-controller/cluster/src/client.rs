//! Clients: to our own API server, and to those of members. None of them reads a file or runs a program
//! because a kubeconfig says so.

use std::time::Duration;

use http::Uri;
use http_body_util::Limited;
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _},
};
use mesh_api::read::{Auth, ClusterAccess};
use mesh_core::facts::Obstacle;
use rustls::{
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tower::{BoxError, ServiceBuilder};

/// How long a TCP and TLS connection may take to come up.
const CONNECT: Duration = Duration::from_secs(4);
/// The server ends each watch after this many seconds.
pub(crate) const WATCH_SECONDS: u32 = 60;
/// Between questions of the kernel whether a silent peer still is there.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A connection on which nothing arrives for so long is dead: longer than a watch without events lives.
const SILENCE: Duration = Duration::from_secs(75);

/// Most bytes of one answer of a member: whoever runs it must not fill our memory. The largest object there, a
/// `MeshAgent`, ends at 1.5 MiB with etcd's own limit; a watch lives a minute.
const FROM_MEMBERS: usize = 16 << 20;
/// Most bytes of one answer of management's own API server.
const FROM_MANAGEMENT: usize = 256 << 20;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// We are not in a cluster.
    #[error("failed to find the cluster this process runs in")]
    FindCluster(#[source] kube::config::InClusterError),
    /// The kubeconfig of a developer.
    #[error("failed to read the kubeconfig")]
    ReadKubeconfig(#[source] kube::config::KubeconfigError),
    /// The client cannot be made from its configuration.
    #[error("failed to make a client")]
    MakeClient(#[source] kube::Error),
}

/// A client to the API server of the cluster that this process runs in, as its service account.
///
/// # Errors
///
/// Outside a cluster.
pub fn in_cluster() -> Result<Client, ClientError> {
    let config = Config::incluster().map_err(ClientError::FindCluster)?;
    build(&tuned(config), FROM_MANAGEMENT).map_err(ClientError::MakeClient)
}

/// A client from a kubeconfig file on the developer's own machine. Not for kubeconfigs of members.
///
/// # Errors
///
/// When the file cannot be read or used.
pub async fn from_file(path: &std::path::Path) -> Result<Client, ClientError> {
    let kubeconfig =
        kube::config::Kubeconfig::read_from(path).map_err(ClientError::ReadKubeconfig)?;
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
            .await
            .map_err(ClientError::ReadKubeconfig)?;
    build(&tuned(config), FROM_MANAGEMENT).map_err(ClientError::MakeClient)
}

/// A client to a member. Nothing is sent before the first request.
///
/// # Errors
///
/// An obstacle when the access cannot be used: a URL, a certificate or a key that does not parse. Never with a word of
/// what is secret in it.
pub fn connect(access: &ClusterAccess) -> Result<Client, Obstacle> {
    let refuse = |what: &str| {
        Obstacle::new(
            "KubeconfigMalformed",
            format!("the kubeconfig for {} holds {what}", access.server),
        )
    };
    let uri: Uri = access
        .server
        .parse()
        .map_err(|_e| refuse("a server that is no URL"))?;
    let mut config = tuned(Config::new(uri));
    config.tls_server_name.clone_from(&access.tls_server_name);
    if let Some(pem) = &access.ca_pem {
        let ca: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem)
            .map(|der| der.map(|der| der.to_vec()))
            .collect();
        let ca = ca.map_err(|_e| refuse("a CA that is no PEM"))?;
        if ca.is_empty() {
            return Err(refuse("a CA without a certificate"));
        }
        config.root_cert = Some(ca);
    }
    match &access.auth {
        Auth::Token(token) => config.auth_info.token = Some(token.reveal().to_owned().into()),
        Auth::Certificate {
            certificate_pem,
            key_pem,
        } => {
            config.auth_info.client_certificate_data = Some(base64(certificate_pem));
            config.auth_info.client_key_data = Some(base64(key_pem.reveal().as_bytes()).into());
        }
    }
    // The library's own words may quote what it was given.
    build(&config, FROM_MEMBERS).map_err(|_e| refuse("a certificate or key that cannot be used"))
}

fn tuned(mut config: Config) -> Config {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    config.write_timeout = Some(SILENCE);
    // The time a pooled connection was idle is nobody's silence.
    config.reset_reader_on_write = true;
    // How audit logs name us.
    let agent = concat!("kof-istio/", env!("CARGO_PKG_VERSION"));
    config.headers.push((
        http::header::USER_AGENT,
        http::HeaderValue::from_static(agent),
    ));
    // Each caller has a deadline and a budget of its own.
    config.default_retry = false;
    config
}

/// As the library makes a client, but for TCP: small requests are sent at once (a request of two segments on a connection that was
/// quiet otherwise waits 40 ms for an acknowledgement), and a peer that is gone is noticed.
fn build(config: &Config, limit: usize) -> Result<Client, kube::Error> {
    if CryptoProvider::get_default().is_none()
        && let Err(other) = aws_lc_rs::default_provider().install_default()
    {
        tracing::debug!(
            suites = other.cipher_suites.len(),
            "Another provider of cryptography was installed meanwhile"
        );
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE));
    tcp.set_keepalive_retries(Some(3));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http = Http::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_response(move |response: http::Response<_>| {
            response.map(|body| Limited::new(body, limit))
        })
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// `ByteString` writes itself as base64.
fn base64(bytes: &[u8]) -> String {
    match serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(_) | Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests;
