//! Tests with a real token: `SoftHSM2`, in a folder of the test's own.
//!
//! `SoftHSM2` reads its configuration from the environment, once in a process; so each of these tests runs itself again as a child.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Arc, mpsc},
    time::Duration,
};

use cryptoki::{session::UserType, types::AuthPin};
use jiff::SignedDuration;
use parking_lot::Mutex;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::{Inner, Job, TokenError, TokenKey, TokenPlace, session};
use crate::{
    Authority, Error, KeyAlgorithm, PrivateKey, adopt_check_public, crl_facts,
    testing::{
        Folder, HOUR, MONTH, YEAR, identity, mesh, now, openssl, openssl_verify, request, subject,
    },
    verify_crl, verify_intermediate, verify_leaf,
};

const PIN: &str = "secret-7413";
const CHILD: &str = "MESH_CA_TEST_TOKEN_FOLDER";

fn driver() -> String {
    [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ]
    .into_iter()
    .find(|path| PathBuf::from(path).exists())
    .expect("these tests need SoftHSM2 (package softhsm2); `make unit` installs it")
    .to_owned()
}

fn run(program: &str, config: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("SOFTHSM2_CONF", config)
        .output()
        .unwrap_or_else(|error| {
            panic!("these tests need {program} (packages softhsm2 and opensc; `make unit` installs them): {error}")
        });
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

struct Lab {
    folder: PathBuf,
}

impl Lab {
    fn tool(&self, args: &[&str]) -> String {
        let config = self.folder.join("softhsm2.conf");
        let driver = driver();
        let common = [
            "--module",
            &driver,
            "--token-label",
            "lab",
            "--login",
            "--pin",
            PIN,
        ];
        run(
            "pkcs11-tool",
            config.to_str().unwrap(),
            &[&common[..], args].concat(),
        )
    }

    fn pair(&self, kind: &str, label: &str, id: &str) {
        self.tool(&[
            "--keypairgen",
            "--key-type",
            kind,
            "--label",
            label,
            "--id",
            id,
        ]);
    }

    /// Puts a public key in; says where the key lies as text.
    fn put_public(&self, label: &str, id: &str, key: &PrivateKey) -> String {
        let path = |name: &str| self.folder.join(name).to_str().unwrap().to_owned();
        let (text, public) = (path("key.pem"), path("pub.der"));
        std::fs::write(&text, key.pem().as_bytes()).unwrap();
        openssl(&[
            "pkey", "-in", &text, "-pubout", "-outform", "DER", "-out", &public,
        ])
        .unwrap();
        self.tool(&[
            "--write-object",
            &public,
            "--type",
            "pubkey",
            "--label",
            label,
            "--id",
            id,
        ]);
        text
    }
}

fn place(key_label: &str) -> TokenPlace {
    TokenPlace {
        module: driver().into(),
        token_label: "lab".to_owned(),
        key_label: key_label.to_owned(),
    }
}

fn open(key_label: &str) -> Result<TokenKey, TokenError> {
    TokenKey::open(&place(key_label), Zeroizing::new(PIN.to_owned()))
}

/// Runs the test `name` as a child with a fresh token, or, in that child, runs `test`.
fn with_token(name: &str, test: impl FnOnce(&Lab)) {
    if let Ok(folder) = std::env::var(CHILD) {
        test(&Lab {
            folder: folder.into(),
        });
        return;
    }
    let folder = Folder::new();
    let tokens = folder.path("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let config = folder.file(
        "softhsm2.conf",
        format!("directories.tokendir = {tokens}\nlog.level = ERROR\n"),
    );
    run(
        "softhsm2-util",
        &config,
        &[
            "--init-token",
            "--free",
            "--label",
            "lab",
            "--pin",
            PIN,
            "--so-pin",
            "12345678",
        ],
    );
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("token::tests::{name}"), "--nocapture"])
        .env("SOFTHSM2_CONF", &config)
        .env(CHILD, folder.path(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A root whose key is in the token: enrols a member, which signs a workload; the root signs a list. webpki and OpenSSL judge.
fn works(root: &Authority) {
    let root_pem = root.cert_pem();
    let key = PrivateKey::generate().unwrap();
    let wanted = subject("child1", 1);
    let issued = root
        .sign_intermediate(&request(&key), &wanted, MONTH, now())
        .unwrap();
    verify_intermediate(&issued.chain_pem, &root_pem, &wanted, &key, now()).unwrap();
    let member = Authority::of(&issued.chain_pem, &key).unwrap();
    let workload = PrivateKey::generate().unwrap();
    let leaf = member
        .sign_leaf(&identity("child1"), workload.public(), HOUR, now())
        .unwrap();
    verify_leaf(&leaf.chain_pem, &root_pem, &identity("child1"), now()).unwrap();
    openssl_verify(&leaf.chain_pem, &root_pem, false, now()).unwrap();
    let crl = root.sign_crl(&[], 1, MONTH, now()).unwrap();
    verify_crl(&crl.pem, &root_pem, now()).unwrap();
    let folder = Folder::new();
    let (list, ca) = (
        folder.file("crl.pem", &crl.pem),
        folder.file("ca.pem", &root_pem),
    );
    let said = openssl(&["crl", "-in", &list, "-CAfile", &ca, "-text"]).unwrap();
    assert!(said.contains("CRL Number"), "{said}");
    assert_eq!(crl_facts(crl.pem.as_bytes()).unwrap(), crl.facts);
}

#[test]
fn a_root_in_a_token_signs_everything() {
    with_token("a_root_in_a_token_signs_everything", |lab| {
        for (kind, algorithm) in [
            ("EC:prime256v1", KeyAlgorithm::P256),
            ("EC:secp384r1", KeyAlgorithm::P384),
            ("rsa:2048", KeyAlgorithm::Rsa(2048)),
        ] {
            lab.pair(kind, kind, "01");
            let key = open(kind).unwrap();
            assert_eq!(*key.public().algorithm(), algorithm);
            let root = Authority::generate_root_with(&key, &mesh(), 1, YEAR * 10, now()).unwrap();
            let findings = adopt_check_public(&root.cert_pem(), key.public(), now());
            let note = matches!(algorithm, KeyAlgorithm::Rsa(_));
            assert_eq!(findings.len(), usize::from(note), "{findings:?}");
            works(&root);
            // The certificate and the token are all that is needed after a restart.
            let again = Authority::of(&root.cert_pem(), &open(kind).unwrap()).unwrap();
            assert_eq!(again.certificate(), root.certificate());
            works(&again);
        }
    });
}

#[test]
fn a_root_that_was_made_outside_is_adopted_with_its_key_put_in() {
    with_token(
        "a_root_that_was_made_outside_is_adopted_with_its_key_put_in",
        |lab| {
            let (made, material) = Authority::generate_root(&mesh(), 1, YEAR * 10, now()).unwrap();
            let path = |name: &str| lab.folder.join(name).to_str().unwrap().to_owned();
            let (pem, private, public) = (path("key.pem"), path("key.der"), path("pub.der"));
            std::fs::write(&pem, material.key_pem.as_bytes()).unwrap();
            openssl(&["pkey", "-in", &pem, "-outform", "DER", "-out", &private]).unwrap();
            openssl(&[
                "pkey", "-in", &pem, "-pubout", "-outform", "DER", "-out", &public,
            ])
            .unwrap();
            for (kind, file) in [("privkey", &private), ("pubkey", &public)] {
                lab.tool(&[
                    "--write-object",
                    file,
                    "--type",
                    kind,
                    "--label",
                    "root",
                    "--id",
                    "01",
                    "--usage-sign",
                ]);
            }
            let key = open("root").unwrap();
            assert_eq!(
                adopt_check_public(&material.cert_pem, key.public(), now()),
                []
            );
            let root = Authority::of(&material.cert_pem, &key).unwrap();
            assert_eq!(root.certificate(), made.certificate());
            works(&root);
            let other = Authority::generate_root(&mesh(), 1, YEAR, now()).unwrap().1;
            assert!(matches!(
                Authority::of(&other.cert_pem, &key),
                Err(Error::KeyMismatch { .. })
            ));
            let findings = adopt_check_public(&other.cert_pem, key.public(), now());
            assert!(findings[0].what.contains("belong together"), "{findings:?}");
        },
    );
}

#[test]
fn what_is_wrong_with_a_token_is_said() {
    with_token("what_is_wrong_with_a_token_is_said", |lab| {
        lab.pair("EC:prime256v1", "good", "01");
        lab.pair("EC:prime256v1", "twice", "02");
        lab.pair("EC:prime256v1", "twice", "03");
        lab.pair("EC:secp521r1", "large", "04");
        // A private key, and another's public key under its label.
        lab.pair("EC:prime256v1", "mixed", "05");
        lab.tool(&["--delete-object", "--type", "pubkey", "--label", "mixed"]);
        assert!(matches!(
            open("mixed"),
            Err(TokenError::Key {
                kind: "public",
                found: 0,
                ..
            })
        ));
        let no_driver = lab.put_public("mixed", "05", &PrivateKey::generate().unwrap());
        let opened = |place: TokenPlace, pin: &str| {
            TokenKey::open(&place, Zeroizing::new(pin.to_owned())).unwrap_err()
        };
        // Before anything else: a login is the process's.
        for pin in ["wrong-pin", "", &"9".repeat(999)] {
            let error = opened(place("good"), pin);
            assert!(matches!(error, TokenError::Pin { .. }), "{error:?}");
            assert!(pin.is_empty() || !format!("{error} {error:?}").contains(pin));
        }
        // A refused PIN is not tried again, even if it would be right by now.
        change_pin(PIN, "wrong-pin");
        let error = opened(place("good"), "wrong-pin");
        assert!(matches!(error, TokenError::Pin { .. }), "{error:?}");
        change_pin("wrong-pin", PIN);
        let of = |label: &str| opened(place(label), PIN);
        assert!(matches!(
            of("none"),
            TokenError::Key {
                kind: "private",
                found: 0,
                ..
            }
        ));
        assert!(matches!(
            of("twice"),
            TokenError::Key {
                kind: "private",
                found: 2,
                ..
            }
        ));
        assert!(
            matches!(of("large"), TokenError::Unusable { .. }),
            "{:?}",
            of("large")
        );
        assert!(
            matches!(of("mixed"), TokenError::Pair { .. }),
            "{:?}",
            of("mixed")
        );
        let mut elsewhere = place("good");
        elsewhere.token_label = "other".to_owned();
        assert!(matches!(
            opened(elsewhere.clone(), PIN),
            TokenError::Token { found: 0, .. }
        ));
        elsewhere.module = lab.folder.join("none.so");
        assert!(matches!(
            opened(elsewhere.clone(), PIN),
            TokenError::Module { .. }
        ));
        // A file that is no driver.
        elsewhere.module = no_driver.into();
        assert!(matches!(opened(elsewhere, PIN), TokenError::Module { .. }));
        let key = open("good").unwrap();
        let shown = format!("{key:?} {:?}", crate::CaKey::from(&key));
        assert!(!shown.contains(PIN), "{shown}");
    });
}

fn change_pin(old: &str, new: &str) {
    let module = session::module(&place("")).unwrap();
    let slot = session::slot(&module, "lab").unwrap();
    let opened = module.open_rw_session(slot).unwrap();
    let (old, new) = (AuthPin::new(old.into()), AuthPin::new(new.into()));
    opened.login(UserType::User, Some(&old)).unwrap();
    opened.set_pin(&old, &new).unwrap();
}

/// Ends the process's login, as if the token had been pulled out.
fn logout_everybody(place: &TokenPlace) {
    let module = session::module(place).unwrap();
    let slot = session::slot(&module, &place.token_label).unwrap();
    module.open_ro_session(slot).unwrap().logout().unwrap();
}

#[test]
fn a_session_that_was_lost_is_opened_again() {
    with_token("a_session_that_was_lost_is_opened_again", |lab| {
        lab.pair("EC:prime256v1", "root", "01");
        let key = open("root").unwrap();
        let root = Authority::generate_root_with(&key, &mesh(), 1, YEAR * 10, now()).unwrap();
        for _ in 0..3 {
            logout_everybody(&place("root"));
            works(&root);
        }
        // Another key has the label now: nothing is signed with it.
        lab.tool(&["--delete-object", "--type", "privkey", "--label", "root"]);
        lab.tool(&["--delete-object", "--type", "pubkey", "--label", "root"]);
        lab.pair("EC:prime256v1", "root", "02");
        logout_everybody(&place("root"));
        let made = root.sign_crl(&[], 2, MONTH, now());
        assert!(
            matches!(made, Err(Error::Token(TokenError::Replaced { .. }))),
            "{made:?}"
        );
    });
}

#[test]
fn many_threads_share_one_token() {
    with_token("many_threads_share_one_token", |lab| {
        lab.pair("EC:prime256v1", "root", "01");
        let key = open("root").unwrap();
        let root =
            Arc::new(Authority::generate_root_with(&key, &mesh(), 1, YEAR * 10, now()).unwrap());
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let root = Arc::clone(&root);
                std::thread::spawn(move || {
                    for number in 0..5 {
                        let crl = root.sign_crl(&[], number, MONTH, now()).unwrap();
                        verify_crl(&crl.pem, &root.cert_pem(), now()).unwrap();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// A key whose token answers nothing, and the end of its queue.
fn silent(patience: Duration) -> (TokenKey, mpsc::Receiver<Job>) {
    let (jobs, waiting) = mpsc::sync_channel(super::QUEUE);
    let key = TokenKey(Arc::new(Inner {
        place: TokenPlace {
            module: "none.so".into(),
            token_label: "lab".to_owned(),
            key_label: "root".to_owned(),
        },
        public: PrivateKey::generate().unwrap().public().clone(),
        algorithm: &rcgen::PKCS_ECDSA_P256_SHA256,
        jobs: Some(jobs),
        ended: Mutex::new(mpsc::channel().1),
        patience,
        complaint: Mutex::new(None),
    }));
    (key, waiting)
}

#[test]
fn a_token_that_does_not_answer_holds_nobody_up() {
    let (key, waiting) = silent(Duration::from_millis(1));
    for _ in 0..super::QUEUE {
        assert!(matches!(
            key.signature(b"x"),
            Err(TokenError::TimedOut { .. })
        ));
    }
    assert_eq!(key.signature(b"x"), Err(TokenError::Busy));
    let made = Authority::generate_root_with(&key, &mesh(), 1, YEAR, now());
    assert!(
        matches!(made, Err(Error::Token(TokenError::Busy))),
        "{made:?}"
    );
    drop(waiting);
    let made = Authority::generate_root_with(&key, &mesh(), 1, SignedDuration::from_secs(5), now());
    assert!(
        matches!(made, Err(Error::Token(TokenError::Closed))),
        "{made:?}"
    );
}

#[test]
fn a_signature_that_is_none_becomes_no_certificate() {
    let (key, waiting) = silent(Duration::from_mins(1));
    let token = std::thread::spawn(move || {
        while let Ok(job) = waiting.recv() {
            job.reply.send(Ok(vec![0x30, 0])).unwrap();
        }
    });
    let made = Authority::generate_root_with(&key, &mesh(), 1, YEAR, now());
    assert!(matches!(made, Err(Error::BrokenChain { .. })), "{made:?}");
    drop(key);
    token.join().unwrap();
}

#[test]
fn numbers_of_a_signature_become_der() {
    let der = |raw: &[u8]| session::ecdsa_der(raw);
    assert_eq!(
        der(&[0, 1, 0x80, 0]),
        Some(vec![0x30, 8, 2, 1, 1, 2, 3, 0, 0x80, 0])
    );
    assert_eq!(
        der(&[0, 0, 0, 0x7f]),
        Some(vec![0x30, 6, 2, 1, 0, 2, 1, 0x7f])
    );
    assert_eq!(der(&[]), None);
    assert_eq!(der(&[1, 2, 3]), None);
}

proptest! {
    #[test]
    fn any_numbers_become_der_that_is_read_back(raw in prop::collection::vec(any::<u8>(), 1..49)) {
        use x509_parser::der_parser::der::parse_der;
        let both = [raw.clone(), raw.clone()].concat();
        let der = session::ecdsa_der(&both).unwrap();
        let (rest, parsed) = parse_der(&der).unwrap();
        prop_assert!(rest.is_empty());
        let numbers = parsed.as_sequence().unwrap();
        prop_assert_eq!(numbers.len(), 2);
        let significant: Vec<u8> = raw.iter().copied().skip_while(|byte| *byte == 0).collect();
        for number in numbers {
            let number: Vec<u8> = number.as_slice().unwrap().iter().copied().skip_while(|byte| *byte == 0).collect();
            prop_assert_eq!(&number, &significant);
        }
    }
}
