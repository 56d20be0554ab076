//! The failures that a request through the intake can meet, as seen there.
//!
//! This table is what the tests in `tests/envoy/failures.rs` found with Envoy 1.40 and hold it to;
//! a probe classifies by it. `gateway`, `intake`, `refused`, `flags`, `detail` and `tls` are the
//! headers [`x-kof-gateway`](super::HEADER_GATEWAY) and so on; an empty cell means that the header
//! is not there. Flags are exact, `detail` and `tls` hold the text given here (Envoy replaces
//! blanks by `_`).
//!
//! | what is wrong | status | gateway | intake | refused | flags | detail | tls |
//! |---|---|---|---|---|---|---|---|
//! | nothing, or the backend's own answer | any | region | | | | | |
//! | Envoy has no listener yet | connection refused | | | | | | |
//! | host is no region that is consumed | 404 | | own | `host` | `-` | `direct_response` | |
//! | path holds `%2f`, `%5c` or `%00` | 400 | | own | | `-` | `path_normalization_failed` | |
//! | request line is malformed | 400 | | own | | `-` | `http1.…` | |
//! | name: the gateway has no address | 503 | | own | | `UH` | `no_healthy_upstream` | |
//! | connect: refused | 503 | | own | | `UF` | `remote_connection_failure` | `delayed_connect_error:_Connection_refused` |
//! | connect: dead or silent address, after 5 s | 503 | | own | | `UF` | `connection_timeout` | |
//! | TLS: the peer speaks no TLS | 503 | | own | | `UF` | `remote_connection_failure` | `TLS_error:…WRONG_VERSION_NUMBER` |
//! | TLS: its certificate is not under our anchor | 503 | | own | | `UF` | `remote_connection_failure` | `TLS_error:…CERTIFICATE_VERIFY_FAILED…unable_to_get_local_issuer_certificate` |
//! | identity: its certificate is another's | 503 | | own | | `UF` | `remote_connection_failure` | `TLS_error:…CERTIFICATE_VERIFY_FAILED…SAN_matcher,_certificate_SANs_are_[…]` |
//! | identity refused: the gateway has no chain for our SNI | 503 | | own | | `UF` | `remote_connection_failure` | `TLS_error:…Connection_reset_by_peer` |
//! | identity refused: our certificate (name, anchor or dates) | 503 | | own | | `UC` | `connection_termination` | |
//! | path refused by the contract | 403 | region | | `path` | `-` | `rbac_access_denied…` | |
//! | upstream: the backend refuses connections | 503 | region | | | `UF` | `remote_connection_failure` | |
//! | upstream: the backend has no address | 503 | region | | | `UH` | `no_healthy_upstream` | |
//!
//! Notes:
//!
//! * `gateway` says that the request reached the region and that both sides proved who they are.
//!   Neither what is behind the gateway nor the region can set the other headers: gateway and
//!   intake remove them from the answers of others.
//! * A connection that breaks while a request is on it also gives `UC` without `gateway`: only a
//!   probe that fails again on a new connection was refused. Envoy opens one for each new request
//!   after `UC`.
//! * A gateway that is just starting has no chain for anybody, and a load balancer without a
//!   backend resets or refuses: one of these alone does not yet mean that access was withdrawn.
//! * gRPC: the HTTP status is 200 and `grpc-status` tells (7 for the refused path, 14 for 503);
//!   the headers are the same.
//! * Why the region refused is not told to the caller. It is on the standard output of the region's
//!   Envoy: a line per refused connection (`refused=connection`, with server name, claimed SPIFFE
//!   ID and reason) and per refused request (`refused=path`).
//! * An answer never comes when a backend takes a request and stays silent: there is no time limit
//!   on the path, the caller brings its own.
