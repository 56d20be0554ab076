use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::certificates::v1::{CertificateSigningRequestSpec, CertificateSigningRequestStatus},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use mesh_api::mesh::RootStatus;
use mesh_ca::{Authority, PrivateKey, recognise_intermediate};
use mesh_core::{facts::RootFacts, names::ClusterName};

use super::*;
use crate::{
    controller::look::Terms,
    testing::Fake,
    vault::{Root, TOKEN_AWAY},
};

const NAME: &str = "mesh-intermediate-child1-g1-0123456789-0123456789";

fn terms_of(life: SignedDuration) -> Terms {
    let mesh: mesh_core::names::MeshName = "default".parse().unwrap();
    let (authority, material) = Authority::generate_root(&mesh, 1, life, Timestamp::now()).unwrap();
    Terms {
        mesh,
        cluster: "child1".parse().unwrap(),
        root: Root {
            key: authority.certificate().key_fingerprint.clone(),
            not_after: authority.certificate().not_after,
            signer: Ok(Arc::new(authority)),
            facts: RootFacts {
                generation: 1,
                certificate: material.cert_pem,
                ends: None,
            },
            status: RootStatus::default(),
        },
        replicas: 2,
        leaf_seconds: 60,
        intermediate_seconds: 3600,
        workloads: None,
        plane: mesh_core::istio::Plane::Envoy,
        revision: String::new(),
        discovery: mesh_core::istio::Discovery::Static,
    }
}

fn terms() -> Terms {
    terms_of(SignedDuration::from_hours(24 * 3650))
}

fn request_of(key: &PrivateKey) -> CertificateSigningRequest {
    CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            creation_timestamp: Some(Time(Timestamp::now())),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(key.csr_pem().unwrap().into_bytes()),
            signer_name: labels::SIGNER.to_owned(),
            username: Some(labels::AGENT_USER.to_owned()),
            usages: Some(vec!["cert sign".to_owned(), "crl sign".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

fn request() -> CertificateSigningRequest {
    request_of(&PrivateKey::generate().unwrap())
}

/// What is known, for tests that know nothing.
#[derive(Default)]
struct Around {
    held: BTreeMap<u32, Timestamp>,
    known: Known,
}

impl Around {
    fn judge(&self, request: &CertificateSigningRequest, terms: &Terms, wanted: &[u32]) -> Verdict {
        let bench = Bench {
            terms,
            wanted,
            held: &self.held,
            known: &self.known,
        };
        judge(request, &bench, Timestamp::now())
    }
}

fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Leave => "leave".to_owned(),
        Verdict::Sign(order) => format!("sign {}", order.subject.generation),
        Verdict::Deny { reason, .. } => (*reason).to_owned(),
        Verdict::Wait(_) => "wait".to_owned(),
    }
}

async fn signed(terms: &Terms, verdict: Verdict) -> Issued {
    let Verdict::Sign(order) = verdict else {
        panic!("{verdict:?}")
    };
    sign(&terms.root, *order, Timestamp::now()).await.unwrap()
}

#[tokio::test]
async fn signs_what_the_agent_of_the_member_asks_for() {
    let terms = terms();
    let mut request = request();
    request.metadata.name = Some(NAME.replace("-g1-", "-g3-"));
    let verdict = Around::default().judge(&request, &terms, &[2, 3]);
    let issued = signed(&terms, verdict).await;
    let now = Timestamp::now();
    let subject = IntermediateSubject {
        mesh: terms.mesh.clone(),
        cluster: terms.cluster.clone(),
        generation: 3,
    };
    recognise_intermediate(
        &issued.chain_pem,
        &terms.root.facts.certificate,
        &subject,
        now,
    )
    .unwrap();
    let life = issued.facts.not_after.duration_since(now);
    assert!(life <= SignedDuration::from_secs(3600), "{life}");
}

#[tokio::test]
async fn grants_a_shorter_life_and_never_a_longer_one_nor_one_beyond_the_root() {
    let (long, short) = (terms(), terms_of(SignedDuration::from_secs(1200)));
    for (terms, asked, most) in [
        (&long, 600, 600),
        (&long, 1_000_000, 3600),
        (&short, 3600, 1200),
    ] {
        let mut request = request();
        request.spec.expiration_seconds = Some(asked);
        let now = Timestamp::now();
        let issued = signed(terms, Around::default().judge(&request, terms, &[1])).await;
        let life = issued.facts.not_after.duration_since(now).as_secs();
        assert!(life <= most && life > most - 60, "{life} of {most}");
    }
    let ending = terms_of(SignedDuration::from_secs(500));
    let verdict = Around::default().judge(&request(), &ending, &[1]);
    assert_eq!(word(&verdict), "wait");
    assert_eq!(
        ending.root.trouble(Timestamp::now()).unwrap().reason,
        "RootEnding"
    );
}

#[test]
fn denies_each_with_its_reason() {
    type Change = fn(&mut CertificateSigningRequest);
    let changes: [(&str, Change); 12] = [
        ("sign 1", |_| ()),
        ("WrongRequester", |r| {
            r.spec.username = Some("system:serviceaccount:istio-system:default".to_owned());
        }),
        ("WrongRequester", |r| r.spec.username = None),
        ("WrongUsages", |r| {
            r.spec.usages = Some(vec!["cert sign".to_owned(), "server auth".to_owned()]);
        }),
        ("WrongUsages", |r| {
            r.spec.usages = Some(vec!["crl sign".to_owned()]);
        }),
        ("BadExpiration", |r| r.spec.expiration_seconds = Some(599)),
        ("BadExpiration", |r| r.spec.expiration_seconds = Some(-1)),
        ("AnotherMember", |r| {
            r.metadata.name = Some(NAME.replace("child1", "region1"));
        }),
        ("AnotherMember", |r| {
            r.metadata.name = Some(NAME.replace("child1", "child12"));
        }),
        ("BadName", |r| {
            r.metadata.name = Some(NAME.replace("-g1-", "-g99999999999-"));
        }),
        ("BadRequest", |r| {
            r.spec.request = ByteString(b"nothing".to_vec());
        }),
        ("BadRequest", |r| {
            r.spec.request = ByteString(vec![0x30; 20_000]);
        }),
    ];
    let terms = terms();
    for (expected, change) in changes {
        let mut request = request();
        change(&mut request);
        let verdict = Around::default().judge(&request, &terms, &[1]);
        assert_eq!(word(&verdict), expected, "{:?}", request.metadata.name);
    }
    // What the request itself says is judged by mesh-ca; here only that each kind has its word.
    let name = String::new();
    for (refusal, expected) in [
        (CsrRefusal::RsaSize { bits: 1024 }, "WeakKey"),
        (CsrRefusal::ProofOfPossession, "BadSignature"),
        (CsrRefusal::AsksToBeCa, "ForeignExtension"),
        (CsrRefusal::ForeignName { name }, "ForeignName"),
        (CsrRefusal::NotPem, "BadRequest"),
    ] {
        assert_eq!(reason(&refusal), expected);
    }
}

#[test]
fn a_generation_that_is_over_is_denied_and_one_that_may_come_waits() {
    let terms = terms();
    let judged = |wanted: &[u32]| word(&Around::default().judge(&request(), &terms, wanted));
    assert_eq!(judged(&[2, 3]), "OldGeneration");
    assert_eq!(judged(&[1, 2]), "sign 1");
    let mut early = request();
    early.metadata.name = Some(NAME.replace("-g1-", "-g7-"));
    assert_eq!(
        word(&Around::default().judge(&early, &terms, &[1, 2])),
        "wait"
    );
}

#[tokio::test]
async fn no_key_is_certified_for_two_members_or_generations_nor_after_it_was_revoked() {
    let terms = terms();
    let key = PrivateKey::generate().unwrap();
    let issued = signed(
        &terms,
        Around::default().judge(&request_of(&key), &terms, &[1]),
    )
    .await;
    let none = BTreeSet::new();
    let serials = BTreeSet::from([mesh_core::facts::plain_serial(&issued.facts.serial)]);
    let cases: [(&str, &str, u32, &BTreeSet<String>); 4] = [
        ("sign 1", "child1", 1, &none),
        ("KeyReused", "child1", 2, &none),
        ("KeyReused", "region1", 1, &none),
        ("RevokedKey", "child1", 1, &serials),
    ];
    for (expected, cluster, generation, revoked) in cases {
        let mut around = Around::default();
        let cluster: ClusterName = cluster.parse().unwrap();
        around
            .known
            .certificate(&issued.cert_pem, (&cluster, generation), revoked);
        let verdict = around.judge(&request_of(&key), &terms, &[1]);
        assert_eq!(word(&verdict), expected, "{cluster} {generation}");
    }
    let mut around = Around::default();
    around.known.revoked(key.public().fingerprint());
    let verdict = around.judge(&request_of(&key), &terms, &[1]);
    assert_eq!(word(&verdict), "RevokedKey");
}

#[test]
fn what_was_answered_is_not_answered_again_while_the_agent_holds_it() {
    let (terms, now) = (terms(), Timestamp::now());
    let hour = SignedDuration::from_hours(1);
    let mut around = Around::default();
    around.held.insert(1, now + hour);
    let mut request = request();
    // The agent may have lost it just now, and not said so yet.
    assert_eq!(word(&around.judge(&request, &terms, &[1])), "wait");
    request.metadata.creation_timestamp = Some(Time(now - hour));
    assert_eq!(
        word(&around.judge(&request, &terms, &[1])),
        "AlreadyAnswered"
    );
    around.held.insert(1, now - hour);
    assert_eq!(word(&around.judge(&request, &terms, &[1])), "sign 1");
    around.held.clear();
    assert_eq!(word(&around.judge(&request, &terms, &[1])), "sign 1");
}

#[test]
fn leaves_what_is_not_ours_or_has_its_answer() {
    let mut foreign = request();
    foreign.spec.signer_name = "kubernetes.io/kubelet-serving".to_owned();
    let mut issued = request();
    issued.status = Some(CertificateSigningRequestStatus {
        certificate: Some(ByteString(vec![1])),
        conditions: None,
    });
    let mut denied = request();
    let condition = CertificateSigningRequestCondition {
        type_: "Denied".to_owned(),
        ..Default::default()
    };
    denied.status = Some(CertificateSigningRequestStatus {
        certificate: None,
        conditions: Some(vec![condition]),
    });
    for request in [foreign, issued, denied] {
        assert_eq!(
            Around::default().judge(&request, &terms(), &[1]),
            Verdict::Leave
        );
    }
}

#[tokio::test]
async fn a_denial_stands_in_the_conditions_of_the_request() {
    const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests/r";
    let fake = Fake::default();
    fake.put(PATH, json!({ "metadata": { "name": "r" }, "spec": {} }));
    let mut request = request();
    request.metadata.name = Some("r".to_owned());
    let denied = Answer::Denied {
        reason: "KeyReused",
        message: "the key is on generation 1 already".to_owned(),
    };
    let open: Gate = Arc::new(|| true);
    let shut: Gate = Arc::new(|| false);
    answer(&fake.client(), &request, &denied, &shut)
        .await
        .unwrap_err();
    assert_eq!(fake.writes(), Vec::<String>::new());
    let client = fake.client();
    // The stand-in knows no subresources: what matters here is what is sent, and that it is sent to `approval`.
    drop(answer(&client, &request, &denied, &open).await);
    assert_eq!(fake.writes(), [format!("PATCH {PATH}/approval")]);
}

#[tokio::test]
async fn a_token_that_is_away_is_no_verdict() {
    let mut terms = terms();
    let away = Obstacle::new(TOKEN_AWAY, "no token");
    terms.root.signer = Err(away.clone());
    let Verdict::Sign(order) = Around::default().judge(&request(), &terms, &[1]) else {
        panic!("judged by the token")
    };
    let why = sign(&terms.root, *order, Timestamp::now()).await;
    assert_eq!(why.unwrap_err(), away);
}
