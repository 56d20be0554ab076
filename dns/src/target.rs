//! What a gateway may be called.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Longest host name in text, without the dot at its end (RFC 1035 2.3.4).
const NAME_MAX: usize = 253;

/// Longest label (RFC 1035 2.3.4).
const LABEL_MAX: usize = 63;

/// Why an address is never a gateway's. All of these mean the machine that asks, its link, or nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum AddressRefusal {
    /// 0.0.0.0/8, `::`.
    #[error("it means no address")]
    Unspecified,
    /// 127.0.0.0/8, `::1`.
    #[error("it is a loopback address")]
    Loopback,
    /// 169.254.0.0/16 (where clouds keep their metadata services), `fe80::/10`.
    #[error("it is a link-local address")]
    LinkLocal,
    /// 224.0.0.0/4, `ff00::/8`.
    #[error("it is a multicast address")]
    Multicast,
    /// 240.0.0.0/4 with the broadcast address.
    #[error("it is a reserved address")]
    Reserved,
    /// `::ffff:0:0/96`: an IPv4 address in disguise; an IPv4 gateway has an IPv4 address.
    #[error("it is an IPv4 address inside an IPv6 one")]
    Mapped,
}

/// Whether an address may be a gateway's. Private ranges may: meshes inside one network are common.
///
/// # Errors
///
/// The range it falls into.
pub fn check_address(address: IpAddr) -> Result<(), AddressRefusal> {
    match address {
        IpAddr::V4(address) => check_v4(address),
        IpAddr::V6(address) => check_v6(address),
    }
}

fn check_v4(address: Ipv4Addr) -> Result<(), AddressRefusal> {
    match address.octets() {
        [0, ..] => Err(AddressRefusal::Unspecified),
        [127, ..] => Err(AddressRefusal::Loopback),
        [169, 254, ..] => Err(AddressRefusal::LinkLocal),
        [224..=239, ..] => Err(AddressRefusal::Multicast),
        [240..=255, ..] => Err(AddressRefusal::Reserved),
        [..] => Ok(()),
    }
}

fn check_v6(address: Ipv6Addr) -> Result<(), AddressRefusal> {
    if address.is_unspecified() {
        Err(AddressRefusal::Unspecified)
    } else if address.is_loopback() {
        Err(AddressRefusal::Loopback)
    } else if address.to_ipv4_mapped().is_some() {
        Err(AddressRefusal::Mapped)
    } else if address.is_unicast_link_local() {
        Err(AddressRefusal::LinkLocal)
    } else if address.is_multicast() {
        Err(AddressRefusal::Multicast)
    } else {
        Ok(())
    }
}

/// A host name: absolute, lower case, without the dot at its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

/// Where a gateway is said to be: what stands in an object of another cluster, checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// At this address.
    Address(IpAddr),
    /// Wherever this name points.
    Name(HostName),
}

/// Why a text is neither a usable address nor a usable host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetRefusal {
    /// No text.
    #[error("the gateway's address is empty")]
    Empty,
    /// An address that no gateway has.
    #[error("the gateway's address {address} is refused")]
    Address {
        /// It.
        address: IpAddr,
        /// Why.
        #[source]
        source: AddressRefusal,
    },
    /// Longer than names are.
    #[error(
        "the gateway's name has {len} characters, at most 253 are allowed, and 63 between dots"
    )]
    TooLong {
        /// Its length, or that of its longest label.
        len: usize,
    },
    /// Not a host name (RFC 1123 2.1).
    #[error("the gateway's name {name:?} is not a host name")]
    NotAHostName {
        /// It.
        name: String,
    },
    /// A name that means something else in each cluster: `localhost`, names of Services.
    #[error("the gateway's name {name:?} has a meaning of its own in each cluster")]
    Local {
        /// It.
        name: String,
    },
}

impl HostName {
    /// The text, without the dot at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text with the dot at its end, so that no search list applies.
    #[must_use]
    pub fn absolute(&self) -> String {
        format!("{}.", self.0)
    }
}

impl FromStr for HostName {
    type Err = TargetRefusal;

    fn from_str(text: &str) -> Result<Self, TargetRefusal> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(TargetRefusal::Empty);
        }
        let longest = name.split('.').map(str::len).max().unwrap_or(0);
        if name.len() > NAME_MAX {
            return Err(TargetRefusal::TooLong { len: name.len() });
        }
        if longest > LABEL_MAX {
            return Err(TargetRefusal::TooLong { len: longest });
        }
        let name = name.to_ascii_lowercase();
        let last = name.rsplit('.').next().unwrap_or_default();
        // A last label of digits alone is an address that lost its way (RFC 3696 2).
        let number = last.bytes().all(|byte| byte.is_ascii_digit());
        if number || !name.split('.').all(is_label) {
            return Err(TargetRefusal::NotAHostName { name });
        }
        let ends = |end: &str| {
            name == end
                || name
                    .strip_suffix(end)
                    .is_some_and(|rest| rest.ends_with('.'))
        };
        if ["localhost", "svc", "cluster.local"].into_iter().any(ends) {
            return Err(TargetRefusal::Local { name });
        }
        Ok(Self(name))
    }
}

fn is_label(label: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty() && label.bytes().all(fits) && !label.starts_with('-') && !label.ends_with('-')
}

impl FromStr for Target {
    type Err = TargetRefusal;

    fn from_str(text: &str) -> Result<Self, TargetRefusal> {
        match text.parse::<IpAddr>() {
            Err(_not_an_address) => Ok(Self::Name(text.parse()?)),
            Ok(address) => match check_address(address) {
                Ok(()) => Ok(Self::Address(address)),
                Err(source) => Err(TargetRefusal::Address { address, source }),
            },
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
