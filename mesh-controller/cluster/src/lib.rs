//! The door to Kubernetes: everything that talks to an API server, ours or a member's.
//!
//! | room | what it does |
//! |---|---|
//! | [`client`] | clients to our own API server and to those of members |
//! | [`call`] | one request: its deadline, and what went wrong in words |
//! | [`watches`] | watches that never end |
//! | [`apply`] | the only writer: applies, prunes and withdraws what is ours, refuses what is foreign |
//! | [`definitions`] | the custom resource definitions of management, brought up to date |
//! | [`lease`] | who leads |
//! | [`vault`] | the root |
//! | [`tasks`] | supervised tasks |
//! | [`controller`] | the controller, made of all of these |
//! | [`metrics`] | what it counts |
//! | [`agent_io`] | what the agent reads and writes in its own cluster |

pub mod agent_io;
pub mod apply;
pub mod call;
pub mod client;
pub mod controller;
pub mod definitions;
pub mod lease;
pub mod metrics;
pub mod tasks;
pub mod vault;
pub mod watches;

#[cfg(test)]
mod testing;
