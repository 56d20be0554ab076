//! The Envoy side of the mesh: what an Envoy beside our agent is told, and how.
//!
//! | module | holds | kind |
//! |---|---|---|
//! | [`model`] | [`Kind`], [`Resource`], [`Snapshot`]: named, versioned bytes | pure |
//! | [`engine`] | the delta xDS protocol of one stream as a state machine | pure |
//! | [`server`] | [`Store`] and the gRPC shell around the engine, on a Unix socket | shell |
//! | [`gateway`] | from our own small specs to a [`Snapshot`], and the bootstrap | pure |
//! | [`istiod`] | what an istiod says about itself, over the same protocol | shell |
//!
//! Only the *delta* variant of ADS and SDS is spoken: every Envoy that talks to this server got its
//! bootstrap from [`gateway::bootstrap`], which asks for delta. State-of-the-world requests are
//! answered with `Unimplemented`.
//!
//! ```text
//! GatewaySpec + Secrets --gateway::build--> Snapshot --Store::set--> engine --ADS--> Envoy
//!                                                     Store::status <--ACK, NACK--
//! ```

pub mod engine;
pub mod gateway;
pub mod istiod;
pub mod model;
pub mod server;

pub use model::{Kind, Resource, Snapshot};
pub use server::{Nack, NodeStatus, Store, serve_uds};
