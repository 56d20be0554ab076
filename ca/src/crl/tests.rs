//! Tests of revocation lists, judged by webpki and by OpenSSL.

use std::sync::OnceLock;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, IsCa, KeyIdMethod, KeyUsagePurpose};

use super::{
    CrlFacts, IssuedCrl, RevocationReason, RevokedSerial, crl_facts, lists, merge_crls,
    next_crl_number, verify_crl,
};
use crate::{
    Authority, Error, Issued, LEAF_BACKDATE, PrivateKey, VerifyError, pem,
    testing::{Folder, HOUR, MONTH, YEAR, identity, member, mesh, now, openssl, root},
};

mod judges;

use judges::{openssl_verify, webpki_verify};

const WEEK: SignedDuration = SignedDuration::from_hours(24 * 7);

fn revoked(serial: &str) -> RevokedSerial {
    RevokedSerial {
        serial: serial.to_owned(),
        at: now() - HOUR,
        reason: Some(RevocationReason::KeyCompromise),
    }
}

fn list(ca: &Authority, serials: &[&str]) -> IssuedCrl {
    let revoked: Vec<_> = serials.iter().map(|serial| revoked(serial)).collect();
    ca.sign_crl(&revoked, 7, WEEK, now()).unwrap()
}

fn leaf(ca: &Authority) -> Issued {
    let key = PrivateKey::generate().unwrap();
    ca.sign_leaf(&identity("child1"), key.public(), HOUR, now())
        .unwrap()
}

#[test]
fn what_is_revoked_is_refused_and_the_rest_is_believed() {
    let (root, material) = root();
    let (one, two) = (member(&root, "child1"), member(&root, "child2"));
    let (bad, good) = (leaf(&one.authority), leaf(&one.authority));
    let other = leaf(&two.authority);
    let judge = |chain: &Issued, crls: &[&IssuedCrl]| {
        let text: String = crls.iter().map(|crl| crl.pem.as_str()).collect();
        let ours = webpki_verify(&chain.chain_pem, &material.cert_pem, &text, now());
        let theirs = openssl_verify(&chain.chain_pem, &material.cert_pem, &text, now());
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{ours:?} {theirs:?}");
        if let Err(theirs) = theirs {
            assert!(
                theirs.contains("revoked") || theirs.contains("unable to get certificate CRL"),
                "{theirs}"
            );
        }
        ours
    };
    let empty_root = list(&root, &[]);
    let (of_one, of_two) = (
        list(&one.authority, &[&bad.facts.serial]),
        list(&two.authority, &[]),
    );
    // A leaf.
    let all = [&empty_root, &of_one, &of_two];
    judge(&good, &all).unwrap();
    judge(&other, &all).unwrap();
    assert_eq!(judge(&bad, &all), Err(webpki::Error::CertRevoked));
    // An intermediate.
    let of_root = list(&root, &[&one.issued.facts.serial]);
    let all = [&of_root, &of_one, &of_two];
    assert_eq!(judge(&good, &all), Err(webpki::Error::CertRevoked));
    judge(&other, &all).unwrap();
    // A list is missing.
    assert_eq!(
        judge(&good, &[&empty_root]),
        Err(webpki::Error::UnknownRevocationStatus)
    );
}

#[test]
fn a_list_says_what_it_was_told() {
    let (root, material) = root();
    let crl = list(
        &root,
        &["00ab", "0123456789abcdef0123456789abcdef01234567", "AB"],
    );
    let facts = crl_facts(crl.pem.as_bytes()).unwrap();
    assert_eq!(facts, crl.facts);
    assert_eq!(facts.number, 7);
    assert_eq!(Some(&facts.aki), root.certificate().ski.as_ref());
    assert_eq!(facts.issuer, root.certificate().subject);
    assert_eq!(facts.next_update, now() + WEEK);
    // 0xab needs a zero before it in DER, as `CertFacts` shows it.
    let serials: Vec<_> = facts.serials.keys().map(String::as_str).collect();
    assert_eq!(
        serials,
        ["00ab", "0123456789abcdef0123456789abcdef01234567"]
    );
    assert!(facts.serials.values().all(|at| *at == now() - HOUR));
    let der = lists(&crl.pem).unwrap().remove(0);
    assert_eq!(crl_facts(&der).unwrap(), facts);
    let folder = Folder::new();
    let (file, ca) = (
        folder.file("crl.pem", &crl.pem),
        folder.file("ca.pem", &material.cert_pem),
    );
    let text = openssl(&["crl", "-in", &file, "-noout", "-text", "-CAfile", &ca]).unwrap();
    for said in [
        "Version 2",
        "X509v3 CRL Number: \n                7",
        "Key Compromise",
        "Serial Number: AB",
    ] {
        assert!(text.contains(said), "{said:?} in {text}");
    }
    let empty = list(&root, &[]);
    let file = folder.file("empty.pem", &empty.pem);
    let text = openssl(&["crl", "-in", &file, "-noout", "-text"]).unwrap();
    assert!(text.contains("No Revoked Certificates"), "{text}");
}

#[test]
fn a_serial_given_twice_keeps_its_first_time() {
    let (root, _) = root();
    let mut again = revoked("ab");
    again.at = now() - HOUR * 5;
    for order in [
        [revoked("ab"), again.clone()],
        [again.clone(), revoked("0ab")],
    ] {
        let crl = root.sign_crl(&order, 1, WEEK, now()).unwrap();
        assert_eq!(crl.facts.serials, [("00ab".to_owned(), again.at)].into());
    }
}

#[test]
fn what_is_no_serial_number_is_refused() {
    let (root, _) = root();
    for text in [
        "",
        "0",
        "00",
        "xyz",
        "-1",
        "0x1",
        "é",
        &"f".repeat(41),
        &"é".repeat(9999),
    ] {
        let made = root.sign_crl(&[revoked(text)], 1, WEEK, now());
        assert!(
            matches!(made, Err(Error::Serial { .. })),
            "{text}: {made:?}"
        );
    }
}

#[test]
fn a_list_begins_early_and_ends_with_its_ca() {
    let (root, _) = root();
    let member = member(&root, "child1");
    let later = now() + HOUR;
    let crl = member.authority.sign_crl(&[], 1, YEAR, later).unwrap();
    assert_eq!(crl.facts.this_update, later - LEAF_BACKDATE);
    assert_eq!(crl.facts.next_update, member.issued.facts.not_after);
    let crl = member
        .authority
        .sign_crl(&[], 1, YEAR, now() - HOUR)
        .unwrap();
    assert_eq!(crl.facts.this_update, member.issued.facts.not_before);
    for at in [now() + MONTH, now() + YEAR * 20] {
        let made = member.authority.sign_crl(&[], 1, WEEK, at);
        assert!(matches!(made, Err(Error::SignerExpired { .. })), "{made:?}");
    }
    let made = member.authority.sign_crl(&[], 1, WEEK, now() - HOUR * 2);
    assert!(matches!(made, Err(Error::SignerNotYetValid { .. })));
    let made = root.sign_crl(&[], 1, SignedDuration::ZERO, now());
    assert!(matches!(made, Err(Error::Lifetime { .. })));
}

/// A root with what rcgen lets one set.
fn odd_root(change: impl FnOnce(&mut CertificateParams)) -> (Authority, String) {
    let key = PrivateKey::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "odd");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    let der = params.self_signed(key.signer()).unwrap();
    let text = pem::write("CERTIFICATE", der.der().to_vec());
    (Authority::of(&text, &key).unwrap(), text)
}

#[test]
fn a_ca_that_may_not_sign_lists_signs_none() {
    for usages in [vec![KeyUsagePurpose::KeyCertSign], Vec::new()] {
        let (ca, _) = odd_root(|params| params.key_usages = usages);
        let made = ca.sign_crl(&[], 1, WEEK, now());
        assert!(matches!(made, Err(Error::CrlUsage { .. })), "{made:?}");
    }
}

#[test]
fn an_adopted_key_identifier_is_kept() {
    let (ca, text) = odd_root(|params| {
        params.key_identifier_method = KeyIdMethod::PreSpecified(b"some other identifier".to_vec());
    });
    let crl = list(&ca, &["01"]);
    assert_eq!(Some(&crl.facts.aki), ca.certificate().ski.as_ref());
    verify_crl(&crl.pem, &text, now()).unwrap();
}

fn rule(judged: Result<CrlFacts, VerifyError>) -> &'static str {
    match judged {
        Err(VerifyError::List { rule }) => rule,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_list_of_somebody_else_or_of_another_time_is_refused() {
    let (root, material) = root();
    let one = member(&root, "child1");
    let crl = list(&one.authority, &["01"]);
    let judge = |text: &str, issuer: &str, at| verify_crl(text, issuer, at);
    let own = &one.issued.cert_pem;
    judge(&crl.pem, own, now()).unwrap();
    assert_eq!(
        rule(judge(&crl.pem, &material.cert_pem, now())),
        "a list names its issuer"
    );
    assert_eq!(
        rule(judge(
            &crl.pem,
            own,
            now() - LEAF_BACKDATE - SignedDuration::from_secs(1)
        )),
        "the life of a list has begun"
    );
    assert_eq!(
        rule(judge(&crl.pem, own, now() + WEEK)),
        "the life of a list has not ended"
    );
    judge(&crl.pem, own, now() + WEEK - SignedDuration::from_secs(1)).unwrap();
    assert!(matches!(
        judge(&crl.pem, own, now() + YEAR),
        Err(VerifyError::OutsideLife { .. })
    ));
    // The same name, another key: with and without identifiers.
    let (ca, text) = odd_root(|_| {});
    let (_, other) = odd_root(|_| {});
    let crl = list(&ca, &["01"]);
    judge(&crl.pem, &text, now()).unwrap();
    assert_eq!(
        rule(judge(&crl.pem, &other, now())),
        "a list points at the key of its issuer"
    );
    let same_id = |params: &mut CertificateParams| {
        params.key_identifier_method = KeyIdMethod::PreSpecified(b"id".to_vec());
    };
    let ((ca, _), (_, other)) = (odd_root(same_id), odd_root(same_id));
    assert_eq!(
        rule(judge(&list(&ca, &[]).pem, &other, now())),
        "a list is signed by its issuer"
    );
    // Signed by one that may not.
    let (ca, _) = odd_root(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    assert_eq!(
        rule(judge(&crl.pem, &ca.cert_pem(), now())),
        "the issuer of a list is a CA whose key usage allows lists"
    );
}

#[test]
fn a_list_is_shown_alone_and_as_we_write_it() {
    let (root, material) = root();
    let crl = list(&root, &["01"]);
    let judge = |text: &str| verify_crl(text, &material.cert_pem, now());
    for text in [
        format!("{}{}", crl.pem, crl.pem),
        String::new(),
        material.cert_pem.clone(),
    ] {
        assert_eq!(rule(judge(&text)), "a list is shown alone");
    }
    for text in [
        format!("hello\n{}", crl.pem),
        format!("{}\n", crl.pem),
        format!("{}{}", crl.pem, material.cert_pem),
        crl.pem.replace('\n', "\r\n"),
        crl.pem.trim_end().to_owned(),
    ] {
        assert_eq!(
            rule(judge(&text)),
            "a list is one block of text, as we write it"
        );
    }
    assert!(matches!(
        judge(&"x".repeat(super::PEM_MAX + 1)),
        Err(VerifyError::ReadList(Error::PemTooLarge { .. }))
    ));
}

/// In its place this, of the same length.
fn replaced(der: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let at = der.windows(old.len()).position(|part| part == old).unwrap();
    [&der[..at], new, &der[at + old.len()..]].concat()
}

/// Go, and so istiod, refuses a whole text for one of these.
#[test]
fn a_list_that_others_cannot_read_is_not_read() {
    let (root, _) = root();
    let der = lists(&list(&root, &["01"]).pem).unwrap().remove(0);
    crl_facts(&der).unwrap();
    let reason = |value: &[u8]| [&[0x06, 0x03, 0x55, 0x1d, 0x15, 0x04, 0x03][..], value].concat();
    let enumerated = reason(&[0x0a, 0x01, 0x01]);
    for value in [[0x02, 0x01, 0x01], [0x0a, 0x02, 0x01], [0x0a, 0x01, 0x63]] {
        let list = replaced(&der, &enumerated, &reason(&value));
        assert!(crl_facts(&list).is_err(), "{value:x?}");
    }
    // Something else in its place, critical or not: of no reader's choice either.
    let mut other = enumerated.clone();
    other[4] = 0x63;
    let list = replaced(&der, &enumerated, &other);
    assert!(crl_facts(&list).is_err());
}

#[test]
fn a_list_says_only_once_whose_it_is_and_which() {
    let id = |bytes: u8| {
        let head = [
            0x30,
            bytes + 11,
            0x06,
            0x03,
            0x55,
            0x1d,
            0x23,
            0x04,
            bytes + 4,
            0x30,
            bytes + 2,
            0x80,
            bytes,
        ];
        let tail = vec![7_u8; usize::from(bytes)];
        [&head[..], &tail].concat()
    };
    let number = [
        0x30, 0x0a, 0x06, 0x03, 0x55, 0x1d, 0x14, 0x04, 0x03, 0x02, 0x01, 9,
    ];
    let (ca, _) = odd_root(|params| {
        params.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 46]);
    });
    let der = lists(&list(&ca, &[]).pem).unwrap().remove(0);
    let facts = |new: &[u8]| crl_facts(&replaced(&der, &id(46), new));
    facts(&id(46)).unwrap();
    facts(&[id(34), number.to_vec()].concat()).unwrap_err();
    facts(&[id(20), id(13)].concat()).unwrap_err();
}

#[test]
fn the_same_lists_give_the_same_text() {
    let (root, _) = root();
    let (one, two) = (member(&root, "child1"), member(&root, "child2"));
    let numbered = |ca: &Authority, number| ca.sign_crl(&[], number, WEEK, now()).unwrap().pem;
    let (of_root, old, new, of_two) = (
        numbered(&root, 1),
        numbered(&one.authority, 4),
        numbered(&one.authority, 5),
        numbered(&two.authority, 9),
    );
    let merged = merge_crls([&*of_root, &*old, &*new, &*of_two]).unwrap();
    let both = format!("{new}{of_root}");
    for order in [
        vec![&*of_two, &*new, &*old, &*of_root],
        vec![&*both, &*of_two, &*of_two],
        vec![&*merged],
    ] {
        assert_eq!(merge_crls(order).unwrap(), merged);
    }
    let numbers: Vec<_> = lists(&merged)
        .unwrap()
        .iter()
        .map(|der| crl_facts(der).unwrap())
        .collect();
    assert_eq!(numbers.len(), 3);
    assert!(numbers.iter().all(|facts| facts.number != 4));
    assert!(numbers.is_sorted_by_key(|facts| facts.aki.clone()));
    // Two with one number: always the same of them.
    let twin = numbered(&one.authority, 5);
    assert_eq!(
        merge_crls([&*new, &*twin]).unwrap(),
        merge_crls([&*twin, &*new]).unwrap()
    );
    assert_eq!(merge_crls([]).unwrap(), "");
    assert!(matches!(merge_crls([""]), Err(Error::ReadCrl { .. })));
    assert!(merge_crls(["hello", &*new]).is_err());
    // Room for many CAs.
    let serials: Vec<_> = (1..2500).map(|n| format!("1{n:038x}")).collect();
    let serials: Vec<_> = serials.iter().map(String::as_str).collect();
    let long = [&root, &one.authority].map(|ca| list(ca, &serials).pem);
    let text = merge_crls(long.iter().map(String::as_str)).unwrap();
    assert!(text.len() > super::PEM_MAX, "{}", text.len());
}

#[test]
fn the_next_is_due_at_half_of_a_life() {
    let (root, _) = root();
    let facts = list(&root, &[]).facts;
    assert_eq!(facts.renew_at(0.0), now() + WEEK / 2);
    let early = facts.renew_at(1.0);
    assert!(
        early < now() + WEEK / 2 && early > now() + WEEK / 3,
        "{early}"
    );
    assert!(!facts.is_due(0.0, now()) && !facts.is_due(1.0, now()));
    assert!(facts.is_due(0.0, now() + WEEK / 2));
    assert_eq!(facts.renew_at(f64::NAN), facts.this_update + LEAF_BACKDATE);
    // Shortly before its CA ends, one just made is not due yet.
    let member = member(&root, "child1");
    let late = now() + MONTH - SignedDuration::from_mins(10);
    let facts = member.authority.sign_crl(&[], 1, WEEK, late).unwrap().facts;
    assert!(!facts.is_due(1.0, late), "{}", facts.renew_at(1.0));
}

#[test]
fn numbers_grow() {
    let clock = u64::try_from(now().as_second()).unwrap();
    assert_eq!(next_crl_number(None, now()), clock);
    assert_eq!(next_crl_number(Some(3), now()), clock);
    assert_eq!(next_crl_number(Some(clock), now()), clock + 1);
    assert_eq!(next_crl_number(Some(clock + 9), now()), clock + 10);
    assert_eq!(
        next_crl_number(None, Timestamp::from_second(-5).unwrap()),
        0
    );
    let (root, _) = root();
    for number in [0, 1, 0x80, u64::MAX] {
        let crl = root.sign_crl(&[], number, WEEK, now()).unwrap();
        assert_eq!(crl.facts.number, number);
    }
}

/// OpenSSL makes what we do not: no number, no key identifier, a delta.
#[test]
fn lists_that_break_the_rules_are_not_read() {
    let folder = Folder::new();
    let (_, material) = Authority::generate_root(&mesh(), 1, YEAR, now()).unwrap();
    let (cert, key) = (
        folder.file("ca.pem", &material.cert_pem),
        folder.file("key.pem", &*material.key_pem),
    );
    let (index, number, out) = (
        folder.file("index.txt", ""),
        folder.file("number", "05\n"),
        folder.path("out.pem"),
    );
    let make = |extensions: &str| {
        let config = format!(
            "[ca]\ndefault_ca=d\n[d]\ndatabase={index}\ncrlnumber={number}\ndefault_md=sha256\ncrl_extensions=e\n[e]\n{extensions}\n"
        );
        let config = folder.file("ca.cnf", config);
        openssl(&[
            "ca", "-gencrl", "-config", &config, "-cert", &cert, "-keyfile", &key, "-out", &out,
            "-crldays", "7",
        ])
        .unwrap();
        crl_facts(&std::fs::read(&out).unwrap())
    };
    let facts = make("authorityKeyIdentifier=keyid:always").unwrap();
    assert_eq!(facts.number, 5);
    for extensions in [
        "authorityKeyIdentifier=issuer:always",
        "authorityKeyIdentifier=keyid:always\nissuingDistributionPoint=critical,@i\n[i]\nonlyuser=TRUE\nfullname=URI:http://x.example",
        "authorityKeyIdentifier=keyid:always\n2.5.29.27=critical,DER:020101",
        "authorityKeyIdentifier=keyid:always\n1.2.3.4=critical,DER:0500",
    ] {
        let read = make(extensions);
        assert!(
            matches!(read, Err(Error::ReadCrl { .. })),
            "{extensions}: {read:?}"
        );
    }
}

fn sample() -> &'static Vec<u8> {
    static SAMPLE: OnceLock<Vec<u8>> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let (root, _) = root();
        lists(&list(&root, &["01", "02"]).pem)
            .unwrap()
            .remove(0)
            .to_vec()
    })
}

proptest! {
    #[test]
    fn no_changed_list_makes_anything_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut der = sample().clone();
        let at = at.index(der.len());
        if cut { der.truncate(at) } else { der[at] = byte }
        let _facts = crl_facts(&der);
        let _merged = merge_crls([&*pem::write(super::LABEL, der)]);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _facts = crl_facts(&bytes);
    }
}
