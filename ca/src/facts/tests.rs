//! Tests of reading certificates.

use std::sync::OnceLock;

use jiff::Timestamp;
use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls_pki_types::CertificateDer;

use super::{ExtendedUsage, KeyAlgorithm, Usage, bits, facts, instant, read_facts};
use crate::{
    Authority, Error, PrivateKey, adopt_check, pem,
    testing::{Folder, HOUR, MONTH, identity, member, now, openssl, root},
    verify_leaf,
};

#[test]
fn facts_say_what_openssl_says() {
    let (root, _) = root();
    let member = member(&root, "child1");
    let folder = Folder::new();
    let file = folder.file("cert.pem", &member.issued.cert_pem);
    let text = openssl(&[
        "x509",
        "-in",
        &file,
        "-noout",
        "-serial",
        "-fingerprint",
        "-sha256",
        "-subject",
        "-ext",
        "subjectKeyIdentifier",
    ]);
    let text = text.unwrap().to_lowercase().replace(':', "");
    let facts = &facts(&member.issued.cert_pem).unwrap()[0];
    assert_eq!(facts, &member.issued.facts);
    let ski = facts.ski.as_deref().unwrap();
    for part in [
        &facts.serial,
        &facts.fingerprint,
        ski,
        "o = default",
        "ou = child1",
        "cn = intermediate g1",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(
        (facts.organization.as_deref(), facts.unit.as_deref()),
        (Some("default"), Some("child1"))
    );
    assert_eq!(facts.usages, [Usage::CertSign, Usage::CrlSign].into());
    assert_eq!(facts.key, KeyAlgorithm::P256);
    assert_eq!(facts.key_fingerprint, member.key.public().fingerprint());
    assert_eq!(facts.issuer, root.certificate().subject);
    assert!(
        facts.is_valid_at(now())
            && facts.is_valid_at(now() + MONTH)
            && !facts.is_valid_at(now() + MONTH + HOUR)
    );
}

#[test]
fn a_workload_says_one_name_and_two_purposes() {
    let (root, _) = root();
    let key = PrivateKey::generate().unwrap();
    let leaf = member(&root, "child1")
        .authority
        .sign_leaf(&identity("child1"), key.public(), HOUR, now())
        .unwrap();
    let facts = facts(&leaf.chain_pem).unwrap();
    assert_eq!(facts.len(), 2);
    assert_eq!(facts[0].uris, [identity("child1").as_str()]);
    assert_eq!(
        facts[0].extended,
        [ExtendedUsage::ServerAuth, ExtendedUsage::ClientAuth].into()
    );
    assert!(facts[0].subject.is_empty() && !facts[0].is_ca && facts[1].is_ca);
    assert!(facts[0].further.is_empty() && facts[0].other_names.is_empty());
}

#[test]
fn what_is_not_read_is_listed() {
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    extension.set_criticality(true);
    let mut params = CertificateParams::default();
    params.custom_extensions = vec![extension];
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let facts = read_facts(certificate.der(), 0).unwrap();
    assert_eq!(facts.further.get("1.2.3.4"), Some(&true));
}

#[test]
fn an_extension_that_stands_twice_is_refused() {
    let extension = || CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    let mut params = CertificateParams::default();
    params.custom_extensions = vec![extension(), extension()];
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    assert!(matches!(
        read_facts(certificate.der(), 0),
        Err(Error::ReadCertificate { .. })
    ));
}

#[test]
fn bytes_behind_a_certificate_are_refused() {
    let certificate = CertificateParams::default()
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap();
    let longer = CertificateDer::from([certificate.der().as_ref(), &[0]].concat());
    assert!(matches!(
        read_facts(&longer, 0),
        Err(Error::ReadCertificate { .. })
    ));
}

#[test]
fn the_end_of_the_calendar_is_an_end() {
    let time = x509_parser::time::ASN1Time::from_timestamp(253_402_300_799).unwrap();
    assert_eq!(instant(time), Timestamp::MAX);
}

#[test]
fn bits_are_counted_without_leading_zeros() {
    assert_eq!(
        (
            bits(&[]),
            bits(&[0, 0]),
            bits(&[0, 1]),
            bits(&[0x7f, 0]),
            bits(&[0, 0x80, 0])
        ),
        (0, 0, 1, 15, 16)
    );
}

fn sample() -> &'static (CertificateDer<'static>, String, String) {
    static ONE: OnceLock<(CertificateDer<'static>, String, String)> = OnceLock::new();
    ONE.get_or_init(|| {
        let (root, material) = root();
        let key = PrivateKey::generate().unwrap();
        let leaf = member(&root, "child1")
            .authority
            .sign_leaf(&identity("child1"), key.public(), HOUR, now())
            .unwrap();
        let der = pem::certificates(&leaf.chain_pem).unwrap().remove(1);
        (der, material.cert_pem, material.key_pem.to_string())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever bytes stand where a certificate should: everything that reads one answers.
    #[test]
    fn no_changed_certificate_makes_anything_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let (der, root, key) = sample();
        let mut der = der.to_vec();
        let at = at.index(der.len());
        if cut { der.truncate(at); } else { der[at] = byte; }
        let text = pem::write("CERTIFICATE", der);
        let read = facts(&text).is_ok();
        let _verdict = verify_leaf(&text, root, &identity("child1"), now());
        let _verdict = verify_leaf(root, &text, &identity("child1"), now());
        let loaded = Authority::load(&text, key).is_ok();
        prop_assert!(read || !loaded);
        prop_assert!(!adopt_check(&text, key, now()).is_empty());
    }

    #[test]
    fn no_bytes_make_anything_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(facts(&pem::write("CERTIFICATE", bytes)).is_err());
    }
}
