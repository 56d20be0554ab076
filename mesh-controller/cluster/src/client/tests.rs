use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use mesh_api::read::{SecretRef, kubeconfig};

use super::*;

const CA: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCm5vbmUKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";

fn access(user: &str, ca: Option<&str>) -> ClusterAccess {
    let ca = ca
        .map(|ca| format!(", certificate-authority-data: {ca}"))
        .unwrap_or_default();
    let text = format!(
        "{{clusters: [{{name: c, cluster: {{server: \"https://192.0.2.1:6443\"{ca}}}}}], users: [{{name: u, user: {user}}}], \
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}], current-context: x}}"
    );
    let secret = SecretRef {
        namespace: "n".to_owned(),
        name: "s".to_owned(),
    };
    let data: BTreeMap<String, ByteString> =
        [("value".to_owned(), ByteString(text.into_bytes()))].into();
    kubeconfig(&secret, &data).unwrap()
}

#[tokio::test]
async fn refuses_a_ca_that_is_none_without_showing_it() {
    let refusal = connect(&access("{token: verysecret}", Some(CA)))
        .err()
        .unwrap();
    assert_eq!(refusal.reason, "KubeconfigMalformed");
    assert!(!refusal.message.contains("verysecret"), "{refusal:?}");
}

#[tokio::test]
async fn an_answer_larger_than_allowed_is_an_error_and_not_our_memory() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let server = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            let size = if request[..read].starts_with(b"GET /small") {
                1000
            } else {
                3000
            };
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            // The client may hang up in the middle.
            drop(stream.write_all(&vec![b'x'; size]).await);
        }
    };
    let ask = async {
        let config = tuned(Config::new(format!("http://{at}").parse().unwrap()));
        let client = build(&config, 2000).unwrap();
        let get = |path: &str| http::Request::get(path).body(Vec::new()).unwrap();
        let small = client.request_text(get("/small")).await.unwrap();
        assert_eq!(small.len(), 1000);
        assert!(client.request_text(get("/large")).await.is_err());
    };
    tokio::select! {
        () = ask => {}
        () = server => {}
    }
}
