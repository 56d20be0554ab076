//! Tests of reading roots from Secrets, each as its maker writes it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{RootLayout, RootText, SourceError, read_root};
use crate::{
    Authority, Error, PrivateKey, Severity, facts,
    testing::{Folder, HOUR, identity, member, now, openssl, root},
    verify_leaf,
};

type Entries = BTreeMap<&'static str, String>;

fn read(entries: &Entries, at: Timestamp) -> Result<RootText, SourceError> {
    read_root(&view(entries), None, at)
}

fn view(entries: &Entries) -> BTreeMap<&str, &[u8]> {
    entries
        .iter()
        .map(|(name, text)| (*name, text.as_bytes()))
        .collect()
}

/// A self-signed root by OpenSSL: certificate, key, and a time at which it lives.
fn foreign(key: &[&str], subject: &str, extensions: &str) -> (String, String, Timestamp) {
    let folder = Folder::new();
    let (key_file, cert_file) = (folder.path("key.pem"), folder.path("cert.pem"));
    openssl(&[&["genpkey", "-out", &key_file], key].concat()).unwrap();
    let config = folder.file(
        "root.cnf",
        format!("[req]\ndistinguished_name=dn\n[dn]\n[ext]\n{extensions}"),
    );
    openssl(&[
        "req",
        "-x509",
        "-new",
        "-key",
        &key_file,
        "-out",
        &cert_file,
        "-days",
        "3650",
        "-config",
        &config,
        "-extensions",
        "ext",
        "-subj",
        subject,
    ])
    .unwrap();
    let cert = std::fs::read_to_string(cert_file).unwrap();
    let at = facts(&cert).unwrap()[0].not_before + HOUR;
    (cert, std::fs::read_to_string(key_file).unwrap(), at)
}

/// It signs a workload that is believed.
fn works(found: &RootText, at: Timestamp) {
    assert!(found.refusal().is_none(), "{:?}", found.findings);
    let key = found.key_pem.as_ref().unwrap();
    let authority = Authority::load(&found.chain_pem, key).unwrap();
    let leaf = authority
        .sign_leaf(
            &identity("child1"),
            PrivateKey::generate().unwrap().public(),
            HOUR,
            at,
        )
        .unwrap();
    verify_leaf(
        &leaf.chain_pem,
        &authority.cert_pem(),
        &identity("child1"),
        at,
    )
    .unwrap();
}

fn whats(found: &RootText) -> Vec<(Severity, &str)> {
    let findings = found.findings.iter();
    findings
        .map(|finding| (finding.severity, finding.what.as_str()))
        .collect()
}

const EC: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];

/// `kof-istio-root` and `k0rdent-istio-root`: cert-manager repeats a self-signed certificate in `ca.crt`.
#[test]
fn a_root_by_cert_manager() {
    let extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature,keyEncipherment,keyCertSign\nsubjectKeyIdentifier=hash\n";
    let (cert, key, at) = foreign(EC, "/O=Istio/CN=Root CA", extensions);
    let mut entries: Entries = [
        ("ca.crt", cert.clone()),
        ("tls.crt", cert.clone()),
        ("tls.key", key),
    ]
    .into();
    let found = read(&entries, at).unwrap();
    assert_eq!(found.layout, RootLayout::Tls);
    assert_eq!(
        whats(&found),
        [(
            Severity::Warning,
            "its key usage leaves out signing revocation lists"
        )]
    );
    works(&found, at);
    // With another root in `ca.crt`, or one more.
    entries.insert("ca.crt", root().1.cert_pem);
    let found = read(&entries, at).unwrap();
    assert!(whats(&found).contains(&(
        Severity::Warning,
        "ca.crt holds other certificates than the root"
    )));
    works(&found, at);
    entries.insert("ca.crt", format!("{}{cert}", root().1.cert_pem));
    let found = read(&entries, at).unwrap();
    assert!(whats(&found).contains(&(Severity::Warning, "ca.crt holds further roots")));
    entries.insert("ca.crt", String::new());
    assert_eq!(read(&entries, at).unwrap().findings.len(), 1);
    entries.remove("ca.crt");
    assert_eq!(read(&entries, at).unwrap().findings.len(), 1);
}

/// `istio-ca-secret`: RSA, key usage certSign only, and entries that are there but empty.
#[test]
fn a_root_that_istiod_made_for_itself() {
    let extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n";
    let (cert, key, at) = foreign(RSA, "/O=cluster.local", extensions);
    let entries: Entries = [
        ("ca-cert.pem", cert),
        ("ca-key.pem", key),
        ("cert-chain.pem", String::new()),
        ("key.pem", String::new()),
        ("root-cert.pem", String::new()),
    ]
    .into();
    let found = read(&entries, at).unwrap();
    assert_eq!(found.layout, RootLayout::SelfSigned);
    assert_eq!(
        whats(&found),
        [
            (
                Severity::Warning,
                "its key usage leaves out signing revocation lists"
            ),
            (Severity::Note, "its key is RSA-2048"),
        ]
    );
    works(&found, at);
}

#[test]
fn cacerts_with_a_root_in_it() {
    let (_, material) = root();
    let other = root().1.cert_pem;
    let mut entries: Entries = [
        ("ca-cert.pem", material.cert_pem.clone()),
        ("ca-key.pem", material.key_pem.to_string()),
        ("cert-chain.pem", material.cert_pem.clone()),
        ("root-cert.pem", material.cert_pem.clone()),
    ]
    .into();
    let found = read(&entries, now()).unwrap();
    assert_eq!((found.layout, whats(&found)), (RootLayout::CaCerts, vec![]));
    assert_eq!(found.chain_pem, material.cert_pem);
    works(&found, now());
    for (roots, what) in [
        (
            other.clone(),
            "root-cert.pem holds other certificates than the root",
        ),
        (
            format!("{other}{}", material.cert_pem),
            "root-cert.pem holds further roots",
        ),
    ] {
        entries.insert("root-cert.pem", roots);
        let found = read(&entries, now()).unwrap();
        assert_eq!(whats(&found), [(Severity::Warning, what)]);
        works(&found, now());
    }
}

/// What `cacerts` usually holds, and what one of our own members has in `workloads.issuer: istiod`.
#[test]
fn cacerts_with_an_intermediate_that_ends_the_path_is_refused() {
    let (authority, material) = root();
    let child = member(&authority, "child1");
    let entries: Entries = [
        ("ca-cert.pem", child.issued.cert_pem.clone()),
        ("ca-key.pem", child.key.pem().to_string()),
        ("cert-chain.pem", child.issued.chain_pem.clone()),
        ("root-cert.pem", material.cert_pem),
    ]
    .into();
    let found = read(&entries, now()).unwrap();
    let refusal = found.refusal().unwrap();
    assert!(
        refusal.what.contains("ca-cert.pem is an intermediate"),
        "{refusal:?}"
    );
    assert!(refusal.costs.contains("intermediate for each member"));
}

#[test]
fn cacerts_with_an_intermediate_that_may_have_cas_below_is_adopted() {
    let (_, material) = root();
    let folder = Folder::new();
    let (ca, ca_key) = (
        folder.file("ca.pem", &material.cert_pem),
        folder.file("ca.key", &*material.key_pem),
    );
    let (request, key, out) = (
        folder.path("req.pem"),
        folder.path("key.pem"),
        folder.path("out.pem"),
    );
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        &key,
        "-out",
        &request,
        "-subj",
        "/O=Corp/CN=Issuing",
    ])
    .unwrap();
    let extensions = folder.file(
        "ext.cnf",
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n",
    );
    openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-out",
        &out,
        "-days",
        "3000",
        "-extfile",
        &extensions,
        "-set_serial",
        "77",
    ])
    .unwrap();
    let issuing = std::fs::read_to_string(&out).unwrap();
    let at = facts(&issuing).unwrap()[0].not_before + HOUR;
    let mut entries: Entries = [
        ("ca-cert.pem", issuing.clone()),
        ("ca-key.pem", std::fs::read_to_string(&key).unwrap()),
        ("cert-chain.pem", format!("{issuing}{}", material.cert_pem)),
        ("root-cert.pem", material.cert_pem),
    ]
    .into();
    let found = read(&entries, at).unwrap();
    assert_eq!(whats(&found), []);
    assert_eq!(facts(&found.chain_pem).unwrap().len(), 2);
    works(&found, at);
    // Without its issuer it is its own top.
    entries.remove("cert-chain.pem");
    entries.remove("root-cert.pem");
    let found = read(&entries, at).unwrap();
    assert_eq!(
        whats(&found),
        [(
            Severity::Note,
            "it is not self-signed and comes without its issuer"
        )]
    );
    works(&found, at);
}

#[test]
fn a_key_in_a_token_needs_the_certificate_alone() {
    let (_, material) = root();
    let key = PrivateKey::from_pem(&material.key_pem).unwrap();
    let mut entries: Entries = [("tls.crt", material.cert_pem.clone())].into();
    let found = read_root(&view(&entries), Some(key.public()), now()).unwrap();
    assert_eq!(whats(&found), []);
    assert!(found.key_pem.is_none());
    let other = PrivateKey::generate().unwrap();
    let found = read_root(&view(&entries), Some(other.public()), now()).unwrap();
    assert!(found.refusal().unwrap().what.contains("belong together"));
    entries.insert("tls.key", material.key_pem.to_string());
    let found = read_root(&view(&entries), Some(key.public()), now()).unwrap();
    assert!(found.key_pem.is_none());
    assert!(
        whats(&found)[0].1.contains("though a token holds"),
        "{found:?}"
    );
}

#[test]
fn what_is_missing_or_unreadable_is_named() {
    let (_, material) = root();
    let good: Entries = [
        ("tls.crt", material.cert_pem.clone()),
        ("tls.key", material.key_pem.to_string()),
    ]
    .into();
    let with = |name: &'static str, text: &str| {
        let mut entries = good.clone();
        entries.insert(name, text.to_owned());
        read(&entries, now())
    };
    assert!(matches!(
        read(&Entries::new(), now()),
        Err(SourceError::NoLayout)
    ));
    assert!(matches!(
        with("tls.key", ""),
        Err(SourceError::Missing { entry: "tls.key" })
    ));
    assert!(matches!(
        with("tls.crt", ""),
        Err(SourceError::Missing { entry: "tls.crt" })
    ));
    assert!(matches!(
        with("tls.crt", "hello"),
        Err(SourceError::Entry {
            entry: "tls.crt",
            source: Error::NoCertificate
        })
    ));
    let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    assert!(matches!(
        with("ca.crt", broken),
        Err(SourceError::Entry {
            entry: "ca.crt",
            ..
        })
    ));
    let mut bytes = view(&good);
    bytes.insert("tls.key", &[0xff, 0xfe]);
    assert!(matches!(
        read_root(&bytes, None, now()),
        Err(SourceError::NotText { entry: "tls.key" })
    ));
    // A key that is another's, or none, is a finding; its text is repeated nowhere.
    let other = PrivateKey::generate().unwrap();
    let found = with("tls.key", other.pem()).unwrap();
    assert!(found.refusal().unwrap().what.contains("belong together"));
    let secret = other.pem().lines().nth(1).unwrap();
    assert!(!format!("{found:?}").contains(secret));
    let found = with("tls.key", "hello").unwrap();
    assert!(found.refusal().unwrap().what.contains("private key"));
    let entries: Entries = [("ca-cert.pem", material.cert_pem)].into();
    assert!(matches!(
        read(&entries, now()),
        Err(SourceError::Missing {
            entry: "ca-key.pem"
        })
    ));
}
