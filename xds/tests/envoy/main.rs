//! The real Envoy, driven by this crate's server, with real certificates and real requests.
//!
//! The program is taken from the variable `ENVOY_BIN`; without it these tests fail.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::future_not_send,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test may fail, and keeps its tasks until it ends"
)]

mod backend;
mod client;
mod direct;
mod failures;
mod lab;
mod protocol;
mod revocation;
mod rotation;
mod traffic;
