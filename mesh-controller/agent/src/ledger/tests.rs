use std::time::Duration;

use super::*;
use crate::testing::{after, now};

mod sim;

const PAIR: Pair = Pair {
    signer: 1,
    bundle: 0,
};

fn replica(pod: &str, ledger: Vec<LedgerEntry>) -> Replica {
    Replica {
        pod: pod.to_owned(),
        ledger,
        ..Replica::default()
    }
}

fn until(ledger: &[LedgerEntry]) -> Vec<&str> {
    ledger.iter().map(|entry| entry.until.as_str()).collect()
}

#[test]
fn only_what_is_written_counts() {
    let book = Book::new();
    book.ask(PAIR, after(100));
    assert!(!book.covers(PAIR, after(1)), "asked for, not written");
    assert!(book.is_behind(now()));
    let lines = book.lines(None, now());
    assert_eq!(until(&lines), [after(100).to_string()]);
    book.confirm(&replica("a", lines));
    assert!(book.covers(PAIR, after(100)) && !book.covers(PAIR, after(101)));
    let other = Pair { signer: 2, ..PAIR };
    assert!(!book.covers(other, after(1)));
}

#[test]
fn what_an_earlier_life_wrote_is_said_again_and_may_be_used() {
    let before = Book::new();
    before.ask(PAIR, after(100));
    let standing = replica("a", before.lines(None, now()));
    let book = Book::new();
    book.ask(PAIR, after(50));
    assert_eq!(book.lines(Some(&standing), now()), standing.ledger);
    book.confirm(&standing);
    assert!(!book.is_behind(now()));
    assert!(book.covers(PAIR, after(100)));
}

#[test]
fn what_stood_in_an_object_that_is_gone_stands_nowhere() {
    let book = Book::new();
    book.stands_in(Some("one"));
    book.ask(PAIR, after(100));
    book.confirm(&replica("a", book.lines(None, now())));
    book.stands_in(Some("one"));
    assert!(book.covers(PAIR, after(1)));
    book.stands_in(Some("another"));
    assert!(!book.covers(PAIR, after(1)) && book.is_behind(now()));
    assert!(
        read(&book.lines(None, now())).covers(PAIR, after(100)),
        "and it is written again"
    );
}

#[test]
fn an_end_that_cannot_be_read_never_comes() {
    let entry = LedgerEntry {
        signer: 1,
        bundle: 0,
        until: "garbage".to_owned(),
    };
    assert!(read(&[entry]).covers(PAIR, Timestamp::MAX));
}

#[test]
fn the_next_line_is_asked_for_before_anybody_needs_it() {
    let book = Book::new();
    let end = Timestamp::now() + SignedDuration::from_hours(1);
    let margin = end + MARGIN - SignedDuration::from_secs(1);
    book.ask(PAIR, margin);
    book.confirm(&replica("a", book.lines(None, Timestamp::now())));
    assert!(!book.is_behind(Timestamp::now()));
    assert!(book.covers(PAIR, end));
    assert!(book.is_behind(Timestamp::now()));
    book.confirm(&replica("a", book.lines(None, Timestamp::now())));
    assert!(book.covers(PAIR, end) && !book.is_behind(Timestamp::now()));
}

#[tokio::test(start_paused = true)]
async fn a_leaf_waits_for_the_api_server_and_not_for_ever() {
    let book = Book::new();
    let end = Timestamp::now() + SignedDuration::from_hours(1);
    let soon = || Instant::now() + Duration::from_secs(5);
    let refused = book.cover(PAIR, end, soon()).await.unwrap_err();
    assert!(refused.to_string().contains("generation 1"), "{refused}");
    let (mut wishes, writer) = (book.wishes(), book.clone());
    let writing = async {
        wishes
            .wait_for(|asked| asked.covers(PAIR, end))
            .await
            .unwrap();
        writer.confirm(&replica("a", writer.lines(None, Timestamp::now())));
    };
    let (covered, ()) = tokio::join!(book.cover(PAIR, end, soon()), writing);
    covered.unwrap();
    book.cover(PAIR, end, Instant::now()).await.unwrap();
}
