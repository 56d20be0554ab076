//! Tests of following: against a scripted server (a stand-in that says what real ones say only on bad days), and against dnsmasq.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::proto::{
    op::ResponseCode,
    rr::{Name, RData, RecordType, rdata::CNAME},
};
use tokio::{sync::watch, task::JoinSet};

use self::scripted::{Reply, Scripted};
use super::{Follower, Gateways};
use crate::{Miss, NameServer, Pace, State, Target};

mod real;
mod scripted;

const DEADLINE: Duration = Duration::from_secs(30);

const QUICK: Pace = Pace {
    min: Duration::from_millis(100),
    max: Duration::from_millis(200),
    retry: Duration::from_millis(50),
};

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

fn targets(texts: &[&str]) -> BTreeSet<Target> {
    texts.iter().map(|text| target(text)).collect()
}

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A follower at work.
struct World {
    tasks: JoinSet<()>,
    targets: watch::Sender<BTreeSet<Target>>,
    gateways: watch::Receiver<Arc<Gateways>>,
}

impl World {
    fn new(server: SocketAddr, names: &[&str]) -> Self {
        let (sender, receiver) = watch::channel(targets(names));
        let (follower, gateways) = Follower::new(NameServer::At(server), QUICK, receiver).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(follower.run());
        Self {
            tasks,
            targets: sender,
            gateways,
        }
    }

    /// Waits until it holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Gateways) -> bool + Send + Sync) {
        let waited =
            tokio::time::timeout(DEADLINE, self.gateways.wait_for(|gateways| holds(gateways)))
                .await;
        let reached = matches!(waited.map(|guard| guard.is_ok()), Ok(true));
        assert!(
            reached,
            "not reached: {what}; instead: {:?}",
            self.gateways.borrow()
        );
    }

    async fn until_at(&mut self, name: &str, at: &[&str]) {
        let (name, at) = (target(name), addresses(at));
        let what = format!("{name} is at {at:?}");
        self.until(&what, |gateways| {
            gateways
                .get(&name)
                .is_some_and(|resolved| resolved.addresses == at && resolved.state == State::Fresh)
        })
        .await;
    }

    async fn until_state(&mut self, name: &str, holds: impl Fn(State) -> bool + Send + Sync) {
        let name = target(name);
        self.until(&format!("the state of {name}"), |gateways| {
            gateways
                .get(&name)
                .is_some_and(|resolved| holds(resolved.state))
        })
        .await;
    }

    fn at(&self, name: &str) -> BTreeSet<IpAddr> {
        self.gateways.borrow()[&target(name)].addresses.clone()
    }
}

#[tokio::test]
async fn names_are_resolved_followed_and_forgotten() {
    let server = Scripted::new().await;
    server.at("gw.example.org", &["192.0.2.1"]);
    let mut world = World::new(server.address, &["gw.example.org", "198.51.100.9"]);
    world.until_at("198.51.100.9", &["198.51.100.9"]).await;
    world.until_at("gw.example.org", &["192.0.2.1"]).await;
    server.at("gw.example.org", &["192.0.2.2", "192.0.2.3"]);
    world
        .until_at("gw.example.org", &["192.0.2.2", "192.0.2.3"])
        .await;
    server.say(
        "gw.example.org",
        RecordType::AAAA,
        Reply::Records(vec![RData::from("2001:db8::1".parse::<IpAddr>().unwrap())]),
    );
    world
        .until_at("gw.example.org", &["192.0.2.2", "192.0.2.3", "2001:db8::1"])
        .await;
    server.at("other.example.org", &["192.0.2.7"]);
    world.targets.send_replace(targets(&["other.example.org"]));
    world.until_at("other.example.org", &["192.0.2.7"]).await;
    assert_eq!(
        world
            .gateways
            .borrow()
            .keys()
            .cloned()
            .collect::<BTreeSet<_>>(),
        targets(&["other.example.org"])
    );
}

#[tokio::test]
async fn bad_answers_keep_the_last_good_one() {
    let server = Scripted::new().await;
    server.at("gw.example.org", &["192.0.2.1"]);
    let mut world = World::new(server.address, &["gw.example.org"]);
    world.until_at("gw.example.org", &["192.0.2.1"]).await;
    let cases = [
        (Reply::Code(ResponseCode::ServFail), Miss::ServFail),
        (Reply::Code(ResponseCode::Refused), Miss::ServFail),
        (Reply::Code(ResponseCode::NXDomain), Miss::NxDomain),
        (Reply::Records(Vec::new()), Miss::NoData),
        (
            Reply::Records(vec![RData::from(IpAddr::from([127, 0, 0, 1]))]),
            Miss::Refused,
        ),
    ];
    for (reply, expected) in cases {
        server.say("gw.example.org", RecordType::A, reply);
        world
            .until_state(
                "gw.example.org",
                |state| matches!(state, State::Stale { miss, .. } if miss == expected),
            )
            .await;
        assert_eq!(
            world.at("gw.example.org"),
            addresses(&["192.0.2.1"]),
            "{expected:?}"
        );
        server.at("gw.example.org", &["192.0.2.1"]);
        world.until_at("gw.example.org", &["192.0.2.1"]).await;
    }
}

#[tokio::test]
async fn names_without_an_address_say_why() {
    let server = Scripted::new().await;
    server.say(
        "gone.example.org",
        RecordType::A,
        Reply::Code(ResponseCode::NXDomain),
    );
    server.say(
        "gone.example.org",
        RecordType::AAAA,
        Reply::Code(ResponseCode::NXDomain),
    );
    server.at("evil.example.org", &["127.0.0.1", "169.254.169.254"]);
    server.say(
        "down.example.org",
        RecordType::A,
        Reply::Code(ResponseCode::ServFail),
    );
    let mut world = World::new(
        server.address,
        &[
            "gone.example.org",
            "empty.example.org",
            "evil.example.org",
            "down.example.org",
        ],
    );
    for (name, miss) in [
        ("gone.example.org", Miss::NxDomain),
        ("empty.example.org", Miss::NoData),
        ("evil.example.org", Miss::Refused),
        ("down.example.org", Miss::ServFail),
    ] {
        world
            .until_state(name, |state| state == State::Unresolved(miss))
            .await;
        assert_eq!(world.at(name), BTreeSet::new());
    }
    let refused = world.gateways.borrow()[&target("evil.example.org")]
        .refused
        .clone();
    assert_eq!(refused, addresses(&["127.0.0.1", "169.254.169.254"]));
}

#[tokio::test]
async fn an_alias_is_followed() {
    let server = Scripted::new().await;
    let alias = RData::CNAME(CNAME(Name::from_ascii("elb.example.net.").unwrap()));
    let address = RData::from(IpAddr::from([192, 0, 2, 5]));
    server.say(
        "gw.example.org",
        RecordType::A,
        Reply::Records(vec![alias, address]),
    );
    let mut world = World::new(server.address, &["gw.example.org"]);
    world.until_at("gw.example.org", &["192.0.2.5"]).await;
}

/// One silent name delays no other.
#[tokio::test]
async fn a_silent_name_delays_no_other() {
    let server = Scripted::new().await;
    let silent: Vec<String> = (0..20)
        .map(|number| format!("silent{number}.example.org"))
        .collect();
    for name in &silent {
        server.say(name, RecordType::A, Reply::Silence);
        server.say(name, RecordType::AAAA, Reply::Silence);
    }
    server.at("gw.example.org", &["192.0.2.1"]);
    let names: Vec<&str> = silent
        .iter()
        .map(String::as_str)
        .chain(["gw.example.org"])
        .collect();
    let begun = tokio::time::Instant::now();
    let mut world = World::new(server.address, &names);
    world.until_at("gw.example.org", &["192.0.2.1"]).await;
    server.at("gw.example.org", &["192.0.2.2"]);
    world.until_at("gw.example.org", &["192.0.2.2"]).await;
    // Far below the time-out of the silent ones.
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    world
        .until_state("silent0.example.org", |state| {
            state == State::Unresolved(Miss::Timeout)
        })
        .await;
}

/// A mesh at rest publishes nothing, however often it asks.
#[tokio::test]
async fn an_unchanged_answer_is_not_published_again() {
    let server = Scripted::new().await;
    server.at("gw.example.org", &["192.0.2.1"]);
    let mut world = World::new(server.address, &["gw.example.org"]);
    world.until_at("gw.example.org", &["192.0.2.1"]).await;
    world.gateways.mark_unchanged();
    // The AAAA of the first round may still be on its way: ten questions more are several rounds.
    server.asked_again("gw.example.org", 10).await;
    assert!(!world.gateways.has_changed().unwrap());
}

#[tokio::test]
async fn it_ends_with_its_sender_and_stops_asking_when_dropped() {
    let server = Scripted::new().await;
    server.at("gw.example.org", &["192.0.2.1"]);
    let World {
        mut tasks,
        targets,
        mut gateways,
    } = World::new(server.address, &["gw.example.org"]);
    drop(targets);
    let ended = tokio::time::timeout(DEADLINE, tasks.join_next())
        .await
        .unwrap();
    assert!(matches!(ended, Some(Ok(()))));
    gateways.mark_unchanged();
    assert!(gateways.changed().await.is_err());
    // Dropped in the middle of its work: while another one asks on, this one is not heard of any more.
    let mut first = World::new(server.address, &["first.example.org"]);
    server.asked_again("first.example.org", 10).await;
    first.tasks.shutdown().await;
    let _second = World::new(server.address, &["second.example.org"]);
    server.asked_again("second.example.org", 2).await;
    let last = server.asked("first.example.org");
    server.asked_again("second.example.org", 20).await;
    assert_eq!(server.asked("first.example.org"), last);
}

#[tokio::test]
async fn a_name_has_one_open_question() {
    let server = Scripted::new().await;
    let (_targets, receiver) = watch::channel(targets(&["a.example.org", "b.example.org"]));
    let (mut follower, _gateways) =
        Follower::new(NameServer::At(server.address), QUICK, receiver).unwrap();
    follower.take_targets();
    for _ in 0..3 {
        follower.ask_due(tokio::time::Instant::now());
        assert_eq!(follower.asked.len(), 2);
    }
}

#[tokio::test]
async fn a_forgotten_name_is_not_asked_again() {
    let server = Scripted::new().await;
    let world = World::new(server.address, &["gone.example.org", "gw.example.org"]);
    server.asked_again("gone.example.org", 2).await;
    world.targets.send_replace(targets(&["gw.example.org"]));
    server.asked_again("gw.example.org", 4).await;
    let last = server.asked("gone.example.org");
    server.asked_again("gw.example.org", 20).await;
    assert_eq!(server.asked("gone.example.org"), last);
}

/// The same targets again, as every look at the intent brings them, change nothing and publish nothing.
#[tokio::test]
async fn unchanged_targets_are_not_published_again() {
    let server = Scripted::new().await;
    server.at("gw.example.org", &["192.0.2.1"]);
    let mut world = World::new(server.address, &["gw.example.org"]);
    world.until_at("gw.example.org", &["192.0.2.1"]).await;
    world.gateways.mark_unchanged();
    for _ in 0..3 {
        world.targets.send_replace(targets(&["gw.example.org"]));
        server.asked_again("gw.example.org", 2).await;
    }
    assert!(!world.gateways.has_changed().unwrap());
}
