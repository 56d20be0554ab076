use std::sync::{Arc, atomic::Ordering};

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mesh_core::issuance::Review;
use serde_json::{Value, json};
use tokio::{
    sync::Semaphore,
    time::{Duration, Instant},
};
use tonic::Code;

use super::{
    super::{Limits, NoAnswer},
    world::{
        Changes, StandIn, TokenKey, World, ask, call, claims, csr, plain, published, send, spawn,
    },
};

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims("kof", "collector", 1);
    change(&mut claims);
    claims
}

/// A token by hand: header, claims, signature.
fn by_hand(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| base64url(value.to_string().as_bytes());
    format!("{}.{}.{signature}", part(header), part(claims))
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = [0_u8; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        for place in 0..=chunk.len() {
            let index = word >> (18 - 6 * place) & 0x3f;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

/// Without so many characters at its end.
fn cut(text: &str, end: usize) -> String {
    text.get(..text.len() - end).unwrap().to_owned()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table")]
async fn bad_tokens_are_refused_without_asking_the_api_server() {
    let world = World::new().await;
    let client = world.client().await;
    let now = Timestamp::now().as_second();
    // Another cluster's API server: the same ID of its key, and another.
    let (same_id, other_id) = (TokenKey::new("k1"), TokenKey::new("k9"));
    let good = world.token(1);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let kid = json!({"alg": "ES256", "kid": "k1"});
    // The public key as a shared secret, the old trick.
    let mut shared = Header::new(Algorithm::HS256);
    shared.kid = Some("k1".to_owned());
    let public = world.key.public().to_string();
    let secret = EncodingKey::from_secret(public.as_bytes()).unwrap();
    let shared = jsonwebtoken::encode(&shared, &with(|_| ()), &secret).unwrap();
    let mut nameless = Header::new(Algorithm::ES256);
    nameless.kid = None;
    let nameless = jsonwebtoken::encode(&nameless, &with(|_| ()), &world.key.key).unwrap();
    let token = |claims: Value| world.key.token(&claims);
    let table = [
        ("garbage", "NotAToken", "garbage".to_owned()),
        ("two parts", "NotAToken", "a.b".to_owned()),
        ("an empty part", "NotAToken", "a..b".to_owned()),
        ("four parts", "NotAToken", "a.b.c.d".to_owned()),
        ("no base64", "NotAToken", "a.b=.c".to_owned()),
        ("no JSON", "NotAToken", "YWJj.YWJj.YWJj".to_owned()),
        (
            "too long",
            "TokenTooLong",
            format!("{signed}.{}", "A".repeat(9000)),
        ),
        ("truncated", "NotAToken", signed.to_owned()),
        ("cut signature", "BadSignature", cut(&good, 6)),
        (
            "other claims",
            "BadSignature",
            by_hand(&kid, &with(|c| c["sub"] = json!("x")), signature),
        ),
        (
            "other cluster",
            "BadSignature",
            same_id.token(&with(|_| ())),
        ),
        ("unknown key", "UnknownKey", other_id.token(&with(|_| ()))),
        ("no key named", "UnknownKey", nameless),
        ("a shared secret", "BadSignature", shared),
        (
            "no algorithm",
            "NotAToken",
            by_hand(&json!({"alg": "none", "kid": "k1"}), &with(|_| ()), "AA"),
        ),
        (
            "expired",
            "TokenExpired",
            token(with(|c| c["exp"] = json!(now - 120))),
        ),
        (
            "no end",
            "NotAToken",
            token(with(|c| {
                c.as_object_mut().unwrap().remove("exp");
            })),
        ),
        (
            "too young",
            "TokenTooYoung",
            token(with(|c| c["nbf"] = json!(now + 600))),
        ),
        (
            "other audience",
            "OtherAudience",
            token(with(|c| {
                c["aud"] = json!(["https://kubernetes.default.svc"]);
            })),
        ),
        (
            "no audience",
            "NotAToken",
            token(with(|c| {
                c.as_object_mut().unwrap().remove("aud");
            })),
        ),
        (
            "other issuer",
            "OtherIssuer",
            token(with(|c| c["iss"] = json!("https://evil.example"))),
        ),
        (
            "no issuer",
            "NotAToken",
            token(with(|c| {
                c.as_object_mut().unwrap().remove("iss");
            })),
        ),
    ];
    for (what, reason, token) in table {
        world.lines.lock().clear();
        let status = call(&client, &token).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status}");
        let lines = world.lines();
        // Lines of one reason are limited; the count is not.
        if let [line] = lines.as_slice() {
            assert_eq!((line.outcome, line.reason), ("refused", reason), "{what}");
            assert!(line.given.is_none());
            assert!(
                !format!("{line:?}").contains(&token),
                "{what}: the token is in the audit"
            );
        } else {
            assert!(lines.is_empty(), "{what}: {lines:?}");
        }
    }
    assert_eq!(world.api.asked(), 0);
    assert_eq!(world.metric("mesh_agent_workload_certificates_issued"), 0);
    call(&client, &good).await.unwrap();
    assert_eq!(world.api.asked(), 1);
}

#[tokio::test]
async fn without_one_bearer_token_nobody_asks() {
    let world = World::new().await;
    let client = world.client().await;
    let mut none = ask("x", plain(csr()));
    none.metadata_mut().remove("authorization");
    let mut basic = ask("x", plain(csr()));
    basic
        .metadata_mut()
        .insert("authorization", "Basic eDp5".parse().unwrap());
    let mut two = ask(&world.token(1), plain(csr()));
    let more = format!("Bearer {}", world.token(2)).parse().unwrap();
    two.metadata_mut().append("authorization", more);
    for request in [none, basic, two] {
        let status = send(&client, request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
    assert!(world.lines().iter().all(|line| line.reason == "NoToken"));
    assert_eq!(world.api.asked(), 0);
}

#[tokio::test]
async fn tokens_of_every_kind_of_key_are_known() {
    let rsa = std::process::Command::new("openssl")
        .args(["genrsa", "-traditional", "2048"])
        .output()
        .unwrap();
    let pem = String::from_utf8(rsa.stdout).unwrap();
    let der =
        <rustls_pki_types::PrivateKeyDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(
            pem.as_bytes(),
        );
    let rsa = TokenKey {
        id: "rsa".to_owned(),
        algorithm: Algorithm::RS256,
        key: EncodingKey::from_rsa_der(der.unwrap().secret_der()),
    };
    let keys = published(&[&rsa]);
    let world = World::with(Changes {
        api: Box::new(move |api: &mut StandIn| *api.keys.lock() = Ok(keys)),
        ..Changes::default()
    })
    .await;
    let client = world.client().await;
    call(&client, &rsa.token(&claims("kof", "collector", 1)))
        .await
        .unwrap();
    let bent = rsa.token(&claims("kof", "collector", 2));
    let (before, last) = (cut(&bent, 4), bent.get(bent.len() - 4..).unwrap());
    let other = if last == "AAAA" { "BAAA" } else { "AAAA" };
    let bent = format!("{before}{other}");
    let status = call(&client, &bent).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(world.api.asked(), 1);
}

#[tokio::test]
async fn without_keys_the_api_server_is_asked_about_each_token() {
    let world = World::with(Changes {
        api: Box::new(|api: &mut StandIn| *api.keys.lock() = Err(NoAnswer("forbidden".to_owned()))),
        ..Changes::default()
    })
    .await;
    let client = world.client().await;
    call(&client, &world.token(1)).await.unwrap();
    // Signed by nobody we know, and the API server says so.
    let other = TokenKey::new("k9").token(&claims("kof", "collector", 2));
    world
        .api
        .says
        .lock()
        .insert(other.clone(), Ok(Review::default()));
    for _ in 0..2 {
        let status = call(&client, &other).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
    // A bad answer is kept too; what has no shape is not asked about at all.
    assert_eq!(world.api.asked(), 2);
    call(&client, "a.b").await.unwrap_err();
    assert_eq!(world.api.asked(), 2);
    let keys = world.api.asked_keys.load(Ordering::SeqCst);
    assert_eq!(keys, 1, "keys are asked for again and again");
}

#[tokio::test]
async fn a_new_key_of_the_api_server_is_found_and_others_are_not_searched_for() {
    let world = World::new().await;
    let client = world.client().await;
    call(&client, &world.token(1)).await.unwrap();
    let new = TokenKey::new("k2");
    *world.api.keys.lock() = Ok(published(&[&world.key, &new]));
    // The keys were had just now: for some seconds nobody makes us ask again.
    let token = new.token(&claims("kof", "collector", 2));
    let status = call(&client, &token).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(world.api.asked_keys.load(Ordering::SeqCst), 1);
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(status) = call(&client, &token).await {
        assert!(
            Instant::now() < deadline,
            "the new key was not found: {status}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(world.api.asked_keys.load(Ordering::SeqCst), 2);
    call(&client, &world.token(3)).await.unwrap();
}

#[tokio::test]
async fn what_the_api_server_says_is_what_counts() {
    let world = World::new().await;
    let client = world.client().await;
    let say = |number: usize, change: fn(&mut Review)| {
        let token = world.token(number);
        let mut said = super::world::review("kof", "collector");
        change(&mut said);
        world.api.says.lock().insert(token.clone(), Ok(said));
        token
    };
    // A token that is signed all right, of a pod that is gone, and others the API server has doubts about.
    let table = [
        (say(1, |r| *r = Review::default()), "NotAuthenticated"),
        (say(2, |r| r.audiences.clear()), "OtherAudience"),
        (say(3, |r| r.groups.clear()), "NotAServiceAccount"),
        (
            say(4, |r| r.username = "system:node:n1".to_owned()),
            "NotAServiceAccount",
        ),
    ];
    for (token, reason) in table {
        let status = call(&client, &token).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert_eq!(world.lines().last().unwrap().reason, reason);
    }
    // The identity is the one of the review, not the one in the token.
    let other = say(5, |r| {
        r.username = "system:serviceaccount:kof:other".to_owned();
    });
    let answer = call(&client, &other).await.unwrap();
    let facts = mesh_ca::facts(&answer[0]).unwrap().remove(0);
    assert_eq!(facts.uris, [super::world::id("kof", "other")]);
    // When it does not answer, everybody may come back.
    let away = world.token(6);
    world
        .api
        .says
        .lock()
        .insert(away.clone(), Err(NoAnswer("no route".to_owned())));
    let status = call(&client, &away).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let line = world.lines().pop().unwrap();
    assert_eq!(line.reason, "ReviewFailed");
    assert!(line.message.contains("no route") && !status.message().contains("no route"));
}

#[tokio::test]
async fn one_question_is_asked_once_however_many_wait() {
    let world = World::with(Changes {
        api: Box::new(|api: &mut StandIn| api.gate = Some(Semaphore::new(0))),
        limits: Limits {
            patience: Duration::from_mins(1),
            ..Limits::default()
        },
        ..Changes::default()
    })
    .await;
    let client = world.client().await;
    let token = world.token(1);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (client, token) = (client.clone(), token.clone());
        calls.spawn(async move { call(&client, &token).await.is_ok() });
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.metric("mesh_agent_workload_requests_in_flight") < 50 {
        assert!(Instant::now() < deadline, "50 requests did not come in");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.api.gate.as_ref().unwrap().add_permits(1);
    while let Some(given) = calls.join_next().await {
        assert!(given.unwrap());
    }
    assert_eq!(world.api.asked(), 1);
    assert_eq!(
        world.metric("mesh_agent_token_reviews_total{how=\"Coalesced\"}"),
        49
    );
}

#[tokio::test]
async fn who_asks_and_goes_away_leaves_nobody_waiting() {
    let world = World::with(Changes {
        api: Box::new(|api: &mut StandIn| api.gate = Some(Semaphore::new(0))),
        limits: Limits {
            patience: Duration::from_mins(1),
            ..Limits::default()
        },
        ..Changes::default()
    })
    .await;
    let world = Arc::new(world);
    let token = world.token(1);
    let begin = |client| {
        let token = token.clone();
        spawn(async move { call(&client, &token).await })
    };
    let first = begin(world.client().await);
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.api.asked() < 1 {
        assert!(Instant::now() < deadline, "the API server was not asked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = begin(world.client().await);
    while world.metric("mesh_agent_workload_requests_in_flight") < 2 {
        assert!(Instant::now() < deadline, "the second did not come in");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    first.abort();
    while world.api.asked() < 2 {
        assert!(
            Instant::now() < deadline,
            "the second did not ask in place of the first"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.api.gate.as_ref().unwrap().add_permits(2);
    second.await.unwrap().unwrap();
}
