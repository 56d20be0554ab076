//! What may be given for a request that is accepted: the same as for any other, but for the key.

use std::sync::LazyLock;

use jiff::SignedDuration;
use mesh_ca::{
    Authority, CertFacts, CheckedCsr, IntermediateSubject, KeyAlgorithm, PrivateKey, PublicKey,
    Requested, RootMaterial, Usage, check_csr, recognise_intermediate, verify_leaf,
};
use mesh_core::names::SpiffeId;

use crate::{IDENTITY, NOW};

/// The identity that was proven.
pub static PROVEN: LazyLock<SpiffeId> = LazyLock::new(|| IDENTITY.parse().unwrap());

static ROOT: LazyLock<(Authority, RootMaterial)> = LazyLock::new(|| {
    let mesh = "default".parse().unwrap();
    Authority::generate_root(&mesh, 1, SignedDuration::from_hours(24), NOW).unwrap()
});
static SUBJECT: LazyLock<IntermediateSubject> = LazyLock::new(|| IntermediateSubject {
    mesh: "default".parse().unwrap(),
    cluster: "c1".parse().unwrap(),
    generation: 1,
});
static LEAF: LazyLock<CertFacts> = LazyLock::new(|| {
    let key = PrivateKey::generate().unwrap();
    plain(leaf(key.public()))
});
static INTERMEDIATE: LazyLock<CertFacts> = LazyLock::new(|| {
    let key = PrivateKey::generate().unwrap().csr_pem().unwrap();
    plain(intermediate(
        &check_csr(key.as_bytes(), Requested::Nothing).unwrap(),
    ))
});

/// Without what differs from key to key and from one signature to the next.
fn plain(mut facts: CertFacts) -> CertFacts {
    // What RSA keys alone may do.
    facts.usages.remove(&Usage::KeyEncipherment);
    facts.serial.clear();
    facts.fingerprint.clear();
    facts.key_fingerprint.clear();
    facts.ski = None;
    facts.key = KeyAlgorithm::P256;
    // An intermediate is named after its key.
    facts.subject.clear();
    facts.common_name = None;
    facts
}

fn leaf(key: &PublicKey) -> CertFacts {
    let life = SignedDuration::from_hours(1);
    let issued = ROOT.0.sign_leaf(&PROVEN, key, life, NOW).unwrap();
    verify_leaf(&issued.chain_pem, &ROOT.1.cert_pem, &PROVEN, NOW).unwrap()
}

fn intermediate(request: &CheckedCsr) -> CertFacts {
    let life = SignedDuration::from_hours(1);
    let issued = ROOT
        .0
        .sign_intermediate(request, &SUBJECT, life, NOW)
        .unwrap();
    recognise_intermediate(&issued.cert_pem, &ROOT.1.cert_pem, &SUBJECT, NOW).unwrap()
}

/// Judges a request as the agent does and as the controller does, and what comes of it. Says whether the agent takes it.
pub fn judge(request: &[u8]) -> bool {
    let nothing = check_csr(request, Requested::Nothing);
    let Ok(checked) = check_csr(request, Requested::Identity(&PROVEN)) else {
        assert!(nothing.is_err(), "who may ask for more may ask for nothing");
        return false;
    };
    assert!(request.len() <= mesh_ca::CSR_MAX);
    let given = leaf(checked.key());
    assert_eq!(given.key_fingerprint, checked.key().fingerprint());
    assert_eq!(given.uris, [IDENTITY]);
    assert!(given.other_names.is_empty() && given.subject.is_empty() && !given.is_ca);
    assert_eq!(plain(given), *LEAF, "nothing but the key is taken over");
    if let Ok(checked) = nothing {
        let given = intermediate(&checked);
        assert_eq!(given.key_fingerprint, checked.key().fingerprint());
        assert_eq!(plain(given), *INTERMEDIATE);
    }
    true
}
