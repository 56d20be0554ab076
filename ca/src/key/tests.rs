//! Tests of keys, with OpenSSL as the other side.

use proptest::prelude::*;

use super::PrivateKey;
use crate::{
    Error, KeyAlgorithm,
    testing::{Folder, openssl},
};

fn generated(args: &[&str]) -> String {
    openssl(&[&["genpkey"], args].concat()).unwrap()
}

#[test]
fn keys_of_every_form_are_read_and_show_the_same_public_key_as_openssl() {
    let folder = Folder::new();
    let p256 = generated(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let p384 = generated(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    let rsa = generated(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let (p256_file, rsa_file) = (folder.file("p256.pem", &p256), folder.file("rsa.pem", &rsa));
    let sec1 = openssl(&["ec", "-in", &p256_file]).unwrap();
    let sec1_with_parameters = format!(
        "{}{sec1}",
        openssl(&["ecparam", "-name", "prime256v1"]).unwrap()
    );
    let pkcs1 = openssl(&["rsa", "-in", &rsa_file, "-traditional"]).unwrap();
    assert!(sec1.contains("EC PRIVATE KEY") && pkcs1.contains("RSA PRIVATE KEY"));
    assert!(sec1_with_parameters.contains("EC PARAMETERS"));
    let cases = [
        (&p256, KeyAlgorithm::P256),
        (&sec1, KeyAlgorithm::P256),
        (&sec1_with_parameters, KeyAlgorithm::P256),
        (&p384, KeyAlgorithm::P384),
        (&rsa, KeyAlgorithm::Rsa(2048)),
        (&pkcs1, KeyAlgorithm::Rsa(2048)),
    ];
    for (text, algorithm) in cases {
        let key = PrivateKey::from_pem(text).unwrap();
        assert_eq!(key.public().algorithm(), &algorithm);
        let file = folder.file("key.pem", text);
        let (public, sum) = (folder.path("public.der"), folder.path("sum"));
        openssl(&[
            "pkey", "-in", &file, "-pubout", "-outform", "DER", "-out", &public,
        ])
        .unwrap();
        openssl(&["dgst", "-sha256", "-r", "-out", &sum, &public]).unwrap();
        let sum = std::fs::read_to_string(sum).unwrap();
        assert!(
            sum.starts_with(key.public().fingerprint()),
            "{sum} is not of {:?}",
            key.public()
        );
    }
}

#[test]
fn a_new_key_is_pkcs8_and_comes_back_from_its_text() {
    let key = PrivateKey::generate().unwrap();
    assert!(key.pem().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let again = PrivateKey::from_pem(key.pem()).unwrap();
    assert_eq!(again.public(), key.public());
    let other = PrivateKey::generate().unwrap();
    assert_ne!(other.public(), key.public());
    let folder = Folder::new();
    let file = folder.file("key.pem", key.pem().as_bytes());
    openssl(&["pkey", "-in", &file, "-check", "-noout"]).unwrap();
}

#[test]
fn keys_that_are_not_used_are_refused() {
    let p521 = generated(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]);
    let ed25519 = generated(&["-algorithm", "ED25519"]);
    for (text, name) in [(p521, "P-521"), (ed25519, "Ed25519")] {
        let refusal = PrivateKey::from_pem(&text).unwrap_err();
        assert!(
            matches!(&refusal, Error::KeyAlgorithm { algorithm } if algorithm == name),
            "{refusal}"
        );
    }
    let encrypted = generated(&[
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-aes256",
        "-pass",
        "pass:x",
    ]);
    let cases = [
        "",
        "hello",
        &encrypted,
        &"x".repeat(20_000),
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ];
    for text in cases {
        assert!(
            matches!(PrivateKey::from_pem(text), Err(Error::ReadKey { .. })),
            "{text:.40}"
        );
    }
}

#[test]
fn errors_do_not_repeat_the_text() {
    let text = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0c2VjcmV0*\n-----END PRIVATE KEY-----\n";
    let error = PrivateKey::from_pem(text).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("c2Vj"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(body in "[A-Za-z0-9+/=\n]{0,200}", label in "(EC |RSA )?PRIVATE KEY") {
        let text = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        prop_assert!(PrivateKey::from_pem(&text).is_err());
        prop_assert!(PrivateKey::from_pem(&body).is_err());
    }
}
