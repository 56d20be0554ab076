use super::*;
use crate::testing::{Mesh, after, now, secret};

type Requests = BTreeMap<String, CsrSeen>;

fn draft(decision: &Decision) -> &CsrDraft {
    let Act::Post(draft) = &decision.act else {
        panic!("{:?}", decision.act)
    };
    draft
}

fn seen(draft: &CsrDraft, outcome: CsrOutcome) -> Requests {
    let request = draft.request.clone().into_bytes();
    Requests::from([(draft.name.clone(), CsrSeen { request, outcome })])
}

/// A member whose intermediate was signed at `now`.
fn enrolled(mesh: &Mesh, wanted: &Wanted) -> (String, String) {
    let key = PrivateKey::generate().unwrap();
    let chain = mesh.sign(wanted, 1, &key.csr_pem().unwrap(), now());
    (key.pem().to_string(), chain)
}

#[test]
fn from_nothing_to_an_intermediate() {
    let mesh = Mesh::new();
    let wanted = mesh.wanted();
    let none = Requests::new();

    // The key is stored before anything is asked.
    let decision = decide(&wanted, None, &none, now());
    assert_eq!(
        decision.act,
        Act::MakeKey {
            entry: "g1.key".to_owned()
        }
    );
    assert!(decision.signer.is_none() && decision.held.is_empty() && decision.obstacle.is_none());

    let key = PrivateKey::generate().unwrap();
    let with_key = secret(&[("g1.key", key.pem())]);
    let decision = decide(&wanted, Some(&with_key), &none, now());
    let asked = draft(&decision).clone();
    assert_eq!(asked.seconds, 86_400);
    assert_eq!(asked.marks, wanted.marks);
    assert!(asked.name.len() < 253);

    // Another replica, or the same after a crash, asks under the same name.
    assert_eq!(
        draft(&decide(&wanted, Some(&with_key), &none, after(60))).name,
        asked.name
    );

    let pending = seen(&asked, CsrOutcome::Pending);
    assert_eq!(
        decide(&wanted, Some(&with_key), &pending, now()).act,
        Act::Nothing
    );

    let chain = mesh.sign(&wanted, 1, &asked.request, now());
    let issued = seen(&asked, CsrOutcome::Issued(chain.clone().into_bytes()));
    let decision = decide(&wanted, Some(&with_key), &issued, now());
    assert_eq!(
        decision.act,
        Act::Store {
            entry: "g1.crt".to_owned(),
            chain: chain.clone()
        }
    );

    let whole = secret(&[("g1.key", key.pem()), ("g1.crt", &chain)]);
    let decision = decide(&wanted, Some(&whole), &none, now());
    assert_eq!(
        decision.act,
        Act::Nothing,
        "also when the request object has vanished"
    );
    assert_eq!(decision.held.len(), 1);
    assert_eq!(decision.held[0].generation, 1);
    assert_eq!(
        decision.signer.unwrap().fingerprint(),
        decision.held[0].fingerprint
    );
    assert!(decision.obstacle.is_none());
}

#[test]
fn refusals_are_told_in_the_words_of_the_refuser() {
    let mesh = Mesh::new();
    let wanted = mesh.wanted();
    let key = PrivateKey::generate().unwrap();
    let with_key = secret(&[("g1.key", key.pem())]);
    let asked = draft(&decide(&wanted, Some(&with_key), &Requests::new(), now())).clone();
    let words = || ("NotAMember".to_owned(), "child1 left the mesh".to_owned());
    let (reason, message) = words();
    let denied = decide(
        &wanted,
        Some(&with_key),
        &seen(&asked, CsrOutcome::Denied { reason, message }),
        now(),
    );
    let (reason, message) = words();
    let failed = decide(
        &wanted,
        Some(&with_key),
        &seen(&asked, CsrOutcome::Failed { reason, message }),
        now(),
    );
    for (decision, word) in [(denied, "RequestDenied"), (failed, "RequestFailed")] {
        assert_eq!(decision.act, Act::Nothing);
        let why = decision.obstacle.unwrap();
        assert_eq!(why.reason, word);
        assert!(
            why.message.contains(&asked.name)
                && why.message.contains("NotAMember: child1 left the mesh"),
            "{why:?}"
        );
    }
}

#[test]
fn a_certificate_of_another_root_or_over_another_key_is_not_stored() {
    let mesh = Mesh::new();
    let wanted = mesh.wanted();
    let key = PrivateKey::generate().unwrap();
    let with_key = secret(&[("g1.key", key.pem())]);
    let asked = draft(&decide(&wanted, Some(&with_key), &Requests::new(), now())).clone();
    let foreign_root = Mesh::new().sign(&wanted, 1, &asked.request, now());
    let foreign_key = mesh.sign(
        &wanted,
        1,
        &PrivateKey::generate().unwrap().csr_pem().unwrap(),
        now(),
    );
    let other_generation = mesh.sign(&wanted, 2, &asked.request, now());
    for chain in [
        foreign_root,
        foreign_key,
        other_generation,
        "garbage".to_owned(),
    ] {
        let issued = seen(&asked, CsrOutcome::Issued(chain.into_bytes()));
        let decision = decide(&wanted, Some(&with_key), &issued, now());
        assert_eq!(decision.act, Act::Nothing);
        assert_eq!(decision.obstacle.unwrap().reason, "BadCertificate");
    }
}

#[test]
fn bad_entries_are_told_and_never_overwritten_where_a_key_is_lost() {
    let mesh = Mesh::new();
    let wanted = mesh.wanted();
    let (key, chain) = enrolled(&mesh, &wanted);
    let none = Requests::new();

    let decision = decide(
        &wanted,
        Some(&secret(&[("g1.key", "garbage"), ("g1.crt", &chain)])),
        &none,
        now(),
    );
    assert_eq!(decision.act, Act::Nothing);
    assert_eq!(decision.obstacle.unwrap().reason, "BadKey");

    // A certificate is asked for again, since nothing is lost by that.
    let decision = decide(
        &wanted,
        Some(&secret(&[("g1.key", &key), ("g1.crt", "garbage")])),
        &none,
        now(),
    );
    assert_eq!(
        decision.obstacle.as_ref().unwrap().reason,
        "BadIntermediate"
    );
    draft(&decision);
    assert!(decision.signer.is_none());
}

#[test]
fn another_root_is_an_obstacle_and_a_new_request_and_the_old_certificate_goes_on() {
    let mesh = Mesh::new();
    let mut wanted = mesh.wanted();
    let (key, chain) = enrolled(&mesh, &wanted);
    let whole = secret(&[("g1.key", &key), ("g1.crt", &chain)]);
    let before = decide(&wanted, Some(&whole), &Requests::new(), now());
    wanted.spec.root.certificate = Mesh::new().root_pem;
    let decision = decide(&wanted, Some(&whole), &Requests::new(), now());
    assert_eq!(
        decision.obstacle.as_ref().unwrap().reason,
        "BadIntermediate"
    );
    draft(&decision);
    assert_eq!(
        decision.signer.unwrap().fingerprint(),
        before.signer.unwrap().fingerprint()
    );
    wanted.spec.root.certificate = "garbage".to_owned();
    assert_eq!(
        decide(&wanted, Some(&whole), &Requests::new(), now())
            .obstacle
            .unwrap()
            .reason,
        "BadRoot"
    );
}

#[test]
fn an_aged_intermediate_is_renewed_over_the_same_key_while_it_goes_on() {
    let mesh = Mesh::new();
    let wanted = mesh.wanted();
    let (key, chain) = enrolled(&mesh, &wanted);
    let whole = secret(&[("g1.key", &key), ("g1.crt", &chain)]);
    let none = Requests::new();
    assert_eq!(
        decide(&wanted, Some(&whole), &none, after(50_000)).act,
        Act::Nothing
    );
    let decision = decide(&wanted, Some(&whole), &none, after(60_000));
    assert!(decision.obstacle.is_none() && decision.signer.is_some());
    let asked = draft(&decision).clone();
    let next = mesh.sign(&wanted, 1, &asked.request, after(60_000));
    let issued = seen(&asked, CsrOutcome::Issued(next.clone().into_bytes()));
    assert_eq!(
        decide(&wanted, Some(&whole), &issued, after(60_000)).act,
        Act::Store {
            entry: "g1.crt".to_owned(),
            chain: next.clone()
        }
    );
    let renewed = secret(&[("g1.key", &key), ("g1.crt", &next)]);
    assert_eq!(
        decide(&wanted, Some(&renewed), &none, after(60_001)).act,
        Act::Nothing
    );
    // One that has ended signs nothing.
    assert!(
        decide(&wanted, Some(&whole), &none, after(90_000))
            .signer
            .is_none()
    );
}

#[test]
fn a_generation_that_is_not_wanted_yet_does_not_sign() {
    let mesh = Mesh::new();
    let mut wanted = mesh.wanted();
    let (key1, chain1) = enrolled(&mesh, &wanted);
    let key2 = PrivateKey::generate().unwrap();
    let chain2 = mesh.sign(&wanted, 2, &key2.csr_pem().unwrap(), now());
    let both = secret(&[
        ("g1.key", &key1),
        ("g1.crt", &chain1),
        ("g2.key", key2.pem()),
        ("g2.crt", &chain2),
    ]);
    let decision = decide(&wanted, Some(&both), &Requests::new(), now());
    assert_eq!(decision.signer.unwrap().generation, 1);
    assert_eq!(
        decision
            .held
            .iter()
            .map(|held| held.generation)
            .collect::<Vec<_>>(),
        [2, 1]
    );
    wanted.spec.signer_generation = 2;
    assert_eq!(
        decide(&wanted, Some(&both), &Requests::new(), now())
            .signer
            .unwrap()
            .generation,
        2
    );
    // The third does not exist yet: the second goes on while it is made.
    wanted.spec.signer_generation = 3;
    let decision = decide(&wanted, Some(&both), &Requests::new(), now());
    assert_eq!(
        decision.act,
        Act::MakeKey {
            entry: "g3.key".to_owned()
        }
    );
    assert_eq!(decision.signer.unwrap().generation, 2);
}

#[test]
fn no_key_is_shown() {
    let key = PrivateKey::generate().unwrap();
    let shown = format!("{:?}", secret(&[("g1.key", key.pem())]));
    assert!(
        !shown.contains("PRIVATE") && shown.contains("g1.key"),
        "{shown}"
    );
}
