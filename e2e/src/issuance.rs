//! A client of `istio.v1.auth.IstioCertificateService`, as proxies have one. Its messages are written down here once
//! more, so that nothing is shared with the server that it judges.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::{Cluster, exec};

/// `IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Ask {
    #[prost(string, tag = "1")]
    csr: String,
    #[prost(int64, tag = "3")]
    validity_duration: i64,
    #[prost(message, optional, tag = "4")]
    metadata: Option<Struct>,
}

/// `google.protobuf.Struct` with texts only.
#[derive(Clone, PartialEq, prost::Message)]
struct Struct {
    #[prost(map = "string, message", tag = "1")]
    fields: HashMap<String, Text>,
}

/// `google.protobuf.Value`, when it is a text.
#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, optional, tag = "3")]
    string_value: Option<String>,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish<'a> {
    /// What is sent as bearer; absent: nothing.
    pub token: Option<&'a str>,
    /// The request, PEM.
    pub csr: &'a str,
    /// For how many seconds.
    pub seconds: i64,
    /// Whose certificate is asked for, as ztunnel says it.
    pub impersonated: Option<&'a str>,
}

/// A way to one pod of a cluster: `kubectl port-forward`, as long as this lives.
#[derive(Debug)]
pub struct Forward {
    port: u16,
    _process: tokio::process::Child,
    _reading: tokio::task::JoinHandle<()>,
}

impl Cluster {
    /// Opens a way to a port of a pod (`pod/x`) or of one of the pods behind something (`svc/x`).
    pub async fn forward(&self, namespace: &str, to: &str, port: u16) -> Result<Forward> {
        let mut command = exec::command(self.components.kubectl(), ["--kubeconfig"]);
        command.arg(&self.handle.kubeconfig).args([
            "-n",
            namespace,
            "port-forward",
            "--address",
            "127.0.0.1",
            to,
            &format!(":{port}"),
        ]);
        let mut process = tokio::process::Command::from(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("failed to start kubectl port-forward")?;
        let out = process.stdout.take().context("no output")?;
        let mut lines = BufReader::new(out).lines();
        let first = lines
            .next_line()
            .await?
            .with_context(|| format!("no way to {namespace}/{to}"))?;
        // Forwarding from 127.0.0.1:34567 -> 15012
        let port = first
            .split_once("127.0.0.1:")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("kubectl port-forward said {first:?}"))?;
        // it speaks of each connection, and would stop when nobody listened
        #[expect(clippy::disallowed_methods, reason = "the handle is kept")]
        let reading =
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Forward {
            port,
            _process: process,
            _reading: reading,
        })
    }
}

/// A connection to a CA.
#[derive(Debug)]
pub struct Issuer {
    channel: Channel,
    _way: Forward,
}

impl Issuer {
    /// Connects to a CA that calls itself `name`, and whose certificate comes from one of these roots (PEM).
    pub async fn connect(way: Forward, name: &str, roots: &str) -> Result<Self> {
        let mut trusted = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            trusted.add(root?)?;
        }
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(trusted)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        let server = ServerName::try_from(name.to_owned())?;
        let port = way.port;
        let connector = tower::service_fn(move |_| {
            let (config, server) = (Arc::clone(&config), server.clone());
            async move {
                let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
                let tls = tokio_rustls::TlsConnector::from(config)
                    .connect(server, tcp)
                    .await?;
                std::io::Result::Ok(TokioIo::new(tls))
            }
        });
        let channel = Endpoint::from_shared(format!("http://{name}"))?
            .connect_timeout(std::time::Duration::from_secs(5))
            .timeout(std::time::Duration::from_secs(20))
            .connect_with_connector(connector)
            .await
            .map_err(chain)
            .with_context(|| format!("failed to connect to {name}"))?;
        Ok(Self { channel, _way: way })
    }

    /// `CreateCertificate`.
    pub async fn create(&self, wish: &Wish<'_>) -> Result<Vec<String>, Status> {
        let metadata = wish.impersonated.map(|id| Struct {
            fields: HashMap::from([(
                "ImpersonatedIdentity".to_owned(),
                Text {
                    string_value: Some(id.to_owned()),
                },
            )]),
        });
        let mut request = Request::new(Ask {
            csr: wish.csr.to_owned(),
            validity_duration: wish.seconds,
            metadata,
        });
        if let Some(token) = wish.token {
            let value = MetadataValue::try_from(format!("Bearer {token}"))
                .map_err(|e| Status::internal(format!("the test's token is no header: {e}")))?;
            request.metadata_mut().insert("authorization", value);
        }
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready()
            .await
            .map_err(|e| Status::unavailable(format!("{:#}", chain(e))))?;
        let path = http::uri::PathAndQuery::from_static(
            "/istio.v1.auth.IstioCertificateService/CreateCertificate",
        );
        let codec = tonic_prost::ProstCodec::<Ask, Answer>::default();
        let answer = grpc.unary(request, path, codec).await?;
        Ok(answer.into_inner().cert_chain)
    }
}

/// An error with what is behind it.
fn chain(error: tonic::transport::Error) -> anyhow::Error {
    anyhow::Error::new(error)
}
