//! All that we make.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use mesh_ca::{
    Authority, IntermediateSubject, PrivateKey, PublicKey, Requested, RevocationReason,
    RevokedSerial, answer, bundle, cacerts, check_csr, merge_crls,
};
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, RsaKeySize};

use crate::case::{Case, Folder, Role, blocks};
use crate::judges::{self, NAMES, openssl};
use crate::table::print;

const DAY: SignedDuration = SignedDuration::from_hours(24);
const IDENTITY: &str = "spiffe://c1.mesh.example/ns/kof/sa/collector";
const HOST: &str = "mesh-ca.istio-system.svc";

/// A root and one member below it, with the lists of both.
struct World {
    root: Authority,
    root_pem: String,
    member: Authority,
    member_key: PrivateKey,
    root_list: String,
    member_list: String,
}

impl World {
    fn new() -> Self {
        let now = Timestamp::now();
        let (root, material) =
            Authority::generate_root(&"default".parse().unwrap(), 1, DAY * 3650, now).unwrap();
        Self::below(root, material.cert_pem, true)
    }

    fn below(root: Authority, root_pem: String, lists: bool) -> Self {
        let now = Timestamp::now();
        let member_key = PrivateKey::generate().unwrap();
        let csr = member_key.csr_pem().unwrap();
        let csr = check_csr(csr.as_bytes(), Requested::Nothing).unwrap();
        let subject = IntermediateSubject {
            mesh: "default".parse().unwrap(),
            cluster: "c1".parse().unwrap(),
            generation: 1,
        };
        let issued = root
            .sign_intermediate(&csr, &subject, DAY * 30, now)
            .unwrap();
        let mut world = Self {
            member: Authority::of(&issued.chain_pem, &member_key).unwrap(),
            root,
            root_pem,
            member_key,
            root_list: String::new(),
            member_list: String::new(),
        };
        world.member_list = list(&world.member, &[]);
        if lists {
            world.root_list = list(&world.root, &[]);
        }
        world
    }

    fn case(&self, name: &str, role: Role) -> Case {
        self.with_key(name, role, &PrivateKey::generate().unwrap())
    }

    fn with_key(&self, name: &str, role: Role, key: &PrivateKey) -> Case {
        let (now, identity) = (Timestamp::now(), IDENTITY.parse().unwrap());
        let issued = if role == Role::Server {
            self.member.sign_server(
                &[HOST, "istiod.istio-system.svc"],
                &identity,
                key.public(),
                DAY,
                now,
            )
        } else {
            self.member.sign_leaf(&identity, key.public(), DAY, now)
        }
        .unwrap();
        let own = match role {
            Role::Root => self.root_pem.clone(),
            Role::Intermediate => self.member.cert_pem(),
            Role::Leaf | Role::Server => issued.cert_pem,
            Role::List => self.member_list.clone(),
        };
        let peer = if role == Role::Server { HOST } else { IDENTITY };
        let lists = if self.root_list.is_empty() {
            String::new()
        } else {
            format!("{}{}", self.root_list, self.member_list)
        };
        Case {
            name: name.to_owned(),
            role,
            own,
            chain: issued.chain_pem,
            key: key.pem().to_string(),
            anchors: self.root_pem.clone(),
            lists,
            partial: false,
            peer: peer.to_owned(),
        }
    }

    /// As the Envoys that we drive see it: the member's intermediate is the anchor.
    fn partial(&self, name: &str) -> Case {
        Case {
            anchors: self.member.cert_pem(),
            lists: self.member_list.clone(),
            partial: true,
            ..self.case(name, Role::Leaf)
        }
    }
}

fn list(authority: &Authority, serials: &[&str]) -> String {
    let now = Timestamp::now();
    let revoked: Vec<RevokedSerial> = serials
        .iter()
        .zip([
            Some(RevocationReason::KeyCompromise),
            Some(RevocationReason::CaCompromise),
            Some(RevocationReason::Superseded),
            None,
        ])
        .map(|(serial, reason)| RevokedSerial {
            serial: (*serial).to_owned(),
            at: now - SignedDuration::from_hours(2),
            reason,
        })
        .collect();
    authority.sign_crl(&revoked, 1, DAY, now).unwrap().pem
}

const SOME: [&str; 4] = [
    "4f00000000000000000000000000000a",
    "4f00000000000000000000000000000b",
    "7",
    "00ff",
];

fn key_of(pair: &KeyPair) -> PrivateKey {
    PrivateKey::from_pem(&pair.serialize_pem()).unwrap()
}

/// What others made and we adopt: certificate and key.
fn foreign(key: &[&str], subject: &str, extensions: &str) -> (String, String) {
    let folder = Folder::new();
    let (key_file, cert_file) = (folder.path("key.pem"), folder.path("cert.pem"));
    openssl(&[&["genpkey", "-out", &key_file], key].concat()).unwrap();
    let config = folder.file(
        "root.cnf",
        format!("[req]\ndistinguished_name=dn\n[dn]\n[ext]\n{extensions}\n"),
    );
    let mut args = vec![
        "req", "-x509", "-new", "-key", &key_file, "-out", &cert_file,
    ];
    args.extend([
        "-days",
        "3650",
        "-config",
        &config,
        "-extensions",
        "ext",
        "-subj",
        subject,
    ]);
    openssl(&args).unwrap();
    let read = |file| std::fs::read_to_string(file).unwrap();
    (read(cert_file), read(key_file))
}

/// A root as cert-manager makes it for k0rdent's Istio: no cRLSign, so no list of its own.
fn cert_manager() -> (String, String) {
    foreign(
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "/O=Istio/CN=Root CA",
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature,keyEncipherment,keyCertSign\nsubjectKeyIdentifier=hash",
    )
}

/// A root as istiod makes it for itself.
fn istiod() -> (String, String) {
    foreign(
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        "/O=cluster.local",
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash",
    )
}

/// A root in the plug-in layout (`cacerts`) as Istio's own tools make it: RSA 4096, with cRLSign.
fn plugged() -> (String, String) {
    foreign(
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"],
        "/O=Istio/CN=Root CA",
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature,nonRepudiation,keyEncipherment,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash",
    )
}

fn everything() -> Vec<Case> {
    let world = World::new();
    let mut cases = vec![
        world.case("root", Role::Root),
        world.case("intermediate", Role::Intermediate),
        world.case("workload, P-256", Role::Leaf),
        world.with_key(
            "workload, P-384",
            Role::Leaf,
            &key_of(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()),
        ),
        world.with_key(
            "workload, RSA 2048",
            Role::Leaf,
            &key_of(&KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()),
        ),
        world.partial("workload, its intermediate as anchor"),
        world.case("the CA's serving certificate", Role::Server),
    ];
    for (name, (cert, key)) in [
        ("cert-manager's root", cert_manager()),
        ("istiod's own root", istiod()),
        ("a plugged-in RSA root", plugged()),
    ] {
        let root = Authority::load(&cert, &key).unwrap();
        let lists = name.starts_with("a plugged-in");
        let world = World::below(root, cert, lists);
        cases.push(world.case(&format!("intermediate below {name}"), Role::Intermediate));
        cases.push(world.case(&format!("workload below {name}"), Role::Leaf));
    }
    cases.extend(lists(&world));
    cases.extend([whole_answer(&world), plugged_in(&world)]);
    cases
}

/// Lists of both CAs, empty and with entries (of nobody who is here).
fn lists(world: &World) -> Vec<Case> {
    let (root, member) = (list(&world.root, &SOME), list(&world.member, &SOME));
    let judged = |name: &str, own: &str, lists: String| Case {
        own: own.to_owned(),
        lists,
        ..world.case(name, Role::List)
    };
    vec![
        judged(
            "list of the root, empty",
            &world.root_list,
            format!("{}{}", world.root_list, world.member_list),
        ),
        judged(
            "list of the root, four entries",
            &root,
            format!("{root}{}", world.member_list),
        ),
        judged(
            "list of the intermediate, empty",
            &world.member_list,
            format!("{}{}", world.root_list, world.member_list),
        ),
        judged(
            "list of the intermediate, four entries",
            &member,
            format!("{}{member}", world.root_list),
        ),
    ]
}

/// What `CreateCertificate` answers, as Istio's agent hands it to Envoy: every element in one text, the whole bundle (here of two roots, as in
/// a rotation) at its end.
fn whole_answer(world: &World) -> Case {
    let next = World::new();
    let anchors = bundle([world.root_pem.as_str(), &next.root_pem]).unwrap();
    let key = PrivateKey::generate().unwrap();
    let case = world.with_key("a whole answer, with the roots in it", Role::Leaf, &key);
    let issued = world
        .member
        .sign_leaf(
            &IDENTITY.parse().unwrap(),
            key.public(),
            DAY,
            Timestamp::now(),
        )
        .unwrap();
    let elements = answer(&issued, std::slice::from_ref(&anchors));
    assert_eq!(elements.len(), 3, "leaf, intermediate, roots");
    let lists = format!("{}{}", case.lists, next.root_list);
    Case {
        own: issued.cert_pem,
        chain: elements.concat(),
        anchors,
        lists,
        ..case
    }
}

/// What a stock istiod is given: another program signs with the files, and presents and trusts what is in them.
fn plugged_in(world: &World) -> Case {
    let folder = Folder::new();
    let lists = merge_crls([world.root_list.as_str(), &world.member_list]).unwrap();
    let now = Timestamp::now();
    let secret = cacerts(
        &world.member,
        &world.member_key,
        &world.root_pem,
        Some(&lists),
        now,
    )
    .unwrap();
    let files: BTreeMap<&str, &str> = secret.entries().collect();
    let ca = folder.file("ca-cert.pem", files["ca-cert.pem"]);
    let ca_key = folder.file("ca-key.pem", files["ca-key.pem"]);
    let key = PrivateKey::generate().unwrap();
    let csr = folder.file("csr.pem", key.csr_pem().unwrap());
    let extensions = folder.file(
        "ext.cnf",
        format!(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nsubjectAltName=critical,URI:{IDENTITY}\n"
        ),
    );
    let mut args = vec![
        "x509", "-req", "-in", &csr, "-CA", &ca, "-CAkey", &ca_key, "-days", "1",
    ];
    args.extend([
        "-set_serial",
        "0x4f000000000000000000000000000001",
        "-extfile",
        &extensions,
    ]);
    let leaf = openssl(&args).unwrap();
    let case = world.with_key("cacerts: signed by another program", Role::Leaf, &key);
    Case {
        own: leaf.clone(),
        chain: format!("{leaf}{}", files["cert-chain.pem"]),
        anchors: files["root-cert.pem"].to_owned(),
        lists: files["ca-crl.pem"].to_owned(),
        ..case
    }
}

#[test]
fn every_judge_accepts_everything_that_we_make() {
    let rows = judges::rows(&everything());
    print("What we make", &rows);
    let refused: Vec<&str> = rows
        .iter()
        .filter(|row| row.said.iter().any(|said| !said.is_empty()))
        .map(|row| row.name.as_str())
        .collect();
    assert_eq!(refused, Vec::<&str>::new(), "see the table above");
}

/// Go's verifier knows no lists, and the linters look at one thing at a time: these four do.
const ASK_FOR_LISTS: [&str; 4] = ["OpenSSL", "GnuTLS", "webpki", "BoringSSL"];

#[test]
fn every_judge_that_reads_lists_refuses_what_they_name() {
    let world = World::new();
    let serial = |pem: &str| mesh_ca::facts(pem).unwrap()[0].serial.clone();
    let leaf = world.case("a revoked workload", Role::Leaf);
    let of_leaf = list(&world.member, &["4f01", &serial(&leaf.own)]);
    let partial = world.partial("a revoked workload, its intermediate as anchor");
    let of_partial = list(&world.member, &[&serial(&partial.own)]);
    let of_member = list(&world.root, &[&serial(&world.member.cert_pem())]);
    let cases = [
        Case {
            lists: format!("{}{of_leaf}", world.root_list),
            ..leaf
        },
        Case {
            lists: of_partial,
            ..partial
        },
        Case {
            lists: format!("{of_member}{}", world.member_list),
            ..world.case("below a revoked intermediate", Role::Leaf)
        },
    ];
    let rows = judges::rows(&cases);
    print(
        "What is revoked (Go's verifier and the linters read no lists)",
        &rows,
    );
    for row in &rows {
        for (judge, said) in NAMES.iter().zip(&row.said) {
            let refused = said.iter().any(|s| s.to_lowercase().contains("revoked"));
            assert_eq!(
                refused,
                ASK_FOR_LISTS.contains(judge),
                "{judge} on {}: {said:?}",
                row.name
            );
        }
    }
}

#[test]
fn serial_numbers_are_never_given_twice() {
    let world = World::new();
    let key: &PublicKey = world.member_key.public();
    let identity = IDENTITY.parse().unwrap();
    let own = PrivateKey::generate().unwrap();
    assert_ne!(own.public(), key);
    let issued: String = (0..1000)
        .map(|_| {
            let leaf = world
                .member
                .sign_leaf(&identity, own.public(), DAY, Timestamp::now());
            leaf.unwrap().cert_pem
        })
        .collect();
    let said = judges::siblings(&issued);
    assert!(said.is_empty(), "{said:?}");
    let twice = format!("{issued}{}", blocks(&issued)[0]);
    let said = judges::siblings(&twice);
    assert_eq!(said["rules"].len(), 1, "{said:?}");
}
