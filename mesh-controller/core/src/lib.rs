//! The words and the rules of a mesh.
//!
//! Everything here is a total function of its arguments: no clock, no network, no files, no locks, no
//! randomness (`clippy.toml` beside this crate refuses them). Start at [`plan::plan`]: from the
//! [`facts::Facts`] of one mesh it decides what must be true next; [`conditions`] says what the person is told.

pub mod conditions;
pub mod contract;
pub mod definitions;
pub mod facts;
pub mod issuance;
pub mod istio;
pub mod ledger;
pub mod lifetime;
pub mod names;
pub mod peer;
pub mod plan;
pub mod probe;
pub mod remote;
pub mod revocation;
pub mod text;
