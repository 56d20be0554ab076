//! A request per refusal, made by rcgen or OpenSSL, and the ones that must pass.

use proptest::prelude::*;
use rcgen::{
    Attribute, BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    DnValue, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, PKCS_RSA_SHA256, SanType,
};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::{CSR_MAX, CsrRefusal, Requested, check_csr};
use crate::{
    ExtendedUsage, KeyAlgorithm, PrivateKey, Usage, pem,
    testing::{Folder, identity, openssl},
};

const EXTENSION_REQUEST: &[u64] = &[1, 2, 840, 113_549, 1, 9, 14];

fn blank() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

fn der_of(params: &CertificateParams) -> Vec<u8> {
    params
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec()
}

/// What is said of a request with these parameters whose sender is `child1`'s gateway.
fn judged(change: impl FnOnce(&mut CertificateParams)) -> Result<(), CsrRefusal> {
    let mut params = blank();
    change(&mut params);
    check_csr(&der_of(&params), Requested::Identity(&identity("child1"))).map(drop)
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn own_uri() -> SanType {
    uri(identity("child1").as_str())
}

fn plain() -> Vec<u8> {
    der_of(&blank())
}

/// A request by OpenSSL: key options, then request options.
fn by_openssl(key: &[&str], req: &[&str]) -> Vec<u8> {
    let folder = Folder::new();
    let (key_file, csr_file) = (folder.path("key.pem"), folder.path("csr.pem"));
    openssl(&[&["genpkey", "-out", &key_file], key].concat()).unwrap();
    let config = folder.file(
        "req.cnf",
        "[req]\ndistinguished_name=dn\nattributes=at\nprompt=no\n[dn]\n[at]\n",
    );
    let mut args = vec!["req", "-new", "-key", &key_file, "-out", &csr_file];
    args.extend(["-config", &config, "-subj", "/"]);
    args.extend(req);
    openssl(&args).unwrap();
    std::fs::read(&csr_file).unwrap()
}

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

#[test]
fn our_own_requests_pass_and_openssl_believes_them() {
    let key = PrivateKey::generate().unwrap();
    let text = key.csr_pem().unwrap();
    let checked = check_csr(text.as_bytes(), Requested::Nothing).unwrap();
    assert_eq!(checked.key(), key.public());
    assert_eq!(checked.key().algorithm(), &KeyAlgorithm::P256);
    let folder = Folder::new();
    let file = folder.file("csr.pem", &text);
    openssl(&["req", "-in", &file, "-verify", "-noout"]).unwrap();
}

#[test]
fn what_istio_agents_send_passes() {
    let own = identity("child1");
    // pilot-agent: RSA-2048, one empty organization, a URI name.
    let mut params = blank();
    params
        .distinguished_name
        .push(DnType::OrganizationName, DnValue::Utf8String(String::new()));
    params.subject_alt_names = vec![own_uri()];
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let request = params.serialize_request(&rsa).unwrap();
    let checked = check_csr(request.der(), Requested::Identity(&own)).unwrap();
    assert_eq!(checked.key().algorithm(), &KeyAlgorithm::Rsa(2048));
    // ztunnel: P-256, no subject, a URI name; some builds add usages.
    judged(|params| {
        params.subject_alt_names = vec![own_uri()];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
    })
    .unwrap();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let request = blank().serialize_request(&p384).unwrap();
    let checked = check_csr(request.der(), Requested::Nothing).unwrap();
    assert_eq!(checked.key().algorithm(), &KeyAlgorithm::P384);
    // P-384 with SHA-256, which a reader that takes the key's kind from the signature's would get wrong.
    let mixed = by_openssl(
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        &["-sha256"],
    );
    assert_eq!(
        check_csr(&mixed, Requested::Nothing)
            .unwrap()
            .key()
            .algorithm(),
        &KeyAlgorithm::P384
    );
}

#[test]
fn what_is_no_request_is_refused() {
    let check = |bytes: &[u8]| check_csr(bytes, Requested::Nothing).unwrap_err();
    assert_eq!(
        check(&vec![0x30; CSR_MAX + 1]),
        CsrRefusal::TooLarge { size: CSR_MAX + 1 }
    );
    for text in ["", "hello", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA"] {
        assert_eq!(check(text.as_bytes()), CsrRefusal::NotPem, "{text}");
    }
    let text = pem::write("CERTIFICATE REQUEST", plain());
    assert_eq!(
        check(format!("{text}{text}").as_bytes()),
        CsrRefusal::SeveralBlocks
    );
    assert!(matches!(check(&[0x30, 0]), CsrRefusal::Malformed { .. }));
    let longer = [plain(), vec![0]].concat();
    assert_eq!(check(&longer), CsrRefusal::TrailingBytes { size: 1 });
    let mut version = plain();
    let at = version
        .windows(3)
        .position(|bytes| bytes == [2, 1, 0])
        .unwrap();
    version[at + 2] = 1;
    assert_eq!(check(&version), CsrRefusal::Version { version: 1 });
}

#[test]
fn keys_of_other_kinds_are_refused() {
    let check = |bytes: &[u8]| check_csr(bytes, Requested::Nothing).unwrap_err();
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let request = blank().serialize_request(&ed25519).unwrap();
    assert_eq!(
        check(request.der()),
        CsrRefusal::KeyAlgorithm {
            algorithm: "Ed25519".to_owned()
        }
    );
    for (curve, name) in [("P-521", "P-521"), ("secp256k1", "1.3.132.0.10")] {
        let curve = format!("ec_paramgen_curve:{curve}");
        let request = by_openssl(&["-algorithm", "EC", "-pkeyopt", &curve], &[]);
        assert_eq!(
            check(&request),
            CsrRefusal::KeyAlgorithm {
                algorithm: name.to_owned()
            }
        );
    }
    let weak = by_openssl(
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"],
        &[],
    );
    assert_eq!(check(&weak), CsrRefusal::RsaSize { bits: 1024 });
    let cube = by_openssl(
        &[
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-pkeyopt",
            "rsa_keygen_pubexp:3",
        ],
        &[],
    );
    assert_eq!(check(&cube), CsrRefusal::RsaExponent);
    let folder = Folder::new();
    let (long, short) = (folder.path("long.pem"), folder.path("short.pem"));
    openssl(&[&["genpkey", "-out", &long], P256].concat()).unwrap();
    openssl(&[
        "ec",
        "-in",
        &long,
        "-conv_form",
        "compressed",
        "-out",
        &short,
    ])
    .unwrap();
    let compressed = openssl(&["req", "-new", "-key", &short, "-subj", "/"])
        .unwrap()
        .into_bytes();
    assert_eq!(check(&compressed), CsrRefusal::KeyEncoding);
}

#[test]
fn signatures_that_prove_nothing_are_refused() {
    let check = |bytes: &[u8]| check_csr(bytes, Requested::Nothing).unwrap_err();
    let sha1 = by_openssl(P256, &["-sha1"]);
    assert_eq!(
        check(&sha1),
        CsrRefusal::SignatureAlgorithm {
            oid: "1.2.840.10045.4.1".to_owned()
        }
    );
    let sha1 = by_openssl(
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        &["-sha1"],
    );
    assert_eq!(
        check(&sha1),
        CsrRefusal::SignatureAlgorithm {
            oid: "1.2.840.113549.1.1.5".to_owned()
        }
    );
    let mut broken = plain();
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(check(&broken), CsrRefusal::ProofOfPossession);
    // Somebody else's key under one's own signature.
    let (one, two) = (plain(), plain());
    let key = |der: &[u8]| {
        der.windows(4)
            .position(|bytes| bytes == [3, 0x42, 0, 4])
            .unwrap()
    };
    let mut stolen = one.clone();
    stolen[key(&one)..key(&one) + 68].copy_from_slice(&two[key(&two)..key(&two) + 68]);
    assert_eq!(check(&stolen), CsrRefusal::ProofOfPossession);
}

#[test]
fn names_that_were_not_proven_are_refused() {
    let subject = judged(|params| params.distinguished_name.push(DnType::CommonName, "admin"));
    assert_eq!(
        subject,
        Err(CsrRefusal::Subject {
            subject: "CN=admin".to_owned()
        })
    );
    let other = identity("child2");
    let foreign = [
        uri(other.as_str()),
        SanType::DnsName("istiod.istio-system.svc".try_into().unwrap()),
        SanType::IpAddress("10.0.0.1".parse().unwrap()),
        SanType::Rfc822Name("a@b.example".try_into().unwrap()),
    ];
    for name in foreign {
        // Alone, and hidden behind the proven one.
        for names in [vec![name.clone()], vec![own_uri(), name.clone()]] {
            let refusal = judged(|params| params.subject_alt_names = names);
            assert!(
                matches!(refusal, Err(CsrRefusal::ForeignName { .. })),
                "{name:?}: {refusal:?}"
            );
        }
    }
    let twice = judged(|params| params.subject_alt_names = vec![own_uri(), own_uri()]);
    assert_eq!(twice, Err(CsrRefusal::SeveralNames { count: 2 }));
    // For an intermediate not even a proven one.
    let mut params = blank();
    params.subject_alt_names = vec![own_uri()];
    let refusal = check_csr(&der_of(&params), Requested::Nothing).unwrap_err();
    assert!(matches!(refusal, CsrRefusal::ForeignName { .. }));
}

#[test]
fn a_long_foreign_name_is_cut() {
    let long = format!("spiffe://{}/ns/a/sa/b", "a".repeat(1000));
    let Err(CsrRefusal::ForeignName { name }) =
        judged(|params| params.subject_alt_names = vec![uri(&long)])
    else {
        panic!("not refused");
    };
    assert_eq!(name.chars().count(), 121);
}

#[test]
fn nobody_asks_to_be_a_ca() {
    for constraints in [
        BasicConstraints::Unconstrained,
        BasicConstraints::Constrained(0),
    ] {
        assert_eq!(
            judged(|params| params.is_ca = IsCa::Ca(constraints)),
            Err(CsrRefusal::AsksToBeCa)
        );
    }
    // A path length without CA:TRUE.
    let odd = custom(&[2, 5, 29, 19], vec![0x30, 3, 2, 1, 0]);
    assert_eq!(
        judged(|params| params.custom_extensions = vec![odd]),
        Err(CsrRefusal::AsksToBeCa)
    );
    let signs = judged(|params| {
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ];
    });
    assert_eq!(
        signs,
        Err(CsrRefusal::KeyUsage {
            usage: Usage::CertSign
        })
    );
    let lists = judged(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    assert_eq!(
        lists,
        Err(CsrRefusal::KeyUsage {
            usage: Usage::CrlSign
        })
    );
}

#[test]
fn nobody_asks_for_other_purposes() {
    let cases = [
        (ExtendedKeyUsagePurpose::CodeSigning, "code signing"),
        (ExtendedKeyUsagePurpose::Any, "any"),
        (ExtendedKeyUsagePurpose::OcspSigning, "OCSP signing"),
        (
            ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 2, 3, 4]),
            "1.3.6.1.5.2.3.4",
        ),
    ];
    for (purpose, name) in cases {
        let refusal = judged(|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, purpose];
        });
        assert_eq!(
            refusal,
            Err(CsrRefusal::ExtendedKeyUsage {
                usage: ExtendedUsage::Other(name.to_owned())
            })
        );
    }
}

fn custom(oid: &[u64], content: Vec<u8>) -> CustomExtension {
    CustomExtension::from_oid_content(oid, content)
}

#[test]
fn other_extensions_are_refused() {
    let ski = || custom(&[2, 5, 29, 14], vec![4, 4, 1, 2, 3, 4]);
    let extension = |oid: &str| CsrRefusal::Extension {
        oid: oid.to_owned(),
    };
    assert_eq!(
        judged(|params| params.custom_extensions = vec![ski()]),
        Err(extension("2.5.29.14"))
    );
    let unknown = custom(&[1, 2, 3, 4], vec![5, 0]);
    assert_eq!(
        judged(|params| params.custom_extensions = vec![unknown]),
        Err(extension("1.2.3.4"))
    );
    let constraints = custom(&[2, 5, 29, 30], vec![0x30, 0]);
    let refusal = judged(|params| params.custom_extensions = vec![constraints]);
    assert!(
        matches!(
            refusal,
            Err(CsrRefusal::Extension { .. } | CsrRefusal::BrokenExtension { .. })
        ),
        "{refusal:?}"
    );
    for oid in [
        [2, 5, 29, 15],
        [2, 5, 29, 17],
        [2, 5, 29, 19],
        [2, 5, 29, 37],
    ] {
        let broken = custom(&oid, vec![0x30, 0x20, 1]);
        let refusal = judged(|params| params.custom_extensions = vec![broken]);
        assert!(
            matches!(refusal, Err(CsrRefusal::BrokenExtension { .. })),
            "{oid:?}: {refusal:?}"
        );
    }
    // No names, and something behind them that would be passed over (found by fuzzing).
    let more = custom(&[2, 5, 29, 17], vec![0x30, 0, 0x86, 1, b'a']);
    let refusal = judged(|params| params.custom_extensions = vec![more]);
    assert!(
        matches!(refusal, Err(CsrRefusal::BrokenExtension { .. })),
        "{refusal:?}"
    );
    let usage = || custom(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
    let twice = judged(|params| params.custom_extensions = vec![usage(), usage()]);
    assert_eq!(
        twice,
        Err(CsrRefusal::RepeatedExtension {
            oid: "2.5.29.15".to_owned()
        })
    );
}

#[test]
fn other_attributes_are_refused() {
    // A second list of extensions that asks for more than the first.
    let mut params = blank();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let ca = [
        0x30, 0x11, 0x30, 0x0f, 6, 3, 0x55, 0x1d, 0x13, 1, 1, 0xff, 4, 5, 0x30, 3, 1, 1, 0xff,
    ];
    let second = Attribute {
        oid: EXTENSION_REQUEST,
        values: [&[0x31, 0x13], &ca[..]].concat(),
    };
    let request = params
        .serialize_request_with_attributes(&KeyPair::generate().unwrap(), vec![second])
        .unwrap();
    let refusal = check_csr(request.der(), Requested::Nothing).unwrap_err();
    assert_eq!(refusal, CsrRefusal::RepeatedAttribute);
    // The same as a second value of one attribute, which the parser would pass over (found by fuzzing).
    let both = Attribute {
        oid: EXTENSION_REQUEST,
        values: [&[0x31, 0x15, 0x30, 0], &ca[..]].concat(),
    };
    let request = blank()
        .serialize_request_with_attributes(&KeyPair::generate().unwrap(), vec![both])
        .unwrap();
    let refusal = check_csr(request.der(), Requested::Nothing).unwrap_err();
    assert!(matches!(refusal, CsrRefusal::Malformed { .. }), "{refusal}");
    for (oid, text) in [
        (&[1, 2, 840, 113_549, 1, 9, 7], "1.2.840.113549.1.9.7"),
        (&[1, 2, 3, 4, 5, 6, 7], "1.2.3.4.5.6.7"),
    ] {
        let password = Attribute {
            oid,
            values: vec![0x31, 4, 0x0c, 2, b'p', b'w'],
        };
        let request = blank()
            .serialize_request_with_attributes(&KeyPair::generate().unwrap(), vec![password])
            .unwrap();
        let refusal = check_csr(request.der(), Requested::Nothing).unwrap_err();
        assert_eq!(
            refusal,
            CsrRefusal::Attribute {
                oid: text.to_owned()
            }
        );
    }
}

fn well_formed() -> &'static [u8] {
    static ONE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    ONE.get_or_init(|| {
        let mut params = blank();
        params.subject_alt_names = vec![own_uri()];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        params.distinguished_name.push(DnType::OrganizationName, "");
        der_of(&params)
    })
}

/// Where the signed part ends, and where the signature begins.
fn parts(request: &[u8]) -> (usize, usize) {
    let (_, csr) = X509CertificationRequest::from_der(request).unwrap();
    let signature = request.len() - csr.signature_value.data.len();
    let info = csr.certification_request_info.raw;
    (
        request
            .windows(info.len())
            .position(|bytes| bytes == info)
            .unwrap()
            + info.len(),
        signature,
    )
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(check_csr(&bytes, Requested::Nothing).is_err());
    }

    /// Neither what is signed nor the signature can be changed. (Between them stands the name of the algorithm, whose tags the parser
    /// reads loosely.)
    #[test]
    fn no_changed_request_passes(at in any::<prop::sample::Index>(), bit in 0..8_u32, cut in any::<bool>()) {
        let own = identity("child1");
        let mut request = well_formed().to_vec();
        prop_assert!(check_csr(&request, Requested::Identity(&own)).is_ok());
        let (signed, signature) = parts(&request);
        let at = at.index(request.len());
        if cut { request.truncate(at); } else { request[at] ^= 1 << bit; }
        if cut || at < signed || at >= signature {
            prop_assert!(check_csr(&request, Requested::Identity(&own)).is_err());
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,300}") {
        let wrapped = format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
        prop_assert!(check_csr(wrapped.as_bytes(), Requested::Nothing).is_err());
        prop_assert!(check_csr(text.as_bytes(), Requested::Nothing).is_err());
    }
}
