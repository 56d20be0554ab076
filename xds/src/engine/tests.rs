//! One test per rule of the protocol that a property does not name.

use std::sync::Arc;

use super::{DeltaRequest, DeltaResponse, Engine, Nack, blamed};
use crate::model::{Kind, Resource, Snapshot};

fn cluster(name: &str, version: &str) -> Resource {
    Resource::new(name, version.as_bytes().to_vec()).with_refs([(Kind::Eds, Arc::from(name))])
}

fn plain(name: &str, version: &str) -> Resource {
    Resource::new(name, version.as_bytes().to_vec())
}

/// Clusters with endpoints, a route to all of them and a listener in front, and a secret.
fn snapshot(generation: u64, clusters: &[(&str, &str)]) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::new();
    snapshot.generation = generation;
    for (name, version) in clusters {
        snapshot.insert(Kind::Cds, cluster(name, version)).unwrap();
        snapshot.insert(Kind::Eds, plain(name, "e")).unwrap();
    }
    let to = clusters
        .iter()
        .map(|(name, _)| (Kind::Cds, Arc::from(*name)));
    let body: Vec<_> = clusters.iter().map(|(name, _)| *name).collect();
    let route = plain("intake", &body.join(" ")).with_refs(to);
    snapshot.insert(Kind::Rds, route).unwrap();
    let listener = plain("intake", "l").with_refs([(Kind::Rds, Arc::from("intake"))]);
    snapshot.insert(Kind::Lds, listener).unwrap();
    snapshot.insert(Kind::Sds, plain("default", "s")).unwrap();
    snapshot.check().unwrap();
    Arc::new(snapshot)
}

fn subscribe(kind: Kind, names: &[&str]) -> DeltaRequest {
    DeltaRequest {
        subscribe: names.iter().map(ToString::to_string).collect(),
        ..DeltaRequest::of(kind)
    }
}

fn ack(response: &DeltaResponse) -> DeltaRequest {
    DeltaRequest {
        nonce: response.nonce.clone(),
        ..DeltaRequest::of(response.kind)
    }
}

fn nack(response: &DeltaResponse, message: &str) -> DeltaRequest {
    DeltaRequest {
        error: Some(message.to_owned()),
        ..ack(response)
    }
}

/// What the responses say, in order: kind, names, and `-` before what is removed.
fn said(responses: &[DeltaResponse]) -> Vec<String> {
    let line = |response: &DeltaResponse| {
        let added = response.resources.iter().map(|r| r.name.to_string());
        let removed = response.removed.iter().map(|name| format!("-{name}"));
        let names: Vec<_> = added.chain(removed).collect();
        format!("{} {}", response.kind, names.join(" "))
            .trim()
            .to_owned()
    };
    responses.iter().map(line).collect()
}

/// Answers every response with an ACK, and the answers to those, until all is silent.
fn ack_all(engine: &mut Engine, responses: Vec<DeltaResponse>) -> Vec<String> {
    let mut all = Vec::new();
    let mut todo = std::collections::VecDeque::from(responses);
    while let Some(response) = todo.pop_front() {
        all.extend(said(std::slice::from_ref(&response)));
        todo.extend(engine.on_request(&ack(&response)));
    }
    all
}

/// A stream in which everything of the snapshot was asked for, sent and acknowledged.
fn running(target: &Arc<Snapshot>) -> Engine {
    let mut engine = Engine::new();
    assert_eq!(engine.on_snapshot(Arc::clone(target)), vec![]);
    let names = |kind| target.iter(kind).map(|r| r.name.to_string()).collect();
    for kind in [Kind::Cds, Kind::Eds, Kind::Sds, Kind::Lds, Kind::Rds] {
        let subscribe = if kind.has_wildcard() {
            Vec::new()
        } else {
            names(kind)
        };
        let responses = engine.on_request(&DeltaRequest {
            subscribe,
            ..DeltaRequest::of(kind)
        });
        ack_all(&mut engine, responses);
    }
    assert_eq!(engine.status().acked, Some(target.generation));
    engine
}

#[test]
fn without_a_snapshot_nothing_is_answered() {
    let mut engine = Engine::new();
    let mut first = DeltaRequest::of(Kind::Cds);
    first.initial.insert("a".to_owned(), "1".to_owned());
    assert_eq!(engine.on_request(&first), vec![]);
    assert_eq!(engine.on_request(&subscribe(Kind::Eds, &["a"])), vec![]);
    assert_eq!(engine.status().sent, None);
    // The questions are remembered.
    let responses = engine.on_snapshot(snapshot(1, &[("a", "2")]));
    assert_eq!(said(&responses), ["CDS a", "EDS a"]);
}

#[test]
fn an_empty_answer_ends_the_wait_of_a_wildcard_and_comes_once() {
    let mut engine = Engine::new();
    engine.on_snapshot(Arc::new(Snapshot::new()));
    let first = engine.on_request(&DeltaRequest::of(Kind::Lds));
    assert_eq!(said(&first), ["LDS"]);
    assert_eq!(engine.on_request(&ack(&first[0])), vec![]);
    assert_eq!(engine.on_snapshot(Arc::new(Snapshot::new())), vec![]);
}

#[test]
fn an_ack_is_not_answered() {
    let target = snapshot(1, &[("a", "1")]);
    let mut engine = Engine::new();
    engine.on_snapshot(target);
    let responses = engine.on_request(&DeltaRequest::of(Kind::Cds));
    assert_eq!(engine.on_request(&ack(&responses[0])), vec![]);
    // Nor is one to a response that was never sent, or a second one.
    assert_eq!(engine.on_request(&ack(&responses[0])), vec![]);
    let mut stray = DeltaRequest::of(Kind::Cds);
    stray.nonce = "nobody sent this".to_owned();
    assert_eq!(engine.on_request(&stray), vec![]);
}

#[test]
fn a_subscription_counts_with_any_nonce() {
    let mut engine = Engine::new();
    engine.on_snapshot(snapshot(1, &[("a", "1"), ("b", "1")]));
    engine.on_request(&subscribe(Kind::Eds, &["a"]));
    let mut late = subscribe(Kind::Eds, &["b"]);
    late.nonce = "stale".to_owned();
    assert_eq!(said(&engine.on_request(&late)), ["EDS b"]);
}

#[test]
fn what_is_subscribed_again_is_sent_again() {
    let target = snapshot(1, &[("a", "1")]);
    let mut engine = running(&target);
    let again = engine.on_request(&subscribe(Kind::Sds, &["default"]));
    assert_eq!(said(&again), ["SDS default"]);
}

#[test]
fn a_missing_name_is_told_at_once_and_sent_when_it_appears() {
    let mut engine = Engine::new();
    engine.on_snapshot(snapshot(1, &[]));
    let told = engine.on_request(&subscribe(Kind::Eds, &["a", "b"]));
    assert_eq!(said(&told), ["EDS -a -b"]);
    assert_eq!(engine.on_request(&ack(&told[0])), vec![]);
    let responses = engine.on_snapshot(snapshot(2, &[("a", "1")]));
    assert_eq!(said(&responses), ["EDS a"]);
}

#[test]
fn additions_go_out_in_order_and_only_what_changed() {
    let mut engine = running(&snapshot(1, &[("a", "1"), ("b", "1")]));
    let mut next = (*snapshot(2, &[("a", "1"), ("b", "2"), ("c", "1")])).clone();
    next.insert(Kind::Lds, plain("gateway", "1")).unwrap();
    let responses = engine.on_snapshot(Arc::new(next));
    // Endpoints of the changed cluster too, though they are the same; those of the new one when
    // it is asked for; the route waits for the new cluster, the other listener does not.
    assert_eq!(said(&responses), ["CDS b c", "EDS b", "LDS gateway"]);
    assert!(engine.waiting().is_some());
    let responses = engine.on_request(&subscribe(Kind::Eds, &["c"]));
    assert_eq!(said(&responses), ["EDS c"]);
    assert!(engine.status().acked < Some(2));
}

#[test]
fn a_route_waits_for_its_new_cluster_until_ack_nack_or_deadline() {
    for how in ["ack", "nack", "deadline"] {
        let mut engine = running(&snapshot(1, &[("a", "1")]));
        let sent = engine.on_snapshot(snapshot(2, &[("a", "1"), ("b", "1")]));
        assert_eq!(said(&sent), ["CDS b"]);
        let responses = match how {
            "ack" => engine.on_request(&ack(&sent[0])),
            "nack" => engine.on_request(&nack(&sent[0], "b: no")),
            _ => {
                let epoch = engine.waiting().unwrap();
                assert_eq!(engine.on_deadline(epoch + 1), vec![], "not this deadline");
                engine.on_deadline(epoch)
            }
        };
        assert_eq!(said(&responses), ["RDS intake"], "{how}");
        assert_eq!(engine.waiting(), None);
    }
}

#[test]
fn a_cluster_goes_after_the_route_that_led_to_it() {
    let mut engine = running(&snapshot(1, &[("a", "1"), ("b", "1")]));
    let sent = engine.on_snapshot(snapshot(2, &[("a", "1")]));
    assert_eq!(said(&sent), ["RDS intake"]);
    let gone = engine.on_request(&ack(&sent[0]));
    assert_eq!(said(&gone), ["CDS -b", "EDS -b"]);
    let mut leave = DeltaRequest::of(Kind::Eds);
    leave.unsubscribe.push("b".to_owned());
    assert_eq!(engine.on_request(&leave), vec![]);
    assert_eq!(ack_all(&mut engine, gone), ["CDS -b", "EDS -b"]);
    assert_eq!(engine.status().acked, Some(2));
}

#[test]
fn a_cluster_goes_at_the_deadline_when_the_route_is_not_answered() {
    let mut engine = running(&snapshot(1, &[("a", "1"), ("b", "1")]));
    engine.on_snapshot(snapshot(2, &[("a", "1")]));
    let epoch = engine.waiting().unwrap();
    assert_eq!(said(&engine.on_deadline(epoch)), ["CDS -b", "EDS -b"]);
    assert_eq!(engine.on_deadline(epoch), vec![]);
}

#[test]
fn a_listener_goes_at_once_even_when_something_is_refused() {
    let mut engine = running(&snapshot(1, &[("a", "1")]));
    let sent = engine.on_snapshot(snapshot(2, &[("a", "bad")]));
    engine.on_request(&nack(&sent[0], "a: no"));
    let mut next = (*snapshot(3, &[("a", "bad")])).clone();
    next = {
        let mut without = Snapshot::new();
        without.generation = 3;
        for kind in [Kind::Cds, Kind::Eds, Kind::Sds] {
            for resource in next.iter(kind) {
                without.insert(kind, resource.clone()).unwrap();
            }
        }
        without
    };
    // The route stays: something is refused. The door closes.
    assert_eq!(said(&engine.on_snapshot(Arc::new(next))), ["LDS -intake"]);
    assert_eq!(
        engine.waiting(),
        None,
        "frozen until the refused one changes"
    );
}

#[test]
fn a_nack_blames_what_it_names_and_the_others_are_sent_again_once() {
    let mut engine = running(&snapshot(1, &[("a", "1")]));
    let sent = engine.on_snapshot(snapshot(2, &[("a", "1"), ("bad1", "1"), ("good2", "1")]));
    assert_eq!(said(&sent), ["CDS bad1 good2"]);
    let message = "Error adding/updating cluster(s) bad1: cluster manager: no";
    let again = engine.on_request(&nack(&sent[0], message));
    // The route no longer waits for the refused one, but for the other.
    assert_eq!(said(&again), ["CDS good2"]);
    let wanted = Nack {
        kind: Kind::Cds,
        generation: 2,
        names: vec!["bad1".into()],
        message: message.to_owned(),
    };
    assert_eq!(engine.status().nacks, std::slice::from_ref(&wanted));
    let route = engine.on_request(&ack(&again[0]));
    assert_eq!(said(&route), ["RDS intake"]);
    assert_eq!(
        engine.status().nacks,
        [wanted],
        "an ACK of another one is no pardon"
    );
    assert_eq!(engine.on_request(&ack(&route[0])), vec![]);
    assert_eq!(engine.status().acked, Some(1));
    // Unchanged it is not sent again; changed it is, and its ACK clears the refusal.
    let same = snapshot(3, &[("a", "1"), ("bad1", "1"), ("good2", "1")]);
    assert_eq!(engine.on_snapshot(same), vec![]);
    let healed = snapshot(4, &[("a", "1"), ("bad1", "2"), ("good2", "1")]);
    let sent = engine.on_snapshot(healed);
    assert_eq!(said(&sent), ["CDS bad1"]);
    assert_eq!(engine.status().nacks.len(), 1, "until it is acknowledged");
    engine.on_request(&ack(&sent[0]));
    assert_eq!(engine.status().nacks, []);
}

#[test]
fn a_refusal_freezes_withdrawals_until_it_is_healed() {
    let mut engine = running(&snapshot(1, &[("a", "1"), ("b", "1")]));
    let sent = engine.on_snapshot(snapshot(2, &[("a", "bad"), ("b", "1")]));
    engine.on_request(&nack(&sent[0], "a: no"));
    let sent = engine.on_snapshot(snapshot(3, &[("a", "bad")]));
    assert_eq!(said(&sent), ["RDS intake"]);
    assert_eq!(engine.on_request(&ack(&sent[0])), vec![], "frozen");
    assert_eq!(engine.waiting(), None);
    let sent = engine.on_snapshot(snapshot(4, &[("a", "2")]));
    assert_eq!(said(&sent), ["CDS a", "EDS a", "CDS -b", "EDS -b"]);
}

#[test]
fn a_healed_secret_lets_the_other_refused_ones_be_tried_again() {
    let with = |generation, one: &str, two: &str| {
        let mut snapshot = Snapshot::new();
        snapshot.generation = generation;
        snapshot.insert(Kind::Sds, plain("one", one)).unwrap();
        snapshot.insert(Kind::Sds, plain("two", two)).unwrap();
        Arc::new(snapshot)
    };
    let mut engine = Engine::new();
    engine.on_snapshot(with(1, "bad", "good"));
    let sent = engine.on_request(&subscribe(Kind::Sds, &["one", "two"]));
    assert_eq!(said(&sent), ["SDS one", "SDS two"], "one to a response");
    assert_eq!(engine.on_request(&nack(&sent[0], "no name here")), vec![]);
    // The good one is refused because of the bad one.
    assert_eq!(engine.on_request(&nack(&sent[1], "no name here")), vec![]);
    assert_eq!(engine.status().nacks.len(), 2);
    let sent = engine.on_snapshot(with(2, "good", "good"));
    assert_eq!(said(&sent), ["SDS one"]);
    let again = engine.on_request(&ack(&sent[0]));
    assert_eq!(said(&again), ["SDS two"]);
    assert_eq!(engine.on_request(&ack(&again[0])), vec![]);
    assert_eq!(engine.status().nacks, []);
}

#[test]
fn a_reconnect_with_equal_versions_is_silent_and_complete() {
    let target = snapshot(7, &[("a", "1")]);
    let mut engine = Engine::new();
    engine.on_snapshot(Arc::clone(&target));
    for kind in Kind::ALL {
        let mut first = DeltaRequest::of(kind);
        for resource in target.iter(kind) {
            let name = resource.name.to_string();
            first
                .initial
                .insert(name.clone(), resource.version.to_string());
            if !kind.has_wildcard() {
                first.subscribe.push(name);
            }
        }
        assert_eq!(engine.on_request(&first), vec![], "{kind}");
    }
    assert_eq!(engine.status().acked, Some(7));
}

#[test]
fn a_reconnect_gets_endpoints_for_every_cluster_that_changed() {
    let mut engine = Engine::new();
    engine.on_snapshot(snapshot(2, &[("a", "2"), ("b", "1")]));
    let mut clusters = DeltaRequest::of(Kind::Cds);
    for name in ["a", "b", "gone"] {
        let version = cluster(name, "1").version.to_string();
        clusters.initial.insert(name.to_owned(), version);
    }
    assert_eq!(said(&engine.on_request(&clusters)), ["CDS a"]);
    let mut endpoints = subscribe(Kind::Eds, &["a", "b"]);
    for name in ["a", "b"] {
        let version = plain(name, "e").version.to_string();
        endpoints.initial.insert(name.to_owned(), version);
    }
    // Equal version or not: a cluster that was sent waits for its endpoints.
    assert_eq!(said(&engine.on_request(&endpoints)), ["EDS a"]);
    // What is gone waits for the listeners and routes.
    assert!(engine.waiting().is_some());
}

#[test]
fn wildcard_and_name_are_two_subscriptions() {
    let mut engine = Engine::new();
    engine.on_snapshot(snapshot(1, &[("a", "1"), ("b", "1")]));
    let all = engine.on_request(&DeltaRequest::of(Kind::Cds));
    assert_eq!(said(&all), ["CDS a b"]);
    assert_eq!(
        said(&engine.on_request(&subscribe(Kind::Cds, &["a"]))),
        ["CDS a"]
    );
    // Leaving the name leaves the wildcard: the client is told what it still has.
    let mut leave = DeltaRequest::of(Kind::Cds);
    leave.unsubscribe.push("a".to_owned());
    assert_eq!(said(&engine.on_request(&leave)), ["CDS a"]);
    // Leaving the wildcard, and what was never subscribed, needs no answer.
    leave.unsubscribe = vec!["*".to_owned(), "never".to_owned()];
    assert_eq!(engine.on_request(&leave), vec![]);
    assert_eq!(
        engine.on_snapshot(snapshot(2, &[("a", "2"), ("b", "2")])),
        vec![]
    );
}

#[test]
fn names_without_a_wildcard_get_only_themselves() {
    let mut engine = Engine::new();
    engine.on_snapshot(snapshot(1, &[("a", "1"), ("b", "1")]));
    assert_eq!(
        said(&engine.on_request(&subscribe(Kind::Cds, &["b"]))),
        ["CDS b"]
    );
    let next = engine.on_snapshot(snapshot(2, &[("a", "2"), ("b", "2")]));
    assert_eq!(said(&next), ["CDS b"]);
    // `*` is not a wildcard for a kind that has none.
    assert_eq!(
        said(&engine.on_request(&subscribe(Kind::Sds, &["*"]))),
        ["SDS -*"]
    );
}

#[test]
fn blame_is_for_whole_names() {
    let names: Vec<Arc<str>> = ["uplink/r1", "uplink/r1/h2", "r1", "x"]
        .map(Into::into)
        .into();
    let blamed = |message| {
        let found = blamed(message, &names);
        found
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(blamed("cluster(s) uplink/r1/h2: no"), "uplink/r1/h2");
    assert_eq!(
        blamed("uplink/r1: no, uplink/r1/h2: no"),
        "uplink/r1 uplink/r1/h2"
    );
    assert_eq!(blamed("cannot take 'uplink/r1'."), "uplink/r1");
    assert_eq!(blamed("cannot take uplink/r1. Next"), "uplink/r1");
    assert_eq!(blamed("proxy ex"), "");
    assert_eq!(blamed(""), "");
}
