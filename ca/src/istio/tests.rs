//! Tests of Istio's layouts.

use jiff::SignedDuration;

use super::{Answers, BundleChange, answer, bundle_change, cacerts, verify_answer};
use crate::{
    Authority, Error, Issued, PrivateKey, VerifyError, bundle, facts,
    testing::{
        HOUR, MONTH, Member, YEAR, identity, member, mesh, now, openssl_verify, request, root,
        subject,
    },
};

struct World {
    root: Authority,
    root_pem: String,
    member: Member,
    other_root: String,
}

fn world() -> World {
    let (root, material) = root();
    let member = member(&root, "child1");
    World {
        member,
        root,
        root_pem: material.cert_pem,
        other_root: self::root().1.cert_pem,
    }
}

impl World {
    fn leaf(&self) -> Issued {
        let key = PrivateKey::generate().unwrap();
        self.member
            .authority
            .sign_leaf(&identity("child1"), key.public(), HOUR, now())
            .unwrap()
    }

    fn both(&self) -> String {
        bundle([&*self.root_pem, &*self.other_root]).unwrap()
    }
}

fn judge(answer: &[String]) -> Result<(), VerifyError> {
    verify_answer(answer, &identity("child1"), now()).map(|_| ())
}

fn rule(answer: &[String]) -> &'static str {
    match judge(answer) {
        Err(VerifyError::Answer { rule }) => rule,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_is_leaf_then_one_each_then_all_roots() {
    let world = world();
    let leaf = world.leaf();
    let both = world.both();
    let answer = answer(&leaf, std::slice::from_ref(&both));
    assert_eq!(
        answer,
        [
            leaf.cert_pem.clone(),
            world.member.issued.cert_pem.clone(),
            both
        ]
    );
    judge(&answer).unwrap();
    for element in &answer {
        assert!(
            element.ends_with("-----END CERTIFICATE-----\n"),
            "{element:?}"
        );
    }
    // As Envoy is given it by pilot-agent: all elements in one chain.
    openssl_verify(&answer.concat(), &world.root_pem, false, now()).unwrap();
    // Roots with and without line feeds at their ends come out the same.
    let loose = [
        format!("\n{}\n\n", world.root_pem.trim_end()),
        world.other_root.clone(),
    ];
    let tight = [
        world.root_pem.trim_end().to_owned(),
        format!("{}\n", world.other_root),
    ];
    assert_eq!(
        super::answer(&leaf, &loose).last().unwrap().trim_start(),
        super::answer(&leaf, &tight).last().unwrap()
    );
}

#[test]
fn a_root_answers_with_two_elements() {
    let world = world();
    let key = PrivateKey::generate().unwrap();
    let leaf = world
        .root
        .sign_leaf(&identity("child1"), key.public(), HOUR, now())
        .unwrap();
    let answer = answer(&leaf, std::slice::from_ref(&world.root_pem));
    assert_eq!(answer, [leaf.cert_pem, world.root_pem]);
    judge(&answer).unwrap();
}

#[test]
fn answers_in_another_layout_are_refused() {
    let world = world();
    let good = answer(&world.leaf(), &[world.both()]);
    let [leaf, middle, roots] = good.as_slice() else {
        panic!("{good:?}")
    };
    let built = |elements: &[&str]| -> Vec<String> {
        elements.iter().map(|text| (*text).to_owned()).collect()
    };
    assert_eq!(rule(&[]), "it holds a leaf and roots");
    assert_eq!(rule(&built(&[leaf])), "it holds a leaf and roots");
    let joined = format!("{leaf}{middle}");
    assert_eq!(
        rule(&built(&[&joined, roots])),
        "each element but the last holds one certificate"
    );
    // The intermediate would become a root of ztunnel's: that is what its last element is for.
    assert_eq!(
        rule(&built(&[leaf, middle])),
        "its last element holds roots only"
    );
    assert_eq!(
        rule(
            &built(&[middle, middle, roots])
                .iter()
                .rev()
                .cloned()
                .collect::<Vec<_>>()
        ),
        "each element but the last holds one certificate"
    );
    let text = "each element is text as we write it, and nothing else";
    let bare = leaf.trim_end();
    assert_eq!(rule(&built(&[bare, middle, roots])), text);
    let more = format!("{middle}\n");
    assert_eq!(rule(&built(&[leaf, &more, roots])), text);
    // ztunnel skips a root that it cannot read and says so in its log only.
    let broken = format!("{roots}-----BEGIN X-----\nAAAA\n-----END X-----\n");
    assert_eq!(rule(&built(&[leaf, middle, &broken])), text);
    assert_eq!(
        rule(&built(&[leaf, middle, &world.root_pem, roots])),
        "between leaf and roots stand CAs, none self-signed"
    );
    let with_leaf = format!("{roots}{leaf}");
    assert_eq!(
        rule(&built(&[leaf, middle, &with_leaf])),
        "its last element holds roots only"
    );
    judge(&good).unwrap();
}

#[test]
fn one_root_of_the_bundle_must_believe_it() {
    let world = world();
    let leaf = world.leaf();
    let with = |roots: &str| judge(&answer(&leaf, &[roots.to_owned()]));
    with(&world.root_pem).unwrap();
    with(&world.both()).unwrap();
    assert!(matches!(
        with(&world.other_root),
        Err(VerifyError::NoValidAnchor { .. })
    ));
    // Without its intermediate nobody believes it.
    let short = vec![leaf.cert_pem.clone(), world.root_pem.clone()];
    assert!(matches!(
        judge(&short),
        Err(VerifyError::NoValidAnchor { .. })
    ));
    // Another member's intermediate in its place: it names another issuer.
    let stranger = member(&world.root, "child2");
    let mixed = vec![
        leaf.cert_pem.clone(),
        stranger.issued.cert_pem,
        world.root_pem,
    ];
    assert!(matches!(judge(&mixed), Err(VerifyError::Chain { .. })));
}

#[test]
fn another_identity_another_time_or_a_ca_is_refused() {
    let world = world();
    let good = answer(&world.leaf(), &[world.both()]);
    assert!(matches!(
        verify_answer(&good, &identity("child2"), now()),
        Err(VerifyError::Identity { .. })
    ));
    for at in [now() - HOUR, now() + HOUR + SignedDuration::from_secs(1)] {
        assert!(matches!(
            verify_answer(&good, &identity("child1"), at),
            Err(VerifyError::OutsideLife { .. })
        ));
    }
    // A root that ends before the leaf does not count, though it lives now and its key signed the leaf.
    let key = PrivateKey::generate().unwrap();
    let root = |life| Authority::generate_root_with(&key, &mesh(), 1, life, now()).unwrap();
    let (short, long) = (root(HOUR / 2), root(YEAR));
    let workload = PrivateKey::generate().unwrap();
    let issued = long
        .sign_leaf(&identity("child1"), workload.public(), HOUR, now())
        .unwrap();
    judge(&answer(&issued, &[long.cert_pem()])).unwrap();
    assert!(matches!(
        judge(&answer(&issued, &[short.cert_pem()])),
        Err(VerifyError::NoValidAnchor { .. })
    ));
}

#[test]
fn prepared_answers_are_the_same_and_judge_what_changes() {
    let world = world();
    let answers = Answers::new(&world.member.authority, &world.both(), now()).unwrap();
    assert_eq!(answers.until(), world.member.authority.expires());
    let leaf = world.leaf();
    let given = answers.give(&leaf, &identity("child1")).unwrap();
    assert_eq!(given, answer(&leaf, &[world.both()]));
    judge(&given).unwrap();
    assert!(matches!(
        answers.give(&leaf, &identity("child2")),
        Err(VerifyError::Identity { .. })
    ));
    // A leaf of another intermediate: a generation of the signer and one of the chain never mix.
    let other = member(&world.root, "child1");
    let key = PrivateKey::generate().unwrap();
    let stray = other
        .authority
        .sign_leaf(&identity("child1"), key.public(), HOUR, now())
        .unwrap();
    assert!(matches!(
        answers.give(&stray, &identity("child1")),
        Err(VerifyError::Answer {
            rule: "a leaf is sent with its own chain"
        })
    ));
    let mut late = leaf;
    late.facts.not_after = answers.until() + SignedDuration::from_secs(1);
    assert!(matches!(
        answers.give(&late, &identity("child1")),
        Err(VerifyError::Answer {
            rule: "a leaf ends before the CAs above it"
        })
    ));
    // A bundle without the root above: nothing is ever given out.
    assert!(Answers::new(&world.member.authority, &world.other_root, now()).is_err());
    assert!(Answers::new(&world.member.authority, &world.both(), now() + YEAR).is_err());
}

#[test]
fn cacerts_has_the_entries_of_istiod_in_the_same_bytes() {
    let world = world();
    let (authority, key) = (&world.member.authority, &world.member.key);
    let made = cacerts(authority, key, &world.both(), None, now()).unwrap();
    let swapped = format!("{}\n\n{}", world.other_root, world.root_pem);
    let again = cacerts(authority, key, &swapped, None, now()).unwrap();
    assert!(made == again);
    let entries: Vec<_> = made.entries().collect();
    assert_eq!(
        entries,
        [
            ("ca-cert.pem", world.member.issued.cert_pem.as_str()),
            ("ca-key.pem", key.pem().as_str()),
            ("cert-chain.pem", world.member.issued.chain_pem.as_str()),
            ("root-cert.pem", world.both().as_str()),
        ]
    );
    let debug = format!("{made:?}");
    assert!(!debug.contains("PRIVATE") && !debug.contains(key.pem().lines().nth(1).unwrap()));
}

#[test]
fn cacerts_that_istiod_would_refuse_are_not_made() {
    let world = world();
    let (authority, key) = (&world.member.authority, &world.member.key);
    let made = |key, bundle: &str, lists| cacerts(authority, key, bundle, lists, now());
    let other = PrivateKey::generate().unwrap();
    assert!(matches!(
        made(&other, &world.root_pem, None),
        Err(VerifyError::Key)
    ));
    assert!(made(key, &world.other_root, None).is_err());
    assert!(matches!(
        made(key, "", None),
        Err(VerifyError::ReadAnchors(Error::NoCertificate))
    ));
    let (root, material) = root();
    let root_key = PrivateKey::from_pem(&material.key_pem).unwrap();
    assert!(matches!(
        cacerts(&root, &root_key, &material.cert_pem, None, now()),
        Err(VerifyError::Profile { .. })
    ));
}

#[test]
fn lists_in_cacerts_are_complete_or_absent() {
    let world = world();
    let (authority, key) = (&world.member.authority, &world.member.key);
    let list = |ca: &Authority, life| ca.sign_crl(&[], 1, life, now()).unwrap().pem;
    let (of_root, own) = (list(&world.root, MONTH), list(authority, MONTH));
    let made = |bundle: &str, lists: &str, at| cacerts(authority, key, bundle, Some(lists), at);
    let all = format!("{own}{of_root}");
    let made_once = made(&world.root_pem, &all, now()).unwrap();
    let made_again = made(&world.root_pem, &format!("{of_root}{all}"), now()).unwrap();
    assert!(made_once == made_again);
    let (name, text) = made_once.entries().nth(1).unwrap();
    assert_eq!(
        (name, text.matches("BEGIN X509 CRL").count()),
        ("ca-crl.pem", 2)
    );
    for (bundle, lists) in [
        (&world.root_pem, &own),
        (&world.root_pem, &of_root),
        (&world.both(), &all),
    ] {
        let judged = made(bundle, lists, now());
        assert!(
            matches!(judged, Err(VerifyError::List { .. })),
            "{judged:?}"
        );
    }
    let short = format!("{own}{}", list(&world.root, HOUR));
    made(&world.root_pem, &short, now()).unwrap();
    let judged = made(&world.root_pem, &short, now() + HOUR);
    assert!(
        matches!(judged, Err(VerifyError::List { .. })),
        "{judged:?}"
    );
    assert!(made(&world.root_pem, "", now()).is_err());
}

#[test]
fn istiod_takes_a_bundle_that_contains_the_old_one_or_is_contained() {
    let (a, b, c) = (root().1.cert_pem, root().1.cert_pem, root().1.cert_pem);
    let join = |texts: &[&String]| texts.iter().map(|text| text.as_str()).collect::<String>();
    let cases = [
        (join(&[&a]), join(&[&a]), BundleChange::Allowed),
        (join(&[&a]), join(&[&a, &b]), BundleChange::Allowed),
        (join(&[&a]), join(&[&b, &a]), BundleChange::Allowed),
        (join(&[&a, &b]), join(&[&b]), BundleChange::Allowed),
        (join(&[&a, &b]), join(&[&b, &a, &a]), BundleChange::Allowed),
        (join(&[&a]), join(&[&b]), BundleChange::Refused),
        (join(&[&a, &b]), join(&[&b, &c]), BundleChange::Refused),
        (join(&[&a]), String::new(), BundleChange::Refused),
        (String::new(), join(&[&a]), BundleChange::Refused),
        ("x".to_owned(), "y".to_owned(), BundleChange::Refused),
    ];
    for (old, new, expected) in cases {
        assert_eq!(bundle_change(&old, &new), expected);
    }
}

#[test]
fn a_server_has_its_names_and_one_identity() {
    let world = world();
    let key = PrivateKey::generate().unwrap();
    let agent = identity("child1");
    let names = [
        "mesh-ca.istio-system.svc",
        "istiod.istio-system.svc",
        "mesh-ca.istio-system.svc",
    ];
    let sign = |names: &[&str]| {
        world
            .member
            .authority
            .sign_server(names, &agent, key.public(), HOUR, now())
    };
    let issued = sign(&names).unwrap();
    assert_eq!(issued.facts.uris, [agent.as_str()]);
    assert_eq!(
        issued.facts.other_names,
        [
            "DNSName(mesh-ca.istio-system.svc)",
            "DNSName(istiod.istio-system.svc)"
        ]
    );
    openssl_verify(&issued.chain_pem, &world.root_pem, false, now()).unwrap();
    let der = crate::pem::certificates(&issued.cert_pem)
        .unwrap()
        .remove(0);
    let entity = webpki::EndEntityCert::try_from(&der).unwrap();
    let valid = |name: &str| {
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        entity.verify_is_valid_for_subject_name(&name).is_ok()
    };
    assert!(valid(names[0]) && valid(names[1]) && !valid("other.istio-system.svc"));
    let long = format!("{}.example", "a".repeat(64));
    let deep = ["abcdefgh"; 29].join(".");
    for bad in [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "*.example",
        "A.example",
        "a b",
        "a_b",
        "-a",
        "a-",
        "10.0.0.1",
        "::1",
        "a/b",
        "é.example",
        "a\n",
        &long,
        &deep,
    ] {
        let made = sign(&["good.example", bad]);
        assert!(
            matches!(made, Err(Error::DnsName { .. })),
            "{bad}: {made:?}"
        );
    }
    assert!(matches!(sign(&[]), Err(Error::DnsNames { count: 0 })));
    let many: Vec<String> = (0..65).map(|n| format!("n{n}.example")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(matches!(sign(&many), Err(Error::DnsNames { count: 65 })));
    sign(&["localhost"]).unwrap();
    assert!(matches!(
        world.member.authority.sign_server(
            &["a.example"],
            &agent,
            world.member.key.public(),
            HOUR,
            now()
        ),
        Err(Error::OwnKey)
    ));
}

#[test]
fn a_chain_of_two_intermediates_keeps_one_in_each_element() {
    // A cross-signed root stands between: same key, subject and identifier, signed by another root.
    let (_, old_material) = root();
    let (_, new_material) = root();
    let new_key = PrivateKey::from_pem(&new_material.key_pem).unwrap();
    let cross = cross(&old_material, &new_material);
    let new = Authority::of(&cross, &new_key).unwrap();
    let key = PrivateKey::generate().unwrap();
    let issued = new
        .sign_intermediate(&request(&key), &subject("child1", 2), MONTH, now())
        .unwrap();
    let authority = Authority::of(&issued.chain_pem, &key).unwrap();
    let leaf = authority
        .sign_leaf(
            &identity("child1"),
            PrivateKey::generate().unwrap().public(),
            HOUR,
            now(),
        )
        .unwrap();
    for roots in [&old_material.cert_pem, &new_material.cert_pem] {
        let answer = answer(&leaf, std::slice::from_ref(roots));
        assert_eq!(answer.len(), 4);
        assert_eq!(facts(&answer[2]).unwrap().len(), 1);
        judge(&answer).unwrap();
        openssl_verify(&answer[..3].concat(), roots, false, now()).unwrap();
    }
}

fn cross(old: &crate::RootMaterial, new: &crate::RootMaterial) -> String {
    let key = PrivateKey::from_pem(&new.key_pem).unwrap();
    let old_key = PrivateKey::from_pem(&old.key_pem).unwrap();
    let life = crate::profile::Life::new(now(), YEAR, HOUR, crate::profile::Life::ALWAYS).unwrap();
    let mut params = crate::profile::root(&mesh(), 1, key.public(), life).unwrap();
    params.use_authority_key_identifier_extension = true;
    let old_der = crate::pem::certificates(&old.cert_pem).unwrap().remove(0);
    let issuer = rcgen::Issuer::from_ca_cert_der(&old_der, old_key.signer().clone()).unwrap();
    let made = params.signed_by(key.signer(), &issuer).unwrap();
    crate::pem::write("CERTIFICATE", made.der().to_vec())
}
