//! Tests of reading and writing text.

use proptest::prelude::*;

use super::{CERTIFICATES_MAX, PEM_MAX, bundle, certificates, write};
use crate::{
    Error, PrivateKey, facts,
    testing::{HOUR, identity, member, now, root},
};

#[test]
fn a_bundle_is_the_same_bytes_whatever_the_order() {
    let (one, two) = (root().1.cert_pem, root().1.cert_pem);
    let windows = two.replace('\n', "\r\n");
    let first = bundle([one.as_str(), two.as_str()]).unwrap();
    let second = bundle(
        [windows.as_str(), "# two roots\n\n", &one, &two]
            .into_iter()
            .filter(|text| text.contains("BEGIN")),
    )
    .unwrap();
    assert_eq!(first, second);
    assert_eq!(facts(&first).unwrap().len(), 2);
    assert!(first.ends_with("-----END CERTIFICATE-----\n"));
    assert!(
        first
            .lines()
            .all(|line| line.len() <= 64 && line == line.trim())
    );
}

#[test]
fn a_bundle_holds_cas_only() {
    let (root, material) = root();
    let member = member(&root, "child1");
    let key = PrivateKey::generate().unwrap();
    let leaf = member
        .authority
        .sign_leaf(&identity("child1"), key.public(), HOUR, now())
        .unwrap();
    assert!(matches!(
        bundle([material.cert_pem.as_str(), &leaf.cert_pem]),
        Err(Error::NotACa { .. })
    ));
    assert!(matches!(bundle([]), Err(Error::NoCertificate)));
}

#[test]
fn reading_has_limits() {
    let one = root().1.cert_pem;
    assert_eq!(
        certificates(&one.repeat(CERTIFICATES_MAX)).unwrap().len(),
        CERTIFICATES_MAX
    );
    let many = certificates(&one.repeat(CERTIFICATES_MAX + 1));
    assert!(matches!(many, Err(Error::TooManyCertificates { .. })));
    let large = certificates(&" ".repeat(PEM_MAX + 1));
    assert!(matches!(large, Err(Error::PemTooLarge { .. })));
    assert!(matches!(certificates("hello"), Err(Error::NoCertificate)));
    assert!(matches!(
        certificates("-----BEGIN CERTIFICATE-----\nAAAA"),
        Err(Error::ReadPem { .. })
    ));
}

#[test]
fn a_key_among_the_certificates_is_skipped() {
    let (_, material) = root();
    let both = format!("{}{}", *material.key_pem, material.cert_pem);
    assert_eq!(certificates(&both).unwrap().len(), 1);
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(ders in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..5)) {
        let text: String = ders.iter().map(|der| write("CERTIFICATE", der.clone())).collect();
        let read: Vec<Vec<u8>> = certificates(&text).unwrap().iter().map(|der| der.to_vec()).collect();
        prop_assert_eq!(read, ders);
    }

    #[test]
    fn no_text_makes_it_panic(text in "(-----(BEGIN|END) CERTIFICATE-----|[A-Za-z0-9+/= \r\n]){0,20}") {
        prop_assert!(certificates(&text).is_err() || bundle([text.as_str()]).is_err());
    }
}
