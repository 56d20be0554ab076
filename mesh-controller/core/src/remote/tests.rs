use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn name(text: &str) -> ClusterName {
    text.parse().unwrap()
}

fn far() -> Server {
    Server {
        url: "https://192.0.2.7:6443".to_owned(),
        tls_server_name: None,
        ca_pem: Some("CA".to_owned()),
    }
}

fn secret(issued: i64, life: i64) -> SecretFacts {
    SecretFacts {
        ours: true,
        cluster: Some("region1".to_owned()),
        shape: Some(far().shape(&name("region1"))),
        reader: Some("uid".to_owned()),
        issued: Some(at(issued)),
        expires: Some(at(issued + life)),
        intact: true,
    }
}

/// What is not as usual.
#[derive(Clone, Copy, Default)]
struct Odd {
    refusal: Option<&'static str>,
    server: Option<&'static str>,
    no_istiod: bool,
    no_account: bool,
}

/// What is decided about the pair child1, region1.
fn decide(facts: &RemoteFacts, now: i64, odd: Odd) -> String {
    let why = |reason: &str| Obstacle::new(reason, "");
    let refusal = odd.refusal.map(why);
    let link = Link {
        consumer: &name("child1"),
        region: &name("region1"),
        facts,
        server: &odd
            .server
            .map_or_else(|| Ok(far()), |reason| Err(why(reason))),
        refusal: refusal.as_ref(),
        istiod: !odd.no_istiod,
        account: !odd.no_account,
    };
    match link.step(at(now)) {
        Step::Keep => "keep".to_owned(),
        Step::Write(_) => "write".to_owned(),
        Step::Wait(why) => why.reason,
    }
}

fn with(secrets: &[(&str, SecretFacts)]) -> RemoteFacts {
    RemoteFacts {
        secrets: Some(
            secrets
                .iter()
                .map(|(name, secret)| ((*name).to_owned(), secret.clone()))
                .collect(),
        ),
        readers: [(name("region1"), "uid".to_owned())].into(),
        ..RemoteFacts::default()
    }
}

const OURS: &str = "mesh-remote-region1";
const DAY: i64 = 86_400;

#[test]
fn what_is_missing_is_written_and_what_is_there_is_kept() {
    assert_eq!(decide(&with(&[]), 0, Odd::default()), "write");
    let there = with(&[(OURS, secret(0, DAY))]);
    assert_eq!(decide(&there, DAY / 2, Odd::default()), "keep");
    assert_eq!(
        decide(&there, DAY * 2 / 3, Odd::default()),
        "write",
        "two thirds"
    );
    assert_eq!(
        decide(&RemoteFacts::default(), 0, Odd::default()),
        "RemoteSecretUnknown"
    );
}

#[test]
fn a_secret_that_is_not_what_it_was_is_written_anew() {
    let changed = |change: fn(&mut SecretFacts)| {
        let mut secret = secret(0, DAY);
        change(&mut secret);
        decide(&with(&[(OURS, secret)]), 10, Odd::default())
    };
    assert_eq!(changed(|_| ()), "keep");
    assert_eq!(
        changed(|s| s.intact = false),
        "write",
        "somebody wrote to it"
    );
    assert_eq!(
        changed(|s| s.shape = Some("other".to_owned())),
        "write",
        "the server is another"
    );
    assert_eq!(
        changed(|s| s.reader = Some("old".to_owned())),
        "write",
        "the account was made anew"
    );
    assert_eq!(
        changed(|s| s.expires = None),
        "write",
        "nobody knows when it ends"
    );
    assert_eq!(changed(|s| s.ours = false), "RemoteSecretForeign");
    let unseen = RemoteFacts {
        readers: BTreeMap::new(),
        ..with(&[(OURS, secret(0, DAY))])
    };
    assert_eq!(
        decide(&unseen, 10, Odd::default()),
        "keep",
        "after a restart nobody has looked at the account"
    );
}

#[test]
fn nothing_new_is_given_to_an_istiod_that_would_mistake_it() {
    let mistaken = || Odd {
        refusal: Some("RemoteSecretOwnId"),
        ..Odd::default()
    };
    let no_istiod = || Odd {
        no_istiod: true,
        ..Odd::default()
    };
    assert_eq!(decide(&with(&[]), 0, mistaken()), "RemoteSecretOwnId");
    // What it learnt is neither taken away nor left to die.
    let there = with(&[(OURS, secret(0, DAY))]);
    assert_eq!(decide(&there, 10, mistaken()), "keep");
    assert_eq!(decide(&there, DAY - 1, mistaken()), "write");
    assert_eq!(
        decide(&with(&[]), 0, no_istiod()),
        "RemoteSecretAwaitsIstiod"
    );
    assert_eq!(decide(&there, DAY - 1, no_istiod()), "write");
    assert_eq!(
        decide(
            &with(&[]),
            0,
            Odd {
                no_account: true,
                ..Odd::default()
            }
        ),
        "RemoteReaderMissing"
    );
    let nowhere = || Odd {
        server: Some("RemoteServerLocal"),
        ..Odd::default()
    };
    assert_eq!(decide(&with(&[]), 0, nowhere()), "RemoteServerLocal");
    assert_eq!(decide(&there, 10, nowhere()), "keep");
    assert_eq!(decide(&there, DAY - 1, nowhere()), "RemoteServerLocal");
}

#[test]
fn versions_decide_how_long_a_token_lives() {
    let cases = [
        (None, Takeover::Anew),
        (Some("latest"), Takeover::Anew),
        (Some("1.25.0"), Takeover::Anew),
        (Some("1.29.6"), Takeover::Anew),
        (Some("1.30.0"), Takeover::Flawed),
        (Some("1.30.3"), Takeover::Flawed),
        (Some("1.31.0-rc.0"), Takeover::InPlace),
        (Some("v1.31.1"), Takeover::InPlace),
        (Some("2.0.0"), Takeover::InPlace),
    ];
    for (version, expected) in cases {
        assert_eq!(takeover(version), expected, "{version:?}");
        let life = |seconds| expected.life(Lifetime::from_secs(seconds)).as_secs();
        let short = if expected == Takeover::InPlace {
            900
        } else {
            30 * 86_400
        };
        assert_eq!(
            (life(900), life(90 * 86_400)),
            (short, 90 * 86_400),
            "{version:?}"
        );
        assert_eq!(expected.note().is_none(), expected == Takeover::InPlace);
    }
    assert_eq!(
        Takeover::InPlace.life(Lifetime::from_secs(1)).as_secs(),
        SHORTEST
    );
}

/// Where URLs lead.
const URLS: [(&str, &str); 28] = [
    ("https://192.0.2.7:6443", "far"),
    ("https://region1.example:443/k8s/c/1", "far"),
    ("https://region1", "far"),
    ("https://[2001:db8::1]:6443", "far"),
    ("https://10.0.0.1", "far"),
    ("https://127.0.0.1:6443", "RemoteServerLocal"),
    ("https://127.9.9.9", "RemoteServerLocal"),
    ("https://localhost:6443", "RemoteServerLocal"),
    ("https://LOCALHOST.:6443", "RemoteServerLocal"),
    ("https://api.localhost", "RemoteServerLocal"),
    ("https://0.0.0.0:6443", "RemoteServerLocal"),
    ("https://169.254.169.254", "RemoteServerLocal"),
    ("https://[::1]:6443", "RemoteServerLocal"),
    ("https://[::]:6443", "RemoteServerLocal"),
    ("https://[fe80::1]:6443", "RemoteServerLocal"),
    ("https://[::ffff:127.0.0.1]:6443", "RemoteServerLocal"),
    ("http://192.0.2.7", "RemoteServerInvalid"),
    ("192.0.2.7:6443", "RemoteServerInvalid"),
    ("https://", "RemoteServerInvalid"),
    ("https://:6443", "RemoteServerInvalid"),
    ("https://user@192.0.2.7", "RemoteServerInvalid"),
    ("https://192.0.2.7:x", "RemoteServerInvalid"),
    ("https://192.0.2.7:0", "RemoteServerInvalid"),
    ("https://127.1", "RemoteServerInvalid"),
    ("https://2130706433", "RemoteServerInvalid"),
    ("https://a b", "RemoteServerInvalid"),
    ("https://[::1", "RemoteServerInvalid"),
    ("https://a\n- name: x", "RemoteServerInvalid"),
];

#[test]
fn a_server_that_leads_peers_to_themselves_is_refused() {
    for (url, expected) in URLS {
        let known = Server {
            url: url.to_owned(),
            ..far()
        };
        let facts = RemoteFacts {
            server: Some(known),
            ..RemoteFacts::default()
        };
        let found = server(&name("region1"), &facts);
        let word = found
            .as_ref()
            .map_or_else(|why| why.reason.as_str(), |_| "far");
        assert_eq!(word, expected, "{url}");
        if let Err(why) = found {
            assert!(
                why.message
                    .contains("spec.overrides.apiServer of MeshMember region1"),
                "{}",
                why.message
            );
        }
        // What a person says is used in its place, and judged in the same way.
        let over = RemoteFacts {
            advertised: Some("https://api.example".to_owned()),
            ..facts
        };
        assert_eq!(
            server(&name("region1"), &over).unwrap().url,
            "https://api.example"
        );
        let over = RemoteFacts {
            server: Some(far()),
            advertised: Some(url.to_owned()),
            ..over
        };
        assert_eq!(
            server(&name("region1"), &over).is_ok(),
            expected == "far",
            "{url}"
        );
    }
    let unknown = RemoteFacts {
        advertised: Some("https://api.example".to_owned()),
        ..RemoteFacts::default()
    };
    assert_eq!(
        server(&name("region1"), &unknown).unwrap_err().reason,
        "RemoteServerUnknown"
    );
}

#[test]
fn the_shape_is_of_everything_but_the_token() {
    let region = name("region1");
    let shape = far().shape(&region);
    let others = [
        Server {
            url: "https://192.0.2.8:6443".to_owned(),
            ..far()
        },
        Server {
            tls_server_name: Some("kubernetes".to_owned()),
            ..far()
        },
        Server {
            ca_pem: None,
            ..far()
        },
    ];
    assert!(others.iter().all(|other| other.shape(&region) != shape));
    assert_ne!(far().shape(&name("region2")), shape);
    assert_eq!(far().shape(&region), shape);
}

#[test]
fn what_changes_by_time_alone_is_looked_at_in_time() {
    let facts = with(&[(OURS, secret(0, 900))]);
    let (consumer, region, server) = (name("child1"), name("region1"), Ok(far()));
    let link = Link {
        consumer: &consumer,
        region: &region,
        facts: &facts,
        server: &server,
        refusal: None,
        istiod: true,
        account: true,
    };
    let mut seen = Vec::new();
    let mut now = at(0);
    while let Some(next) = link.wake_at(now) {
        seen.push(next.as_second());
        now = next;
    }
    let due = facts.secrets.as_ref().unwrap()[OURS]
        .due(&consumer, &region)
        .unwrap()
        .as_second();
    assert_eq!(seen, [30, due, 750, 900]);
}

proptest! {
    #[test]
    fn every_token_is_replaced_at_two_thirds_of_its_life_or_a_little_earlier(
        consumer in "[a-z][a-z0-9]{0,20}", region in "[a-z][a-z0-9]{0,20}", issued in 0_i64..2_000_000_000, life in 600_i64..8_000_000,
    ) {
        let due = secret(issued, life).due(&name(&consumer), &name(&region)).unwrap().as_second() - issued;
        prop_assert!(due <= life * 2 / 3);
        prop_assert!(due >= life * 2 / 3 - life / 15);
        prop_assert!(secret(issued, life).late().unwrap().as_second() - issued > due);
    }

    #[test]
    fn no_two_pairs_share_a_name(a in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", b in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?") {
        let (a, b) = (name(&a), name(&b));
        for named in [reader_account, secret_name] {
            prop_assert_eq!(named(&a) == named(&b), a == b);
            prop_assert!(named(&a).len() <= 253);
            prop_assert!(!named(&a).ends_with("-istio-remote-secret-token") || a.as_str().ends_with("-istio-remote-secret-token"));
            prop_assert!(named(&a) != "istio-reader-service-account");
        }
    }
}

#[test]
fn pairs_do_not_all_renew_at_once() {
    let due = |i: usize| {
        secret(0, DAY)
            .due(&name(&format!("child{i}")), &name("region1"))
            .unwrap()
    };
    let times: BTreeSet<Timestamp> = (0..100).map(due).collect();
    assert!(times.len() > 60, "{} different times", times.len());
}
