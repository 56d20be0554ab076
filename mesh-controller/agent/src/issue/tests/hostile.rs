//! What the fuzz targets `token` and `request` (`ca/fuzz/agent`) try at random, tried here in order: everything cut at every length and with every
//! byte changed, asked without a connection.

use std::{net::Ipv4Addr, sync::Arc};

use http_body_util::{BodyExt as _, Full};
use prometheus_client::registry::Registry;
use prost::{Message as _, bytes::Bytes};

use super::{
    super::{
        Authenticate, Forgetful, Issuer, Limits, Parts,
        callers::Callers,
        metrics::Counts,
        proto::{IstioCertificateRequest, IstioCertificateResponse},
    },
    world::{StandIn, TokenKey, World, claims, csr, id, plain},
};

/// All of it cut at every length, and with each byte changed in three ways.
fn spoilt(whole: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let cut = (0..whole.len()).filter_map(|length| whole.get(..length).map(<[u8]>::to_vec));
    let changed = (0..whole.len()).flat_map(move |at| {
        [0x01, 0x20, 0x80].map(|mask| {
            let mut changed = whole.to_vec();
            changed[at] ^= mask;
            changed
        })
    });
    cut.chain(changed)
}

#[tokio::test]
async fn a_token_that_is_not_whole_is_nobodys_and_the_api_server_is_not_asked() {
    let key = TokenKey::new("k1");
    let api = Arc::new(StandIn::new(&[&key]));
    let authenticate: Arc<dyn Authenticate> = Arc::<StandIn>::clone(&api);
    let counts = Counts::register(&mut Registry::default());
    let callers = Callers::new(authenticate, Limits::default(), counts);
    let good = key.token(&claims("kof", "collector", 1));
    callers.whose(&good).await.unwrap();
    for bad in spoilt(good.as_bytes()) {
        let Ok(bad) = String::from_utf8(bad) else {
            continue;
        };
        let refused = callers.whose(&bad).await.unwrap_err();
        assert_eq!(refused.code, tonic::Code::Unauthenticated, "{bad}");
    }
    assert_eq!(api.asked(), 1);
}

/// The certificates that are given for a message, and the status.
async fn given(issuer: &Issuer, token: &str, body: Vec<u8>) -> (Vec<String>, Option<String>) {
    let request = http::Request::post("/istio.v1.auth.IstioCertificateService/CreateCertificate")
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {token}"))
        .body(Full::<Bytes>::from(body))
        .unwrap();
    let response = issuer
        .answer(request, (Ipv4Addr::LOCALHOST, 1).into())
        .await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().and_then(|t| t.get("grpc-status"));
    let status = head.headers.get("grpc-status").or(trailers);
    let status = status.map(|status| status.to_str().unwrap().to_owned());
    let bytes = body.to_bytes();
    let message = bytes.get(5..).unwrap_or_default();
    let chain = IstioCertificateResponse::decode(message)
        .unwrap()
        .cert_chain;
    (chain, status)
}

#[tokio::test]
async fn a_call_that_is_not_whole_is_given_nothing_or_what_its_sender_may_have() {
    let world = World::new().await;
    let parts = Parts {
        authenticate: Arc::<StandIn>::clone(&world.api),
        material: world.material.subscribe(),
        serving: world.serving.subscribe(),
        everyone: world.everyone.clone(),
        ledger: Arc::new(Forgetful),
        limits: Limits::default(),
    };
    let issuer = Issuer::new(parts, &mut Registry::default());
    let token = world.token(1);
    let message = IstioCertificateRequest {
        validity_duration: 600,
        ..plain(csr())
    };
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let whole = [[0].as_slice(), &length, &message].concat();
    let (chain, status) = given(&issuer, &token, whole.clone()).await;
    assert_eq!((chain.len(), status.as_deref()), (3, Some("0")));
    let mut refused = 0;
    for bad in spoilt(&whole) {
        let (chain, status) = given(&issuer, &token, bad).await;
        let Some(leaf) = chain.first() else {
            assert_ne!(status.as_deref(), Some("0"));
            refused += 1;
            continue;
        };
        let facts = mesh_ca::facts(leaf).unwrap().remove(0);
        assert_eq!(facts.uris, [id("kof", "collector")]);
        assert!(facts.other_names.is_empty() && !facts.is_ca);
    }
    assert!(refused > whole.len(), "{refused}");
}
