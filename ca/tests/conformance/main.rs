//! Every kind of certificate and revocation list that we make, judged by parsers and verifiers that are not ours, with a table of the verdicts
//! in the output; and a table of defects put in on purpose, with who caught each.
//!
//! The judges: OpenSSL and `GnuTLS` (`certtool`) by their commands, Go's crypto/x509, the linter zlint and our own rules as Go reads a certificate
//! (`JUDGE_BIN`), rustls-webpki, and BoringSSL in a real Envoy (`ENVOY_BIN`) that shakes hands with itself. A judge that is missing
//! fails the tests; `make unit` provides all of them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test may fail"
)]

mod case;
mod defects;
mod hostile;
mod judges;
mod kinds;
mod raw;
mod seeds;
mod table;
