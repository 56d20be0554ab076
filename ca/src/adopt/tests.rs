//! Tests of adopting roots, made by OpenSSL the ways people make them.

use jiff::{SignedDuration, Timestamp};

use super::{Severity, adopt_check, adopt_check_public};
use crate::{
    Authority, PrivateKey, facts,
    testing::{Folder, HOUR, YEAR, identity, member, openssl, openssl_verify, root},
    verify_leaf,
};

/// OpenSSL 3.0 dates what it makes with the machine's clock; the tests take "now" from its certificate.
struct Foreign {
    cert: String,
    key: String,
    now: Timestamp,
}

const EC: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const GOOD: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";

fn foreign(key: &[&str], subject: &str, extensions: &str) -> Foreign {
    foreign_with(key, subject, extensions, &[])
}

fn foreign_with(key: &[&str], subject: &str, extensions: &str, more: &[&str]) -> Foreign {
    let folder = Folder::new();
    let (key_file, cert_file) = (folder.path("key.pem"), folder.path("cert.pem"));
    openssl(&[&["genpkey", "-out", &key_file], key].concat()).unwrap();
    let config = folder.file(
        "root.cnf",
        format!("[req]\ndistinguished_name=dn\n[dn]\n[ext]\n{extensions}"),
    );
    let args = [
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
    ];
    let named = ["-utf8", "-multivalue-rdn", "-subj", subject];
    openssl(&[&args, &named[..], more].concat()).unwrap();
    let cert = std::fs::read_to_string(cert_file).unwrap();
    let now = facts(&cert).unwrap()[0].not_before + HOUR;
    Foreign {
        cert,
        key: std::fs::read_to_string(key_file).unwrap(),
        now,
    }
}

impl Foreign {
    fn findings(&self) -> Vec<(Severity, String)> {
        adopt_check(&self.cert, &self.key, self.now)
            .into_iter()
            .map(|finding| (finding.severity, finding.what))
            .collect()
    }

    /// Adopts it, enrols a member and signs a workload; webpki and OpenSSL judge.
    fn works(&self) {
        let authority = Authority::load(&self.cert, &self.key).unwrap();
        let key = PrivateKey::generate().unwrap();
        let request = crate::testing::request(&key);
        let subject = crate::testing::subject("child1", 1);
        let issued = authority
            .sign_intermediate(&request, &subject, HOUR * 24, self.now)
            .unwrap();
        assert_eq!(issued.facts.aki, facts(&self.cert).unwrap()[0].ski);
        crate::verify_intermediate(&issued.chain_pem, &self.cert, &subject, &key, self.now)
            .unwrap();
        let member = Authority::of(&issued.chain_pem, &key).unwrap();
        let workload = PrivateKey::generate().unwrap();
        let leaf = member
            .sign_leaf(&identity("child1"), workload.public(), HOUR, self.now)
            .unwrap();
        verify_leaf(&leaf.chain_pem, &self.cert, &identity("child1"), self.now).unwrap();
        openssl_verify(&leaf.chain_pem, &self.cert, false, self.now).unwrap();
    }
}

#[test]
fn our_own_root_and_a_good_one_by_openssl_have_no_findings() {
    let (_, material) = root();
    assert_eq!(
        adopt_check(&material.cert_pem, &material.key_pem, crate::testing::now()),
        []
    );
    let good = foreign(EC, "/CN=Root CA", GOOD);
    assert_eq!(good.findings(), []);
    good.works();
}

/// cert-manager's roots, as k0rdent/istio makes them: more key usages than needed, no revocation lists.
#[test]
fn a_root_by_cert_manager_is_adopted_with_a_warning() {
    let extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature,keyEncipherment,keyCertSign\nsubjectKeyIdentifier=hash\n";
    let root = foreign(EC, "/O=Istio/CN=Root CA", extensions);
    let findings = root.findings();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].0 == Severity::Warning && findings[0].1.contains("revocation"));
    root.works();
}

#[test]
fn roots_of_other_keys_are_adopted() {
    let p384 = foreign(
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        "/CN=r",
        GOOD,
    );
    assert_eq!(p384.findings(), []);
    p384.works();
    let rsa = foreign(
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        "/CN=r",
        GOOD,
    );
    assert_eq!(
        rsa.findings(),
        [(Severity::Note, "its key is RSA-2048".to_owned())]
    );
    rsa.works();
    let p521 = foreign(
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
        "/CN=r",
        GOOD,
    );
    let refused = |root: &Foreign, key: &str, costs: &str| {
        let findings = adopt_check(&root.cert, &root.key, root.now);
        assert!(
            findings[0].severity == Severity::Refused
                && findings[0].what.contains(key)
                && findings[0].costs.contains(costs),
            "{findings:?}"
        );
        assert!(Authority::load(&root.cert, &root.key).is_err());
    };
    refused(&p521, "P-521", "ring");
    let ed = foreign(&["-algorithm", "ED25519"], "/CN=r", GOOD);
    refused(&ed, "Ed25519", "not every");
    let short = foreign(
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"],
        "/CN=r",
        GOOD,
    );
    refused(&short, "RSA-1024", "broken");
}

#[test]
fn signatures_over_broken_hashes_are_refused() {
    for key in [
        EC,
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    ] {
        for (hash, refused) in [("-sha1", true), ("-md5", true), ("-sha256", false)] {
            if hash == "-md5" && key == EC {
                continue;
            }
            let root = foreign_with(key, "/CN=r", GOOD, &[hash]);
            let findings = root.findings();
            let found = findings.iter().any(|(severity, what)| {
                *severity == Severity::Refused && what.contains("over SHA-1 or MD5")
            });
            assert_eq!(found, refused, "{hash}: {findings:?}");
        }
    }
}

#[test]
fn a_negative_serial_number_is_told() {
    let root = foreign_with(EC, "/CN=r", GOOD, &["-set_serial", "-5"]);
    let findings = root.findings();
    assert!(
        findings[0].0 == Severity::Warning && findings[0].1.contains("negative"),
        "{findings:?}"
    );
}

#[test]
fn without_a_key_text_the_same_is_found() {
    let extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";
    for (subject, extensions) in [
        ("/CN=r", GOOD),
        ("/CN=r", extensions),
        ("/OU=one/OU=two/CN=r", GOOD),
        ("/CN=r", "basicConstraints=critical,CA:FALSE\n"),
    ] {
        let root = foreign(EC, subject, extensions);
        let key = PrivateKey::from_pem(&root.key).unwrap();
        assert_eq!(
            adopt_check_public(&root.cert, key.public(), root.now),
            adopt_check(&root.cert, &root.key, root.now)
        );
    }
    let root = foreign(EC, "/CN=r", GOOD);
    let other = PrivateKey::generate().unwrap();
    let findings = adopt_check_public(&root.cert, other.public(), root.now);
    assert!(findings[0].what.contains("belong together"), "{findings:?}");
}

#[test]
fn names_of_many_kinds_survive_or_are_refused() {
    for subject in [
        "/C=AT/ST=Wien/L=Wien/O=Müller & Söhne/OU=Netz/CN=Würzel",
        "/DC=example/DC2=x/CN=r",
        "/CN=日本",
    ] {
        let subject = subject.replace("/DC2=x", "");
        let root = foreign(EC, &subject, GOOD);
        assert_eq!(root.findings(), [], "{subject}");
        root.works();
    }
    // Names that would come out changed: two attributes of one kind, and two in one relative name.
    for subject in [
        "/OU=one/OU=two/CN=r",
        "/DC=com/DC=example/CN=r",
        "/CN=r+OU=x",
    ] {
        let root = foreign(EC, subject, GOOD);
        let findings = root.findings();
        assert!(
            findings[0].0 == Severity::Refused && findings[0].1.contains("again"),
            "{subject}: {findings:?}"
        );
        assert!(Authority::load(&root.cert, &root.key).is_err());
    }
}

#[test]
fn each_weakness_is_told() {
    let ca = "basicConstraints=critical,CA:TRUE\n";
    let usage = "keyUsage=critical,keyCertSign,cRLSign\n";
    let ski = "subjectKeyIdentifier=hash\n";
    let cases = [
        (
            format!("basicConstraints=critical,CA:TRUE,pathlen:0\n{usage}{ski}"),
            Severity::Refused,
            "path length is 0",
        ),
        (
            format!("basicConstraints=critical,CA:TRUE,pathlen:1\n{usage}{ski}"),
            Severity::Warning,
            "path length is 1",
        ),
        (
            format!("basicConstraints=critical,CA:FALSE\n{usage}{ski}"),
            Severity::Refused,
            "CA:TRUE",
        ),
        (
            format!("{ca}keyUsage=critical,cRLSign\n{ski}"),
            Severity::Refused,
            "leaves out certificate signing",
        ),
        (format!("{ca}{ski}"), Severity::Warning, "no key usage"),
        (
            format!("{ca}{usage}subjectKeyIdentifier=none\n"),
            Severity::Warning,
            "no subject key identifier",
        ),
        (
            format!("{GOOD}extendedKeyUsage=serverAuth\n"),
            Severity::Warning,
            "leaves out TLS",
        ),
        (
            format!("{GOOD}extendedKeyUsage=serverAuth,clientAuth\n"),
            Severity::Note,
            "has an extended key usage",
        ),
        (
            format!("{GOOD}nameConstraints=critical,permitted;URI:example.org\n"),
            Severity::Refused,
            "name constraints",
        ),
    ];
    for (extensions, severity, what) in cases {
        let findings = foreign(EC, "/CN=r", &extensions).findings();
        assert_eq!(findings.len(), 1, "{what}: {findings:?}");
        assert!(
            findings[0].0 == severity && findings[0].1.contains(what),
            "{what}: {findings:?}"
        );
    }
}

#[test]
fn time_is_looked_at() {
    let root = foreign(EC, "/CN=r", GOOD);
    let at = |now| adopt_check(&root.cert, &root.key, now);
    let found = |now: Timestamp, severity, what: &str| {
        let findings = at(now);
        assert!(
            findings.len() == 1
                && findings[0].severity == severity
                && findings[0].what.contains(what),
            "{findings:?}"
        );
    };
    found(root.now - HOUR * 2, Severity::Refused, "begins at");
    found(
        root.now + YEAR * 10 - SignedDuration::from_hours(24 * 30),
        Severity::Warning,
        "expires at",
    );
    found(root.now + YEAR * 11, Severity::Refused, "expired at");
}

#[test]
fn a_foreign_key_and_garbage_are_refused() {
    let (one, two) = (foreign(EC, "/CN=one", GOOD), foreign(EC, "/CN=two", GOOD));
    let findings = adopt_check(&one.cert, &two.key, one.now);
    assert!(
        findings[0].severity == Severity::Refused && findings[0].what.contains("belong together")
    );
    assert_eq!(
        adopt_check("hello", &one.key, one.now)[0].severity,
        Severity::Refused
    );
    assert_eq!(
        adopt_check(&one.cert, "hello", one.now)[0].severity,
        Severity::Refused
    );
}

#[test]
fn an_intermediate_alone_is_noted_and_cannot_enrol() {
    let (authority, material) = root();
    let child = member(&authority, "child1");
    let findings = adopt_check(
        &child.issued.cert_pem,
        child.key.pem(),
        crate::testing::now(),
    );
    let severities: Vec<_> = findings.iter().map(|finding| finding.severity).collect();
    assert_eq!(
        severities,
        [Severity::Refused, Severity::Warning, Severity::Note],
        "{findings:?}"
    );
    let with_root = format!("{}{}", child.issued.cert_pem, material.cert_pem);
    let findings = adopt_check(&with_root, child.key.pem(), crate::testing::now());
    assert!(
        findings
            .iter()
            .all(|finding| finding.severity != Severity::Note)
    );
}
