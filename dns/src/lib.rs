//! Where gateways are: names into addresses, with the last known good answer kept.
//!
//! A region's gateway is published as an address or as a host name (what `status.loadBalancer.ingress` of its Service says). Names are asked
//! here, where the answer is needed, and what comes out is plain addresses: a bad day of a name server must never take away an address that works.
//!
//! | | |
//! |---|---|
//! | [`Target`], [`HostName`] | what a gateway may be called; what is refused, and why |
//! | [`Known`] | what is known of one name: a pure state machine fed with answers |
//! | [`Follower`] | asks, with hickory, and publishes when something changed |

mod ask;
mod follower;
mod known;
mod target;

pub use ask::{NameServer, StartError};
pub use follower::{Follower, Gateways, Resolved};
pub use known::{Answer, Change, Family, GIVE_UP, Known, Miss, Pace, STALE_AFTER, State};
pub use target::{AddressRefusal, HostName, Target, TargetRefusal, check_address};
