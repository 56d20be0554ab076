use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use mesh_ca::{KeyAlgorithm, verify_answer};
use mesh_cluster::agent_io::Everyone;
use mesh_core::{
    issuance::{Pod, Pods},
    ledger::Pair,
};
use parking_lot::Mutex;
use prost_types::{Struct, Value, value::Kind};
use tokio::time::Instant;
use tonic::Code;

use super::{
    super::{Boxed, Covering, NotWritten},
    world::{Changes, World, ask, call, claims, csr, id, plain, send, spawn},
};

#[tokio::test]
async fn a_workload_is_given_its_certificate_its_chain_and_the_roots() {
    let world = World::new().await;
    let client = world.client().await;
    let token = world.token(1);
    let answer = call(&client, &token).await.unwrap();
    let expected = id("kof", "collector").parse().unwrap();
    let facts = verify_answer(&answer, &expected, Timestamp::now()).unwrap();
    // Leaf, intermediate, bundle: one certificate in each element, the roots in the last.
    assert_eq!(answer.len(), 3);
    for element in &answer {
        assert_eq!(mesh_ca::facts(element).unwrap().len(), 1);
        assert!(
            element.ends_with("-----END CERTIFICATE-----\n"),
            "{element:?}"
        );
    }
    assert_eq!(answer[2], world.mesh.root_pem);
    assert_eq!(facts.key, KeyAlgorithm::P256);
    assert!(facts.subject.is_empty());
    let left = facts.not_after.duration_since(Timestamp::now());
    assert!(left <= SignedDuration::from_mins(10) && left > SignedDuration::from_mins(8));

    let told = world.lines();
    let [line] = told.as_slice() else {
        panic!("{told:?}");
    };
    let given = line.given.clone().unwrap();
    assert_eq!(line.outcome, "issued");
    assert_eq!(line.identity, expected.as_str());
    assert_eq!(line.client.split(':').next(), Some("127.0.0.1"));
    let caller = line.caller.as_deref().unwrap();
    assert_eq!(caller.pod.as_deref(), Some("collector-0"));
    assert_eq!(caller.node.as_deref(), Some("n1"));
    assert_eq!(
        (given.serial, given.fingerprint),
        (facts.serial, facts.fingerprint)
    );
    assert_eq!((given.signer, given.bundle), (1, 1));
    assert_eq!(given.not_after, facts.not_after);

    // The answer of the API server is believed for a while: it was asked once.
    call(&client, &token).await.unwrap();
    assert_eq!(world.api.asked(), 1);
    call(&client, &world.token(2)).await.unwrap();
    assert_eq!(world.api.asked(), 2);
    assert_eq!(world.metric("mesh_agent_workload_certificates_issued"), 3);
    assert_eq!(
        world.metric("mesh_agent_token_reviews_total{how=\"Asked\"}"),
        2
    );
    assert_eq!(
        world.metric("mesh_agent_token_reviews_total{how=\"Cached\"}"),
        1
    );
    assert_eq!(world.metric("mesh_agent_workload_requests_in_flight"), 0);
}

#[tokio::test]
async fn serials_and_lives_are_as_they_should_be() {
    let world = World::new().await;
    let client = world.client().await;
    let mut serials = std::collections::BTreeSet::new();
    for (asked, most) in [(0, 3600), (-5, 3600), (60, 60), (86_400, 86_400)] {
        let mut message = plain(csr());
        message.validity_duration = asked;
        let answer = send(&client, ask(&world.token(1), message)).await.unwrap();
        let facts = mesh_ca::facts(&answer[0]).unwrap().remove(0);
        let life = facts.not_after.duration_since(Timestamp::now()).as_secs();
        assert!(life <= most && life > most - 30, "{asked}: {life}");
        assert!(serials.insert(facts.serial));
    }
    let mut message = plain(csr());
    message.validity_duration = 86_401;
    let status = send(&client, ask(&world.token(1), message))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test]
async fn who_says_it_is_in_another_cluster_is_refused() {
    let world = World::new().await;
    let client = world.client().await;
    for (cluster, taken) in [("child1", true), ("Kubernetes", true), ("child2", false)] {
        let mut request = ask(&world.token(1), plain(csr()));
        request
            .metadata_mut()
            .insert("clusterid", cluster.parse().unwrap());
        let answer = send(&client, request).await;
        assert_eq!(answer.is_ok(), taken, "{cluster}");
        if let Err(status) = answer {
            assert_eq!(status.code(), Code::Unauthenticated);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_mixes_generations() {
    let world = World::new().await;
    let other = super::world::Mesh::new();
    // Two signers with two bundles; a signer of one under the bundle of the other is believed by nobody.
    let pairs = [
        world.mesh.material(1, 1, vec![world.mesh.root_pem.clone()]),
        other.material(2, 2, vec![other.root_pem.clone()]),
    ];
    let root_of: BTreeMap<u32, String> = [
        (1, world.mesh.root_pem.clone()),
        (2, other.root_pem.clone()),
    ]
    .into();
    let expected = id("kof", "collector").parse().unwrap();
    let client = world.client().await;
    let token = world.token(1);
    // From its first answer on the client knows how many requests it may send at once.
    call(&client, &token).await.unwrap();
    world.lines.lock().clear();
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..200 {
        world.material.send_replace(Some(Arc::clone(&pairs[n % 2])));
        let (client, token) = (client.clone(), token.clone());
        calls.spawn(async move { call(&client, &token).await.unwrap() });
        if n % 3 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut answers = BTreeMap::new();
    while let Some(answer) = calls.join_next().await {
        let answer = answer.unwrap();
        let facts = verify_answer(&answer, &expected, Timestamp::now()).unwrap();
        answers.insert(facts.serial, answer);
    }
    let lines = world.lines();
    assert_eq!((answers.len(), lines.len()), (200, 200));
    for line in lines {
        let given = line.given.unwrap();
        assert_eq!(given.signer, given.bundle);
        assert_eq!(answers[&given.serial].last(), root_of.get(&given.bundle));
    }
}

/// A ledger that is written when it is let.
#[derive(Default)]
struct Slate {
    written: Mutex<Vec<(Pair, Timestamp)>>,
    asked: Mutex<Vec<(Pair, Timestamp)>>,
    works: bool,
}

impl Covering for Slate {
    fn covers(&self, pair: Pair, end: Timestamp) -> bool {
        let written = self.written.lock();
        written
            .iter()
            .any(|(known, until)| *known == pair && *until >= end)
    }

    fn cover(
        &self,
        pair: Pair,
        end: Timestamp,
        _deadline: Instant,
    ) -> Boxed<'_, Result<(), NotWritten>> {
        Box::pin(async move {
            self.asked.lock().push((pair, end));
            if !self.works {
                return Err(NotWritten { pair, end });
            }
            let ahead = end + SignedDuration::from_hours(1);
            self.written.lock().push((pair, ahead));
            Ok(())
        })
    }
}

#[tokio::test]
async fn nothing_is_given_that_the_ledger_does_not_speak_of() {
    let slate = Arc::new(Slate::default());
    let ledger: Arc<dyn Covering> = Arc::<Slate>::clone(&slate);
    let world = World::with(Changes {
        ledger,
        ..Changes::default()
    })
    .await;
    let client = world.client().await;
    let status = call(&client, &world.token(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.metadata().get("grpc-retry-pushback-ms").is_some());
    assert_eq!(world.lines()[0].reason, "LedgerNotWritten");
    assert_eq!(slate.asked.lock().len(), 1);

    let slate = Arc::new(Slate {
        works: true,
        ..Slate::default()
    });
    let ledger: Arc<dyn Covering> = Arc::<Slate>::clone(&slate);
    let world = World::with(Changes {
        ledger,
        ..Changes::default()
    })
    .await;
    let client = world.client().await;
    for _ in 0..3 {
        call(&client, &world.token(1)).await.unwrap();
    }
    // Written once, ahead; each leaf ends before.
    let asked = slate.asked.lock().clone();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let pair = Pair {
        signer: 1,
        bundle: 1,
    };
    for line in world.lines() {
        let given = line.given.unwrap();
        assert!(slate.covers(pair, given.not_after));
    }
}

#[tokio::test]
async fn without_a_signer_everybody_may_come_back() {
    let world = World::new().await;
    let client = world.client().await;
    world.material.send_replace(None);
    let status = call(&client, &world.token(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(world.lines()[0].reason, "NoSigner");
}

fn for_other(identity: &str) -> Struct {
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    // As ztunnel sends it, and what else agents may say.
    let fields = [
        ("ImpersonatedIdentity".to_owned(), text(identity)),
        ("CertSigner".to_owned(), text("")),
        ("WorkloadName".to_owned(), text("x")),
    ];
    Struct {
        fields: fields.into(),
    }
}

#[tokio::test]
async fn ztunnel_asks_for_the_pods_of_its_node() {
    let mut pods = Pods::default();
    let pod = |uid: &str, account: &str, node: &str| Pod {
        uid: uid.to_owned(),
        account: account.to_owned(),
        node: node.to_owned(),
        over: false,
    };
    pods.put(
        "istio-system",
        "ztunnel-0",
        pod("uid-ztunnel", "ztunnel", "n1"),
    );
    pods.put(
        "kof",
        "collector-0",
        pod("uid-collector", "collector", "n1"),
    );
    pods.put("kof", "far-0", pod("uid-far", "far", "n2"));
    let everyone = Everyone::of(pods);
    let world = World::with(Changes {
        everyone,
        ..Changes::default()
    })
    .await;
    let client = world.client().await;
    let ztunnel = world.key.token(&claims("istio-system", "ztunnel", 1));
    let asked = async |token: &str, identity: &str| {
        let mut message = plain(csr());
        message.metadata = Some(for_other(identity));
        send(&client, ask(token, message)).await
    };
    let collector = id("kof", "collector");
    let answer = asked(&ztunnel, &collector).await.unwrap();
    let expected = collector.parse().unwrap();
    let facts = verify_answer(&answer, &expected, Timestamp::now()).unwrap();
    // ztunnel takes the first URI of the leaf.
    assert_eq!(facts.uris, [collector.as_str()]);
    let line = world.lines().pop().unwrap();
    assert!(line.impersonated);
    assert_eq!(line.caller.unwrap().account, "ztunnel");
    assert_eq!(line.identity, collector);

    let far = asked(&ztunnel, &id("kof", "far")).await.unwrap_err();
    assert_eq!(far.code(), Code::PermissionDenied, "{far}");
    let other = asked(&world.token(1), &id("kof", "far")).await.unwrap_err();
    assert_eq!(other.code(), Code::PermissionDenied, "{other}");
    let garbage = asked(&ztunnel, "kof/collector").await.unwrap_err();
    assert_eq!(garbage.code(), Code::InvalidArgument, "{garbage}");
    let reasons: Vec<_> = world
        .lines()
        .iter()
        .skip(1)
        .map(|line| line.reason)
        .collect();
    assert_eq!(reasons, ["NotOnNode", "NotANodeAccount", "BadIdentity"]);
    world.everyone.clear();
    let unknown = asked(&ztunnel, &collector).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable, "{unknown}");
    // Anything but a text, or an empty one, is no wish for another's identity.
    for kind in [Kind::NumberValue(1.0), Kind::StringValue(String::new())] {
        let mut message = plain(csr());
        let value = Value { kind: Some(kind) };
        let fields = [("ImpersonatedIdentity".to_owned(), value)].into();
        message.metadata = Some(Struct { fields });
        let answer = send(&client, ask(&ztunnel, message)).await.unwrap();
        let own = id("istio-system", "ztunnel").parse().unwrap();
        verify_answer(&answer, &own, Timestamp::now()).unwrap();
    }
}

#[tokio::test]
async fn open_requests_are_answered_when_it_stops() {
    let gate = |api: &mut super::world::StandIn| {
        api.gate = Some(tokio::sync::Semaphore::new(0));
    };
    let world = World::with(Changes {
        api: Box::new(gate),
        ..Changes::default()
    })
    .await;
    let client = world.client().await;
    let token = world.token(1);
    let asking = spawn(async move { call(&client, &token).await });
    let deadline = Instant::now() + Duration::from_secs(10);
    while world.api.asked() == 0 {
        assert!(Instant::now() < deadline, "the API server was not asked");
        tokio::task::yield_now().await;
    }
    world.stop.send_replace(true);
    world.api.gate.as_ref().unwrap().add_permits(1);
    asking.await.unwrap().unwrap();
    world.server.await.unwrap();
}
