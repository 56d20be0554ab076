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
