//! Seeds for fuzzing (`ca/fuzz/seeds`): small, committed, and each still what its name says. `WRITE_SEEDS=1 cargo test -p mesh-ca --test
//! conformance seeds` makes them anew.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use mesh_ca::{Authority, Requested, check_csr, crl_facts, facts};
use mesh_core::names::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
};

use crate::case::{Role, ders};
use crate::raw::{IDENTITY, Plan, SAN, extension, name, tlv, uri};

type Seeds = Vec<(String, Vec<u8>)>;

fn empty() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

/// As Istio's agent asks: an empty `O=`, and one critical name.
fn pilot_agent() -> CertificateParams {
    let mut params = empty();
    params.distinguished_name = name(&[(DnType::OrganizationName, "")]);
    let names = tlv(0x30, &tlv(0x86, IDENTITY.as_bytes()));
    params.custom_extensions = vec![extension(SAN, true, &names)];
    params
}

/// As ztunnel asks: no subject, one name.
fn ztunnel() -> CertificateParams {
    let mut params = empty();
    params.subject_alt_names = vec![uri(IDENTITY)];
    params
}

fn signed(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
    params.serialize_request(key).unwrap().der().to_vec()
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// A request like ztunnel's, changed.
pub fn request_with(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = ztunnel();
    change(&mut params);
    signed(&params, &p256())
}

/// Requests, DER: `ok-` may have the identity asked for, `no-` may have nothing.
pub fn requests() -> Seeds {
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let seeds = [
        ("ok-own-agent", signed(&empty(), &p256())),
        ("ok-pilot-agent-rsa", signed(&pilot_agent(), &rsa)),
        ("ok-pilot-agent-p384", signed(&pilot_agent(), &p384)),
        ("ok-ztunnel", signed(&ztunnel(), &p256())),
        ("no-ed25519", signed(&ztunnel(), &ed)),
        (
            "no-foreign-name",
            request_with(|p| {
                p.subject_alt_names = vec![uri("spiffe://c2.mesh.example/ns/kof/sa/x")];
            }),
        ),
        (
            "no-two-names",
            request_with(|p| p.subject_alt_names = vec![uri(IDENTITY); 2]),
        ),
        (
            "no-subject",
            request_with(|p| p.distinguished_name = name(&[(DnType::CommonName, "me")])),
        ),
        (
            "no-ca",
            request_with(|p| {
                let ca = IsCa::Ca(BasicConstraints::Unconstrained);
                p.is_ca = ca;
            }),
        ),
    ];
    seeds
        .into_iter()
        .map(|(name, der)| (name.to_owned(), der))
        .collect()
}

fn certificates() -> Seeds {
    let case = Plan::sound().case("sound", Role::Leaf);
    let now = Timestamp::now();
    let life = SignedDuration::from_hours(24);
    let (_, root) = Authority::generate_root(&"default".parse().unwrap(), 1, life, now).unwrap();
    let mut plan = Plan::sound();
    plan.leaf.subject_alt_names = (0..9).map(|n| uri(&format!("a:{n}"))).collect();
    let seeds = [
        ("ok-leaf", ders(&case.own).remove(0)),
        ("ok-root", ders(&root.cert_pem).remove(0)),
        (
            "ok-chain.pem",
            format!("{}{}", case.chain, case.anchors).into_bytes(),
        ),
        (
            "ok-many-names",
            ders(&plan.case("", Role::Leaf).own).remove(0),
        ),
        ("no-cut", case.own.as_bytes()[..200].to_vec()),
    ];
    seeds
        .into_iter()
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .collect()
}

fn lists() -> Seeds {
    let list = |change: fn(&mut Plan)| {
        let mut plan = Plan::sound();
        change(&mut plan);
        plan.case("", Role::List)
    };
    let sound = list(|_| {});
    let entries = list(|plan| plan.member_list.revoked = Some(vec![vec![7], vec![0x5a; 16]]));
    let seeds = [
        ("ok-empty", ders(&sound.own).remove(0)),
        ("ok-entries", ders(&entries.own).remove(0)),
        ("ok-text.pem", entries.own.into_bytes()),
        (
            "no-number",
            ders(&list(|plan| plan.member_list.number = None).own).remove(0),
        ),
        (
            "no-end",
            ders(&list(|plan| plan.member_list.next_update = None).own).remove(0),
        ),
        ("no-two.pem", sound.lists.into_bytes()),
    ];
    seeds
        .into_iter()
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .collect()
}

fn names() -> Seeds {
    let texts = [
        ("ok-workload", IDENTITY),
        ("ok-account-with-dots", "spiffe://a.b/ns/x/sa/y.z"),
        ("no-label", "default"),
        ("no-domain", "c1.mesh.example"),
        ("no-path", "spiffe://c1.mesh.example/ns/kof"),
        ("no-dots", "spiffe://c1.mesh.example/ns/../sa/x"),
        ("no-query", "spiffe://c1.mesh.example/ns/kof/sa/x?y"),
    ];
    texts
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
        .collect()
}

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target)
}

/// The seeds of a target as they lie in the repository, made anew when that is wanted.
fn committed(target: &str, made: impl FnOnce() -> Seeds) -> Seeds {
    let folder = folder(target);
    if std::env::var_os("WRITE_SEEDS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in made() {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
    let found: Seeds = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|file| {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            (name, fs::read(file.path()).unwrap())
        })
        .collect();
    assert!(found.len() > 3, "{}: too few seeds", folder.display());
    found
}

fn judge(target: &str, made: impl FnOnce() -> Seeds, accepts: impl Fn(&[u8]) -> bool) {
    for (name, bytes) in committed(target, made) {
        assert_eq!(accepts(&bytes), name.starts_with("ok-"), "{target}/{name}");
    }
}

#[test]
fn the_seeds_are_what_their_names_say() {
    let identity: SpiffeId = IDENTITY.parse().unwrap();
    judge("csr", requests, |der| {
        check_csr(der, Requested::Identity(&identity)).is_ok()
    });
    judge("certificate", certificates, |bytes| {
        let text = str::from_utf8(bytes).map(str::to_owned);
        facts(&text.unwrap_or_else(|_| crate::raw::pem("CERTIFICATE", bytes))).is_ok()
    });
    judge("crl", lists, |bytes| crl_facts(bytes).is_ok());
    judge("names", names, |bytes| {
        str::from_utf8(bytes).unwrap().parse::<SpiffeId>().is_ok()
    });
    "c1.mesh.example".parse::<TrustDomain>().unwrap();
}
