use jiff::SignedDuration;
use mesh_ca::{Authority, PrivateKey, Requested, RevokedSerial, check_csr};

use super::*;

/// An intermediate, as it is shown and as it signs.
fn intermediate() -> (Anchor, CertFacts, Authority) {
    let (now, life) = (Timestamp::now(), SignedDuration::from_hours(24));
    let mesh: mesh_core::names::MeshName = "default".parse().unwrap();
    let (root, _) = Authority::generate_root(&mesh, 1, life, now).unwrap();
    let key = PrivateKey::generate().unwrap();
    let subject = IntermediateSubject {
        mesh,
        cluster: "child1".parse().unwrap(),
        generation: 1,
    };
    let request = key.csr_pem().unwrap();
    let checked = check_csr(request.as_bytes(), Requested::Nothing).unwrap();
    let issued = root
        .sign_intermediate(&checked, &subject, life, now)
        .unwrap();
    let anchor = Anchor {
        generation: 1,
        certificate: issued.cert_pem.clone(),
        fingerprint: issued.facts.fingerprint.clone(),
        serial: issued.facts.serial.clone(),
        not_before: issued.facts.not_before,
        not_after: issued.facts.not_after,
    };
    let authority = Authority::of(&issued.chain_pem, &key).unwrap();
    (anchor, issued.facts, authority)
}

fn list(authority: &Authority, number: u64) -> mesh_api::agent::Crl {
    naming(authority, number, &[])
}

fn naming(authority: &Authority, number: u64, revoked: &[RevokedSerial]) -> mesh_api::agent::Crl {
    let life = SignedDuration::from_hours(1);
    let signed = authority
        .sign_crl(revoked, number, life, Timestamp::now())
        .unwrap();
    mesh_api::agent::Crl {
        issuer: authority.certificate().key_fingerprint.clone(),
        list: signed.pem,
    }
}

#[test]
fn a_list_is_believed_only_of_the_intermediate_that_signed_it_and_never_an_older_one() {
    let now = Timestamp::now();
    let (anchor, facts, own) = intermediate();
    let (_, _, other) = intermediate();
    let shown = [(anchor, facts)];
    let numbers = |reported: &[mesh_api::agent::Crl], known: &[Crl]| {
        believed(reported, &shown, known, now)
            .iter()
            .map(|list| list.number)
            .collect::<Vec<_>>()
    };
    let second = believed(&[list(&own, 2)], &shown, &[], now);
    assert_eq!(second[0].number, 2);
    assert!(second[0].until.is_some());
    // Of another, also when it says that it is of this one.
    let mut foreign = list(&other, 3);
    assert_eq!(numbers(std::slice::from_ref(&foreign), &second), [2]);
    foreign.issuer.clone_from(&shown[0].1.key_fingerprint);
    assert_eq!(numbers(std::slice::from_ref(&foreign), &second), [2]);
    assert_eq!(numbers(&[foreign], &[]), Vec::<u64>::new());
    let mut broken = list(&own, 3);
    broken.list.push('x');
    assert_eq!(numbers(&[broken], &second), [2]);

    let one = RevokedSerial {
        serial: "7".to_owned(),
        at: now,
        reason: None,
    };
    let naming = || naming(&own, 3, std::slice::from_ref(&one));
    assert_eq!(numbers(&[naming()], &second), [2], "only the root revokes");
    assert_eq!(numbers(&[naming()], &[]), Vec::<u64>::new());

    assert_eq!(numbers(&[list(&own, 1)], &second), [2], "an older one");
    assert_eq!(numbers(&[], &second), [2], "none at all");
    assert_eq!(numbers(&[list(&own, 1), list(&own, 3)], &second), [3]);
    assert_eq!(believed(&[list(&own, 3)], &[], &second, now), []);
}
