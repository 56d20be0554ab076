use super::*;
use crate::{
    leaf::tests::signer,
    testing::{Mesh, after, now},
};

#[test]
fn a_leaf_is_made_when_there_is_none_when_it_is_due_and_when_the_wish_changes() {
    let mesh = Mesh::new();
    let signer = signer(&mesh);
    let wish = Wish {
        identity: mesh.wanted().identity,
        life: SignedDuration::from_hours(1),
        signer: signer.fingerprint().to_owned(),
    };
    let make = |second: i64, urgent| Next::Make {
        ledger: ledger(after(second + 3600), wish.life),
        urgent,
    };
    assert_eq!(next(None, &wish, 0.0, now()), make(0, false));
    let leaf = Leaf::make(wish.clone(), &signer, now()).unwrap();
    assert_eq!(
        next(Some(&leaf), &wish, 0.0, after(1)),
        Next::Keep(after(1800))
    );
    assert_eq!(
        next(Some(&leaf), &wish, 0.0, after(1800)),
        make(1800, false)
    );
    // The ledger could not be written for a long time: then the link counts for more.
    assert_eq!(next(Some(&leaf), &wish, 0.0, after(2700)), make(2700, true));
    assert_eq!(next(Some(&leaf), &wish, 0.0, after(9999)), make(9999, true));
    // The clock was stepped back by more than leaves are backdated.
    let before = leaf.facts.not_before - SignedDuration::from_secs(1);
    assert!(matches!(
        next(Some(&leaf), &wish, 0.0, before),
        Next::Make { urgent: false, .. }
    ));
    for other in [
        Wish {
            signer: "another".to_owned(),
            ..wish.clone()
        },
        Wish {
            life: SignedDuration::from_mins(1),
            ..wish.clone()
        },
        Wish {
            identity: "spiffe://other.test/ns/a/sa/b".parse().unwrap(),
            ..wish.clone()
        },
    ] {
        assert!(matches!(
            next(Some(&leaf), &other, 0.0, after(1)),
            Next::Make { urgent: false, .. }
        ));
    }
}

#[tokio::test]
async fn the_first_leaf_waits_for_the_ledger_and_renewals_do_not_stop() {
    let mesh = Mesh::new();
    let (wanted_tx, wanted) = watch::channel(None);
    let (signer_tx, signers) = watch::channel(None);
    let (leaf_tx, mut leaf) = watch::channel(None);
    let board = Board::new();
    let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
    let task = Signing {
        wanted,
        signer: signers,
        leaf: leaf_tx,
        board: board.clone(),
        metrics,
    };
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(task.run());
    let mut wish = mesh.wanted();
    wish.leaf = SignedDuration::from_secs(10);
    wanted_tx.send_replace(Some(Arc::new(wish)));
    // Signed "now" in the real world: the task reads the real clock.
    signer_tx.send_replace(Some(crate::leaf::tests::signer_at(&mesh, Timestamp::now())));
    let early = tokio::time::timeout(Duration::from_millis(300), leaf.changed()).await;
    assert!(early.is_err(), "no leaf before the ledger is written");
    let asked = board.ledger_asked().unwrap();
    assert!(asked > Timestamp::now());
    board.ledger_confirm(Some(&asked.to_string()));
    tokio::time::timeout(Duration::from_secs(5), leaf.changed())
        .await
        .unwrap()
        .unwrap();
    let first = leaf.borrow_and_update().clone().unwrap();
    tokio::time::timeout(Duration::from_secs(8), leaf.changed())
        .await
        .unwrap()
        .unwrap();
    let second = leaf.borrow_and_update().clone().unwrap();
    assert_ne!(first.facts.serial, second.facts.serial);
    assert!(second.issued < first.facts.not_after);
}
