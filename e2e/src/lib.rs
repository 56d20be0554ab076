//! A fleet of real Kubernetes clusters on one machine, and what tests need to use it.
//!
//! * [`components`] builds or unpacks every program once, into the user's cache.
//! * [`images`] makes container images from those programs; no registry is involved.
//! * [`provider`] is the interface to whatever runs clusters; [`nodes`] is the one that needs
//!   nothing but Linux and root: one process tree per cluster, in namespaces of its own.
//! * [`fleet`] and [`cluster`] are what a test holds in its hands, [`fault`] is how it hurts them,
//!   [`collect`] is what it leaves behind when it fails.
//!
//! The clusters are on a network of their own without an uplink. A test gets there with
//! [`run`], whose threads are all inside that network: clients, and child processes such as
//! kubectl and Helm, then simply connect.

pub mod audit;
pub mod bare;
pub mod bench;
pub mod bench_ca;
pub mod cluster;
pub mod collect;
pub mod components;
pub mod demo;
pub mod exec;
pub mod fault;
pub mod fleet;
pub mod images;
pub mod issuance;
pub mod istio;
pub mod manifest;
pub mod nodes;
pub mod oci;
pub mod paths;
pub mod progress;
pub mod provider;
pub mod scenario;
pub mod sidecar;
pub mod smoke;
pub mod wait;
pub mod x509;

pub use cluster::Cluster;
pub use fleet::{Fleet, run};
pub use wait::wait_for;
