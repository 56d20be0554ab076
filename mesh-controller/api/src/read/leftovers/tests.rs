use serde_json::json;

use super::*;

fn meta(value: &Value) -> ObjectMeta {
    let mut meta = json!({ "name": "x", "namespace": "istio-system" });
    let more = value.as_object().unwrap().clone();
    meta.as_object_mut().unwrap().extend(more);
    serde_json::from_value(meta).unwrap()
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

/// As `istioctl create-remote-secret` and the operators write it: the ID is a key of the data; as Sveltos copies it, the annotation may be gone.
#[test]
fn a_remote_secret_shows_its_clusters_without_being_opened() {
    let managed = |keys: &Value| {
        json!([
            { "manager": "operator", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
              "fieldsV1": { "f:data": keys, "f:type": {} } },
            { "manager": "other", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
              "fieldsV1": { "f:metadata": {} } },
        ])
    };
    let keys = managed(&json!({ ".": {}, "f:region1": {}, "f:region2": {} }));
    let clusters = |meta: &ObjectMeta| match left_remote(meta) {
        Some(Found {
            what: What::Remote { clusters },
            ..
        }) => clusters,
        other => panic!("{other:?}"),
    };
    let by_keys = meta(&json!({ "managedFields": keys }));
    assert_eq!(clusters(&by_keys), names(&["region1", "region2"]));
    let applied = json!([{ "manager": "argocd", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": { "f:stringData": { "f:region4": {} } } }]);
    let by_apply = meta(&json!({ "managedFields": applied }));
    assert_eq!(clusters(&by_apply), names(&["region4"]));
    let by_note = meta(&json!({ "annotations": { "networking.istio.io/cluster": "region3" } }));
    assert_eq!(clusters(&by_note), names(&["region3"]));
    assert_eq!(clusters(&meta(&json!({}))), names(&[]));
    let ours =
        json!({ "managedFields": keys, "labels": { "app.kubernetes.io/managed-by": "kof-istio" } });
    assert_eq!(left_remote(&meta(&ours)), None);
}

#[test]
fn a_token_says_whose_it_is() {
    let note = json!({ "annotations": { "kubernetes.io/service-account.name": "istio-reader-service-account" } });
    let account = "istio-reader-service-account".to_owned();
    let what = What::Token { account };
    assert_eq!(left_token(&meta(&note)).map(|found| found.what), Some(what));
    assert_eq!(left_token(&meta(&json!({}))), None);
}

#[test]
fn a_gateway_is_judged_by_what_it_lets_through() {
    let server = |mode: &str, hosts: &[&str]| json!({ "port": { "number": 15443 }, "tls": { "mode": mode }, "hosts": hosts });
    let hosts = |servers: &[Value]| {
        let found = left_gateway(
            &meta(&json!({})),
            &json!({ "spec": { "servers": servers } }),
        );
        match found.map(|found| found.what) {
            Some(What::Wide { hosts }) => Some(hosts),
            None => None,
            other => panic!("{other:?}"),
        }
    };
    let through = "AUTO_PASSTHROUGH";
    assert_eq!(
        hosts(&[server(through, &["*.local"])]),
        Some(names(&["*.local"]))
    );
    assert_eq!(
        hosts(&[server(through, &["./*.kof.svc.cluster.local"])]),
        Some(names(&["./*.kof.svc.cluster.local"]))
    );
    let two = [
        server("SIMPLE", &["*"]),
        server(through, &["*", "a.example"]),
    ];
    assert_eq!(hosts(&two), Some(names(&["*"])));
    assert_eq!(hosts(&[server("SIMPLE", &["*.local"])]), None);
    assert_eq!(
        hosts(&[server(through, &["region1-vmauth.kof.svc.cluster.local"])]),
        None
    );
    assert_eq!(
        left_gateway(&meta(&json!({})), &json!({ "spec": {} })),
        None
    );
}

#[test]
fn of_cert_manager_only_what_has_to_do_with_a_ca_is_found() {
    let nobody = meta(&json!({}));
    let issuer =
        |spec: &Value| left_issuer(&nobody, &json!({ "spec": spec })).map(|found| found.what);
    let secret = "kof-istio-root".to_owned();
    assert_eq!(
        issuer(&json!({ "ca": { "secretName": "kof-istio-root" } })),
        Some(What::Issuer { secret })
    );
    assert_eq!(issuer(&json!({ "selfSigned": {} })), None);
    let certificate = |is_ca: bool| {
        let spec = json!({ "isCA": is_ca, "secretName": "s", "issuerRef": { "name": "i", "kind": "Issuer" } });
        left_authority(&nobody, &json!({ "spec": spec })).map(|found| found.what)
    };
    let (secret, issuer) = ("s".to_owned(), "i".to_owned());
    assert_eq!(certificate(true), Some(What::Authority { secret, issuer }));
    assert_eq!(certificate(false), None);
}

#[test]
fn what_nobody_could_have_named_is_left_out() {
    let long = "x".repeat(10_000);
    let note = json!({ "annotations": { "kubernetes.io/service-account.name": long } });
    assert_eq!(left_token(&meta(&note)), None);
    let issuer = json!({ "spec": { "ca": { "secretName": long } } });
    assert_eq!(left_issuer(&meta(&json!({})), &issuer), None);
}
