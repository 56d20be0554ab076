//! The rules of issuing, alone: from whatever an API server may say about a token, and whatever is asked, to an identity. None is given that is
//! not of this trust domain, and of the caller's own account or of one on its node.
#![no_main]

use jiff::SignedDuration;
use libfuzzer_sys::fuzz_target;
use mesh_core::issuance::{Ask, Caller, Review, Rules, decide};
use mesh_fuzz::{
    came,
    member::{LONGEST, NODE_ACCOUNT, pods},
    parts,
};
fuzz_target!(|data: &[u8]| came(judge(data)));

/// User, pod, UID, node, cluster, seconds and identity, 0xff between them.
/// Says whether it is taken.
fn judge(data: &[u8]) -> bool {
    let fields = parts::<7>(data).map(str::from_utf8);
    let [
        Ok(user),
        Ok(pod),
        Ok(uid),
        Ok(node),
        Ok(cluster),
        Ok(seconds),
        Ok(impersonate),
    ] = fields
    else {
        return false;
    };
    let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let review = Review {
        authenticated: true,
        audiences: vec!["istio-ca".to_owned()],
        username: user.to_owned(),
        groups: vec!["system:serviceaccounts".to_owned()],
        pod: said(pod),
        pod_uid: said(uid),
        node: said(node),
    };
    let Ok(caller) = Caller::of(&review) else {
        return false;
    };
    let own = format!(
        "system:serviceaccount:{}:{}",
        caller.namespace, caller.account
    );
    assert_eq!(own, user);
    let rules = Rules {
        trust_domain: "c1.mesh.example".parse().unwrap(),
        cluster: "c1".parse().unwrap(),
        usual: SignedDuration::from_hours(1),
        longest: SignedDuration::from_secs(i64::from(LONGEST)),
        node_accounts: [NODE_ACCOUNT.to_owned()].into(),
    };
    let ask = Ask {
        cluster,
        seconds: seconds.parse().unwrap_or_default(),
        impersonate,
    };
    let pods = pods();
    let Ok(grant) = decide(&caller, ask, &rules, Some(&pods)) else {
        return false;
    };
    assert!(grant.life > SignedDuration::ZERO && grant.life <= rules.longest);
    assert_eq!(grant.impersonated, !impersonate.is_empty());
    let text = grant.identity.as_str();
    assert_eq!(text.parse(), Ok(grant.identity.clone()), "it is one");
    let parts: Vec<&str> = text.split('/').collect();
    let [
        "spiffe:",
        "",
        "c1.mesh.example",
        "ns",
        namespace,
        "sa",
        account,
    ] = parts.as_slice()
    else {
        panic!("{text} is none of ours");
    };
    if grant.impersonated {
        assert_eq!(
            format!("{}/{}", caller.namespace, caller.account),
            NODE_ACCOUNT
        );
        assert_eq!(text, impersonate);
        assert!(pods.runs("n1", namespace, account), "{text} is not there");
    } else {
        assert_eq!(
            (*namespace, *account),
            (&*caller.namespace, &*caller.account)
        );
    }
    true
}
