//! What others have left in members.

use super::*;
use crate::{
    istio::Discovery,
    leftovers::{Found, What},
    remote::SecretFacts,
};

fn remote(name: &str, cluster: &str) -> Found {
    let clusters = BTreeSet::from([cluster.to_owned()]);
    Found {
        name: name.to_owned(),
        what: What::Remote { clusters },
    }
}

fn found(facts: &mut Facts, member: &str, all: &[Found]) {
    let member = facts.members.get_mut(&key(member)).unwrap();
    member.leftovers = Some(all.iter().cloned().collect());
}

fn told(facts: &Facts, member: &str) -> Option<Vec<String>> {
    let left = look(facts).members[&key(member)].leftovers.clone()?;
    Some(left.into_iter().map(|left| left.object).collect())
}

#[test]
fn they_are_told_and_hold_nothing_up() {
    let mut facts = fleet();
    carry_out(&mut facts);
    let before = look(&facts);
    assert_eq!(told(&facts, "child1"), None, "nobody has looked");
    let all = [remote("a", "region1"), remote("b", "elsewhere")];
    found(&mut facts, "child1", &all);
    let one = ["Secret istio-system/a".to_owned()];
    assert_eq!(told(&facts, "child1"), Some(one.to_vec()));
    let (before, after) = (&before.members, look(&facts).members);
    assert_eq!(
        before[&key("child1")].verdicts,
        after[&key("child1")].verdicts
    );
    found(&mut facts, "child1", &[]);
    assert_eq!(told(&facts, "child1"), Some(Vec::new()));
}

#[test]
fn only_management_has_the_root() {
    let mut facts = fleet();
    carry_out(&mut facts);
    facts.root_secret = Some("root".to_owned());
    let what = What::Authority {
        secret: "root".to_owned(),
        issuer: "self".to_owned(),
    };
    let name = "c".to_owned();
    for member in ["management", "child1"] {
        let (name, what) = (name.clone(), what.clone());
        found(&mut facts, member, &[Found { name, what }]);
    }
    assert_eq!(told(&facts, "management").unwrap().len(), 1);
    assert!(told(&facts, "child1").unwrap().is_empty());
}

/// A remote secret that says only inside which cluster it leads to.
#[test]
fn a_foreign_remote_secret_is_known_by_its_content() {
    let mut facts = fleet();
    facts.istio.discovery = Discovery::RemoteSecrets;
    for cluster in ["child1", "region1"] {
        let member = facts.members.get_mut(&key(cluster)).unwrap();
        member.claim.as_mut().unwrap().plane = Some(Plane::Istio);
        member.istio = Some(crate::istio::IstioFacts::default());
    }
    let child = facts.members.get_mut(&key("child1")).unwrap();
    child.remote.secrets = Some([("x".to_owned(), SecretFacts::default())].into());
    let step = |facts: &Facts| format!("{:?}", look(facts).members[&key("child1")].remotes);
    assert!(!step(&facts).contains("RemoteSecretForeign"));
    found(&mut facts, "child1", &[remote("x", "region1")]);
    assert!(
        step(&facts).contains("RemoteSecretForeign"),
        "{}",
        step(&facts)
    );
    found(&mut facts, "child1", &[remote("x", "elsewhere")]);
    assert!(!step(&facts).contains("RemoteSecretForeign"));
    // It is gone, and nobody has looked since.
    found(&mut facts, "child1", &[remote("y", "region1")]);
    assert!(!step(&facts).contains("RemoteSecretForeign"));
}
