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
    assert_eq!(next(None, &wish, 0.0, now()), Next::Make);
    let leaf = Leaf::make(wish.clone(), &signer, now()).unwrap();
    assert_eq!(
        next(Some(&leaf), &wish, 0.0, after(1)),
        Next::Keep(after(1800))
    );
    assert_eq!(next(Some(&leaf), &wish, 0.0, after(1800)), Next::Make);
    assert_eq!(next(Some(&leaf), &wish, 0.0, after(9999)), Next::Make);
    // The clock was stepped back by more than leaves are backdated.
    let before = leaf.facts.not_before - SignedDuration::from_secs(1);
    assert_eq!(next(Some(&leaf), &wish, 0.0, before), Next::Make);
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
            ..wish
        },
    ] {
        assert_eq!(next(Some(&leaf), &other, 0.0, after(1)), Next::Make);
    }
}

#[test]
fn the_line_is_kept_two_lives_further_and_ends_with_the_signer() {
    let mesh = Mesh::new();
    let signer = signer(&mesh);
    let wish = |hours| Wish {
        identity: mesh.wanted().identity,
        life: SignedDuration::from_hours(hours),
        signer: signer.fingerprint().to_owned(),
    };
    let (pair, end, until) = line(&wish(1), &signer, now());
    assert_eq!((pair.signer, pair.bundle), (1, 0));
    assert_eq!(end, after(3600));
    assert!(until >= after(7 * 3600), "an outage of six hours: {until}");
    let last = signer.authority.expires();
    let (_, end, until) = line(&wish(1000), &signer, now());
    assert_eq!((end, until), (last, last));
    let (_, end, until) = line(&wish(10), &signer, now());
    assert_eq!((end, until), (after(36_000), last));
}

#[tokio::test]
async fn no_leaf_without_the_ledger_and_renewals_from_memory() {
    let mesh = Mesh::new();
    let (wanted_tx, wanted) = watch::channel(None);
    let (signer_tx, signers) = watch::channel(None);
    let (leaf_tx, mut leaf) = watch::channel(None);
    let board = Board::new();
    let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
    let task = Signing {
        which: Which::Own,
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
    let book = &board.ledger;
    assert!(book.is_behind(Timestamp::now()));
    let mine = mesh_api::agent::Replica {
        ledger: book.lines(None, Timestamp::now()),
        ..mesh_api::agent::Replica::default()
    };
    book.confirm(&mine);
    let mut made = Vec::new();
    // From here on nothing is written any more.
    for _ in 0..2 {
        tokio::time::timeout(Duration::from_secs(8), leaf.changed())
            .await
            .unwrap()
            .unwrap();
        made.push(leaf.borrow_and_update().clone().unwrap());
    }
    assert_ne!(made[0].facts.serial, made[1].facts.serial);
    assert!(made[1].issued < made[0].facts.not_after);
    book.stands_in(Some("another object"));
    let other = tokio::time::timeout(Duration::from_secs(6), leaf.changed()).await;
    assert!(other.is_err(), "no leaf when nothing that stands covers it");
}
