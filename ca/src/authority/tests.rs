//! Tests of signing, judged by webpki and by OpenSSL.

use jiff::{SignedDuration, Timestamp};

use super::Authority;
use crate::{
    CA_BACKDATE, Error, LEAF_BACKDATE, PrivateKey,
    testing::{
        HOUR, MONTH, YEAR, identity, member, mesh, now, openssl_verify, request, root, subject,
    },
    verify_intermediate, verify_leaf,
};

#[test]
fn a_leaf_is_believed_under_the_root_and_under_the_intermediate_alone() {
    let (root, material) = root();
    let member = member(&root, "child1");
    let key = PrivateKey::generate().unwrap();
    let leaf = member
        .authority
        .sign_leaf(&identity("child1"), key.public(), HOUR, now())
        .unwrap();
    let intermediate = &member.issued.cert_pem;
    for (anchor, partial) in [(&material.cert_pem, false), (intermediate, true)] {
        verify_leaf(&leaf.chain_pem, anchor, &identity("child1"), now()).unwrap();
        openssl_verify(&leaf.chain_pem, anchor, partial, now()).unwrap();
    }
    // The judge can say no: another member's intermediate is no anchor for this leaf.
    let other = self::member(&root, "child2");
    verify_leaf(
        &leaf.chain_pem,
        &other.issued.cert_pem,
        &identity("child1"),
        now(),
    )
    .unwrap_err();
    openssl_verify(&leaf.chain_pem, &other.issued.cert_pem, true, now()).unwrap_err();
}

#[test]
fn what_is_presented_holds_no_root() {
    let (root, material) = root();
    assert_eq!(root.chain_pem(), "");
    let member = member(&root, "child1");
    assert_eq!(member.issued.chain_pem, member.issued.cert_pem);
    let with_root = format!("{}{}", member.issued.chain_pem, material.cert_pem);
    let loaded = Authority::of(&with_root, &member.key).unwrap();
    assert_eq!(loaded.chain_pem(), member.issued.cert_pem);
    let leaf = loaded
        .sign_leaf(
            &identity("child1"),
            PrivateKey::generate().unwrap().public(),
            HOUR,
            now(),
        )
        .unwrap();
    assert_eq!(
        leaf.chain_pem,
        format!("{}{}", leaf.cert_pem, member.issued.cert_pem)
    );
}

#[test]
fn the_same_key_keeps_its_identifier_when_it_is_signed_again() {
    let (root, _) = root();
    let key = PrivateKey::generate().unwrap();
    let first = root
        .sign_intermediate(&request(&key), &subject("child1", 1), MONTH, now())
        .unwrap();
    let second = root
        .sign_intermediate(&request(&key), &subject("child1", 2), MONTH, now())
        .unwrap();
    assert_eq!(first.facts.ski, second.facts.ski);
    assert_ne!(first.facts.serial, second.facts.serial);
    assert_ne!(first.facts.subject, second.facts.subject);
}

#[test]
fn lives_begin_early_and_end_with_the_chain() {
    let (root, _) = root();
    assert_eq!(root.certificate().not_before, now() - CA_BACKDATE);
    let member = member(&root, "child1");
    assert_eq!(member.issued.facts.not_before, now() - CA_BACKDATE);
    assert_eq!(member.issued.facts.not_after, now() + MONTH);
    let key = PrivateKey::generate().unwrap();
    let sign = |lifetime, at| {
        member
            .authority
            .sign_leaf(&identity("child1"), key.public(), lifetime, at)
            .unwrap()
            .facts
    };
    let leaf = sign(HOUR, now());
    assert_eq!(
        (leaf.not_before, leaf.not_after),
        (now() - LEAF_BACKDATE, now() + HOUR)
    );
    // Cut at both ends to the intermediate's life.
    let leaf = sign(YEAR, now() - SignedDuration::from_mins(45));
    assert_eq!(
        (leaf.not_before, leaf.not_after),
        (
            member.issued.facts.not_before,
            member.issued.facts.not_after
        )
    );
    assert_eq!(member.authority.expires(), member.issued.facts.not_after);
    let last = root
        .sign_intermediate(&request(&key), &subject("child1", 2), YEAR * 20, now())
        .unwrap();
    assert_eq!(last.facts.not_after, root.certificate().not_after);
}

#[test]
fn clocks_ten_minutes_apart_in_opposite_directions_still_meet() {
    let (root, material) = root();
    let skew = SignedDuration::from_mins(10);
    let key = PrivateKey::generate().unwrap();
    let issued = root
        .sign_intermediate(&request(&key), &subject("child1", 1), MONTH, now())
        .unwrap();
    for (signer, peer) in [(now() + skew, now() - skew), (now() - skew, now() + skew)] {
        verify_intermediate(
            &issued.chain_pem,
            &material.cert_pem,
            &subject("child1", 1),
            &key,
            signer,
        )
        .unwrap();
        let authority = Authority::of(&issued.chain_pem, &key).unwrap();
        let leaf = authority
            .sign_leaf(
                &identity("child1"),
                PrivateKey::generate().unwrap().public(),
                HOUR,
                signer,
            )
            .unwrap();
        verify_leaf(&leaf.chain_pem, &issued.cert_pem, &identity("child1"), peer).unwrap();
        openssl_verify(&leaf.chain_pem, &issued.cert_pem, true, peer).unwrap();
    }
}

#[test]
fn nothing_is_signed_outside_the_life_of_the_signer() {
    let (root, _) = root();
    let member = member(&root, "child1");
    let key = PrivateKey::generate().unwrap();
    let sign = |at| {
        member
            .authority
            .sign_leaf(&identity("child1"), key.public(), HOUR, at)
    };
    assert!(matches!(
        sign(now() - HOUR * 2),
        Err(Error::SignerNotYetValid { .. })
    ));
    assert!(matches!(
        sign(now() + MONTH),
        Err(Error::SignerExpired { .. })
    ));
    assert!(matches!(
        sign(now() + YEAR),
        Err(Error::SignerExpired { .. })
    ));
    sign(now() + MONTH - SignedDuration::from_secs(1)).unwrap();
}

#[test]
fn lives_of_no_length_or_beyond_the_calendar_are_refused() {
    for lifetime in [
        SignedDuration::ZERO,
        SignedDuration::from_millis(900),
        -HOUR,
        SignedDuration::MAX,
    ] {
        let made = Authority::generate_root(&mesh(), 1, lifetime, now());
        assert!(matches!(made, Err(Error::Lifetime { .. })), "{lifetime}");
    }
    let made = Authority::generate_root(&mesh(), 1, HOUR, Timestamp::MAX);
    assert!(matches!(made, Err(Error::Lifetime { .. })));
}

#[test]
fn an_intermediate_signs_no_ca_and_nobody_signs_his_own_key() {
    let (root, _) = root();
    let member = member(&root, "child1");
    let key = PrivateKey::generate().unwrap();
    let below =
        member
            .authority
            .sign_intermediate(&request(&key), &subject("child2", 1), MONTH, now());
    assert!(matches!(below, Err(Error::PathLength { .. })));
    let own = member
        .authority
        .sign_leaf(&identity("child1"), member.key.public(), HOUR, now());
    assert!(matches!(own, Err(Error::OwnKey)));
}

#[test]
fn loading_refuses_what_does_not_belong_together() {
    let (root, material) = root();
    let member = member(&root, "child1");
    let other = PrivateKey::generate().unwrap();
    assert!(matches!(
        Authority::load(&material.cert_pem, other.pem()),
        Err(Error::KeyMismatch { .. })
    ));
    let key = PrivateKey::generate().unwrap();
    let leaf = member
        .authority
        .sign_leaf(&identity("child1"), key.public(), HOUR, now())
        .unwrap();
    assert!(matches!(
        Authority::of(&leaf.chain_pem, &key),
        Err(Error::NotACa { .. })
    ));
    let (stranger, _) = self::root();
    let stranger = self::member(&stranger, "child1");
    let mixed = format!("{}{}", member.issued.cert_pem, stranger.issued.cert_pem);
    assert!(matches!(
        Authority::of(&mixed, &member.key),
        Err(Error::BrokenChain { .. })
    ));
    // A root whose own signature is not its own.
    let mut forged = crate::pem::certificates(&material.cert_pem)
        .unwrap()
        .remove(0)
        .to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let forged = crate::pem::write("CERTIFICATE", forged);
    assert!(matches!(
        Authority::load(&forged, &material.key_pem),
        Err(Error::BrokenChain { .. })
    ));
    assert!(matches!(
        Authority::load("", member.key.pem()),
        Err(Error::NoCertificate)
    ));
    assert!(matches!(
        Authority::load(&material.cert_pem, "nothing"),
        Err(Error::ReadKey { .. })
    ));
}

#[test]
fn a_root_survives_its_secret() {
    let (first, material) = root();
    let again = Authority::load(&material.cert_pem, &material.key_pem).unwrap();
    assert_eq!(again.certificate(), first.certificate());
    let member = member(&again, "child1");
    assert_eq!(member.issued.facts.aki, first.certificate().ski);
}

#[test]
fn many_threads_share_one_authority() {
    let (root, material) = root();
    let member = std::sync::Arc::new(member(&root, "child1").authority);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let member = std::sync::Arc::clone(&member);
            std::thread::spawn(move || {
                let key = PrivateKey::generate().unwrap();
                let sign = || member.sign_leaf(&identity("child1"), key.public(), HOUR, now());
                (0..20).map(|_| sign().unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    let leaves: Vec<_> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    for leaf in &leaves {
        verify_leaf(
            &leaf.chain_pem,
            &material.cert_pem,
            &identity("child1"),
            now(),
        )
        .unwrap();
    }
    let serials: std::collections::BTreeSet<_> =
        leaves.iter().map(|leaf| &leaf.facts.serial).collect();
    assert_eq!(serials.len(), leaves.len());
}

#[test]
fn debug_shows_no_key() {
    let (root, material) = root();
    let key = PrivateKey::from_pem(&material.key_pem).unwrap();
    let secret = material.key_pem.lines().nth(1).unwrap();
    for text in [
        format!("{root:?}"),
        format!("{material:?}"),
        format!("{key:?}"),
    ] {
        assert!(
            !text.contains(secret) && !text.contains("PRIVATE"),
            "{text}"
        );
    }
}
