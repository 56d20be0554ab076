//! Random snapshots, a client that talks at random moments, and streams that break: in the end
//! the client runs what it should, and on the way no rule was broken.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::Engine;
use super::client::{BAD, Client};
use crate::model::{Kind, Resource, Snapshot};

/// A member that reaches some regions: bits say which, numbers are versions.
#[derive(Clone, Debug)]
struct Shape {
    regions: Vec<Option<(u8, u8)>>,
    leaf: u8,
    serves: Option<u8>,
    bad: BTreeSet<u8>,
}

fn body(version: u8, bad: bool) -> Vec<u8> {
    let mut body = if bad { BAD.to_vec() } else { b"ok".to_vec() };
    body.push(version);
    body
}

impl Shape {
    /// Resources with the references that the gateway builders make.
    fn snapshot(&self, generation: u64) -> Snapshot {
        let mut snapshot = Snapshot::new();
        snapshot.generation = generation;
        let mut put = |kind, name: String, version, refs: Vec<(Kind, String)>, n: u8| {
            let refs = refs.into_iter().map(|(k, name)| (k, Arc::from(name)));
            let bad = self.bad.contains(&n);
            let resource = Resource::new(name, body(version, bad)).with_refs(refs);
            snapshot.insert(kind, resource).unwrap();
        };
        let leaf = (Kind::Sds, "default".to_owned());
        let mut routes = Vec::new();
        for (n, region) in (0..).zip(&self.regions) {
            let Some((cluster, endpoints)) = region else {
                continue;
            };
            let name = format!("uplink/{n}");
            let refs = vec![(Kind::Eds, name.clone()), leaf.clone()];
            put(Kind::Cds, name.clone(), *cluster, refs, n);
            put(Kind::Eds, name.clone(), *endpoints, vec![], n + 10);
            routes.push((Kind::Cds, name));
        }
        let bits = self.regions.iter().map(|region| u8::from(region.is_some()));
        let version = bits.fold(0, |all, bit| all * 2 + bit);
        if !routes.is_empty() {
            put(Kind::Rds, "intake".to_owned(), version, routes, 20);
            let refs = vec![(Kind::Rds, "intake".to_owned())];
            put(Kind::Lds, "intake".to_owned(), 0, refs, 21);
        }
        if let Some(epoch) = self.serves {
            put(Kind::Cds, "backend".to_owned(), 0, vec![], 22);
            let refs = vec![(Kind::Cds, "backend".to_owned()), leaf];
            put(Kind::Lds, "gateway".to_owned(), epoch, refs, 23);
        }
        put(Kind::Sds, "default".to_owned(), self.leaf, vec![], 24);
        snapshot.check().unwrap();
        snapshot
    }
}

fn shape(bad: bool) -> impl Strategy<Value = Shape> {
    let bad = if bad {
        // Clusters, their endpoints, the leaf: what may be refused while doors stay.
        proptest::collection::btree_set(prop_oneof![0..4_u8, 10..14_u8, Just(24)], 0..4).boxed()
    } else {
        Just(BTreeSet::new()).boxed()
    };
    let region = proptest::option::of((0..3_u8, 0..3_u8));
    (vec(region, 4), 0..3_u8, proptest::option::of(0..3_u8), bad).prop_map(
        |(regions, leaf, serves, bad)| Shape {
            regions,
            leaf,
            serves,
            bad,
        },
    )
}

#[derive(Clone, Debug)]
enum Move {
    Set(Shape),
    Steps(Vec<bool>),
    Break,
    Restart,
}

fn moves(bad: bool) -> impl Strategy<Value = Vec<Move>> {
    vec(
        prop_oneof![
            3 => shape(bad).prop_map(Move::Set),
            4 => vec(any::<bool>(), 0..12).prop_map(Move::Steps),
            1 => Just(Move::Break),
            1 => Just(Move::Restart),
        ],
        1..20,
    )
}

/// The server, the client, and what was set last.
struct Play {
    engine: Engine,
    client: Client,
    target: Option<Snapshot>,
    deadlines: u32,
}

/// Before which moves both fall silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// None.
    Wild,
    /// Each.
    Calm,
}

/// Plays the moves.
fn play(moves: &[Move], pace: Pace) -> Play {
    let mut play = Play {
        engine: Engine::new(),
        client: Client::default(),
        target: None,
        deadlines: 0,
    };
    play.client.connect();
    let mut generation = 0;
    for step in moves {
        if pace == Pace::Calm {
            play.deadlines += play.client.settle(&mut play.engine);
        }
        match step {
            Move::Set(shape) => {
                generation += 1;
                let snapshot = shape.snapshot(generation);
                play.target = Some(snapshot.clone());
                let responses = play.engine.on_snapshot(Arc::new(snapshot));
                play.client.deliver(responses);
            }
            Move::Steps(talks) => {
                for talk in talks {
                    play.client.step(&mut play.engine, *talk);
                }
            }
            Move::Break => {
                play.engine = Engine::new();
                play.client.connect();
                if let Some(target) = play.target.clone() {
                    let responses = play.engine.on_snapshot(Arc::new(target));
                    play.client.deliver(responses);
                }
            }
            // A server that has no snapshot yet.
            Move::Restart => {
                play.engine = Engine::new();
                play.target = None;
                play.client.connect();
            }
        }
    }
    play
}

impl Play {
    fn set(&mut self, snapshot: Snapshot) {
        let responses = self.engine.on_snapshot(Arc::new(snapshot.clone()));
        self.client.deliver(responses);
        self.target = Some(snapshot);
    }
}

proptest! {
    #[test]
    fn a_client_that_takes_everything_ends_with_everything(
        moves in moves(false),
        last in shape(false),
        pace in prop_oneof![Just(Pace::Wild), Just(Pace::Calm)],
    ) {
        let mut play = play(&moves, pace);
        if pace == Pace::Calm {
            play.deadlines += play.client.settle(&mut play.engine);
        }
        play.set(last.snapshot(99));
        let deadlines = play.client.settle(&mut play.engine);
        let target = play.target.clone().unwrap();
        play.client.check_runs(&target);
        prop_assert_eq!(&play.client.complaints, &Vec::<String>::new());
        // A client that answers is not waited for in vain. When a cluster is changed and taken
        // away again before its endpoints were asked for, one deadline may have to pass.
        prop_assert!(deadlines <= 1);
        if pace == Pace::Calm {
            prop_assert_eq!(play.deadlines + deadlines, 0);
        }
        let status = play.engine.status();
        prop_assert_eq!((status.sent, status.acked), (Some(99), Some(99)));
        prop_assert_eq!(status.nacks, vec![]);
        // The same again is silent.
        prop_assert_eq!(play.engine.on_snapshot(Arc::new(target.clone())), vec![]);
        // And so is a new stream, when nothing changed.
        let mut engine = Engine::new();
        prop_assert_eq!(engine.on_snapshot(Arc::new(target)), vec![]);
        play.client.connect();
        let before = play.client.most_sent();
        play.client.settle(&mut engine);
        prop_assert_eq!(before, play.client.most_sent());
        prop_assert_eq!(engine.status().acked, Some(99));
    }

    #[test]
    fn what_is_refused_holds_back_nothing_else_and_heals(
        moves in moves(true),
        last in shape(true),
    ) {
        let mut play = play(&moves, Pace::Wild);
        play.set(last.snapshot(99));
        play.client.settle(&mut play.engine);
        let target = play.target.clone().unwrap();
        let reachable = target.reachable();
        let is_bad = |r: &Resource| r.body.starts_with(BAD);
        for (kind, name) in &reachable {
            let resource = target.get(*kind, name).unwrap();
            // What hangs on a cluster that was never taken is not even asked for.
            let endpoints_of_bad = *kind == Kind::Eds
                && target.get(Kind::Cds, name).is_some_and(is_bad);
            if !is_bad(resource) && !endpoints_of_bad {
                let leaf_unused = *kind == Kind::Sds;
                prop_assert!(
                    play.client.runs(*kind, resource) || leaf_unused,
                    "{} {} is not in use", kind, name
                );
            }
        }
        let status = play.engine.status();
        let any_bad = reachable.iter().any(|(kind, name)| {
            *kind == Kind::Cds && target.get(*kind, name).is_some_and(is_bad)
        });
        if any_bad {
            prop_assert!(!status.nacks.is_empty());
            prop_assert_ne!(status.acked, Some(99));
        }
        for nack in &status.nacks {
            for name in &nack.names {
                let refused = target.get(nack.kind, name).is_some_and(is_bad);
                prop_assert!(refused, "{} {} is blamed", nack.kind, name);
            }
        }
        // Nothing bad is sent again while it stays as it is.
        let refusals = play.client.refusals;
        let mut same = target;
        same.generation = 100;
        play.set(same);
        play.client.settle(&mut play.engine);
        prop_assert_eq!(play.client.refusals, refusals);
        // All is mended: all is well.
        play.set(Shape { bad: BTreeSet::new(), ..last }.snapshot(101));
        play.client.settle(&mut play.engine);
        let target = play.target.clone().unwrap();
        play.client.complaints.clear();
        play.client.check_runs(&target);
        prop_assert_eq!(&play.client.complaints, &Vec::<String>::new());
        let status = play.engine.status();
        prop_assert_eq!((status.acked, status.nacks), (Some(101), vec![]));
    }
}
