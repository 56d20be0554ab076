use mesh_api::{agent::Sidecars, mesh::Protocol};
use mesh_core::probe::Class;

use super::{super::tests::server, *};
use crate::testing::Mesh;

fn consume() -> Consume {
    let mut consume = Mesh::new().intent().spec.consume[0].clone();
    consume.sidecars = Sidecars::Static;
    consume.hosts = vec![Host {
        service: "region1-vmauth".to_owned(),
        port: 8427,
        protocol: Protocol::Http,
        sni: String::new(),
        accounts: Vec::new(),
        identities: Vec::new(),
        prefixes: Vec::new(),
    }];
    consume
}

#[tokio::test]
async fn asks_by_the_real_name_and_reads_what_a_sidecar_says() {
    let answers = vec![
        "HTTP/1.1 401 Unauthorized\r\nserver: envoy\r\nx-envoy-upstream-service-time: 2\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\nserver: envoy\r\ncontent-length: 19\r\n\r\nno healthy upstream",
        "HTTP/1.1 200 OK\r\nserver: istio-envoy\r\ncontent-length: 0\r\n\r\n",
        "",
    ];
    let (address, mut asks, _server) = server(answers).await;
    let ask = async || {
        let consume = consume();
        let result = ask_there(&[address], host(&consume).unwrap(), &consume).await;
        result.map_err(|failure| failure.class)
    };
    assert_eq!(ask().await, Ok(()));
    let request = asks.recv().await.unwrap().to_lowercase();
    assert!(
        request.starts_with("get /vm/select/0/prometheus/api/v1/query?query=1 http/1.1"),
        "{request}"
    );
    assert!(
        request.contains("host: region1-vmauth.kof.svc:8427\r\n"),
        "{request}"
    );
    assert_eq!(ask().await, Err(Class::Name));
    assert_eq!(ask().await, Err(Class::Sidecar), "that was not ours");
    assert_eq!(ask().await, Err(Class::Sidecar), "broken without an answer");
    assert_eq!(ask().await, Err(Class::Sidecar), "nobody listens any more");
}

#[tokio::test]
async fn a_name_that_is_not_there_is_told_in_the_same_words_each_time() {
    let why = || async { resolve("no-such-name.invalid", 8427).await.unwrap_err() };
    let (first, second) = (why().await, why().await);
    assert!(first.starts_with("no-such-name.invalid: "), "{first}");
    assert_eq!(first, second);
    assert_eq!(resolve("127.0.0.1", 1).await.unwrap().len(), 1);
    // Tests have no cluster's names.
    assert_eq!(ask(&consume()).await.unwrap_err().class, Class::Name);
    let mut closed = consume();
    closed.hosts.clear();
    assert_eq!(ask(&closed).await.unwrap_err().class, Class::Name);
}
