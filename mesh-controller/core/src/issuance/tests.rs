use proptest::prelude::*;

use super::*;

fn review() -> Review {
    Review {
        authenticated: true,
        audiences: vec![AUDIENCE.to_owned()],
        username: "system:serviceaccount:kof:collector".to_owned(),
        groups: vec![
            "system:authenticated".to_owned(),
            SERVICE_ACCOUNTS.to_owned(),
            "system:serviceaccounts:kof".to_owned(),
        ],
        pod: Some("collector-0".to_owned()),
        pod_uid: Some("u-1".to_owned()),
        node: Some("n1".to_owned()),
    }
}

fn rules() -> Rules {
    Rules {
        trust_domain: "child1.mesh.test".parse().unwrap(),
        cluster: "child1".parse().unwrap(),
        usual: SignedDuration::from_hours(24),
        longest: SignedDuration::from_hours(48),
        node_accounts: ["istio-system/ztunnel".to_owned()].into(),
    }
}

fn pod(uid: &str, account: &str, node: &str) -> Pod {
    Pod {
        uid: uid.to_owned(),
        account: account.to_owned(),
        node: node.to_owned(),
        over: false,
    }
}

/// ztunnel on node n1, a collector beside it, one that has ended and one on another node.
fn pods() -> Pods {
    let mut pods = Pods::default();
    pods.put("istio-system", "ztunnel-a", pod("z-1", "ztunnel", "n1"));
    pods.put("kof", "collector-0", pod("u-1", "collector", "n1"));
    pods.put("kof", "elsewhere-0", pod("u-2", "elsewhere", "n2"));
    let over = Pod {
        over: true,
        ..pod("u-3", "over", "n1")
    };
    pods.put("kof", "over-0", over);
    pods.put("kof", "waiting-0", pod("u-4", "waiting", ""));
    pods
}

type Change = fn(&mut Review);

fn collector() -> Caller {
    Caller::of(&review()).unwrap()
}

fn ztunnel() -> Caller {
    Caller {
        namespace: "istio-system".to_owned(),
        account: "ztunnel".to_owned(),
        pod: Some("ztunnel-a".to_owned()),
        pod_uid: Some("z-1".to_owned()),
        node: Some("n1".to_owned()),
    }
}

fn id(account: &str) -> String {
    format!("spiffe://child1.mesh.test/ns/kof/sa/{account}")
}

#[test]
fn a_caller_is_who_the_api_server_says() {
    let caller = collector();
    assert_eq!(
        (caller.namespace.as_str(), caller.account.as_str()),
        ("kof", "collector")
    );
    let table: [(Change, &str); 9] = [
        (|r| r.authenticated = false, "NotAuthenticated"),
        (|r| r.audiences.clear(), "OtherAudience"),
        (
            |r| r.audiences = vec!["https://kubernetes.default.svc".to_owned()],
            "OtherAudience",
        ),
        (|r| r.groups.clear(), "NotAServiceAccount"),
        (
            |r| r.groups = vec!["system:serviceaccounts:kof".to_owned()],
            "NotAServiceAccount",
        ),
        (
            |r| r.username = "system:node:n1".to_owned(),
            "NotAServiceAccount",
        ),
        (
            |r| r.username = "system:serviceaccount:kof:a:b".to_owned(),
            "NotAServiceAccount",
        ),
        (
            |r| r.username = "system:serviceaccount:kof:".to_owned(),
            "NotAServiceAccount",
        ),
        (
            |r| r.username = "admin:serviceaccount:kof:collector".to_owned(),
            "NotAServiceAccount",
        ),
    ];
    for (change, reason) in table {
        let mut review = review();
        change(&mut review);
        let refusal = Caller::of(&review).unwrap_err();
        assert_eq!(refusal.reason(), reason, "{review:?}");
        assert_eq!(refusal.kind(), Kind::Unauthenticated);
    }
}

#[test]
fn a_workload_is_given_its_own_identity() {
    for cluster in ["", "child1", "Kubernetes"] {
        let ask = Ask {
            cluster,
            ..Ask::default()
        };
        let grant = decide(&collector(), ask, &rules(), None).unwrap();
        assert_eq!(grant.identity.as_str(), id("collector"));
        assert_eq!(grant.life, SignedDuration::from_hours(24));
        assert!(!grant.impersonated);
    }
    let elsewhere = Ask {
        cluster: "child2",
        ..Ask::default()
    };
    let refusal = decide(&collector(), elsewhere, &rules(), None).unwrap_err();
    assert_eq!(refusal.reason(), "OtherCluster");
    let strange = Caller {
        account: "A b".to_owned(),
        ..collector()
    };
    assert_eq!(
        decide(&strange, Ask::default(), &rules(), None),
        Err(Refusal::BadName)
    );
}

#[test]
fn a_life_is_the_usual_or_the_one_asked_for_and_never_more_than_allowed() {
    let hours = |hours: i64| hours * 3600;
    let asked = |seconds| {
        let ask = Ask {
            seconds,
            ..Ask::default()
        };
        decide(&collector(), ask, &rules(), None).map(|grant| grant.life.as_secs())
    };
    assert_eq!(asked(0), Ok(hours(24)));
    assert_eq!(asked(-1), Ok(hours(24)));
    assert_eq!(asked(i64::MIN), Ok(hours(24)));
    assert_eq!(asked(1), Ok(1));
    assert_eq!(asked(hours(48)), Ok(hours(48)));
    for seconds in [hours(48) + 1, i64::MAX] {
        let refusal = asked(seconds).unwrap_err();
        assert_eq!(
            (refusal.reason(), refusal.kind()),
            ("TooLong", Kind::Invalid)
        );
    }
    let mut tight = rules();
    tight.longest = SignedDuration::from_hours(1);
    let grant = decide(&collector(), Ask::default(), &tight, None).unwrap();
    assert_eq!(grant.life, SignedDuration::from_hours(1));
}

fn stand_in_for(caller: &Caller, identity: &str, pods: Option<&Pods>) -> Result<String, Refusal> {
    let ask = Ask {
        impersonate: identity,
        ..Ask::default()
    };
    let grant = decide(caller, ask, &rules(), pods)?;
    let marked = grant.impersonated.then_some(grant.identity.to_string());
    Ok(marked.unwrap_or_default())
}

#[test]
fn an_account_of_nodes_may_ask_for_pods_of_its_node() {
    let pods = pods();
    let asked = stand_in_for(&ztunnel(), &id("collector"), Some(&pods));
    assert_eq!(asked, Ok(id("collector")));
    // Its own identity too, since it runs there itself.
    let own = "spiffe://child1.mesh.test/ns/istio-system/sa/ztunnel";
    assert_eq!(
        stand_in_for(&ztunnel(), own, Some(&pods)),
        Ok(own.to_owned())
    );
    let no_node = Caller {
        node: None,
        ..ztunnel()
    };
    assert!(stand_in_for(&no_node, &id("collector"), Some(&pods)).is_ok());
}

#[test]
fn nobody_else_and_nothing_else() {
    let pods = pods();
    let with = |change: fn(&mut Caller)| {
        let mut caller = ztunnel();
        change(&mut caller);
        caller
    };
    let collector_id = id("collector");
    let table = [
        (collector(), collector_id.clone(), "NotANodeAccount"),
        (
            with(|c| c.namespace = "kof".to_owned()),
            collector_id.clone(),
            "NotANodeAccount",
        ),
        (with(|c| c.pod = None), collector_id.clone(), "NoPod"),
        (with(|c| c.pod_uid = None), collector_id.clone(), "NoPod"),
        (
            with(|c| c.pod_uid = Some("z-0".to_owned())),
            collector_id.clone(),
            "OtherPod",
        ),
        (
            with(|c| c.pod = Some("ztunnel-b".to_owned())),
            collector_id.clone(),
            "OtherPod",
        ),
        (
            with(|c| c.node = Some("n2".to_owned())),
            collector_id.clone(),
            "OtherPod",
        ),
        (ztunnel(), id("elsewhere"), "NotOnNode"),
        (ztunnel(), id("over"), "NotOnNode"),
        (ztunnel(), id("waiting"), "NotOnNode"),
        (ztunnel(), id("nobody"), "NotOnNode"),
        (
            ztunnel(),
            "spiffe://child2.mesh.test/ns/kof/sa/collector".to_owned(),
            "OtherTrustDomain",
        ),
        (ztunnel(), "kof/collector".to_owned(), "BadIdentity"),
        (ztunnel(), format!("{collector_id}/x"), "BadIdentity"),
    ];
    for (caller, identity, reason) in table {
        let refusal = stand_in_for(&caller, &identity, Some(&pods)).unwrap_err();
        assert_eq!(refusal.reason(), reason, "{caller:?} for {identity}");
    }
    let refusal = stand_in_for(&ztunnel(), &collector_id, None).unwrap_err();
    assert_eq!(
        (refusal.reason(), refusal.kind()),
        ("PodsUnknown", Kind::Later)
    );
    // A pod of the node's account's name with another service account is not it.
    let mut other = pods;
    other.put("istio-system", "ztunnel-a", pod("z-1", "default", "n1"));
    let refusal = stand_in_for(&ztunnel(), &collector_id, Some(&other)).unwrap_err();
    assert_eq!(refusal, Refusal::OtherPod);
}

#[test]
fn a_pod_that_moves_or_ends_is_counted_where_it_is() {
    let mut pods = pods();
    assert!(pods.runs("n1", "kof", "collector"));
    pods.put("kof", "collector-1", pod("u-9", "collector", "n1"));
    pods.remove("kof", "collector-0");
    assert!(pods.runs("n1", "kof", "collector"));
    pods.put("kof", "collector-1", pod("u-10", "collector", "n2"));
    assert!(!pods.runs("n1", "kof", "collector") && pods.runs("n2", "kof", "collector"));
    pods.remove("kof", "collector-1");
    pods.remove("kof", "collector-1");
    assert!(!pods.runs("n2", "kof", "collector"));
    assert_eq!(pods.len(), 4);
}

prop_compose! {
    fn any_caller()(
        namespace in "istio-system|kof|[a-zA-Z/.:]{0,6}",
        account in "ztunnel|collector|[a-zA-Z/.:]{0,6}",
        pod in proptest::option::of("ztunnel-a|collector-0|x"),
        pod_uid in proptest::option::of("z-1|u-1|x"),
        node in proptest::option::of("n1|n2"),
    ) -> Caller {
        Caller { namespace, account, pod, pod_uid, node }
    }
}

proptest! {
    #[test]
    fn whatever_is_given_is_within_the_rules(
        caller in any_caller(),
        cluster in "|child1|Kubernetes|child2",
        seconds in any::<i64>(),
        impersonate in "|spiffe://child[12].mesh.test/ns/(kof|istio-system)/sa/(collector|elsewhere|over|ztunnel)|.{0,40}",
        known in any::<bool>(),
    ) {
        let (rules, pods) = (rules(), pods());
        let ask = Ask { cluster: &cluster, seconds, impersonate: &impersonate };
        if let Ok(grant) = decide(&caller, ask, &rules, known.then_some(&pods)) {
            let id = grant.identity.as_str();
            prop_assert!(id.parse::<SpiffeId>().is_ok());
            prop_assert!(id.starts_with("spiffe://child1.mesh.test/ns/"));
            prop_assert!(grant.life > SignedDuration::ZERO && grant.life <= rules.longest);
            prop_assert!(cluster != "child2");
            if grant.impersonated {
                prop_assert!(known && caller.account == "ztunnel" && caller.pod_uid.as_deref() == Some("z-1"));
                prop_assert_eq!(id, &impersonate);
                prop_assert!(id != "spiffe://child1.mesh.test/ns/kof/sa/elsewhere");
            } else {
                let own = format!("spiffe://child1.mesh.test/ns/{}/sa/{}", caller.namespace, caller.account);
                prop_assert_eq!(id, own);
            }
        }
    }

    #[test]
    fn any_word_of_an_api_server_is_read(
        authenticated in any::<bool>(),
        username in "system:serviceaccount:[a-z:]{0,8}|.{0,20}",
        audiences in proptest::collection::vec("istio-ca|x", 0..3),
        groups in proptest::collection::vec("system:serviceaccounts|x", 0..3),
    ) {
        let review = Review { authenticated, audiences, username, groups, ..Review::default() };
        if let Ok(caller) = Caller::of(&review) {
            prop_assert!(review.authenticated);
            prop_assert_eq!(format!("system:serviceaccount:{}:{}", caller.namespace, caller.account), review.username);
        }
    }
}
