//! What the ledger must do for us.

use std::fmt;

use jiff::Timestamp;
use mesh_core::ledger::Pair;
use tokio::time::Instant;

use super::ask::Boxed;
use crate::ledger::Book;

/// The ledger does not speak of it in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotWritten;

impl fmt::Display for NotWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed to write the ledger in time")
    }
}

impl std::error::Error for NotWritten {}

/// A ledger that is written ahead: nothing is handed out that it does not speak of.
pub trait Covering: Send + Sync + 'static {
    /// Whether what is written speaks of a leaf that ends at `end`. Asked at every request, so it is to be cheap.
    fn covers(&self, pair: Pair, end: Timestamp) -> bool;

    /// Has it written, and waits until it is.
    fn cover(
        &self,
        pair: Pair,
        end: Timestamp,
        deadline: Instant,
    ) -> Boxed<'_, Result<(), NotWritten>>;
}

/// No ledger at all: what is handed out is forgotten. For measurements and tests only; nothing in a cluster may use it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forgetful;

impl Covering for Forgetful {
    fn covers(&self, _pair: Pair, _end: Timestamp) -> bool {
        true
    }

    fn cover(
        &self,
        _pair: Pair,
        _end: Timestamp,
        _deadline: Instant,
    ) -> Boxed<'_, Result<(), NotWritten>> {
        Box::pin(async { Ok(()) })
    }
}

impl Covering for Book {
    fn covers(&self, pair: Pair, end: Timestamp) -> bool {
        Self::covers(self, pair, end)
    }

    fn cover(
        &self,
        pair: Pair,
        end: Timestamp,
        deadline: Instant,
    ) -> Boxed<'_, Result<(), NotWritten>> {
        Box::pin(async move {
            let covered = Self::cover(self, pair, end, deadline).await;
            covered.map_err(|_why| NotWritten)
        })
    }
}
