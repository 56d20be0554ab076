//! The rules every certificate keeps, walked one by one over all kinds that are made, read with x509-parser from the very bytes.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use mesh_core::text::hex;
use rustls_pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384},
    x509::X509Version,
};

use super::{CA_BACKDATE, LEAF_BACKDATE, Life, root as root_params};
use crate::{
    Authority, IntermediateSubject, KeyAlgorithm, PrivateKey, facts,
    facts::parse,
    pem,
    testing::{
        Folder, HOUR, MONTH, YEAR, identity, member, mesh, now, openssl, openssl_verify, request,
        root, subject,
    },
};

const SKI: &str = "2.5.29.14";
const KEY_USAGE: &str = "2.5.29.15";
const NAMES: &str = "2.5.29.17";
const BASIC: &str = "2.5.29.19";
const AKI: &str = "2.5.29.35";
const EXTENDED: &str = "2.5.29.37";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Root,
    Intermediate,
    Leaf,
    RsaLeaf,
    Server,
}

impl Kind {
    fn is_ca(self) -> bool {
        matches!(self, Self::Root | Self::Intermediate)
    }
}

/// A certificate, its issuer, and what kind it should be.
struct Exhibit {
    kind: Kind,
    der: CertificateDer<'static>,
    issuer: CertificateDer<'static>,
}

fn first(text: &str) -> CertificateDer<'static> {
    pem::certificates(text).unwrap().remove(0)
}

fn rsa_key() -> PrivateKey {
    PrivateKey::from_pem(
        &openssl(&[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
        ])
        .unwrap(),
    )
    .unwrap()
}

/// The names a server is called by.
const SERVER: &[&str] = &["mesh-ca.istio-system.svc", "istiod.istio-system.svc"];

fn exhibits() -> Vec<Exhibit> {
    let (authority, material) = root();
    let child = member(&authority, "child1");
    let sign = |key: &PrivateKey| {
        child
            .authority
            .sign_leaf(&identity("child1"), key.public(), HOUR, now())
            .unwrap()
    };
    let leaf = sign(&PrivateKey::generate().unwrap());
    let rsa = sign(&rsa_key());
    let key = PrivateKey::generate().unwrap();
    let server = child
        .authority
        .sign_server(SERVER, &identity("child1"), key.public(), HOUR, now())
        .unwrap();
    let (root, intermediate) = (first(&material.cert_pem), first(&child.issued.cert_pem));
    vec![
        Exhibit {
            kind: Kind::Root,
            der: root.clone(),
            issuer: root.clone(),
        },
        Exhibit {
            kind: Kind::Intermediate,
            der: intermediate.clone(),
            issuer: root,
        },
        Exhibit {
            kind: Kind::Leaf,
            der: first(&leaf.cert_pem),
            issuer: intermediate.clone(),
        },
        Exhibit {
            kind: Kind::RsaLeaf,
            der: first(&rsa.cert_pem),
            issuer: intermediate.clone(),
        },
        Exhibit {
            kind: Kind::Server,
            der: first(&server.cert_pem),
            issuer: intermediate,
        },
    ]
}

/// Criticality and content of an extension.
fn extension<'a>(certificate: &'a X509Certificate<'_>, oid: &str) -> Option<(bool, &'a [u8])> {
    let found = certificate
        .extensions()
        .iter()
        .find(|extension| extension.oid.to_id_string() == oid);
    found.map(|extension| (extension.critical, extension.value))
}

/// SHA-256 of the public key.
fn digest(certificate: &X509Certificate<'_>) -> Vec<u8> {
    let key = certificate.public_key().raw;
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key)
        .as_ref()
        .to_vec()
}

type Rule = (
    &'static str,
    fn(Kind, &X509Certificate<'_>, &X509Certificate<'_>) -> bool,
);

/// The rules that need no more than a certificate and its issuer, in the order of the checklist.
const RULES: &[Rule] = &[
    ("version 3", |_, own, _| own.version() == X509Version::V3),
    (
        "one signature algorithm, inside and outside",
        |_, own, _| own.signature_algorithm == own.tbs_certificate.signature,
    ),
    ("signed with P-256 or P-384", |_, own, _| {
        [OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384]
            .contains(&own.signature_algorithm.algorithm)
    }),
    ("no extension twice", |_, own, _| {
        own.extensions_map().is_ok()
    }),
    ("only the extensions of its kind", |kind, own, _| {
        let found: BTreeSet<String> = own
            .extensions()
            .iter()
            .map(|extension| extension.oid.to_id_string())
            .collect();
        let expected: &[&str] = match kind {
            Kind::Root => &[SKI, KEY_USAGE, BASIC],
            Kind::Intermediate => &[SKI, KEY_USAGE, BASIC, AKI],
            Kind::Leaf | Kind::RsaLeaf | Kind::Server => {
                &[SKI, KEY_USAGE, BASIC, AKI, NAMES, EXTENDED]
            }
        };
        found == expected.iter().map(|oid| (*oid).to_owned()).collect()
    }),
    (
        "serial positive, 16 octets, 126 random bits",
        |_, own, _| own.raw_serial().len() == 16 && own.raw_serial()[0] & 0xc0 == 0x40,
    ),
    (
        "issuer not empty and byte by byte the issuer's subject",
        |_, own, issuer| {
            own.issuer().iter().count() > 0 && own.issuer().as_raw() == issuer.subject().as_raw()
        },
    ),
    ("UTCTime before 2050, as is everything here", |_, own, _| {
        own.validity().not_before.is_utctime() && own.validity().not_after.is_utctime()
    }),
    (
        "begins before now, by as much as its kind says",
        |kind, own, _| {
            let backdate = if kind.is_ca() {
                CA_BACKDATE
            } else {
                LEAF_BACKDATE
            };
            backdate >= SignedDuration::from_mins(2)
                && own.validity().not_before.timestamp() == (now() - backdate).as_second()
        },
    ),
    ("inside its issuer's life", |_, own, issuer| {
        let (own, issuer) = (own.validity(), issuer.validity());
        own.not_before >= issuer.not_before && own.not_after <= issuer.not_after
    }),
    (
        "points at its issuer's key by its identifier alone, not critical; a root at nothing",
        |kind, own, issuer| {
            let (Some((_, ski)), pointer) = (extension(issuer, SKI), extension(own, AKI)) else {
                return false;
            };
            // SEQUENCE { [0] identifier }, the identifier being an OCTET STRING of 20 bytes.
            let expected = [&[0x30, 22, 0x80, 20], &ski[2..]].concat();
            if kind == Kind::Root {
                pointer.is_none()
            } else {
                pointer == Some((false, &expected))
            }
        },
    ),
    (
        "a CA has a subject of its own, with generation and key in it; a workload has none",
        |kind, own, _| {
            let name = own.subject().to_string();
            let key = hex(&digest(own)[..4]);
            match kind {
                Kind::Root => name == format!("O=default, CN=root g1 {key}"),
                Kind::Intermediate => {
                    name == format!("O=default, OU=child1, CN=intermediate g1 {key}")
                }
                Kind::Leaf | Kind::RsaLeaf | Kind::Server => own.subject().iter().count() == 0,
            }
        },
    ),
    (
        "basic constraints critical: root without and intermediate with path length 0; in a leaf present and empty",
        |kind, own, _| {
            let expected: &[u8] = match kind {
                Kind::Root => &[0x30, 3, 1, 1, 0xff],
                Kind::Intermediate => &[0x30, 6, 1, 1, 0xff, 2, 1, 0],
                Kind::Leaf | Kind::RsaLeaf | Kind::Server => &[0x30, 0],
            };
            extension(own, BASIC) == Some((true, expected))
        },
    ),
    ("key usage critical and exact", |kind, own, _| {
        let expected: &[u8] = match kind {
            Kind::Root | Kind::Intermediate => &[3, 2, 1, 0b0000_0110],
            Kind::Leaf | Kind::Server => &[3, 2, 7, 0b1000_0000],
            Kind::RsaLeaf => &[3, 2, 5, 0b1010_0000],
        };
        extension(own, KEY_USAGE) == Some((true, expected))
    }),
    (
        "key identifier not critical, made from the key alone",
        |_, own, _| matches!(extension(own, SKI), Some((false, ski)) if ski[2..] == digest(own)[..20]),
    ),
    (
        "extended key usage: none in a CA; server and client in a leaf, not critical",
        |kind, own, _| match extension(own, EXTENDED) {
            None => kind.is_ca(),
            Some((critical, _)) => {
                let usage = own.extended_key_usage().unwrap().unwrap().value;
                !kind.is_ca()
                    && !critical
                    && usage.server_auth
                    && usage.client_auth
                    && !usage.any
                    && usage.other.is_empty()
            }
        },
    ),
    (
        "exactly one name in a leaf, a SPIFFE ID with a path, and in a server's its DNS names before it; critical since the subject is empty",
        |kind, own, _| {
            if kind.is_ca() {
                return extension(own, NAMES).is_none();
            }
            let names = own.subject_alternative_name().unwrap().unwrap();
            let expected = identity("child1");
            let mut wanted = vec![GeneralName::URI(expected.as_str())];
            if kind == Kind::Server {
                wanted.splice(..0, SERVER.iter().map(|name| GeneralName::DNSName(name)));
            }
            names.critical && names.value.general_names == wanted
        },
    ),
    (
        "no name constraints and nothing critical that is unknown",
        |_, own, _| {
            own.extensions().iter().all(|extension| {
                let parsed = extension.parsed_extension();
                !parsed.unsupported()
                    && parsed.error().is_none()
                    && !matches!(parsed, ParsedExtension::NameConstraints(_))
            })
        },
    ),
];

#[test]
fn every_kind_keeps_every_rule() {
    for exhibit in exhibits() {
        let (own, issuer) = (
            parse(&exhibit.der, 0).unwrap(),
            parse(&exhibit.issuer, 0).unwrap(),
        );
        for (rule, kept) in RULES {
            assert!(
                kept(exhibit.kind, &own, &issuer),
                "{:?} breaks: {rule}",
                exhibit.kind
            );
        }
        own.verify_signature(Some(issuer.public_key())).unwrap();
    }
}

#[test]
fn openssl_reads_the_same_bytes_back() {
    // DER has one encoding; OpenSSL writing what it read shows that ours is it.
    let folder = Folder::new();
    for exhibit in exhibits() {
        let (from, to) = (folder.file("in.der", &exhibit.der), folder.path("out.der"));
        openssl(&[
            "x509", "-inform", "DER", "-in", &from, "-outform", "DER", "-out", &to,
        ])
        .unwrap();
        assert_eq!(std::fs::read(to).unwrap(), exhibit.der.as_ref());
        let shown = openssl(&["asn1parse", "-inform", "DER", "-in", &from]);
        shown.unwrap();
    }
}

#[test]
fn serial_numbers_do_not_repeat_for_one_key() {
    let (authority, _) = root();
    let child = member(&authority, "child1");
    let key = PrivateKey::generate().unwrap();
    let serial = || {
        child
            .authority
            .sign_leaf(&identity("child1"), key.public(), HOUR, now())
            .unwrap()
            .facts
            .serial
    };
    let serials: BTreeSet<String> = std::iter::repeat_with(serial).take(200).collect();
    assert_eq!(serials.len(), 200);
}

#[test]
fn years_from_2050_on_are_written_with_four_digits() {
    let (_, material) = Authority::generate_root(&mesh(), 1, YEAR * 40, now()).unwrap();
    let der = first(&material.cert_pem);
    let own = parse(&der, 0).unwrap();
    assert!(
        own.validity().not_before.is_utctime() && own.validity().not_after.is_generalizedtime()
    );
    let folder = Folder::new();
    let file = folder.file("root.pem", &material.cert_pem);
    assert!(
        openssl(&["x509", "-in", &file, "-noout", "-enddate"])
            .unwrap()
            .contains("2066")
    );
}

#[test]
fn subjects_are_unique_for_each_key_and_each_generation() {
    let (authority, _) = root();
    let (one, two) = (
        PrivateKey::generate().unwrap(),
        PrivateKey::generate().unwrap(),
    );
    let sign = |key: &PrivateKey, generation| {
        authority
            .sign_intermediate(&request(key), &subject("child1", generation), MONTH, now())
            .unwrap()
            .facts
            .subject
    };
    let subjects: BTreeSet<String> = [sign(&one, 1), sign(&two, 1), sign(&one, 2)].into();
    assert_eq!(subjects.len(), 3);
    let roots: BTreeSet<String> = std::iter::repeat_with(|| root().0.certificate().subject.clone())
        .take(2)
        .collect();
    assert_eq!(roots.len(), 2);
}

#[test]
fn the_longest_names_still_make_certificates_that_openssl_takes() {
    let long = "a".repeat(63);
    let (authority, material) =
        Authority::generate_root(&long.parse().unwrap(), u32::MAX, YEAR, now()).unwrap();
    let key = PrivateKey::generate().unwrap();
    let name = IntermediateSubject {
        mesh: long.parse().unwrap(),
        cluster: long.parse().unwrap(),
        generation: u32::MAX,
    };
    let issued = authority
        .sign_intermediate(&request(&key), &name, MONTH, now())
        .unwrap();
    assert!(issued.facts.common_name.as_deref().unwrap().len() <= 64);
    let member = Authority::of(&issued.chain_pem, &key).unwrap();
    let workload = PrivateKey::generate().unwrap();
    let leaf = member
        .sign_leaf(&identity("child1"), workload.public(), HOUR, now())
        .unwrap();
    openssl_verify(&leaf.chain_pem, &material.cert_pem, false, now()).unwrap();
}

#[test]
fn a_root_of_another_algorithm_signs_with_its_own_strength() {
    let p384 = openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-384",
    ])
    .unwrap();
    let key = PrivateKey::from_pem(&p384).unwrap();
    assert_eq!(key.public().algorithm(), &KeyAlgorithm::P384);
    let life = Life::new(now(), YEAR, CA_BACKDATE, Life::ALWAYS).unwrap();
    let certificate = root_params(&mesh(), 1, key.public(), life)
        .unwrap()
        .self_signed(key.signer())
        .unwrap();
    let text = pem::write("CERTIFICATE", certificate.der().to_vec());
    let authority = Authority::of(&text, &key).unwrap();
    let child = member(&authority, "child1");
    let der = first(&child.issued.cert_pem);
    assert_eq!(
        parse(&der, 0).unwrap().signature_algorithm.algorithm,
        OID_SIG_ECDSA_WITH_SHA384
    );
    assert_eq!(facts(&text).unwrap()[0].key, KeyAlgorithm::P384);
}

/// rcgen may learn new fields with defaults of its own; each must be set in `common` or in the profiles.
#[test]
fn rcgen_has_no_field_that_is_not_set_here() {
    let life = Life::new(now(), YEAR, CA_BACKDATE, Life::ALWAYS).unwrap();
    let key = PrivateKey::generate().unwrap();
    let shown = format!(
        "{:#?}",
        root_params(&mesh(), 1, key.public(), life).unwrap()
    );
    let top = shown
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| !line.starts_with([' ', '}', ']', ')']));
    let fields: Vec<&str> = top
        .filter_map(|line| line.split_once(':').map(|(name, _)| name))
        .collect();
    let known = [
        "not_before",
        "not_after",
        "serial_number",
        "subject_alt_names",
        "distinguished_name",
        "is_ca",
        "key_usages",
        "extended_key_usages",
        "name_constraints",
        "crl_distribution_points",
        "custom_extensions",
        "use_authority_key_identifier_extension",
        "key_identifier_method",
    ];
    assert_eq!(fields, known);
}
