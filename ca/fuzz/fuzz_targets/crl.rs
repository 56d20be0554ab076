//! Revocation lists, alone and several together: as they are, and one of ours with bytes of it changed before it was signed.
#![no_main]

use std::sync::LazyLock;

use jiff::SignedDuration;
use libfuzzer_sys::fuzz_target;
use mesh_ca::{Authority, PrivateKey, crl_facts, merge_crls, verify_crl};
use mesh_fuzz::{
    NOW,
    asn1::{Signer, to_be_signed},
    block, came, changed, unblock,
};

/// The root, its hand, and what is signed of a list.
static SOUND: LazyLock<(String, Signer, Vec<u8>)> = LazyLock::new(|| {
    let life = SignedDuration::from_hours(24);
    let mesh = "default".parse().unwrap();
    let (root, material) = Authority::generate_root(&mesh, 1, life, NOW).unwrap();
    let issued = root.sign_crl(&[], 1, life, NOW).unwrap();
    let signed = to_be_signed(&unblock(&issued.pem)).to_vec();
    let key = PrivateKey::from_pem(&material.key_pem).unwrap();
    (material.cert_pem, Signer::new(&key), signed)
});
fuzz_target!(|data: &[u8]| came(judge(data)));

/// Text and DER stand for themselves; anything else is changes.
/// Says whether it is taken.
fn judge(data: &[u8]) -> bool {
    let (root, signer, sound) = &*SOUND;
    let text = match (data, str::from_utf8(data)) {
        (_, Ok(text)) if text.contains("-----BEGIN") => text.to_owned(),
        ([0x30, ..], _) => block("X509 CRL", data),
        (changes, _) => block("X509 CRL", &signer.sign(&changed(sound, changes))),
    };
    if let Ok(facts) = verify_crl(&text, root, NOW) {
        assert_eq!(crl_facts(text.as_bytes()).unwrap(), facts);
        assert_eq!(merge_crls([text.as_str()]).unwrap(), text);
    }
    if let Ok(facts) = crl_facts(data) {
        let _due: bool = facts.is_due(0.5, NOW);
        assert_eq!(crl_facts(text.as_bytes()).unwrap(), facts);
    }
    if let Ok(merged) = merge_crls([text.as_str()]) {
        assert_eq!(merge_crls([merged.as_str(), &text]).unwrap(), merged);
    }
    crl_facts(text.as_bytes()).is_ok()
}
