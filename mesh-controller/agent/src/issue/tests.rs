//! The CA as agents see it: over real TLS and gRPC, with a stand-in for the API server behind it.

mod bad;
mod doors;
mod given;
mod hostile;
mod storm;
mod tokens;
mod world;
