//! Tests of judging chains: each refusal, by certificates that our own authority would not make.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use super::{VerifyError, recognise_intermediate, verify_intermediate, verify_leaf};
use crate::{
    Authority, CA_BACKDATE, IntermediateSubject, PrivateKey, bundle, pem,
    profile::{self, Life},
    testing::{
        HOUR, MONTH, Member, YEAR, identity, member, mesh, now, openssl_verify, root, subject,
    },
};

struct World {
    root: String,
    root_key: PrivateKey,
    child: Member,
}

fn world() -> World {
    let (authority, material) = root();
    let root_key = PrivateKey::from_pem(&material.key_pem).unwrap();
    World {
        child: member(&authority, "child1"),
        root: material.cert_pem,
        root_key,
    }
}

impl World {
    fn leaf(&self) -> String {
        let key = PrivateKey::generate().unwrap();
        self.child
            .authority
            .sign_leaf(&identity("child1"), key.public(), HOUR, now())
            .unwrap()
            .chain_pem
    }

    /// A leaf below the member's intermediate that is not as the profile wants it.
    fn odd_leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> String {
        let key = PrivateKey::generate().unwrap();
        let life = Life::new(now(), HOUR, HOUR, Life::ALWAYS).unwrap();
        let mut params = profile::leaf(&identity("child1"), key.public(), life).unwrap();
        change(&mut params);
        let own = &pem::certificates(&self.child.issued.cert_pem).unwrap()[0];
        let issuer = Issuer::from_ca_cert_der(own, self.child.key.signer()).unwrap();
        let leaf = params.signed_by(key.signer(), &issuer).unwrap();
        format!(
            "{}{}",
            pem::write("CERTIFICATE", leaf.der().to_vec()),
            self.child.issued.cert_pem
        )
    }

    /// An intermediate below the root that is not as the profile wants it.
    fn odd_intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> String {
        let life = Life::new(now(), MONTH, CA_BACKDATE, Life::ALWAYS).unwrap();
        let mut params =
            profile::intermediate(&subject("child1", 1), self.child.key.public(), life).unwrap();
        change(&mut params);
        let own = &pem::certificates(&self.root).unwrap()[0];
        let issuer = Issuer::from_ca_cert_der(own, self.root_key.signer()).unwrap();
        pem::write(
            "CERTIFICATE",
            params
                .signed_by(self.child.key.signer(), &issuer)
                .unwrap()
                .der()
                .to_vec(),
        )
    }

    fn judge(&self, chain: &str) -> Result<(), VerifyError> {
        verify_leaf(chain, &self.root, &identity("child1"), now()).map(drop)
    }

    fn judge_intermediate(&self, chain: &str) -> Result<(), VerifyError> {
        verify_intermediate(
            chain,
            &self.root,
            &subject("child1", 1),
            &self.child.key,
            now(),
        )
        .map(drop)
    }
}

fn date(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap()
}

#[test]
fn good_chains_pass() {
    let world = world();
    world.judge(&world.leaf()).unwrap();
    world.judge(&world.odd_leaf(|_| ())).unwrap();
    world
        .judge_intermediate(&world.child.issued.chain_pem)
        .unwrap();
    world
        .judge_intermediate(&world.odd_intermediate(|_| ()))
        .unwrap();
    let with_root = format!("{}{}", world.child.issued.chain_pem, world.root);
    world.judge_intermediate(&with_root).unwrap();
}

#[test]
fn what_cannot_be_read_is_refused() {
    let world = world();
    assert!(matches!(
        world.judge("hello"),
        Err(VerifyError::ReadChain(_))
    ));
    assert!(matches!(
        world.judge_intermediate("hello"),
        Err(VerifyError::ReadChain(_))
    ));
    let leaf = world.leaf();
    let judge = |anchors: &str| verify_leaf(&leaf, anchors, &identity("child1"), now());
    assert!(matches!(judge("hello"), Err(VerifyError::ReadAnchors(_))));
    // A leaf is no anchor, even for itself.
    assert!(matches!(judge(&leaf), Err(VerifyError::ReadAnchors(_))));
}

#[test]
fn nothing_is_believed_outside_a_life() {
    let world = world();
    let leaf = world.leaf();
    for at in [now() - HOUR, now() + HOUR * 2] {
        let verdict = verify_leaf(&leaf, &world.root, &identity("child1"), at);
        assert!(
            matches!(verdict, Err(VerifyError::OutsideLife { .. })),
            "{verdict:?}"
        );
        openssl_verify(&leaf, &world.root, false, at).unwrap_err();
    }
    // The leaf would live on, its intermediate does not.
    let long = world.odd_leaf(|params| params.not_after = date(now() + YEAR));
    let late = now() + MONTH + HOUR;
    let verdict = verify_leaf(&long, &world.root, &identity("child1"), late);
    assert!(
        matches!(verdict, Err(VerifyError::OutsideLife { subject, .. }) if subject.contains("intermediate"))
    );
    // An anchor that has expired is none, which webpki alone would not notice.
    let alone = long
        .split_inclusive("-----END CERTIFICATE-----\n")
        .next()
        .unwrap();
    let verdict = verify_leaf(
        alone,
        &world.child.issued.cert_pem,
        &identity("child1"),
        late,
    );
    assert!(
        matches!(verdict, Err(VerifyError::NoValidAnchor { .. })),
        "{verdict:?}"
    );
    verify_leaf(
        alone,
        &world.child.issued.cert_pem,
        &identity("child1"),
        now(),
    )
    .unwrap();
    openssl_verify(alone, &world.child.issued.cert_pem, true, late).unwrap_err();
}

#[test]
fn another_identity_or_one_more_is_refused() {
    let world = world();
    let verdict = verify_leaf(&world.leaf(), &world.root, &identity("child2"), now());
    assert!(matches!(verdict, Err(VerifyError::Identity { .. })));
    let other = SanType::URI(identity("child2").as_str().try_into().unwrap());
    let dns = SanType::DnsName("vmauth.kof.svc".try_into().unwrap());
    for more in [other, dns] {
        let chain = world.odd_leaf(|params| params.subject_alt_names.push(more));
        assert!(
            matches!(world.judge(&chain), Err(VerifyError::Identity { found, .. }) if found.len() == 2)
        );
    }
    let nameless = world.odd_leaf(|params| params.subject_alt_names.clear());
    assert!(matches!(
        world.judge(&nameless),
        Err(VerifyError::Identity { .. })
    ));
}

#[test]
fn one_direction_of_tls_is_not_enough() {
    let world = world();
    for (only, missing) in [
        (ExtendedKeyUsagePurpose::ServerAuth, "client"),
        (ExtendedKeyUsagePurpose::ClientAuth, "server"),
    ] {
        let chain = world.odd_leaf(|params| params.extended_key_usages = vec![only]);
        assert!(
            matches!(world.judge(&chain), Err(VerifyError::Chain { usage, .. }) if usage == missing)
        );
    }
}

#[test]
fn a_ca_is_no_workload() {
    let world = world();
    let chain = world.odd_leaf(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(matches!(
        world.judge(&chain),
        Err(VerifyError::Profile { .. })
    ));
}

#[test]
fn strangers_are_not_believed() {
    let (world, stranger) = (world(), world());
    let chain = stranger.leaf();
    assert!(matches!(
        world.judge(&chain),
        Err(VerifyError::Chain { .. })
    ));
    openssl_verify(&chain, &world.root, false, now()).unwrap_err();
    // One's own leaf with a stranger's intermediate behind it.
    let own = world.leaf();
    let leaf = own
        .split_inclusive("-----END CERTIFICATE-----\n")
        .next()
        .unwrap();
    assert!(matches!(world.judge(leaf), Err(VerifyError::Chain { .. })));
    assert!(
        world
            .judge(&format!("{leaf}{}", stranger.child.issued.cert_pem))
            .is_err()
    );
    let verdict = verify_intermediate(
        &world.child.issued.chain_pem,
        &stranger.root,
        &subject("child1", 1),
        &world.child.key,
        now(),
    );
    assert!(
        matches!(verdict, Err(VerifyError::Chain { .. })),
        "{verdict:?}"
    );
}

#[test]
fn a_member_below_another_members_intermediate_is_not_believed() {
    // child1's CA key signs a CA for child2: the path length forbids it.
    let world = world();
    let key = PrivateKey::generate().unwrap();
    let life = Life::new(now(), HOUR, HOUR, Life::ALWAYS).unwrap();
    let params = profile::intermediate(&subject("child2", 1), key.public(), life).unwrap();
    let own = &pem::certificates(&world.child.issued.cert_pem).unwrap()[0];
    let issuer = Issuer::from_ca_cert_der(own, world.child.key.signer()).unwrap();
    let forged = pem::write(
        "CERTIFICATE",
        params
            .signed_by(key.signer(), &issuer)
            .unwrap()
            .der()
            .to_vec(),
    );
    let chain = format!("{forged}{}", world.child.issued.cert_pem);
    let verdict = verify_intermediate(&chain, &world.root, &subject("child2", 1), &key, now());
    assert!(
        matches!(verdict, Err(VerifyError::Chain { .. })),
        "{verdict:?}"
    );
    let authority = Authority::of(&chain, &key).unwrap();
    let leaf = authority
        .sign_leaf(
            &identity("child2"),
            PrivateKey::generate().unwrap().public(),
            HOUR,
            now(),
        )
        .unwrap();
    openssl_verify(&leaf.chain_pem, &world.root, false, now()).unwrap_err();
}

#[test]
fn an_intermediate_for_somebody_else_is_refused() {
    let world = world();
    let chain = &world.child.issued.chain_pem;
    let judge = |expected: &IntermediateSubject, key: &PrivateKey| {
        verify_intermediate(chain, &world.root, expected, key, now())
    };
    for expected in [
        subject("child2", 1),
        subject("child1", 2),
        IntermediateSubject {
            mesh: "other".parse().unwrap(),
            ..subject("child1", 1)
        },
    ] {
        assert!(matches!(
            judge(&expected, &world.child.key),
            Err(VerifyError::Subject { .. })
        ));
    }
    let other = PrivateKey::generate().unwrap();
    assert!(matches!(
        judge(&subject("child1", 1), &other),
        Err(VerifyError::Key)
    ));
    assert_eq!(mesh(), subject("child1", 1).mesh);
}

#[test]
fn an_intermediate_outside_its_profile_is_refused() {
    let world = world();
    let changes: [fn(&mut CertificateParams); 6] = [
        |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)),
        |params| params.is_ca = IsCa::ExplicitNoCa,
        |params| params.key_usages.push(KeyUsagePurpose::DigitalSignature),
        |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
        |params| params.use_authority_key_identifier_extension = false,
    ];
    for change in changes {
        let verdict = world.judge_intermediate(&world.odd_intermediate(change));
        assert!(
            matches!(verdict, Err(VerifyError::Profile { .. })),
            "{verdict:?}"
        );
    }
    for lost in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        let chain =
            world.odd_intermediate(|params| params.key_usages.retain(|usage| *usage != lost));
        assert!(matches!(
            world.judge_intermediate(&chain),
            Err(VerifyError::Profile { .. })
        ));
    }
    let expired = world
        .odd_intermediate(|params| params.not_after = date(now() - SignedDuration::from_secs(1)));
    assert!(matches!(
        world.judge_intermediate(&expired),
        Err(VerifyError::OutsideLife { .. })
    ));
}

/// The root was made anew from the same key and name with another key identifier: webpki believes, OpenSSL and `BoringSSL` do not.
#[test]
fn a_pointer_to_no_root_is_refused() {
    let world = world();
    let life = Life::new(now(), YEAR, CA_BACKDATE, Life::ALWAYS).unwrap();
    let mut params = profile::root(&mesh(), 1, world.root_key.public(), life).unwrap();
    params.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 20]);
    let other = pem::write(
        "CERTIFICATE",
        params
            .self_signed(world.root_key.signer())
            .unwrap()
            .der()
            .to_vec(),
    );
    verify_leaf(&world.leaf(), &other, &identity("child1"), now()).unwrap();
    openssl_verify(&world.leaf(), &other, false, now()).unwrap_err();
    let chain = &world.child.issued.chain_pem;
    let verdict = verify_intermediate(
        chain,
        &other,
        &subject("child1", 1),
        &world.child.key,
        now(),
    );
    assert!(
        matches!(verdict, Err(VerifyError::Profile { .. })),
        "{verdict:?}"
    );
}

/// What the controller asks of a certificate that a member shows: the same rules, without the key.
#[test]
fn an_intermediate_that_a_member_shows_is_recognised_or_refused() {
    let world = world();
    let child1 = subject("child1", 1);
    let judge = |chain: &str| recognise_intermediate(chain, &world.root, &child1, now());
    let good = &world.child.issued.cert_pem;
    assert_eq!(judge(good).unwrap(), world.child.issued.facts);
    assert!(matches!(judge("hello"), Err(VerifyError::ReadChain(_))));
    let two = format!("{good}{}", world.root);
    assert!(matches!(judge(&two), Err(VerifyError::Profile { .. })));
    // Envoy reads more kinds of blocks as certificates than we do, and refuses what we skip: peers get the one block or nothing.
    let other = world.root.replace("CERTIFICATE", "X509 CERTIFICATE");
    let trusted = world.root.replace("CERTIFICATE", "TRUSTED CERTIFICATE");
    let broken = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    for surplus in [other.as_str(), &trusted, broken, "a word\n", "\n\n"] {
        for text in [format!("{good}{surplus}"), format!("{surplus}{good}")] {
            let verdict = judge(&text);
            assert!(
                matches!(verdict, Err(VerifyError::Profile { .. })),
                "{surplus:?}: {verdict:?}"
            );
        }
    }
    let at = |root: &str, expected, now| recognise_intermediate(good, root, &expected, now);
    assert!(matches!(
        at("hello", subject("child1", 1), now()),
        Err(VerifyError::ReadAnchors(_))
    ));
    for other in [subject("child2", 1), subject("child1", 2)] {
        assert!(matches!(
            at(&world.root, other, now()),
            Err(VerifyError::Subject { .. })
        ));
    }
    let late = at(&world.root, subject("child1", 1), now() + YEAR);
    assert!(matches!(late, Err(VerifyError::OutsideLife { .. })));
    // The same names by another root: a member cannot bring a CA of its own making.
    let stranger = self::world();
    let foreign =
        recognise_intermediate(&stranger.child.issued.cert_pem, &world.root, &child1, now());
    assert!(
        matches!(foreign, Err(VerifyError::Profile { .. })),
        "{foreign:?}"
    );
    let both = bundle([world.root.as_str(), &stranger.root]).unwrap();
    recognise_intermediate(&stranger.child.issued.cert_pem, &both, &child1, now()).unwrap();
    // The name of another key, a longer path, an expired root.
    let renamed = world.odd_intermediate(|params| {
        params
            .distinguished_name
            .push(DnType::CommonName, "intermediate g1 00000000");
    });
    assert!(matches!(judge(&renamed), Err(VerifyError::Subject { .. })));
    let deep =
        world.odd_intermediate(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(matches!(judge(&deep), Err(VerifyError::Profile { .. })));
    let long = world.odd_intermediate(|params| params.not_after = date(now() + YEAR * 20));
    let late = recognise_intermediate(&long, &world.root, &child1, now() + YEAR * 11);
    assert!(
        matches!(late, Err(VerifyError::NoValidAnchor { .. })),
        "{late:?}"
    );
}
