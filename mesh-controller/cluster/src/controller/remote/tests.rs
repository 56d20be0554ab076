use std::collections::BTreeSet;

use jiff::SignedDuration;
use mesh_api::read;
use mesh_core::remote::{Link, RemoteFacts, Step};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::json;

use super::*;
use crate::{
    apply::{Owner, open_gate, remote_is_intact},
    testing::Fake,
};

const ACCOUNT: &str = "/api/v1/namespaces/istio-system/serviceaccounts/mesh-reader-child1";
const SECRET: &str = "/api/v1/namespaces/istio-system/secrets/mesh-remote-region1";
const HOUR: Lifetime = Lifetime::from_secs(3600);

fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

fn owner() -> Owner {
    Owner {
        install: "install".to_owned(),
        member: "member".to_owned(),
        others: Arc::default(),
    }
}

/// A region with the account in it, and a consumer without anything.
struct World {
    region: Fake,
    consumer: Fake,
    registry: Registry,
    metrics: Metrics,
    gate: Gate,
}

impl World {
    fn new() -> Self {
        let mut registry = Registry::default();
        let world = Self {
            region: Fake::default(),
            consumer: Fake::default(),
            metrics: Metrics::register(&mut registry),
            registry,
            gate: open_gate(),
        };
        world.make_account();
        world
    }

    /// Makes it, or makes it anew.
    fn make_account(&self) {
        let marks = json!({ (labels::MANAGED_BY): labels::MANAGED_BY_US, (labels::INSTALL): "install", (labels::MEMBER): "region" });
        let meta = json!({ "name": "mesh-reader-child1", "labels": marks });
        self.region.put(
            ACCOUNT,
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta }),
        );
    }

    fn meta(&self) -> Option<ObjectMeta> {
        let secret = self.consumer.get(SECRET)?;
        serde_json::from_value(secret["metadata"].clone()).ok()
    }

    fn token(&self) -> String {
        let data = self.consumer.get(SECRET).unwrap()["data"]["region1"].clone();
        let bytes: k8s_openapi::ByteString = serde_json::from_value(data).unwrap();
        let kubeconfig = String::from_utf8(bytes.0).unwrap();
        kubeconfig.lines().last().unwrap().trim().to_owned()
    }

    /// One turn of a controller that remembers nothing, this long from now. Says what it did.
    async fn turn(&self, later: i64) -> Result<&'static str, Obstacle> {
        let (consumer, region) = (name("child1"), name("region1"));
        let client = self.region.client();
        let at = Region {
            client: &client,
            name: &region,
            consumer: &consumer,
            install: "install",
        };
        let secrets = self.meta().map(|meta| {
            let facts = read::remote_secret(
                &meta,
                owner().owns(&meta),
                remote_is_intact(&meta, "region1"),
            );
            (secret_name(&region), facts)
        });
        let readers = at.reader().await.unwrap().map(|uid| (region.clone(), uid));
        let facts = RemoteFacts {
            secrets: Some(secrets.into_iter().collect()),
            readers: readers.into_iter().collect(),
            ..RemoteFacts::default()
        };
        let server = Ok(Server {
            url: "https://192.0.2.7:6443".to_owned(),
            tls_server_name: None,
            ca_pem: None,
        });
        let link = Link {
            consumer: &consumer,
            region: &region,
            facts: &facts,
            server: &server,
            refusal: None,
            istiod: true,
            account: true,
        };
        match link.step(Timestamp::now() + SignedDuration::from_secs(later)) {
            Step::Keep => Ok("kept"),
            Step::Wait(why) => Err(why),
            Step::Write(server) => {
                let writer = Writer::new(
                    self.consumer.client(),
                    labels::CONTROLLER,
                    owner(),
                    Arc::clone(&self.gate),
                );
                let scribe = Scribe {
                    writer: &writer,
                    gate: &self.gate,
                    metrics: &self.metrics,
                    install: "install",
                    member: "member",
                };
                scribe.write(&at, &server, HOUR).await.map(|_| "wrote")
            }
        }
    }

    /// What was asked in the region, and written in the consumer.
    fn writes(&self) -> (usize, Vec<String>) {
        let asked = self.region.writes();
        assert!(
            asked
                .iter()
                .all(|write| *write == format!("POST {ACCOUNT}/token")),
            "{asked:?}"
        );
        (asked.len(), self.consumer.writes())
    }
}

fn patched(times: usize) -> (usize, Vec<String>) {
    (times, vec![format!("PATCH {SECRET}"); times])
}

#[tokio::test]
async fn one_token_and_one_write_a_renewal_and_none_at_rest() {
    let world = World::new();
    assert_eq!(world.turn(0).await, Ok("wrote"));
    assert_eq!(world.writes(), patched(1));
    let first = (world.meta().unwrap(), world.token());
    // Each turn is that of a controller that has just begun.
    for later in [0, 60, 1800] {
        assert_eq!(world.turn(later).await, Ok("kept"), "{later}");
    }
    assert_eq!(world.writes(), patched(0));
    assert_eq!(world.turn(2400).await, Ok("wrote"), "two thirds of an hour");
    assert_eq!(world.writes(), patched(1), "in place: nothing is deleted");
    let second = (world.meta().unwrap(), world.token());
    assert_eq!(first.0.uid, second.0.uid);
    assert_ne!(first.1, second.1);
    let mut told = String::new();
    encode(&mut told, &world.registry).unwrap();
    assert!(
        told.contains("remote_tokens_total 2") && told.contains("remote_secrets_written_total 2"),
        "{told}"
    );
    assert!(!told.contains("token-") && first.1.contains("token-"));
}

#[tokio::test]
async fn a_token_is_as_long_as_the_api_server_says() {
    let world = World::new();
    world.turn(0).await.unwrap();
    let meta = world.meta().unwrap();
    let (issued, expires) = read::remote_secret(&meta, true, true).token().unwrap();
    let life = expires.duration_since(issued).as_secs();
    assert!((3600..=3601).contains(&life), "{life}");
    let labels = meta.labels.unwrap();
    assert_eq!(labels[labels::MULTI_CLUSTER], "true");
    assert!(owner().owns(&ObjectMeta {
        labels: Some(labels),
        ..ObjectMeta::default()
    }));
}

#[tokio::test]
async fn a_token_dies_with_its_account_and_somebody_elses_hand_is_seen() {
    let world = World::new();
    world.turn(0).await.unwrap();
    world.make_account();
    assert_eq!(
        world.turn(0).await,
        Ok("wrote"),
        "another account of that name"
    );
    assert_eq!(world.turn(0).await, Ok("kept"));
    world.consumer.edit(SECRET, |secret| {
        secret["data"]["region1"] = json!("QQ==");
        secret["metadata"]["managedFields"][0]["fieldsV1"]["f:data"] = json!({});
    });
    assert_eq!(world.turn(0).await, Ok("wrote"));
    assert_eq!(world.turn(0).await, Ok("kept"));
    world.consumer.remove(SECRET);
    assert_eq!(world.turn(0).await, Ok("wrote"));
}

#[tokio::test]
async fn an_account_that_is_not_ours_is_asked_for_nothing() {
    let world = World::new();
    world.region.put(
        ACCOUNT,
        json!({ "metadata": { "name": "mesh-reader-child1" } }),
    );
    assert_eq!(
        world.turn(0).await.unwrap_err().reason,
        "RemoteReaderMissing"
    );
    world.region.remove(ACCOUNT);
    assert_eq!(
        world.turn(0).await.unwrap_err().reason,
        "RemoteReaderMissing"
    );
    assert_eq!(world.writes(), patched(0));
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_neither_written_nor_deleted() {
    let world = World::new();
    let foreign = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "mesh-remote-region1", "labels": { "istio/multiCluster": "true" } } });
    world.consumer.put(SECRET, foreign.clone());
    assert_eq!(
        world.turn(0).await.unwrap_err().reason,
        "RemoteSecretForeign"
    );
    let writer = Writer::new(
        world.consumer.client(),
        labels::CONTROLLER,
        owner(),
        open_gate(),
    );
    let why = writer
        .put_remote("mesh-remote-region1", json!({ "metadata": {} }))
        .await
        .unwrap_err();
    assert_eq!(why.reason, "ForeignObject");
    assert_eq!(writer.prune_remotes(&BTreeSet::new()).await.unwrap(), 0);
    assert_eq!(world.writes(), patched(0));
}

#[tokio::test]
async fn what_nobody_needs_any_more_goes_and_other_secrets_of_ours_stay() {
    let world = World::new();
    world.turn(0).await.unwrap();
    let marks = json!({ (labels::MANAGED_BY): labels::MANAGED_BY_US, (labels::INSTALL): "install", (labels::MEMBER): "member" });
    let intermediate = "/api/v1/namespaces/istio-system/secrets/mesh-intermediate";
    world.consumer.put(
        intermediate,
        json!({ "metadata": { "name": "mesh-intermediate", "labels": marks } }),
    );
    let writer = Writer::new(
        world.consumer.client(),
        labels::CONTROLLER,
        owner(),
        open_gate(),
    );
    let kept = BTreeSet::from(["mesh-remote-region1".to_owned()]);
    assert_eq!(writer.prune_remotes(&kept).await.unwrap(), 0);
    assert_eq!(writer.prune_remotes(&BTreeSet::new()).await.unwrap(), 1);
    assert_eq!(world.consumer.get(SECRET), None);
    assert!(world.consumer.get(intermediate).is_some());
    // And with the member, before anything else.
    world.turn(0).await.unwrap();
    world.consumer.writes();
    writer.leave().await.unwrap();
    assert_eq!(world.consumer.writes()[0], format!("DELETE {SECRET}"));
}

#[tokio::test]
async fn where_secrets_may_not_be_listed_there_are_none_of_ours() {
    let world = World::new();
    world
        .consumer
        .forbid("GET /api/v1/namespaces/istio-system/secrets");
    let writer = Writer::new(
        world.consumer.client(),
        labels::CONTROLLER,
        owner(),
        open_gate(),
    );
    assert_eq!(writer.prune_remotes(&BTreeSet::new()).await.unwrap(), 0);
}

#[tokio::test]
async fn nothing_is_asked_or_written_while_another_leads() {
    let world = World {
        gate: Arc::new(|| false),
        ..World::new()
    };
    assert_eq!(world.turn(0).await.unwrap_err().reason, "NotLeading");
    assert_eq!(world.writes(), patched(0));
}

#[tokio::test]
async fn no_word_of_a_token_is_in_what_is_said() {
    let world = World::new();
    world.consumer.forbid(SECRET);
    let why = world.turn(0).await.unwrap_err();
    assert_eq!(why.reason, "Forbidden");
    assert!(!format!("{why:?}").contains("token-"), "{why:?}");
}

#[tokio::test]
async fn a_way_is_open_as_long_as_its_session() {
    let (ways, fake) = (Ways::default(), Fake::default());
    let key = MemberKey {
        namespace: "n".to_owned(),
        name: "region1".to_owned(),
    };
    let first = ways.open(&key, &fake.client());
    let second = ways.open(&key, &fake.client());
    drop(first);
    assert!(ways.to(&key).is_some(), "the newer session holds it");
    drop(second);
    assert!(ways.to(&key).is_none());
}
