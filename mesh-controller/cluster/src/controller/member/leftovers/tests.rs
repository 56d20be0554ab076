use mesh_core::leftovers::What;
use serde_json::json;

use super::*;
use crate::testing::Fake;

const SECRETS: &str = "/api/v1/namespaces/istio-system/secrets";
const GATEWAYS: &str = "/apis/networking.istio.io/v1/namespaces/istio-system/gateways";
const ISSUERS: &str = "/apis/cert-manager.io/v1/namespaces/istio-system/issuers";

/// A remote secret, a wide gateway and an issuer, none of them ours.
fn left() -> Fake {
    let fake = Fake::default();
    let meta = |more: &Value| {
        let mut meta = json!({ "name": "x", "namespace": "istio-system" });
        let more = more.as_object().unwrap().clone();
        meta.as_object_mut().unwrap().extend(more);
        meta
    };
    let marked = json!({ "labels": { "istio/multiCluster": "true" }, "annotations": { "networking.istio.io/cluster": "region1" } });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": meta(&marked) });
    fake.put(&format!("{SECRETS}/x"), secret);
    let server = json!({ "tls": { "mode": "AUTO_PASSTHROUGH" }, "hosts": ["*.local"] });
    let gateway = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": meta(&json!({})),
        "spec": { "servers": [server] },
    });
    fake.put(&format!("{GATEWAYS}/x"), gateway);
    let issuer = json!({
        "apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": meta(&json!({})),
        "spec": { "ca": { "secretName": "root" } },
    });
    fake.put(&format!("{ISSUERS}/x"), issuer);
    fake
}

async fn kinds(fake: &Fake) -> BTreeSet<&'static str> {
    let found = look(&fake.client()).await.unwrap();
    let kind = |found: &Found| match found.what {
        What::Remote { .. } => "remote",
        What::Token { .. } => "token",
        What::Wide { .. } => "wide",
        What::Issuer { .. } => "issuer",
        What::Authority { .. } => "authority",
    };
    found.iter().map(kind).collect()
}

#[tokio::test]
async fn what_is_there_is_found_and_nothing_is_written() {
    let fake = left();
    let all = BTreeSet::from(["remote", "wide", "issuer"]);
    assert_eq!(kinds(&fake).await, all);
    assert!(fake.writes().is_empty());
}

#[tokio::test]
async fn what_may_not_be_seen_is_nothing_and_what_cannot_be_asked_is_no_answer() {
    let fake = left();
    fake.forbid(&format!("GET {ISSUERS}"));
    assert_eq!(kinds(&fake).await, BTreeSet::from(["remote", "wide"]));
    tokio::time::pause();
    fake.fall_silent();
    assert!(look(&fake.client()).await.is_err(), "what is known stays");
}
