//! The least a server can do, to compare with: tonic, rcgen and aws-lc-rs over rustls. It verifies the request's own signature and
//! signs whatever name stands in it. It asks nobody who the caller is, checks nothing else, remembers and records nothing.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateSigningRequestParams, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tonic::{Response, Status, server::UnaryService};

use super::{
    material,
    peers::{self, read},
    wire::{Asked, Given},
};

struct Signer {
    issuer: Issuer<'static, KeyPair>,
    intermediate: String,
    root: String,
}

/// Serves for ever, with the files of [`peers`].
pub async fn serve(folder: &Path, address: SocketAddr) -> Result<()> {
    let intermediate = read(folder, peers::INTERMEDIATE)?;
    let key = KeyPair::from_pem(&read(folder, peers::INTERMEDIATE_KEY)?)?;
    let signer = Arc::new(Signer {
        issuer: Issuer::from_ca_cert_pem(&intermediate, key)?,
        root: read(folder, peers::ROOT)?,
        intermediate,
    });
    let acceptor = TlsAcceptor::from(Arc::new(tls(folder)?));
    let listener = TcpListener::bind(address).await?;
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        let (acceptor, signer) = (acceptor.clone(), Arc::clone(&signer));
        connections.spawn(async move {
            // A connection that breaks is the client's affair.
            drop(connection(socket, acceptor, signer).await);
        });
    }
}

fn tls(folder: &Path) -> Result<rustls::ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(read(folder, peers::SERVER)?.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(read(folder, peers::SERVER_KEY)?.as_bytes())?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

async fn connection(
    socket: tokio::net::TcpStream,
    acceptor: TlsAcceptor,
    signer: Arc<Signer>,
) -> Result<()> {
    socket.set_nodelay(true)?;
    let socket = acceptor.accept(socket).await?;
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let signs = Signs(Arc::clone(&signer));
        async move {
            let mut grpc =
                tonic::server::Grpc::new(tonic_prost::ProstCodec::<Given, Asked>::default());
            Ok::<_, Infallible>(grpc.unary(signs, request).await)
        }
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(socket), service)
        .await?;
    Ok(())
}

struct Signs(Arc<Signer>);

impl UnaryService<Asked> for Signs {
    type Response = Given;
    type Future = Ready<Result<Response<Given>, Status>>;

    fn call(&mut self, request: tonic::Request<Asked>) -> Self::Future {
        let given = self.0.sign(&request.get_ref().csr);
        ready(
            given
                .map(Response::new)
                .map_err(|error| Status::invalid_argument(format!("{error:#}"))),
        )
    }
}

impl Signer {
    fn sign(&self, csr: &str) -> Result<Given> {
        let asked = CertificateSigningRequestParams::from_pem(csr).context("bad request")?;
        let params = material::leaf(asked.params.subject_alt_names)?;
        let leaf = params.signed_by(&asked.public_key, &self.issuer)?;
        Ok(Given {
            cert_chain: vec![leaf.pem(), self.intermediate.clone(), self.root.clone()],
        })
    }
}
