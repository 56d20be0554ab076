use mesh_api::member::Address;
use mesh_dns::{Miss, Resolved};

use super::*;
use crate::testing::{Mesh, now};

fn consume(hosts: &[&str]) -> Vec<Consume> {
    let mut consume = Mesh::new().intent().spec.consume;
    consume[0].addresses = hosts
        .iter()
        .map(|host| Address {
            host: (*host).to_owned(),
            port: 15443,
        })
        .collect();
    consume
}

fn gateways(list: &[(&str, &[&str], State)]) -> Gateways {
    let resolved = |ips: &[&str], state| Resolved {
        addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        refused: BTreeSet::new(),
        state,
    };
    list.iter()
        .map(|(target, ips, state)| (target.parse().unwrap(), resolved(ips, *state)))
        .collect()
}

fn of(places: &Places) -> Vec<String> {
    places.addresses["region1"]
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn addresses_and_names_are_put_together() {
    let consume = consume(&["192.0.2.1", "gw.example.com", "2001:db8::1"]);
    assert_eq!(targets(&consume).len(), 3);
    let known = gateways(&[
        ("192.0.2.1", &["192.0.2.1"], State::Fresh),
        ("gw.example.com", &["192.0.2.7", "192.0.2.8"], State::Fresh),
        ("2001:db8::1", &["2001:db8::1"], State::Fresh),
    ]);
    let places = places(&consume, &known);
    assert_eq!(
        of(&places),
        [
            "192.0.2.1:15443",
            "192.0.2.7:15443",
            "192.0.2.8:15443",
            "[2001:db8::1]:15443"
        ]
    );
    assert!(places.unresolved.is_empty());
}

#[test]
fn a_region_without_an_address_says_why_once_that_is_known() {
    let consume = consume(&["gw.example.com"]);
    assert!(
        places(&consume, &Gateways::new()).unresolved.is_empty(),
        "nobody was asked yet"
    );
    assert!(
        places(
            &consume,
            &gateways(&[("gw.example.com", &[], State::Unknown)])
        )
        .unresolved
        .is_empty()
    );
    let denied = places(
        &consume,
        &gateways(&[("gw.example.com", &[], State::Unresolved(Miss::NxDomain))]),
    );
    assert_eq!(denied.unresolved["region1"].reason, "NameUnresolved");
    assert_eq!(
        denied.unresolved["region1"].message,
        "gw.example.com: the name does not exist"
    );
    assert!(of(&denied).is_empty());
}

#[test]
fn addresses_that_lead_home_are_refused() {
    let consume = consume(&["127.0.0.1", "localhost"]);
    assert!(targets(&consume).is_empty());
    assert_eq!(
        places(&consume, &Gateways::new()).unresolved["region1"].reason,
        "AddressRefused"
    );
}

#[test]
fn kept_addresses_are_used_and_marked() {
    let consume = consume(&["gw.example.com"]);
    let stale = State::Stale {
        since: now(),
        miss: Miss::ServFail,
    };
    let places = places(
        &consume,
        &gateways(&[("gw.example.com", &["192.0.2.7"], stale)]),
    );
    assert_eq!(of(&places), ["192.0.2.7:15443"]);
    assert_eq!(places.stale["region1"], now().as_second());
    assert!(places.unresolved.is_empty());
}
