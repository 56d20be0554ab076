//! Bad input of every size that fits a test: cut at every length, every byte changed, far too much of everything. Nothing panics, and what is
//! signed is refused when one bit of it is not as it was.

use jiff::{SignedDuration, Timestamp};
use mesh_ca::{
    Authority, CSR_MAX, CsrRefusal, Error, PEM_MAX, PrivateKey, Requested, adopt_check, bundle,
    check_csr, crl_facts, facts, merge_crls, verify_crl, verify_leaf,
};
use mesh_core::names::SpiffeId;

use crate::case::{Case, Role, blocks, ders};
use crate::raw::{IDENTITY, Plan, pem, replace, uri};
use crate::seeds;

fn identity() -> SpiffeId {
    IDENTITY.parse().unwrap()
}

/// All of it cut at every length, and with each byte changed in three ways.
fn spoilt(whole: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
    let changed = (0..whole.len()).flat_map(move |at| {
        [0x01, 0x80, 0xff].map(|mask| {
            let mut changed = whole.to_vec();
            changed[at] ^= mask;
            changed
        })
    });
    cut.chain(changed)
}

#[test]
fn a_request_with_one_byte_changed_gives_nothing_else() {
    for (name, request) in seeds::requests() {
        if !name.starts_with("ok-") {
            continue;
        }
        let whole = check_csr(&request, Requested::Identity(&identity()));
        assert!(whole.is_ok(), "{name}: {whole:?}");
        for bad in spoilt(&request) {
            let answer = check_csr(&bad, Requested::Identity(&identity()));
            // The parser is lax about tags outside of what is signed; nothing is taken from there.
            if let Ok(checked) = answer {
                assert_eq!(Ok(checked), whole, "{name}: {bad:02x?}");
            }
        }
    }
}

#[test]
fn a_certificate_with_one_byte_changed_is_not_believed() {
    let case = Plan::sound().case("sound", Role::Leaf);
    let now = Timestamp::now();
    let rest = blocks(&case.chain)[1..].concat();
    verify_leaf(&case.chain, &case.anchors, &identity(), now).unwrap();
    for bad in spoilt(&ders(&case.own)[0]) {
        let text = pem("CERTIFICATE", &bad);
        drop(facts(&text));
        drop(bundle([text.as_str()]));
        let chain = format!("{text}{rest}");
        verify_leaf(&chain, &case.anchors, &identity(), now).unwrap_err();
    }
}

#[test]
fn a_root_that_is_broken_anywhere_is_looked_at_without_panic() {
    let now = Timestamp::now();
    let life = SignedDuration::from_hours(24);
    let (_, material) =
        Authority::generate_root(&"default".parse().unwrap(), 1, life, now).unwrap();
    let whole = ders(&material.cert_pem).remove(0);
    for bad in spoilt(&whole) {
        let text = pem("CERTIFICATE", &bad);
        drop(adopt_check(&text, &material.key_pem, now));
        if let Ok(loaded) = Authority::load(&text, &material.key_pem) {
            // The parser is lax about the outermost tag; what is signed is as it was.
            let same = bad[1..].starts_with(&whole[1..300]);
            assert!(same || !loaded.certificate().self_issued, "{bad:02x?}");
        }
    }
}

#[test]
fn a_list_with_one_byte_changed_is_not_believed() {
    let case = Plan::sound().case("sound", Role::List);
    let (now, issuer) = (Timestamp::now(), &blocks(&case.chain)[1]);
    verify_crl(&case.own, issuer, now).unwrap();
    for bad in spoilt(&ders(&case.own)[0]) {
        drop(crl_facts(&bad));
        let text = pem("X509 CRL", &bad);
        drop(merge_crls([text.as_str()]));
        verify_crl(&text, issuer, now).unwrap_err();
    }
}

#[test]
fn text_cut_or_changed_anywhere_never_panics() {
    let case = Plan::sound().case("sound", Role::List);
    let key = PrivateKey::generate().unwrap();
    for text in [key.pem().as_str(), &case.own, &blocks(&case.chain)[0]] {
        for bad in spoilt(text.as_bytes()) {
            let Ok(bad) = String::from_utf8(bad) else {
                continue;
            };
            drop(PrivateKey::from_pem(&bad));
            drop(facts(&bad));
            drop(crl_facts(bad.as_bytes()));
            drop(check_csr(bad.as_bytes(), Requested::Nothing));
        }
    }
    for bad in spoilt(&ders(key.pem())[0]) {
        drop(PrivateKey::from_pem(&pem("PRIVATE KEY", &bad)));
    }
}

#[test]
fn too_much_is_refused_before_it_is_read() {
    let case = Plan::sound().case("sound", Role::Leaf);
    let much = vec![b'0'; CSR_MAX + 1];
    let refusal = check_csr(&much, Requested::Nothing).unwrap_err();
    assert_eq!(refusal, CsrRefusal::TooLarge { size: CSR_MAX + 1 });
    let long = format!("{}{}", case.own, " ".repeat(PEM_MAX));
    assert!(matches!(facts(&long), Err(Error::PemTooLarge { .. })));
    assert!(matches!(
        crl_facts(long.as_bytes()),
        Err(Error::PemTooLarge { .. })
    ));
    let many = case.own.repeat(mesh_ca::CERTIFICATES_MAX + 1);
    assert!(matches!(
        facts(&many),
        Err(Error::TooManyCertificates { .. })
    ));
    PrivateKey::from_pem(&format!("{}{}", case.key, " ".repeat(PEM_MAX))).unwrap_err();
}

#[test]
fn ten_thousand_names_are_too_many() {
    let mut plan = Plan::sound();
    plan.leaf.subject_alt_names = (0..10_000).map(|n| uri(&format!("a:{n}"))).collect();
    let case: Case = plan.case("many names", Role::Leaf);
    assert_eq!(facts(&case.own).unwrap()[0].uris.len(), 10_000);
    let now = Timestamp::now();
    verify_leaf(&case.chain, &case.anchors, &identity(), now).unwrap_err();
    let many = seeds::request_with(|params| {
        params.subject_alt_names = (0..10_000).map(|n| uri(&format!("a:{n}"))).collect();
    });
    let refusal = check_csr(&many, Requested::Identity(&identity())).unwrap_err();
    assert!(matches!(refusal, CsrRefusal::TooLarge { .. }), "{refusal}");
    // As many as fit, each of them the right one.
    let fit = seeds::request_with(|params| params.subject_alt_names = vec![uri(IDENTITY); 300]);
    let refusal = check_csr(&fit, Requested::Identity(&identity())).unwrap_err();
    assert_eq!(refusal, CsrRefusal::SeveralNames { count: 300 });
}

#[test]
fn odd_certificates_are_read_or_refused() {
    let now = Timestamp::now();
    let mut plan = Plan::sound();
    plan.edit_leaf = Some(|tbs| replace(tbs, b"\x02\x10\x5a", b"\x02\x10\xda"));
    let negative = plan.case("negative serial", Role::Leaf);
    drop(verify_leaf(
        &negative.chain,
        &negative.anchors,
        &identity(),
        now,
    ));
    assert!(facts(&negative.own).unwrap()[0].serial.starts_with("da"));
    let mut plan = Plan::sound();
    plan.leaf.custom_extensions = vec![crate::raw::extension(crate::raw::SKI, false, b"\x04\x01a")];
    let twice = plan.case("extension twice", Role::Leaf);
    facts(&twice.own).unwrap_err();
    verify_leaf(&twice.chain, &twice.anchors, &identity(), now).unwrap_err();
}
