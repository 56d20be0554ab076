use std::time::Duration;

use mesh_cluster::tasks::Tasks;
use mesh_core::names::SpiffeId;
use tokio::time::Instant;

use super::*;
use crate::{
    intermediate::decide,
    leaf::Wish,
    report::Board,
    testing::{Mesh, after, now, secret},
};

fn signer(mesh: &Mesh, generation: u32) -> Signer {
    let wanted = mesh.wanted();
    let key = mesh_ca::PrivateKey::generate().unwrap();
    let chain = mesh.sign(&wanted, generation, &key.csr_pem().unwrap(), now());
    let (key_entry, crt_entry) = (format!("g{generation}.key"), format!("g{generation}.crt"));
    let secret = secret(&[(&key_entry, key.pem()), (&crt_entry, &chain)]);
    let mut wanted = wanted;
    wanted.spec.signer_generation = generation;
    let decision = decide(&wanted, Some(&secret), &BTreeMap::new(), &[], after(1));
    decision.signer.unwrap()
}

fn leaf(signer: &Signer) -> Arc<Leaf> {
    let identity: SpiffeId = "spiffe://child1.mesh.test/ns/kof/sa/a".parse().unwrap();
    let wish = Wish {
        identity,
        life: jiff::SignedDuration::from_hours(1),
        signer: signer.fingerprint().to_owned(),
    };
    Arc::new(Leaf::make(wish, signer, after(1)).unwrap())
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story")]
async fn the_metric_is_true_after_each_change_and_what_is_gone_is_not_shown() {
    let mesh = Mesh::new();
    let board = Board::new();
    let (wanted, wanted_rx) = watch::channel(None);
    let (signers, signer_rx) = watch::channel(None);
    let (leaves, leaf_rx) = watch::channel(None);
    let (_serving, serving_rx) = watch::channel(None);
    let mut registry = Registry::with_prefix("mesh");
    let expiry = Expiry {
        wanted: wanted_rx,
        signer: signer_rx,
        leaf: leaf_rx,
        serving: serving_rx,
        said: board.news(),
    };
    let mut tasks = Tasks::new();
    tasks.spawn("ends of certificates", expiry.run(&mut registry));
    let shown = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let series = |line: &str| {
            let rest = line.strip_prefix("mesh_agent_certificate_not_after_seconds{")?;
            let (labels, value) = rest.split_once("} ")?;
            let labels: Vec<&str> = labels.split(',').take(2).collect();
            Some(format!("{} {value}", labels.join(",")))
        };
        let mut lines: Vec<String> = text.lines().filter_map(series).collect();
        lines.sort();
        lines
    };
    let becomes = async |expected: Vec<(&str, u32, Timestamp)>| {
        let mut expected: Vec<String> = expected
            .iter()
            .map(|(kind, n, end)| format!("kind=\"{kind}\",generation=\"{n}\" {}", end.as_second()))
            .collect();
        expected.sort();
        let deadline = Instant::now() + Duration::from_secs(10);
        while shown() != expected {
            assert!(
                Instant::now() < deadline,
                "{:?} is not {expected:?}",
                shown()
            );
            tokio::task::yield_now().await;
        }
    };
    becomes(Vec::new()).await;
    let root = mesh_ca::facts(&mesh.root_pem).unwrap().remove(0).not_after;
    let mut wish = mesh.wanted();
    wish.spec.workloads = Some(workloads(&mesh.root_pem));
    wanted.send_replace(Some(Arc::new(wish)));
    becomes(vec![("root", 1, root)]).await;
    let (first, second) = (signer(&mesh, 1), signer(&mesh, 2));
    let first_end = first.authority.certificate().not_after;
    let second_end = second.authority.certificate().not_after;
    board.intermediates(&[told(&second), told(&first)], None);
    signers.send_replace(Some(first.clone()));
    let one = leaf(&first);
    leaves.send_replace(Some(Arc::clone(&one)));
    becomes(vec![
        ("root", 1, root),
        ("intermediate", 1, first_end),
        ("intermediate", 2, second_end),
        ("gateway", 1, one.facts.not_after),
    ])
    .await;
    // The next generation takes over, and the first is thrown away.
    let two = leaf(&second);
    leaves.send_replace(Some(Arc::clone(&two)));
    signers.send_replace(Some(second.clone()));
    board.intermediates(&[told(&second)], None);
    becomes(vec![
        ("root", 1, root),
        ("intermediate", 2, second_end),
        ("gateway", 2, two.facts.not_after),
    ])
    .await;
    wanted.send_replace(None);
    becomes(vec![
        ("intermediate", 2, second_end),
        ("gateway", 2, two.facts.not_after),
    ])
    .await;
}

fn workloads(root: &str) -> mesh_api::agent::Workloads {
    mesh_api::agent::Workloads {
        issuer: mesh_api::mesh::WorkloadIssuer::Agent,
        trust_domain: "child1.mesh.test".to_owned(),
        bundle: mesh_api::agent::Bundle {
            generation: 1,
            roots: vec![root.to_owned()],
        },
        default_seconds: 3600,
        max_seconds: 3600,
        node_accounts: Vec::new(),
        service_names: Vec::new(),
    }
}
