//! Remote secrets: how the istiod of a consumer is let into the API server of a region, and for how long.
//!
//! A pair is a consumer and a region that it calls, both in the Istio plane of a mesh whose discovery is `remoteSecrets`. Of each pair there is one
//! reader account in the region, and one Secret in the consumer that holds a short-lived token of it. Nothing else ever gets one, so that
//! what may read what forms no circle.

mod fit;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    facts::{MemberKey, Obstacle},
    istio::{Discovery, Guest, Plane, release},
    lifetime::Lifetime,
    names::ClusterName,
};

pub use fit::unfit;
pub use told::{PATIENCE, Said, Synced, Track, worst};

/// How long istiod may take over a change of a remote secret before it is told. It takes a tenth of a second, and gives up after 30 of them
/// (`PILOT_REMOTE_CLUSTER_TIMEOUT`).
pub const SYNC_DEADLINE: SignedDuration = SignedDuration::from_secs(30);
/// The shortest token that Kubernetes makes.
pub const SHORTEST: u32 = 600;
/// What a token lives where each change of it hurts.
const LONG: Lifetime = Lifetime::from_secs(30 * 24 * 3600);

/// The account in a region that the istiod of this consumer reads as. Both parts of the name are DNS labels, so no two consumers share one.
#[must_use]
pub fn reader_account(consumer: &ClusterName) -> String {
    format!("mesh-reader-{consumer}")
}

/// The Secret in a consumer that leads to this region.
#[must_use]
pub fn secret_name(region: &ClusterName) -> String {
    format!("mesh-remote-{region}")
}

/// How Istio's own tools name the same.
#[must_use]
pub fn stock_name(region: &ClusterName) -> String {
    format!("istio-remote-secret-{region}")
}

/// The consumers whose istiod may read in a region.
#[must_use]
pub fn readers(discovery: Discovery, guests: &[Guest<'_>]) -> BTreeSet<ClusterName> {
    let reads =
        |guest: &&Guest<'_>| discovery == Discovery::RemoteSecrets && guest.plane == Plane::Istio;
    guests
        .iter()
        .filter(reads)
        .map(|guest| guest.cluster.clone())
        .collect()
}

/// An API server, as peers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its URL, https.
    pub url: String,
    /// The name that its certificate carries, if not that of the URL.
    pub tls_server_name: Option<String>,
    /// The CA that its certificate comes from, PEM; none: a public one.
    pub ca_pem: Option<String>,
}

impl Server {
    /// Changes whenever anything in the Secret changes but its token (FNV-1a, 64 bits: it is compared, and trusted with nothing).
    #[must_use]
    pub fn shape(&self, region: &ClusterName) -> String {
        let parts = [
            Some(region.as_str()),
            Some(&self.url),
            self.tls_server_name.as_deref(),
            self.ca_pem.as_deref(),
        ];
        let bytes = parts
            .into_iter()
            .flat_map(|part| part.unwrap_or_default().bytes().chain([0]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{hash:016x}")
    }
}

/// What is known of one member that has to do with remote secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteFacts {
    /// The URL of its API server as peers see it, where a person said so.
    pub advertised: Option<String>,
    /// Its API server, as its kubeconfig has it.
    pub server: Option<Server>,
    /// Secrets in its namespace istio-system that istiod takes for remote secrets, by name; none: not looked yet.
    pub secrets: Option<BTreeMap<String, SecretFacts>>,
    /// Why they could not be looked for, if that is so.
    pub unseen: Option<Obstacle>,
    /// UIDs of the accounts that it reads regions as, by region.
    pub readers: BTreeMap<ClusterName, String>,
    /// What hindered the last attempt to write one, by region.
    pub failed: BTreeMap<ClusterName, Obstacle>,
}

/// What a remote secret shows without being opened. The ID under which istiod knows it is a key of its data: a foreign Secret that names
/// its cluster neither in its annotation nor in its own name is recognised only when left-overs are looked for ([`crate::leftovers`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFacts {
    /// We made it.
    pub ours: bool,
    /// The cluster ID in its annotation.
    pub cluster: Option<String>,
    /// What [`Server::shape`] was when it was written.
    pub shape: Option<String>,
    /// UID of the account that its token is of.
    pub reader: Option<String>,
    /// When its token was issued.
    pub issued: Option<Timestamp>,
    /// When its token ends.
    pub expires: Option<Timestamp>,
    /// Nobody else has written to its data since.
    pub intact: bool,
}

impl SecretFacts {
    /// Begin and end of its token, if they make sense.
    #[must_use]
    pub fn token(&self) -> Option<(Timestamp, Timestamp)> {
        self.issued
            .zip(self.expires)
            .filter(|(issued, expires)| issued < expires)
    }

    /// When its token is to be replaced: after two thirds of its life, earlier by up to a fifteenth of it, so that pairs do not all
    /// renew at once.
    #[must_use]
    pub fn due(&self, consumer: &ClusterName, region: &ClusterName) -> Option<Timestamp> {
        let (issued, expires) = self.token()?;
        let life = expires.duration_since(issued).as_secs();
        let early = life / 15 * i64::from(stagger(consumer, region)) / 256;
        issued
            .checked_add(SignedDuration::from_secs(life * 2 / 3 - early))
            .ok()
    }

    /// When it must be told that its token was not replaced: five sixths of its life.
    #[must_use]
    pub fn late(&self) -> Option<Timestamp> {
        let (issued, expires) = self.token()?;
        issued
            .checked_add(expires.duration_since(issued) / 6 * 5)
            .ok()
    }
}

/// A byte that is the same for the same pair always (FNV-1a, folded).
fn stagger(consumer: &ClusterName, region: &ClusterName) -> u8 {
    let bytes = consumer
        .as_str()
        .bytes()
        .chain([0])
        .chain(region.as_str().bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash.to_le_bytes().iter().fold(0, |all, byte| all ^ byte)
}

/// How an istiod takes a remote secret that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// It forgets the region and learns it anew: its endpoints are away meanwhile.
    Anew,
    /// It means to replace one by the other, and does not always.
    Flawed,
    /// The old one serves until the new one has synced.
    InPlace,
}

/// How an istiod of this version does. One whose version is not known is taken for an old one.
#[must_use]
pub fn takeover(version: Option<&str>) -> Takeover {
    match version.and_then(release) {
        Some(known) if known >= (1, 31) => Takeover::InPlace,
        Some((1, 30)) => Takeover::Flawed,
        Some(_) | None => Takeover::Anew,
    }
}

impl Takeover {
    /// How long a token is asked to live: as wished, unless each change of it hurts.
    #[must_use]
    pub fn life(self, wished: Lifetime) -> Lifetime {
        let least = match self {
            Self::Anew | Self::Flawed => LONG,
            Self::InPlace => Lifetime::from_secs(SHORTEST),
        };
        wished.max(least)
    }

    /// What a person should know about it.
    #[must_use]
    pub const fn note(self) -> Option<&'static str> {
        match self {
            Self::InPlace => None,
            Self::Anew => Some(
                "istiod before 1.30 loses the region for a moment when its secret changes, so tokens live 30 days at least",
            ),
            Self::Flawed => Some(
                "istiod 1.30 may keep an old token or lose endpoints when its secret changes (istio#60612, #60920, #61043), so tokens live 30 days at least",
            ),
        }
    }
}

/// What is to be done about the Secret of one pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is as it should be.
    Keep,
    /// It is to be written, with a new token.
    Write(Server),
    /// It ought to be written, and cannot be.
    Wait(Obstacle),
}

/// The Secret of one pair, as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The region's member.
    pub member: MemberKey,
    /// What is to be done about it now.
    pub step: Step,
    /// How long its token is asked to live.
    pub life: Lifetime,
    /// When it may be otherwise even if nothing happens until then.
    pub wake_at: Option<Timestamp>,
}

/// The Secrets that are to be in a consumer, by region; all others of ours are to go.
pub type Pairs = BTreeMap<ClusterName, Pair>;

/// What one pair is decided from.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// Who reads.
    pub consumer: &'a ClusterName,
    /// Where.
    pub region: &'a ClusterName,
    /// What is known of the consumer.
    pub facts: &'a RemoteFacts,
    /// The region's API server, or why it cannot be named.
    pub server: &'a Result<Server, Obstacle>,
    /// Why istiod must not be given it: it would mistake one cluster for another, or crash.
    pub refusal: Option<&'a Obstacle>,
    /// An istiod was seen there.
    pub istiod: bool,
    /// The account in the region is there.
    pub account: bool,
}

impl Link<'_> {
    /// The Secret, if it is there and ours.
    #[must_use]
    pub fn own(&self) -> Option<&SecretFacts> {
        let secrets = self.facts.secrets.as_ref()?;
        secrets
            .get(&secret_name(self.region))
            .filter(|secret| secret.ours)
    }

    /// Decides.
    #[must_use]
    pub fn step(&self, now: Timestamp) -> Step {
        let wait = |reason: &str, message: String| Step::Wait(Obstacle::new(reason, message));
        let Some(secrets) = &self.facts.secrets else {
            let unknown = || {
                Obstacle::new(
                    "RemoteSecretUnknown",
                    "remote secrets were not looked for yet",
                )
            };
            return Step::Wait(self.facts.unseen.clone().unwrap_or_else(unknown));
        };
        let region = self.region;
        let name = secret_name(region);
        match secrets.get(&name) {
            Some(there) if !there.ours => {
                return wait(
                    "RemoteSecretForeign",
                    format!("Secret istio-system/{name} exists and is not ours; it is not touched"),
                );
            }
            Some(there) if !self.is_stale(there, now) => return Step::Keep,
            Some(_) => {}
            // What istiod has learnt is not taken away from it; something new that would harm it is not given to it.
            None => {
                if let Some(why) = self.refusal {
                    return Step::Wait(why.clone());
                }
                if !self.istiod {
                    return wait(
                        "RemoteSecretAwaitsIstiod",
                        format!(
                            "the remote secret of region {region} is written when istiod is there"
                        ),
                    );
                }
            }
        }
        match self.server {
            Err(why) => Step::Wait(why.clone()),
            Ok(_) if !self.account => {
                let account = reader_account(self.consumer);
                wait(
                    "RemoteReaderMissing",
                    format!("ServiceAccount istio-system/{account} is not in region {region} yet"),
                )
            }
            Ok(server) => Step::Write(server.clone()),
        }
    }

    fn is_stale(&self, there: &SecretFacts, now: Timestamp) -> bool {
        let moved = self
            .server
            .as_ref()
            .is_ok_and(|server| there.shape.as_ref() != Some(&server.shape(self.region)));
        // A token is of one account and dies with it, also when another of the same name follows.
        let orphan = self
            .facts
            .readers
            .get(self.region)
            .is_some_and(|uid| there.reader.as_ref() != Some(uid));
        let due = there.due(self.consumer, self.region);
        !there.intact || moved || orphan || due.is_none_or(|due| now >= due)
    }

    /// When anything about it may be otherwise: it is due, late, over, or istiod's time to take it in is over.
    #[must_use]
    pub fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        let own = self.own()?;
        let (issued, expires) = own.token()?;
        let synced = issued.checked_add(SYNC_DEADLINE).ok();
        let times = [
            own.due(self.consumer, self.region),
            own.late(),
            Some(expires),
            synced,
        ];
        times.into_iter().flatten().filter(|at| *at > now).min()
    }
}

/// The region's API server as its peers see it.
///
/// # Errors
///
/// When it cannot be named, or leads each peer to itself.
pub fn server(region: &ClusterName, facts: &RemoteFacts) -> Result<Server, Obstacle> {
    let hint = format!(
        "set spec.overrides.apiServer of MeshMember {region} to a URL that its peers can reach"
    );
    let Some(known) = &facts.server else {
        // Its CA is known only from its kubeconfig.
        let message = format!(
            "the API server of region {region} is not known: its kubeconfig was not read yet"
        );
        return Err(Obstacle::new("RemoteServerUnknown", message));
    };
    let url = facts.advertised.as_ref().unwrap_or(&known.url);
    match place(url) {
        Place::Far => Ok(Server {
            url: url.clone(),
            ..known.clone()
        }),
        Place::Here => {
            let message =
                format!("API server {url:?} of region {region} leads each peer to itself: {hint}");
            Err(Obstacle::new("RemoteServerLocal", message))
        }
        Place::Nowhere => {
            let message =
                format!("API server {url:?} of region {region} is not an https URL: {hint}");
            Err(Obstacle::new("RemoteServerInvalid", message))
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Far,
    Here,
    Nowhere,
}

/// Where a URL leads those who are somewhere else.
fn place(url: &str) -> Place {
    let Some(rest) = url.strip_prefix("https://") else {
        return Place::Nowhere;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '@' | '\\' | '"');
    if authority.is_empty() || !url.chars().all(plain) {
        return Place::Nowhere;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => (
                host,
                port.strip_prefix(':')
                    .or_else(|| port.is_empty().then_some("443")),
            ),
            Some(_) | None => return Place::Nowhere,
        },
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("443")),
        },
    };
    if !port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Place::Nowhere;
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let last = host.rsplit('.').next().unwrap_or_default();
    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) if ip.is_loopback() || ip.is_unspecified() || ip.is_link_local() => {
            Place::Here
        }
        Ok(IpAddr::V6(ip))
            if ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local() =>
        {
            Place::Here
        }
        Err(_) if host == "localhost" || host.ends_with(".localhost") => Place::Here,
        // Resolvers still take "127.1" and "2130706433" for addresses.
        Err(_) if host.is_empty() || last.starts_with(|c: char| c.is_ascii_digit()) => {
            Place::Nowhere
        }
        Ok(_) | Err(_) => Place::Far,
    }
}

#[cfg(test)]
mod tests;
