use std::net::Ipv4Addr;

use jiff::SignedDuration;
use mesh_ca::PrivateKey;
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    leaf::{Wish, tests::signer_at},
    testing::Mesh,
};

fn region(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn known(text: &str) -> BTreeMap<ClusterName, Said> {
    read(&serde_json::from_str::<Vec<Known>>(text).unwrap())
}

#[test]
fn only_what_is_read_by_our_secret_is_synced() {
    // As a real istiod 1.31 says it.
    let said = known(
        r#"[{"id":"child1","secretName":"","syncStatus":"synced"},
            {"id":"region1","secretName":"istio-system/mesh-remote-region1","syncStatus":"synced"},
            {"id":"region2","secretName":"istio-system/mesh-remote-region2","syncStatus":"timeout"},
            {"id":"region3","secretName":"istio-system/istio-remote-secret-region3","syncStatus":"synced"},
            {"id":"region4","secretName":"istio-system/mesh-remote-region4","syncStatus":"dreaming"}]"#,
    );
    let foreign = Said {
        state: Synced::Foreign,
        note: Some("istio-system/istio-remote-secret-region3".to_owned()),
    };
    let expected = [
        (region("region1"), Said::of(Synced::Synced)),
        (region("region2"), Said::of(Synced::Timeout)),
        (region("region3"), foreign),
        (region("region4"), Said::of(Synced::Syncing)),
    ];
    assert_eq!(said, expected.into());
}

#[test]
fn only_regions_that_sidecars_find_by_remote_secrets_are_asked_about() {
    let mut wanted = Mesh::new().wanted();
    assert!(regions(None).is_empty());
    for sidecars in [Sidecars::Intake, Sidecars::Static] {
        wanted.spec.consume[0].sidecars = sidecars;
        assert!(regions(Some(&wanted)).is_empty());
    }
    wanted.spec.consume[0].sidecars = Sidecars::Remote;
    assert_eq!(regions(Some(&wanted)), [region("region1")].into());
}

/// One connection to a stand-in for istiod that is known by this name; says whether it was shown a certificate of the mesh.
#[expect(clippy::disallowed_methods, reason = "it ends with the test")]
async fn meet(mesh: &Mesh, name: &str) -> Option<bool> {
    let signer = signer_at(mesh, Timestamp::now());
    let wanted = mesh.wanted();
    let wish = Wish {
        identity: wanted.identity.clone(),
        life: SignedDuration::from_hours(1),
        signer: signer.fingerprint().to_owned(),
    };
    let leaf = Leaf::make(wish, &signer, Timestamp::now()).unwrap();

    let key = PrivateKey::generate().unwrap();
    let life = SignedDuration::from_hours(1);
    let issued = signer
        .authority
        .sign_server(
            &[name],
            &wanted.identity,
            key.public(),
            life,
            Timestamp::now(),
        )
        .unwrap();
    let mut roots = RootCertStore::empty();
    let pem = mesh.root_pem.as_bytes();
    roots
        .add(CertificateDer::from_pem_slice(pem).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let judge = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .unwrap();
    let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(judge)
        .with_single_cert(
            chain.map(Result::unwrap).collect(),
            PrivateKeyDer::from_pem_slice(key.pem().as_bytes()).unwrap(),
        )
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(stream).await.ok()?;
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().is_some();
        // Held until the client has said that it is connected.
        sleep(Duration::from_millis(50)).await;
        Some(shown && session.alpn_protocol() == Some(b"h2"))
    });
    let _ignored = connect(address, config(&wanted, &leaf).unwrap()).await;
    server.await.unwrap()
}

#[tokio::test]
async fn istiod_is_known_by_its_name_and_shown_a_certificate() {
    let mesh = Mesh::new();
    assert_eq!(meet(&mesh, NAME).await, Some(true));
    assert_eq!(meet(&mesh, "other.istio-system.svc").await, None);
}
