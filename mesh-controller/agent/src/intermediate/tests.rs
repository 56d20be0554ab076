use super::*;
use crate::testing::{Mesh, after, now, secret};

type Requests = BTreeMap<String, CsrSeen>;

/// Nothing was handed out.
fn decide(
    wanted: &Wanted,
    secret: Option<&SecretSeen>,
    requests: &Requests,
    now: Timestamp,
) -> Decision {
    quiet(super::decide(wanted, secret, requests, &[], now))
}

/// But for revocation lists, which have a test of their own.
fn quiet(mut decision: Decision) -> Decision {
    if matches!(decision.act, Act::SignList { .. }) {
        decision.act = Act::Nothing;
    }
    decision
}

#[test]
fn each_intermediate_has_a_list_from_its_first_day_and_the_number_grows() {
    let mesh = Mesh::new();
    let wanted = mesh.wanted();
    let (key, chain) = enrolled(&mesh, &wanted);
    let whole = [("g1.key", key.as_str()), ("g1.crt", chain.as_str())];
    let looked = |entries: &[(&str, &str)], at: i64| {
        let seen = secret(entries);
        super::decide(&wanted, Some(&seen), &Requests::new(), &[], after(at))
    };
    let Act::SignList {
        entry,
        generation,
        number,
    } = looked(&whole, 0).act
    else {
        panic!("no list is made");
    };
    assert_eq!((entry.as_str(), generation), ("g1.crl", 1));
    let signer = held(&wanted, &secret(&whole), 1).unwrap();
    let life = SignedDuration::from_hours(10);
    let list = signer.authority.sign_crl(&[], number, life, now()).unwrap();
    let with = [whole[0], whole[1], ("g1.crl", list.pem.as_str())];
    let rest = looked(&with, 1);
    assert_eq!(rest.act, Act::Nothing);
    let told = Crl {
        issuer: signer.authority.certificate().key_fingerprint.clone(),
        list: list.pem.clone(),
    };
    assert_eq!(rest.crls, std::slice::from_ref(&told));
    let half = looked(&with, 5 * 3600 + 1);
    assert!(matches!(half.act, Act::SignList { number: next, .. } if next > number));
    assert_eq!(half.crls, [told], "it goes on until there is another");
    let over = looked(&with, 11 * 3600);
    assert!(over.crls.is_empty());
    for bad in ["garbage", chain.as_str()] {
        let bad = looked(&[whole[0], whole[1], ("g1.crl", bad)], 1);
        assert!(bad.crls.is_empty() && matches!(bad.act, Act::SignList { .. }));
    }
}

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
fn the_next_generation_has_another_key_and_is_held_before_it_signs() {
    let mesh = Mesh::new();
    let mut wanted = mesh.wanted();
    let (key, chain) = enrolled(&mesh, &wanted);
    let first = [("g1.key", key.as_str()), ("g1.crt", chain.as_str())];
    let whole = secret(&first);
    let none = Requests::new();
    let act = |wanted: &Wanted, secret: &SecretSeen, requests: &Requests| {
        decide(wanted, Some(secret), requests, now()).act
    };
    assert_eq!(
        decide(&wanted, Some(&whole), &none, after(80_000)).act,
        Act::Nothing,
        "age is the controller's business"
    );
    wanted.spec.prepare_generation = Some(2);
    let entry = "g2.key".to_owned();
    assert_eq!(act(&wanted, &whole, &none), Act::MakeKey { entry });
    let next = PrivateKey::generate().unwrap();
    let with_key = secret(&[first[0], first[1], ("g2.key", next.pem())]);
    let decision = decide(&wanted, Some(&with_key), &none, now());
    let asked = draft(&decision).clone();
    assert!(
        asked.name.starts_with("mesh-intermediate-child1-g2-"),
        "{}",
        asked.name
    );
    let chain2 = mesh.sign(&wanted, 2, &asked.request, now());
    let issued = seen(&asked, CsrOutcome::Issued(chain2.clone().into_bytes()));
    let entry = "g2.crt".to_owned();
    let chain = chain2.clone();
    assert_eq!(
        act(&wanted, &with_key, &issued),
        Act::Store { entry, chain }
    );
    let both = secret(&[
        first[0],
        first[1],
        ("g2.key", next.pem()),
        ("g2.crt", &chain2),
    ]);
    let decision = decide(&wanted, Some(&both), &none, now());
    assert_eq!(decision.act, Act::Nothing);
    assert_eq!(decision.signer.unwrap().generation, 1);
    assert_eq!(decision.held.len(), 2, "both are shown to peers");
    // One that has ended signs nothing.
    let late = decide(&wanted, Some(&whole), &none, after(90_000));
    assert!(late.signer.is_none());
}

#[test]
fn an_old_key_is_kept_as_long_as_anything_it_signed_may_be_alive() {
    let mesh = Mesh::new();
    let mut wanted = mesh.wanted();
    let (key, chain) = enrolled(&mesh, &wanted);
    let next = PrivateKey::generate().unwrap();
    let chain2 = mesh.sign(&wanted, 2, &next.csr_pem().unwrap(), now());
    let first = [("g1.key", key.as_str()), ("g1.crt", chain.as_str())];
    let both = secret(&[
        first[0],
        first[1],
        ("g2.key", next.pem()),
        ("g2.crt", &chain2),
    ]);
    let none = Requests::new();
    let act = |wanted: &Wanted, secret: &SecretSeen, ledgers: &[Ledger], at: i64| {
        quiet(super::decide(
            wanted,
            Some(secret),
            &none,
            ledgers,
            after(at),
        ))
        .act
    };
    let line = |signer, bundle, end| {
        let pair = ledger::Pair { signer, bundle };
        Ledger::from_iter([(pair, after(end))])
    };
    let ledgers = [line(1, 7, 20_000), line(1, 0, 30_000), line(2, 0, 80_000)];
    let drop = |generation| Act::Drop {
        generations: BTreeSet::from([generation]),
    };
    wanted.spec.signer_generation = 2;
    // An hour for clocks that differ.
    assert_eq!(act(&wanted, &both, &ledgers, 33_600), Act::Nothing);
    assert_eq!(act(&wanted, &both, &ledgers, 33_601), drop(1));
    wanted.spec.prepare_generation = Some(1);
    assert_eq!(
        act(&wanted, &both, &ledgers, 33_601),
        Act::Nothing,
        "wanted"
    );
    wanted.spec.prepare_generation = None;
    // What ended long ago signed nothing that is alive, whatever the ledger says; here the other was made later.
    let later = mesh.sign(&wanted, 2, &next.csr_pem().unwrap(), after(50_000));
    let both = secret(&[
        first[0],
        first[1],
        ("g2.key", next.pem()),
        ("g2.crt", &later),
    ]);
    let forever = [line(1, 0, 900_000)];
    assert_eq!(act(&wanted, &both, &forever, 90_000), Act::Nothing);
    assert_eq!(act(&wanted, &both, &forever, 90_001), drop(1));
    // Nothing goes while the one that is to sign is not there.
    let without = secret(&[first[0], first[1], ("g2.key", next.pem())]);
    assert!(!matches!(
        act(&wanted, &without, &[], 60_000),
        Act::Drop { .. }
    ));
    // One that was prepared and is not wanted any more.
    wanted.spec.signer_generation = 1;
    let both = secret(&[first[0], first[1], ("g2.key", next.pem())]);
    assert_eq!(act(&wanted, &both, &[], 1), drop(2));
    assert_eq!(act(&wanted, &both, &[line(2, 0, 10)], 1), Act::Nothing);
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
