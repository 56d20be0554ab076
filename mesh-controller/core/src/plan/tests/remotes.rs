//! Who is given a remote secret of whom.

use super::*;
use crate::{
    istio::{Discovery, Istiod},
    remote::{Said, SecretFacts, Server, Step, Synced},
};

/// A fleet in the Istio plane whose regions have let in whom they are to let in.
fn remote_fleet() -> Facts {
    let mut facts = fleet();
    facts.plane = Plane::Istio;
    facts.istio.discovery = Discovery::RemoteSecrets;
    facts.istio.read_secrets = true;
    for (key, member) in &mut facts.members {
        member.istio = Some(istio::istio(&key.name));
        member.remote.secrets = Some(BTreeMap::new());
        member.remote.server = Some(Server {
            url: format!("https://{}.example", key.name),
            tls_server_name: None,
            ca_pem: None,
        });
    }
    carry_out(&mut facts);
    facts
}

/// All pairs: consumer, region, what is done.
fn pairs(facts: &Facts) -> Vec<String> {
    let planned = look(facts);
    let of = |(key, member): (&MemberKey, &MemberPlan)| {
        let word = |step: &Step| match step {
            Step::Keep => "keep".to_owned(),
            Step::Write(server) => format!("write {}", server.url),
            Step::Wait(why) => why.reason.clone(),
        };
        let lines = member
            .remotes
            .iter()
            .map(|(region, pair)| format!("{} > {region}: {}", key.name, word(&pair.step)));
        lines.collect::<Vec<_>>()
    };
    planned.members.iter().flat_map(of).collect()
}

fn readers(facts: &Facts, region: &str) -> Vec<String> {
    match &look(facts).members[&key(region)].action {
        Action::Deliver(delivery) => delivery
            .istio
            .iter()
            .flat_map(|i| &i.readers)
            .map(ToString::to_string)
            .collect(),
        Action::Wait | Action::Withdraw | Action::Release => {
            panic!("nothing delivered to {region}")
        }
    }
}

#[test]
fn only_those_who_call_a_region_read_it() {
    let facts = remote_fleet();
    let expected = [
        "child1 > region1: write https://region1.example",
        "management > region1: write https://region1.example",
        "management > region2: write https://region2.example",
    ];
    assert_eq!(pairs(&facts), expected);
    assert_eq!(readers(&facts, "region1"), ["child1", "management"]);
    assert_eq!(readers(&facts, "region2"), ["management"]);
    assert!(readers(&facts, "child1").is_empty() && readers(&facts, "management").is_empty());
}

#[test]
fn nobody_reads_where_discovery_is_static_or_either_end_has_no_istio() {
    let mut facts = remote_fleet();
    facts.istio.discovery = Discovery::Static;
    assert!(pairs(&facts).is_empty() && readers(&facts, "region1").is_empty());
    let plane = |facts: &mut Facts, name: &str| {
        facts
            .members
            .get_mut(&key(name))
            .unwrap()
            .claim
            .as_mut()
            .unwrap()
            .plane = Some(Plane::Envoy);
    };
    let mut facts = remote_fleet();
    plane(&mut facts, "region1");
    assert_eq!(
        pairs(&facts),
        ["management > region2: write https://region2.example"]
    );
    let mut facts = remote_fleet();
    plane(&mut facts, "child1");
    assert_eq!(readers(&facts, "region1"), ["management"]);
    assert!(
        pairs(&facts)
            .iter()
            .all(|line| line.starts_with("management"))
    );
}

#[test]
fn a_region_that_leaves_is_forgotten_and_one_that_is_away_is_not() {
    let mut facts = remote_fleet();
    facts.members.get_mut(&key("region1")).unwrap().reach =
        Reach::Lost(Obstacle::new("Timeout", ""));
    assert_eq!(pairs(&facts).len(), 3);
    let since = at(4000);
    facts.members.get_mut(&key("region1")).unwrap().life = Life::Leaving {
        since,
        forced: false,
        gone: false,
    };
    assert_eq!(
        pairs(&facts),
        ["management > region2: write https://region2.example"]
    );
}

#[test]
fn the_account_comes_before_its_token() {
    let mut facts = remote_fleet();
    facts.members.get_mut(&key("region1")).unwrap().delivered = None;
    assert_eq!(pairs(&facts)[0], "child1 > region1: RemoteReaderMissing");
}

#[test]
fn clusters_that_istiod_would_mistake_are_told_apart_before() {
    type Change = fn(&mut Facts, &dyn Fn(Option<&str>) -> SecretFacts);
    let secret = |cluster: Option<&str>| SecretFacts {
        cluster: cluster.map(str::to_owned),
        ..SecretFacts::default()
    };
    let cases: [(&str, Change); 5] = [
        ("RemoteSecretOwnId", |facts, _| {
            member_of(facts, "child1").istio = Some(istio::istio("region1"));
        }),
        ("RemoteSecretForeign", |facts, secret| {
            put(facts, "anything", secret(Some("region1")));
        }),
        ("RemoteSecretForeign", |facts, secret| {
            put(facts, "istio-remote-secret-region1", secret(None));
        }),
        ("RemoteNetworkTwice", |facts, _| {
            member_of(facts, "region1").istio.as_mut().unwrap().network =
                Some("child1-network".to_owned());
        }),
        ("RemoteNetworkTwice", |facts, _| {
            for name in ["child1", "region1"] {
                member_of(facts, name).istio.as_mut().unwrap().network = Some("n".to_owned());
            }
        }),
    ];
    for (reason, change) in cases {
        let mut facts = remote_fleet();
        change(&mut facts, &secret);
        assert_eq!(pairs(&facts)[0], format!("child1 > region1: {reason}"));
        let told = verdict_of(&facts, "child1");
        assert_eq!(
            (told.state, told.reason.as_str()),
            (State::False, reason),
            "{told:?}"
        );
    }
    let mut facts = remote_fleet();
    put(&mut facts, "theirs", secret(Some("another")));
    assert_eq!(
        pairs(&facts)[0],
        "child1 > region1: write https://region1.example",
        "another cluster's is no matter"
    );
    // Two regions of management share a network.
    member_of(&mut facts, "region1")
        .istio
        .as_mut()
        .unwrap()
        .network = Some("region2-network".to_owned());
    assert_eq!(pairs(&facts)[2], "management > region2: RemoteNetworkTwice");
}

#[test]
fn nothing_is_said_before_secrets_were_looked_for_unless_they_cannot_be() {
    let settled = |facts: &Facts| look(facts).members[&key("child1")].settled;
    let mut facts = remote_fleet();
    assert!(settled(&facts));
    member_of(&mut facts, "child1").remote.secrets = None;
    assert!(!settled(&facts));
    member_of(&mut facts, "child1").remote.unseen = Some(Obstacle::new("Forbidden", "secrets"));
    assert!(settled(&facts));
    assert_eq!(verdict_of(&facts, "child1").reason, "Forbidden");
}

fn member_of<'a>(facts: &'a mut Facts, name: &str) -> &'a mut MemberFacts {
    facts.members.get_mut(&key(name)).unwrap()
}

fn put(facts: &mut Facts, name: &str, secret: SecretFacts) {
    member_of(facts, "child1")
        .remote
        .secrets
        .as_mut()
        .unwrap()
        .insert(name.to_owned(), secret);
}

fn verdict_of(facts: &Facts, name: &str) -> Verdict {
    let planned = look(facts);
    planned.members[&key(name)]
        .verdicts
        .iter()
        .find(|v| v.kind == Kind::DiscoveryReady)
        .unwrap()
        .clone()
}

/// Child1's Secret, issued this long before now, for an hour.
fn issued(facts: &mut Facts, before: i64) {
    let server = member_of(facts, "region1").remote.server.clone().unwrap();
    let secret = SecretFacts {
        ours: true,
        cluster: Some("region1".to_owned()),
        shape: Some(server.shape(&name("region1"))),
        reader: Some("uid".to_owned()),
        issued: Some(at(5000 - before)),
        expires: Some(at(5000 - before + 3600)),
        intact: true,
    };
    put(facts, "mesh-remote-region1", secret);
}

fn says(facts: &mut Facts, word: Option<Synced>) {
    for replica in member_of(facts, "child1")
        .agent
        .as_mut()
        .unwrap()
        .replicas
        .values_mut()
    {
        replica.remotes = word
            .map(|word| {
                (
                    name("region1"),
                    Said {
                        state: word,
                        note: Some("istio-system/other".to_owned()),
                    },
                )
            })
            .into_iter()
            .collect();
    }
}

#[test]
fn what_istiod_says_counts_once_it_has_had_its_time() {
    let cases = [
        (10, Some(Synced::Absent), "Known"),
        (31, Some(Synced::Absent), "RemoteNotSynced"),
        (31, Some(Synced::Syncing), "RemoteNotSynced"),
        (31, Some(Synced::Timeout), "RemoteNotSynced"),
        (31, Some(Synced::Foreign), "RemoteSecretForeign"),
        (31, Some(Synced::Unasked), "Known"),
        (31, Some(Synced::Synced), "Known"),
        (31, None, "Known"),
    ];
    for (before, word, reason) in cases {
        let mut facts = remote_fleet();
        issued(&mut facts, before);
        says(&mut facts, word);
        assert_eq!(
            verdict_of(&facts, "child1").reason,
            reason,
            "{before} {word:?}"
        );
    }
}

#[test]
fn what_is_not_known_of_a_region_is_said_beside_what_is() {
    let mut facts = remote_fleet();
    issued(&mut facts, 60);
    says(&mut facts, Some(Synced::Unasked));
    let verdict = verdict_of(&facts, "child1");
    assert_eq!(verdict.state, State::True);
    let words = "istiod could not be asked about region region1: istio-system/other";
    assert!(verdict.message.ends_with(words), "{}", verdict.message);
}

#[test]
fn an_istiod_that_may_not_read_secrets_is_not_given_what_it_cannot_read() {
    let mut facts = remote_fleet();
    facts.istio.read_secrets = false;
    let words = pairs(&facts).join("\n");
    assert!(
        words.contains("child1 > region1: RemoteReaderTooSmall"),
        "{words}"
    );
    let verdict = verdict_of(&facts, "child1");
    assert_eq!(verdict.reason, "RemoteReaderTooSmall");
    // One that learns each region anew says for ever that it has not read everything, and works.
    issued(&mut facts, 60);
    says(&mut facts, Some(Synced::Timeout));
    member_of(&mut facts, "child1")
        .istio
        .as_mut()
        .unwrap()
        .istiods[0]
        .version = Some("1.29.0".to_owned());
    let told = verdict_of(&facts, "child1");
    assert_eq!(told.state, State::True);
    assert!(told.message.contains("30 days"), "{}", told.message);
    facts.istio.read_secrets = true;
    assert_eq!(verdict_of(&facts, "child1").reason, "RemoteNotSynced");
}

#[test]
fn a_token_that_cannot_be_renewed_is_told_when_it_is_late() {
    let words = |before: i64| {
        let mut facts = remote_fleet();
        issued(&mut facts, before);
        let why = Obstacle::new("Timeout", "no answer from the region");
        member_of(&mut facts, "child1").remote.failed = [(name("region1"), why)].into();
        let told = verdict_of(&facts, "child1");
        (
            told.reason,
            told.message.contains("no answer from the region"),
        )
    };
    assert_eq!(words(600), ("Known".to_owned(), false), "not due");
    assert_eq!(words(2450), ("Known".to_owned(), true), "due");
    assert_eq!(words(3001), ("Timeout".to_owned(), true), "late");
    assert_eq!(words(3600), ("RemoteTokenExpired".to_owned(), true), "over");
    let facts = remote_fleet();
    assert_eq!(verdict_of(&facts, "child1").reason, "RemoteSecretMissing");
}

#[test]
fn the_oldest_istiod_decides_how_long_tokens_live_and_time_wakes_the_plan() {
    let mut facts = remote_fleet();
    issued(&mut facts, 10);
    assert_eq!(
        look(&facts).members[&key("child1")].remotes[&name("region1")].life,
        facts.istio.token_life
    );
    assert_eq!(
        look(&facts).wake_at,
        Some(at(5020)),
        "istiod has had its time"
    );
    let seen = member_of(&mut facts, "child1").istio.as_mut().unwrap();
    seen.istiods.push(Istiod {
        version: Some("1.28.1".to_owned()),
        ..seen.istiods[0].clone()
    });
    assert_eq!(
        look(&facts).members[&key("child1")].remotes[&name("region1")]
            .life
            .as_secs(),
        30 * 86_400
    );
}
