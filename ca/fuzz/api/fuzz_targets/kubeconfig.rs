//! Kubeconfigs, as whoever may write a Secret can write them. What is taken leads elsewhere, over https, and says itself again; what is refused
//! is refused in few words; nothing shows a token or a key.
#![no_main]

use std::{collections::BTreeMap, net::IpAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::ByteString;
use libfuzzer_sys::fuzz_target;
use mesh_api::read::{Auth, ClusterAccess, SecretRef, kubeconfig};
use mesh_core::facts::Obstacle;
use mesh_fuzz::came;
use serde_json::json;

/// Most characters of a message.
const MESSAGE_MAX: usize = 2001;

fn read(text: &[u8]) -> Result<ClusterAccess, Obstacle> {
    let secret = SecretRef {
        namespace: "kcm-system".to_owned(),
        name: "child1-kubeconfig".to_owned(),
    };
    let data: BTreeMap<_, _> = [("value".to_owned(), ByteString(text.to_vec()))].into();
    kubeconfig(&secret, &data)
}
fuzz_target!(|data: &[u8]| came(judge(data)));

/// Whether it is taken.
fn judge(data: &[u8]) -> bool {
    let access = match read(data) {
        Ok(access) => access,
        Err(obstacle) => {
            let length = obstacle.message.chars().count();
            assert!(length <= MESSAGE_MAX, "a message of {length} characters");
            return false;
        }
    };
    let uri: http::Uri = access.server.parse().expect("a server is a URL");
    assert_eq!(uri.scheme_str(), Some("https"));
    let host = uri.host().expect("it has a host").trim_matches(['[', ']']);
    if let Ok(address) = host.parse::<IpAddr>() {
        let address = address.to_canonical();
        assert!(
            !address.is_loopback() && !address.is_unspecified(),
            "{address}"
        );
    }
    assert!(
        !host
            .to_lowercase()
            .trim_end_matches('.')
            .ends_with("localhost")
            || host.len() > 9
    );
    let shown = format!("{:?}", access.auth);
    let user = match &access.auth {
        Auth::Token(token) => {
            assert_eq!(shown, "Token(<redacted>)");
            assert!(!token.reveal().is_empty() && token.reveal().is_ascii());
            json!({ "token": token.reveal() })
        }
        Auth::Certificate {
            certificate_pem,
            key_pem,
        } => {
            assert!(shown.contains("key_pem: <redacted>"));
            json!({
                "client-certificate-data": STANDARD.encode(certificate_pem),
                "client-key-data": STANDARD.encode(key_pem.reveal()),
            })
        }
    };
    let mut cluster = json!({ "server": access.server });
    if let Some(name) = &access.tls_server_name {
        cluster["tls-server-name"] = json!(name);
    }
    if let Some(pem) = &access.ca_pem {
        cluster["certificate-authority-data"] = json!(STANDARD.encode(pem));
    }
    let again = json!({
        "clusters": [{ "name": "a", "cluster": cluster }],
        "users": [{ "name": "a", "user": user }],
        "contexts": [{ "name": "a", "context": { "cluster": "a", "user": "a" } }],
        "current-context": "a",
    });
    assert_eq!(read(again.to_string().as_bytes()), Ok(access));
    true
}
