use std::sync::Arc;

use k8s_openapi::{
    api::certificates::v1::{CertificateSigningRequestSpec, CertificateSigningRequestStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use mesh_api::mesh::RootStatus;
use mesh_ca::{Authority, PrivateKey, facts, recognise_intermediate};
use mesh_core::facts::RootFacts;

use super::*;
use crate::vault::Root;

fn terms() -> Terms {
    let mesh: mesh_core::names::MeshName = "default".parse().unwrap();
    let life = SignedDuration::from_hours(24 * 3650);
    let (authority, material) = Authority::generate_root(&mesh, 1, life, Timestamp::now()).unwrap();
    Terms {
        mesh,
        cluster: "child1".parse().unwrap(),
        root: Root {
            authority: Arc::new(authority),
            facts: RootFacts {
                generation: 1,
                certificate: material.cert_pem,
            },
            status: RootStatus::default(),
        },
        replicas: 2,
        leaf_seconds: 60,
        intermediate_seconds: 3600,
        workloads: None,
    }
}

fn request() -> CertificateSigningRequest {
    let pem = PrivateKey::generate().unwrap().csr_pem().unwrap();
    CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some("r".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: labels::SIGNER.to_owned(),
            username: Some(labels::AGENT_USER.to_owned()),
            usages: Some(vec!["cert sign".to_owned(), "crl sign".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

fn denial(request: &CertificateSigningRequest) -> &'static str {
    match judge(request, &terms(), 1, Timestamp::now()) {
        Verdict::Deny { reason, .. } => reason,
        other @ (Verdict::Leave | Verdict::Sign { .. } | Verdict::Wait(_)) => panic!("{other:?}"),
    }
}

#[test]
fn signs_what_the_agent_of_the_member_asks_for() {
    let (terms, now) = (terms(), Timestamp::now());
    let Verdict::Sign { chain } = judge(&request(), &terms, 3, now) else {
        panic!("not signed")
    };
    let subject = IntermediateSubject {
        mesh: terms.mesh.clone(),
        cluster: terms.cluster.clone(),
        generation: 3,
    };
    recognise_intermediate(&chain, &terms.root.facts.certificate, &subject, now).unwrap();
    let end = facts(&chain).unwrap()[0].not_after;
    assert!(
        end.duration_since(now) <= SignedDuration::from_secs(3600),
        "{end}"
    );
}

#[test]
fn grants_a_shorter_life_and_never_a_longer_one() {
    for (asked, most) in [(600, 600), (1_000_000, 3600)] {
        let mut request = request();
        request.spec.expiration_seconds = Some(asked);
        let now = Timestamp::now();
        let Verdict::Sign { chain } = judge(&request, &terms(), 1, now) else {
            panic!("not signed")
        };
        let life = facts(&chain).unwrap()[0]
            .not_after
            .duration_since(now)
            .as_secs();
        assert!(life <= most && life > most - 60, "{life}");
    }
}

#[test]
fn denies_others_and_other_uses() {
    let mut other = request();
    other.spec.username = Some("system:serviceaccount:istio-system:default".to_owned());
    assert_eq!(denial(&other), "WrongRequester");
    let mut server = request();
    server.spec.usages = Some(vec!["cert sign".to_owned(), "server auth".to_owned()]);
    assert_eq!(denial(&server), "WrongUsages");
    let mut broken = request();
    broken.spec.request = ByteString(b"nothing".to_vec());
    assert_eq!(denial(&broken), "BadRequest");
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
            judge(&request, &terms(), 1, Timestamp::now()),
            Verdict::Leave
        );
    }
}
