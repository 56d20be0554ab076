use mesh_api::{
    agent::{Host, Sidecars},
    mesh::Protocol,
};

use super::*;
use crate::testing::Mesh;

fn intent(sidecars: Sidecars, open: &str) -> Intent {
    let mut intent = Mesh::new().intent();
    let region = &mut intent.spec.consume[0];
    region.sidecars = sidecars;
    region.hosts = vec![Host {
        service: open.to_owned(),
        port: 8427,
        protocol: Protocol::Http,
        sni: String::new(),
        accounts: Vec::new(),
        identities: Vec::new(),
        prefixes: Vec::new(),
    }];
    intent
}

#[test]
fn only_regions_that_sidecars_go_to_are_probed() {
    let probed = |sidecars, open: &str| {
        let paths = wanted(&intent(sidecars, open));
        assert_eq!(paths.accepted, 3, "a new generation is a reason to look");
        paths.consume.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(probed(Sidecars::Static, "region1-vmauth"), ["region1"]);
    assert!(
        probed(Sidecars::Static, "region1-otlp").is_empty(),
        "that is not what probes ask"
    );
    assert!(probed(Sidecars::Intake, "region1-vmauth").is_empty());
}

#[tokio::test]
async fn it_is_ready_when_it_knows_what_to_probe_and_without_an_object_it_probes_nothing() {
    let seen = |intent: Option<Intent>| -> Seen<Intent> {
        let objects = intent.into_iter().map(|it| ("mesh".to_owned(), it));
        Some(Arc::new(objects.collect()))
    };
    let (tx, intents) = watch::channel(None);
    let ready = ProbeReadiness(intents.clone());
    assert!(ready.check().is_err());
    let (to, mut paths) = watch::channel(Arc::new(Paths::default()));
    let board = Board::of_prober();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(tell(intents, to, board.clone()));
    tx.send_replace(seen(Some(intent(Sidecars::Static, "region1-vmauth"))));
    paths
        .wait_for(|paths| paths.consume.len() == 1)
        .await
        .unwrap();
    assert!(ready.check().is_ok());
    let mut leaving = intent(Sidecars::Static, "region1-vmauth");
    leaving.leaving = true;
    tx.send_replace(seen(Some(leaving)));
    paths
        .wait_for(|paths| paths.consume.is_empty())
        .await
        .unwrap();
    tx.send_replace(seen(None));
    assert!(ready.check().is_err());
}
