//! What the ledger must do for us.

use jiff::Timestamp;
use mesh_core::ledger::Pair;
use tokio::time::Instant;

use super::ask::Boxed;
use crate::ledger::{Book, NotWritten};

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
        Box::pin(Self::cover(self, pair, end, deadline))
    }
}
