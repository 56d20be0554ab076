//! Certificates, chains and bundles: as text, as the bytes of one, a CA's own with bytes of it changed, and a workload's with bytes of it changed
//! before it was signed.
#![no_main]

use std::sync::LazyLock;

use jiff::SignedDuration;
use libfuzzer_sys::fuzz_target;
use mesh_ca::{
    Authority, CertFacts, IntermediateSubject, PrivateKey, Requested, adopt_check, bundle,
    check_csr, facts, recognise_intermediate, verify_answer, verify_intermediate, verify_leaf,
};
use mesh_fuzz::{
    IDENTITY, NOW,
    asn1::{Signer, to_be_signed},
    block, came, changed,
    given::PROVEN,
    unblock,
};

const LIFE: SignedDuration = SignedDuration::from_hours(24);

static SUBJECT: LazyLock<IntermediateSubject> = LazyLock::new(|| IntermediateSubject {
    mesh: "default".parse().unwrap(),
    cluster: "c1".parse().unwrap(),
    generation: 1,
});

/// What is changed.
struct Sound {
    root: String,
    /// The root's hand.
    signer: Signer,
    key: PrivateKey,
    peer: PrivateKey,
    /// A CA's certificate over the key: an intermediate, so that nothing but its issuer could see what is changed in it.
    intermediate: Vec<u8>,
    /// What is signed of a workload's certificate.
    leaf: Vec<u8>,
    facts: CertFacts,
}

static SOUND: LazyLock<Sound> = LazyLock::new(|| {
    let (root, material) = Authority::generate_root(&SUBJECT.mesh, 1, LIFE, NOW).unwrap();
    let key = PrivateKey::generate().unwrap();
    let peer = PrivateKey::generate().unwrap();
    let request = key.csr_pem().unwrap();
    let request = check_csr(request.as_bytes(), Requested::Nothing).unwrap();
    let intermediate = root
        .sign_intermediate(&request, &SUBJECT, LIFE, NOW)
        .unwrap();
    let leaf = root.sign_leaf(&PROVEN, peer.public(), LIFE, NOW).unwrap();
    Sound {
        signer: Signer::new(&PrivateKey::from_pem(&material.key_pem).unwrap()),
        root: material.cert_pem,
        key,
        peer,
        intermediate: unblock(&intermediate.cert_pem),
        leaf: to_be_signed(&unblock(&leaf.cert_pem)).to_vec(),
        facts: leaf.facts,
    }
});
fuzz_target!(|data: &[u8]| came(judge(data)));

/// Text and DER stand for themselves; `!` and changes: a workload's certificate; changes alone: an intermediate.
/// Says whether it is taken.
fn judge(data: &[u8]) -> bool {
    match (data, str::from_utf8(data)) {
        (_, Ok(text)) if text.contains("-----BEGIN") => read(text),
        ([0x30, ..], _) => read(&block("CERTIFICATE", data)),
        ([b'!', changes @ ..], _) => {
            let signed = SOUND.signer.sign(&changed(&SOUND.leaf, changes));
            workload(&block("CERTIFICATE", &signed))
        }
        _ => read(&block("CERTIFICATE", &changed(&SOUND.intermediate, data))),
    }
}

/// A certificate that the root has signed, whatever is in it.
fn workload(text: &str) -> bool {
    let taken = read(text);
    if let Ok(facts) = verify_leaf(text, &SOUND.root, &PROVEN, NOW) {
        assert_eq!(facts.uris, [IDENTITY]);
        assert!(facts.other_names.is_empty() && !facts.is_ca);
        assert!(facts.is_valid_at(NOW));
        assert_eq!(facts.issuer, SOUND.facts.issuer);
        recognise_intermediate(text, &SOUND.root, &SUBJECT, NOW).unwrap_err();
    }
    taken
}

/// Whether these are certificates.
fn read(text: &str) -> bool {
    let life = SignedDuration::from_hours(1);
    if let Ok(authority) = Authority::of(text, &SOUND.key) {
        let peer = SOUND.peer.public();
        if let Ok(issued) = authority.sign_leaf(&PROVEN, peer, life, NOW) {
            assert_eq!(issued.facts.uris, [IDENTITY]);
            assert!(!issued.facts.is_ca && issued.facts.is_valid_at(NOW));
        }
        drop(authority.sign_crl(&[], 1, life, NOW));
    }
    drop(verify_leaf(text, text, &PROVEN, NOW));
    drop(verify_intermediate(text, text, &SUBJECT, &SOUND.key, NOW));
    drop(recognise_intermediate(text, text, &SUBJECT, NOW));
    drop(adopt_check(text, SOUND.key.pem(), NOW));
    let elements: Vec<String> = text
        .split_inclusive("CERTIFICATE-----\n")
        .map(str::to_owned)
        .collect();
    drop(verify_answer(&elements, &PROVEN, NOW));
    let Ok(read) = facts(text) else {
        return false;
    };
    if let Ok(together) = bundle([text]) {
        // One set of certificates is one text, however often it is put together.
        assert_eq!(bundle([together.as_str(), text]).unwrap(), together);
        assert!(facts(&together).unwrap().len() <= read.len());
    }
    true
}
