use mesh_api::render::prunable;

use super::*;
use crate::{call::Trouble, testing::Fake};

const SERVICES: &str = "/api/v1/namespaces/kof/services";

fn kind(name: &str) -> ManagedKind {
    *prunable().iter().find(|kind| kind.kind == name).unwrap()
}

fn labels_of(owner: &Owner) -> Value {
    json!({ (labels::MANAGED_BY): labels::MANAGED_BY_US, (labels::INSTALL): owner.install, (labels::MEMBER): owner.member })
}

fn owner() -> Owner {
    Owner {
        install: "install".to_owned(),
        member: "member".to_owned(),
        others: Arc::default(),
    }
}

fn object(of: &str, namespace: Option<&str>, name: &str) -> Rendered {
    let kind = kind(of);
    let mut body = json!({
        "apiVersion": kind.api_version, "kind": kind.kind,
        "metadata": { "name": name, "labels": labels_of(&owner()) },
        "spec": { "type": "ClusterIP" },
    });
    if let Some(namespace) = namespace {
        body["metadata"]["namespace"] = json!(namespace);
    }
    Rendered {
        kind,
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
        body,
    }
}

fn service(name: &str) -> Rendered {
    object("Service", Some("kof"), name)
}

fn writer(fake: &Fake) -> Writer {
    Writer::new(fake.client(), labels::CONTROLLER, owner(), open_gate())
}

async fn apply(writer: &Writer, objects: Vec<Rendered>) -> Round {
    writer.apply(Batch::new(objects)).await
}

fn reasons(round: &Round) -> Vec<String> {
    round
        .hindrances()
        .into_iter()
        .map(|why| why.reason)
        .collect()
}

#[tokio::test]
async fn writes_what_is_missing_and_nothing_twice() {
    let fake = Fake::default();
    let round = apply(&writer(&fake), vec![service("a")]).await;
    assert_eq!(fake.writes(), [format!("PATCH {SERVICES}/a")]);
    assert_eq!((reasons(&round).len(), round.generations.len()), (0, 1));
    // Neither does a writer that remembers nothing.
    let round = apply(&writer(&fake), vec![service("a")]).await;
    assert_eq!(fake.writes(), Vec::<String>::new());
    assert!(matches!(round.outcomes[0].1, Outcome::Unchanged));
}

#[tokio::test]
async fn mends_what_somebody_changed_and_what_is_no_longer_wanted() {
    let fake = Fake::default();
    let writer = writer(&fake);
    let mut wanted = service("a");
    wanted.body["spec"]["externalName"] = json!("x");
    apply(&writer, vec![wanted]).await;
    fake.writes();
    apply(&writer, vec![service("a")]).await;
    assert_eq!(fake.writes().len(), 1, "a field less");
    fake.edit(&format!("{SERVICES}/a"), |live| {
        live["spec"]["type"] = json!("NodePort");
    });
    apply(&writer, vec![service("a")]).await;
    assert_eq!(fake.writes().len(), 1, "an edited field");
    fake.edit(&format!("{SERVICES}/a"), |live| {
        live["status"] = json!({ "any": "thing" });
    });
    apply(&writer, vec![service("a")]).await;
    assert_eq!(fake.writes().len(), 0, "somebody else's field");
}

#[tokio::test]
async fn never_touches_what_is_foreign() {
    let fake = Fake::default();
    let foreign = |labels: Value| json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a", "labels": labels } });
    let other_install = Owner {
        install: "another".to_owned(),
        ..owner()
    };
    let other_member = Owner {
        member: "another".to_owned(),
        ..owner()
    };
    for labels in [
        json!({}),
        labels_of(&other_install),
        labels_of(&other_member),
    ] {
        fake.put(&format!("{SERVICES}/a"), foreign(labels.clone()));
        let others = Arc::new(["another".to_owned()].into());
        let writer = Writer::new(
            fake.client(),
            labels::CONTROLLER,
            Owner { others, ..owner() },
            open_gate(),
        );
        let round = apply(&writer, vec![service("a"), service("b")]).await;
        assert_eq!(reasons(&round), [NAME_TAKEN], "{labels}");
        assert!(round.hindrances()[0].message.contains("Service kof/a"));
        writer.prune(&round.done).await.unwrap();
        assert!(
            !fake.writes().iter().any(|write| write.ends_with("/a")),
            "{labels}"
        );
    }
}

#[tokio::test]
async fn takes_over_what_a_member_left_that_is_no_more() {
    let fake = Fake::default();
    let left = Owner {
        member: "gone".to_owned(),
        ..owner()
    };
    let live = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a", "labels": labels_of(&left) } });
    fake.put(&format!("{SERVICES}/a"), live);
    let round = apply(&writer(&fake), vec![service("a")]).await;
    assert!(matches!(round.outcomes[0].1, Outcome::Written));
    assert_eq!(
        fake.get(&format!("{SERVICES}/a")).unwrap()["metadata"]["labels"],
        labels_of(&owner())
    );
}

#[tokio::test]
async fn uses_namespaces_that_are_there() {
    let fake = Fake::default();
    fake.put(
        "/api/v1/namespaces/kof",
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "kof" } }),
    );
    let round = apply(
        &writer(&fake),
        vec![object("Namespace", None, "kof"), service("a")],
    )
    .await;
    assert!(matches!(round.outcomes[0].1, Outcome::Shared));
    assert_eq!(fake.writes(), [format!("PATCH {SERVICES}/a")]);
}

#[tokio::test]
async fn one_that_is_forbidden_hinders_no_other() {
    let fake = Fake::default();
    fake.forbid(&format!("{SERVICES}/a"));
    let round = apply(&writer(&fake), vec![service("a"), service("b")]).await;
    assert_eq!(reasons(&round), ["Forbidden"]);
    assert!(
        round.hindrances()[0]
            .message
            .contains("apply Service kof/a"),
        "{:?}",
        round.hindrances()
    );
    assert!(fake.get(&format!("{SERVICES}/b")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_ends_the_round_and_prunes_nothing() {
    let fake = Fake::default();
    let writer = writer(&fake);
    apply(&writer, vec![service("a"), service("b")]).await;
    fake.writes();
    fake.fall_silent();
    let round = apply(&writer, vec![service("b")]).await;
    assert_eq!(reasons(&round), ["Timeout"]);
    assert_eq!(writer.prune(&round.done).await.unwrap(), 0);
}

#[tokio::test]
async fn prunes_what_is_ours_and_not_wanted() {
    let fake = Fake::default();
    let writer = writer(&fake);
    apply(&writer, vec![service("a"), service("b")]).await;
    fake.put(
        &format!("{SERVICES}/c"),
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "c" } }),
    );
    fake.writes();
    let round = apply(&writer, vec![service("b")]).await;
    assert_eq!(writer.prune(&round.done).await.unwrap(), 1);
    assert_eq!(fake.writes(), [format!("DELETE {SERVICES}/a")]);
}

const CACERTS: &str = "/api/v1/namespaces/istio-system/secrets/cacerts";
const ISTIOD: &str = "/apis/apps/v1/namespaces/istio-system/deployments/istiod";

fn with_cacerts(labels: &Value) -> Fake {
    let fake = Fake::default();
    let data = json!({ "ca-cert.pem": "QQ==", "ca-crl.pem": "QQ==" });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "cacerts", "labels": labels }, "data": data });
    fake.put(CACERTS, secret);
    fake
}

fn with_istiod(fake: &Fake) {
    let meta = json!({ "name": "istiod", "labels": { "app": "istiod" } });
    let object = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta });
    fake.put(ISTIOD, object);
}

#[tokio::test]
async fn what_istiod_signs_with_is_deleted_only_where_no_istiod_is() {
    let fake = with_cacerts(&labels_of(&owner()));
    assert_eq!(writer(&fake).leave_workloads().await.unwrap(), 1);
    assert_eq!(fake.writes(), [format!("DELETE {CACERTS}")]);

    let fake = with_cacerts(&labels_of(&owner()));
    with_istiod(&fake);
    assert_eq!(writer(&fake).leave_workloads().await.unwrap(), 0);
    assert_eq!(fake.writes(), Vec::<String>::new());
    // As long as it is ours, it goes when istiod has gone.
    fake.remove(ISTIOD);
    assert_eq!(writer(&fake).leave_workloads().await.unwrap(), 1);
    assert_eq!(fake.get(CACERTS), None);
}

#[tokio::test]
async fn what_istiod_signs_with_is_left_to_it_for_good() {
    let mut labels = labels_of(&owner());
    labels["another"] = json!("label");
    let fake = with_cacerts(&labels);
    with_istiod(&fake);
    let writer = writer(&fake);
    assert!(!writer.leave().await.unwrap().is_nothing());
    let left = fake.get(CACERTS).unwrap();
    assert_eq!(left["metadata"]["labels"], json!({ "another": "label" }));
    // Nobody would renew its lists.
    assert_eq!(left["data"], json!({ "ca-cert.pem": "QQ==" }));
    fake.writes();
    assert!(writer.leave().await.unwrap().is_nothing());
    assert_eq!(fake.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn the_signing_secret_of_somebody_else_is_not_touched() {
    let fake = with_cacerts(&json!({ "app": "theirs" }));
    assert_eq!(writer(&fake).leave_workloads().await.unwrap(), 0);
    assert!(writer(&fake).leave().await.unwrap().is_nothing());
    assert_eq!(fake.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn writes_nothing_while_another_leads() {
    let fake = Fake::default();
    let closed: Gate = Arc::new(|| false);
    let writer = Writer::new(fake.client(), labels::CONTROLLER, owner(), closed);
    let round = apply(&writer, vec![service("a")]).await;
    assert!(round.is_void());
    assert_eq!(fake.writes(), Vec::<String>::new());
    let Outcome::Failed(error) = &round.outcomes[0].1 else {
        panic!("{:?}", round.outcomes)
    };
    assert_eq!(error.trouble(), Trouble::NotLeading);
}
