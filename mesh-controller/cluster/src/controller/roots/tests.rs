use mesh_api::mesh::{MeshSpec, MeshStatus, RevocationStatus};
use mesh_ca::Authority;
use mesh_core::facts::RootFacts;

use super::*;
use crate::watches::Seen;

const NAME: &str = "default";

/// A mesh whose root is open and recorded, with these serials revoked and this list recorded.
fn state(root: &Root, serials: &[&str], crl: Option<String>) -> State {
    let revocations = serials
        .iter()
        .map(|serial| RevocationStatus {
            serial: (*serial).to_owned(),
            since: "2026-01-01T00:00:00Z".to_owned(),
            until: "2096-01-01T00:00:00Z".to_owned(),
            ..RevocationStatus::default()
        })
        .collect();
    let mut mesh = Mesh::new(NAME, MeshSpec::default());
    mesh.status = Some(MeshStatus {
        root: Some(root.status.clone()),
        revocations,
        crl,
        ..MeshStatus::default()
    });
    let mut state = State::default();
    state.meshes.see(Seen::Applied(mesh));
    state.roots.insert(NAME.to_owned(), Ok(root.clone()));
    state
}

fn root() -> Root {
    let life = SignedDuration::from_hours(24 * 365);
    let mesh = NAME.parse().unwrap();
    let (authority, material) = Authority::generate_root(&mesh, 1, life, Timestamp::now()).unwrap();
    let facts = authority.certificate().clone();
    Root {
        key: facts.key_fingerprint.clone(),
        not_after: facts.not_after,
        facts: RootFacts {
            generation: 1,
            certificate: material.cert_pem,
            ends: None,
        },
        status: RootStatus {
            generation: 1,
            fingerprint: facts.fingerprint,
            ..RootStatus::default()
        },
        signer: Ok(Arc::new(authority)),
    }
}

fn sign(root: &Root, due: &Due, now: Timestamp) -> String {
    let authority = root.signer.clone().unwrap();
    authority
        .sign_crl(&due.revoked, due.number, LIST_LIFE, now)
        .unwrap()
        .pem
}

#[test]
fn a_list_is_signed_from_the_first_day_and_again_when_something_is_revoked() {
    let (root, now) = (root(), Timestamp::now());
    let first = due_list(&state(&root, &[], None), NAME, now).unwrap();
    let list = sign(&root, &first, now);
    assert!(due_list(&state(&root, &[], Some(list.clone())), NAME, now).is_none());
    let second = due_list(&state(&root, &["abc"], Some(list.clone())), NAME, now).unwrap();
    assert!(second.number > first.number);
    assert_eq!(second.revoked.len(), 1);
    // What was just signed and is not recorded yet counts.
    let newest = sign(&root, &second, now);
    let mut waiting = state(&root, &["abc"], Some(list));
    waiting.signed.insert(NAME.to_owned(), newest.into());
    assert!(due_list(&waiting, NAME, now).is_none());
    let later = now + SignedDuration::from_hours(24 * 16);
    let third = due_list(&waiting, NAME, later).unwrap();
    assert!(third.number > second.number);
}

#[test]
fn no_list_is_signed_before_the_root_is_recorded_or_when_it_cannot() {
    let (root, now) = (root(), Timestamp::now());
    let mut unrecorded = state(&root, &[], None);
    let mut mesh = Mesh::new(NAME, MeshSpec::default());
    mesh.metadata.uid = Some("another".to_owned());
    unrecorded.meshes.see(Seen::Applied(mesh));
    assert!(due_list(&unrecorded, NAME, now).is_none());
    let mut away = root;
    away.signer = Err(Obstacle::new(TOKEN_AWAY, "no token"));
    assert!(due_list(&state(&away, &[], None), NAME, now).is_none());
}

#[test]
fn a_list_of_another_root_is_no_list() {
    let (own, other, now) = (root(), root(), Timestamp::now());
    let due = due_list(&state(&other, &[], None), NAME, now).unwrap();
    let foreign = sign(&other, &due, now);
    assert!(due_list(&state(&own, &[], Some(foreign)), NAME, now).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_refused_pin_is_not_tried_again_and_a_token_that_is_away_ever_less_often() {
    let attempt = Attempt {
        rules: Err(Obstacle::new("any", "any")),
        recorded: None,
        secrets: [None, Some("1".to_owned())],
        leads: true,
    };
    let made = |failed| Made {
        attempt: attempt.clone(),
        at: Instant::now(),
        failed,
    };
    let failed = |reason: &str| Err(Obstacle::new(reason, "why"));
    let (first, tenth) = (made(0), made(10));
    tokio::time::advance(Duration::from_secs(3)).await;
    let pin = failed(TOKEN_PIN);
    assert!(!first.is_due(&attempt, Some(&pin)));
    let mut other_pin = attempt.clone();
    other_pin.secrets[1] = Some("2".to_owned());
    assert!(first.is_due(&other_pin, Some(&pin)));
    let away = failed(TOKEN_AWAY);
    assert!(first.is_due(&attempt, Some(&away)));
    assert!(!tenth.is_due(&attempt, Some(&away)));
    assert!(first.is_due(&attempt, Some(&failed("RootMissing"))));
    assert!(!first.is_due(&attempt, Some(&Ok(root()))));
    tokio::time::advance(REFRESH).await;
    assert!(tenth.is_due(&attempt, Some(&away)));
    assert!(first.is_due(&attempt, Some(&Ok(root()))));
    assert!(!first.is_due(&attempt, Some(&pin)));
}
