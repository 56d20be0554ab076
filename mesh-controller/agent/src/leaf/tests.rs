use super::*;
use crate::{
    intermediate::decide,
    testing::{Mesh, after, now, secret},
};

pub(crate) fn signer(mesh: &Mesh) -> Signer {
    signer_at(mesh, now())
}

pub(crate) fn signer_at(mesh: &Mesh, at: Timestamp) -> Signer {
    let wanted = mesh.wanted();
    let key = PrivateKey::generate().unwrap();
    let chain = mesh.sign(&wanted, 1, &key.csr_pem().unwrap(), at);
    let whole = secret(&[("g1.key", key.pem()), ("g1.crt", &chain)]);
    decide(
        &wanted,
        Some(&whole),
        &std::collections::BTreeMap::new(),
        &[],
        at,
    )
    .signer
    .unwrap()
}

fn wish(mesh: &Mesh, signer: &Signer) -> Wish {
    Wish {
        identity: mesh.wanted().identity,
        life: SignedDuration::from_hours(1),
        signer: signer.fingerprint().to_owned(),
    }
}

#[test]
fn carries_the_identity_and_is_believed_under_the_intermediate_alone() {
    let mesh = Mesh::new();
    let signer = signer(&mesh);
    let leaf = Leaf::make(wish(&mesh, &signer), &signer, now()).unwrap();
    assert_eq!(leaf.facts.uris, [mesh.wanted().identity.to_string()]);
    assert_eq!(leaf.facts.not_after, after(3600));
    assert!(!format!("{leaf:?}").contains("PRIVATE"));
    mesh_ca::verify_leaf(
        &leaf.chain,
        &signer.authority.cert_pem(),
        &mesh.wanted().identity,
        now(),
    )
    .unwrap();
    mesh_ca::verify_leaf(&leaf.chain, &mesh.root_pem, &mesh.wanted().identity, now()).unwrap();
}

#[test]
fn two_leaves_share_neither_key_nor_number() {
    let mesh = Mesh::new();
    let signer = signer(&mesh);
    let [a, b] = [0, 1].map(|_| Leaf::make(wish(&mesh, &signer), &signer, now()).unwrap());
    assert_ne!(a.facts.serial, b.facts.serial);
    assert_ne!(a.facts.key_fingerprint, b.facts.key_fingerprint);
}

#[test]
fn is_renewed_between_two_fifths_and_half_of_its_life() {
    let mesh = Mesh::new();
    let signer = signer(&mesh);
    let leaf = Leaf::make(wish(&mesh, &signer), &signer, now()).unwrap();
    assert_eq!(leaf.renew_at(0.0), after(1800));
    assert_eq!(leaf.renew_at(1.0), after(1440));
}

#[test]
fn an_ended_intermediate_signs_nothing() {
    let mesh = Mesh::new();
    let signer = signer(&mesh);
    assert!(Leaf::make(wish(&mesh, &signer), &signer, after(100_000)).is_err());
}
