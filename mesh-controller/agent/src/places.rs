//! Where the gateways of regions are: what the controller says, with names resolved.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use mesh_api::agent::Consume;
use mesh_core::facts::Obstacle;
use mesh_dns::{Gateways, State, Target};

/// What is known of all regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Addresses, by region.
    pub(crate) addresses: BTreeMap<String, BTreeSet<SocketAddr>>,
    /// Regions without an address, though the controller named some: why.
    pub(crate) unresolved: BTreeMap<String, Obstacle>,
    /// Regions whose name is not answered any more and whose last addresses are kept: since when, Unix seconds.
    pub(crate) stale: BTreeMap<String, i64>,
}

/// What is to be followed.
pub(crate) fn targets(consume: &[Consume]) -> BTreeSet<Target> {
    consume
        .iter()
        .flat_map(|c| &c.addresses)
        .filter_map(|address| address.host.parse().ok())
        .collect()
}

/// Puts together what is known.
pub(crate) fn places(consume: &[Consume], gateways: &Gateways) -> Places {
    let mut places = Places::default();
    for region in consume {
        let mut addresses = BTreeSet::new();
        let mut why = None;
        let mut waiting = false;
        for address in &region.addresses {
            let target: Target = match address.host.parse() {
                Ok(target) => target,
                Err(refusal) => {
                    why = Some(Obstacle::new(
                        "AddressRefused",
                        mesh_core::text::chain(&refusal),
                    ));
                    continue;
                }
            };
            let Some(resolved) = gateways.get(&target) else {
                waiting = true;
                continue;
            };
            addresses.extend(
                resolved
                    .addresses
                    .iter()
                    .map(|ip| SocketAddr::new(*ip, address.port)),
            );
            match resolved.state {
                State::Fresh => {}
                State::Unknown => waiting = true,
                State::Unresolved(miss) => {
                    why = Some(Obstacle::new("NameUnresolved", format!("{target}: {miss}")));
                }
                State::Stale { since, .. } => {
                    places
                        .stale
                        .insert(region.region.clone(), since.as_second());
                }
            }
        }
        // Nothing is said while a first answer may still come.
        if let Some(why) = why
            && addresses.is_empty()
            && !waiting
        {
            places.unresolved.insert(region.region.clone(), why);
        }
        places.addresses.insert(region.region.clone(), addresses);
    }
    places
}

#[cfg(test)]
mod tests;
