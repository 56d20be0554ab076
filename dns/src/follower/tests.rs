//! Tests of following: against a scripted server (a stand-in that says what real ones say only on bad days), and against dnsmasq.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr, UdpSocket as StdSocket},
    path::PathBuf,
    process::{Child, Command},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::CNAME},
};
use tokio::{net::UdpSocket, sync::watch, task::JoinSet};

use super::{Follower, Gateways};
use crate::{Miss, NameServer, Pace, State, Target};

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

/// What the scripted server says to one question.
#[derive(Clone)]
enum Reply {
    Records(Vec<RData>),
    Code(ResponseCode),
    Silence,
}

type Script = BTreeMap<(String, RecordType), Reply>;

/// A name server that says what it is told, over UDP.
struct Scripted {
    address: SocketAddr,
    script: watch::Sender<Script>,
    /// How many questions there were for each name.
    asked: watch::Receiver<BTreeMap<String, u64>>,
    _task: JoinSet<()>,
}

impl Scripted {
    async fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (script, lines) = watch::channel(Script::new());
        let (count, asked) = watch::channel(BTreeMap::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut buffer = [0_u8; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let name = question.queries[0].name.to_lowercase().to_string();
                count.send_modify(|count| *count.entry(name).or_default() += 1);
                let reply = answer(&question, &lines.borrow());
                if let Some(reply) = reply {
                    socket
                        .send_to(&reply.to_vec().unwrap(), from)
                        .await
                        .unwrap();
                }
            }
        });
        Self {
            address,
            script,
            asked,
            _task: tasks,
        }
    }

    fn say(&self, name: &str, kind: RecordType, reply: Reply) {
        self.script
            .send_modify(|script| drop(script.insert((format!("{name}."), kind), reply)));
    }

    fn asked(&self, name: &str) -> u64 {
        self.asked
            .borrow()
            .get(&format!("{name}."))
            .copied()
            .unwrap_or(0)
    }

    /// Waits until so many questions more were asked for a name.
    async fn asked_again(&self, name: &str, more: u64) {
        let (name, goal) = (format!("{name}."), self.asked(name) + more);
        let mut asked = self.asked.clone();
        let reached = asked.wait_for(|asked| asked.get(&name).is_some_and(|asked| *asked >= goal));
        tokio::time::timeout(DEADLINE, reached)
            .await
            .unwrap()
            .unwrap();
    }

    fn at(&self, name: &str, addresses: &[&str]) {
        let records = addresses
            .iter()
            .map(|address| RData::from(address.parse::<IpAddr>().unwrap()))
            .collect();
        self.say(name, RecordType::A, Reply::Records(records));
    }
}

fn answer(question: &Message, script: &Script) -> Option<Message> {
    let query = question.queries[0].clone();
    let mut reply = Message::response(question.metadata.id, OpCode::Query);
    reply.metadata.recursion_available = true;
    let line = script.get(&(query.name.to_lowercase().to_string(), query.query_type));
    match line.cloned().unwrap_or(Reply::Records(Vec::new())) {
        Reply::Silence => return None,
        Reply::Code(code) => reply.metadata.response_code = code,
        Reply::Records(records) => {
            // A CNAME leads to the records behind it.
            let mut owner = query.name.clone();
            for data in records {
                let next = if let RData::CNAME(CNAME(next)) = &data {
                    next.clone()
                } else {
                    owner.clone()
                };
                reply.add_answer(Record::from_rdata(owner, 60, data));
                owner = next;
            }
        }
    }
    reply.add_query(query);
    Some(reply)
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

/// dnsmasq on a port of loopback; killed by its handle when the test is over.
struct Dnsmasq {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Dnsmasq {
    fn new() -> Self {
        let address = StdSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let folder = std::env::temp_dir().join(format!("mesh-dns-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("hosts"), "").unwrap();
        Self {
            child: Self::start(address, &folder),
            folder,
            address,
        }
    }

    fn start(address: SocketAddr, folder: &std::path::Path) -> Child {
        Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
                "--user=",
            ])
            .args([
                "--listen-address=127.0.0.1",
                "--pid-file",
                "--log-facility=-",
                "--local=/example.org/",
                "--local-ttl=1",
            ])
            .arg(format!("--port={}", address.port()))
            .arg(format!("--addn-hosts={}", folder.join("hosts").display()))
            .spawn()
            .expect("this test needs dnsmasq (Debian: dnsmasq-base)")
    }

    fn hosts(&self, lines: &str) {
        fs::write(self.folder.join("hosts"), lines).unwrap();
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-HUP", &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.stop();
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

#[tokio::test]
#[ignore = "needs dnsmasq on the machine (Debian: dnsmasq-base)"]
async fn a_real_server_is_followed_through_change_outage_and_denial() {
    let mut server = Dnsmasq::new();
    let mut world = World::new(server.address, &["gw.example.org", "none.example.org"]);
    // Not up yet, then up and empty.
    world
        .until_state("gw.example.org", |state| {
            state == State::Unresolved(Miss::NxDomain)
        })
        .await;
    server.hosts("192.0.2.1 gw.example.org\n");
    world.until_at("gw.example.org", &["192.0.2.1"]).await;
    server.hosts("192.0.2.2 gw.example.org\n2001:db8::2 gw.example.org\n");
    world
        .until_at("gw.example.org", &["192.0.2.2", "2001:db8::2"])
        .await;
    server.stop();
    world
        .until_state("gw.example.org", |state| {
            matches!(
                state,
                State::Stale {
                    miss: Miss::Timeout,
                    ..
                }
            )
        })
        .await;
    assert_eq!(
        world.at("gw.example.org"),
        addresses(&["192.0.2.2", "2001:db8::2"])
    );
    server.child = Dnsmasq::start(server.address, &server.folder);
    world
        .until_at("gw.example.org", &["192.0.2.2", "2001:db8::2"])
        .await;
    server.hosts("");
    world
        .until_state("gw.example.org", |state| {
            matches!(
                state,
                State::Stale {
                    miss: Miss::NxDomain,
                    ..
                }
            )
        })
        .await;
    assert_eq!(
        world.at("gw.example.org"),
        addresses(&["192.0.2.2", "2001:db8::2"])
    );
    server.hosts("192.0.2.3 gw.example.org\n");
    world
        .until_state("gw.example.org", |state| state == State::Fresh)
        .await;
    // The IPv6 address goes once the server has said three times that there is none beside a good IPv4 answer.
    world.until_at("gw.example.org", &["192.0.2.3"]).await;
    world
        .until_state("none.example.org", |state| {
            state == State::Unresolved(Miss::NxDomain)
        })
        .await;
}
