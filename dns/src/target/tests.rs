//! Tests of what a gateway may be called.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::{AddressRefusal, Target, TargetRefusal, check_address};

fn target(text: &str) -> Result<Target, TargetRefusal> {
    text.parse()
}

#[test]
fn addresses_and_names_are_told_apart_and_written_one_way() {
    for (text, written) in [
        ("192.0.2.7", "192.0.2.7"),
        ("10.1.2.3", "10.1.2.3"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fd00::1", "fd00::1"),
        (
            "A1-2.elb.eu-west-1.amazonaws.com",
            "a1-2.elb.eu-west-1.amazonaws.com",
        ),
        ("gateway.example.org.", "gateway.example.org"),
        ("gateway", "gateway"),
        ("3com.com", "3com.com"),
    ] {
        assert_eq!(target(text).unwrap().to_string(), written);
    }
    let name = |text| match target(text).unwrap() {
        Target::Name(name) => name.absolute(),
        Target::Address(address) => panic!("{address}"),
    };
    assert_eq!(name("a.example"), "a.example.");
}

#[test]
fn addresses_of_the_asker_itself_and_of_nobody_are_refused() {
    use AddressRefusal::{LinkLocal, Loopback, Mapped, Multicast, Reserved, Unspecified};
    for (text, why) in [
        ("0.0.0.0", Unspecified),
        ("0.255.255.255", Unspecified),
        ("::", Unspecified),
        ("127.0.0.1", Loopback),
        ("127.255.255.255", Loopback),
        ("::1", Loopback),
        ("169.254.169.254", LinkLocal),
        ("fe80::1", LinkLocal),
        ("febf::1", LinkLocal),
        ("224.0.0.1", Multicast),
        ("239.255.255.255", Multicast),
        ("ff02::1", Multicast),
        ("240.0.0.1", Reserved),
        ("255.255.255.255", Reserved),
        ("::ffff:127.0.0.1", Mapped),
        ("::ffff:192.0.2.1", Mapped),
    ] {
        let refusal = target(text).unwrap_err();
        assert_eq!(
            refusal,
            TargetRefusal::Address {
                address: text.parse().unwrap(),
                source: why
            }
        );
    }
    for text in [
        "1.0.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "223.255.255.255",
        "fec0::1",
        "::2",
    ] {
        assert_eq!(check_address(text.parse().unwrap()), Ok(()), "{text}");
    }
}

#[test]
fn texts_that_are_no_host_names_are_refused() {
    for text in [
        "a..b",
        ".a",
        "-a.b",
        "a-.b",
        "a_b.c",
        "a b",
        "*.example.org",
        "1.2.3",
        "1.2.3.4.5",
        "10.0.0.256",
        "a.1",
        "http://a",
        "a:443",
        "ä.example",
        "a\n",
    ] {
        assert!(
            matches!(target(text), Err(TargetRefusal::NotAHostName { .. })),
            "{text:?}: {:?}",
            target(text)
        );
    }
    for text in ["", "."] {
        assert_eq!(target(text), Err(TargetRefusal::Empty));
    }
    assert_eq!(
        target(&"a".repeat(64)),
        Err(TargetRefusal::TooLong { len: 64 })
    );
    assert!(target(&"a".repeat(63)).is_ok());
    let long = [
        "a".repeat(63),
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(61),
    ]
    .join(".");
    assert!(target(&long).is_ok());
    assert_eq!(
        target(&format!("{long}d")),
        Err(TargetRefusal::TooLong { len: 254 })
    );
    for text in [
        "localhost",
        "a.localhost",
        "kubernetes.default.svc.cluster.local",
        "kubernetes.default.svc",
        "LOCALHOST.",
    ] {
        assert!(
            matches!(target(text), Err(TargetRefusal::Local { .. })),
            "{text}"
        );
    }
    for text in ["notlocalhost", "my-svc", "cluster.local.example.org"] {
        assert!(target(text).is_ok(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_what_passes_comes_back(text in "\\PC{0,80}|[a-z0-9.-]{0,80}") {
        if let Ok(target) = target(&text) {
            prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
        }
    }

    /// The standard library has its own word for most of the ranges.
    #[test]
    fn the_ranges_are_the_ones_the_standard_library_knows(bits in any::<u32>(), wide in any::<u128>()) {
        let v4 = Ipv4Addr::from_bits(bits);
        let special = v4.octets()[0] == 0 || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.octets()[0] >= 240;
        prop_assert_eq!(check_address(IpAddr::V4(v4)).is_err(), special);
        let v6 = Ipv6Addr::from_bits(wide);
        let special = v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some();
        prop_assert_eq!(check_address(IpAddr::V6(v6)).is_err(), special);
    }
}
