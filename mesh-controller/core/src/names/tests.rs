use proptest::prelude::*;

use super::*;

#[test]
fn refuses_each_kind_of_bad_label() {
    assert_eq!("".parse::<ClusterName>(), Err(NameError::Empty));
    assert!(matches!(
        "East".parse::<ClusterName>(),
        Err(NameError::BadCharacter { bad: 'E', .. })
    ));
    assert!(matches!(
        "a.b".parse::<ClusterName>(),
        Err(NameError::BadCharacter { bad: '.', .. })
    ));
    assert!(matches!(
        "bücher".parse::<ClusterName>(),
        Err(NameError::BadCharacter { bad: 'ü', .. })
    ));
    assert!(matches!(
        "-a".parse::<ClusterName>(),
        Err(NameError::HyphenAtEnd { .. })
    ));
    assert!(matches!(
        "a-".parse::<ClusterName>(),
        Err(NameError::HyphenAtEnd { .. })
    ));
    let long = "a".repeat(64);
    assert!(matches!(
        long.parse::<ClusterName>(),
        Err(NameError::TooLong {
            len: 64,
            max: 63,
            ..
        })
    ));
}

#[test]
fn a_region_has_room_for_its_service() {
    let fits: ClusterName = "r".repeat(56).parse().unwrap();
    assert_eq!(fits.service().unwrap().len(), 63);
    let not: ClusterName = "r".repeat(57).parse().unwrap();
    assert!(matches!(
        not.service(),
        Err(NameError::TooLong { max: 56, .. })
    ));
}

#[test]
fn each_member_has_its_own_trust_domain() {
    let mesh: TrustDomain = "mesh.example.internal".parse().unwrap();
    let child: ClusterName = "child-1".parse().unwrap();
    let domain = mesh.of_member(&child).unwrap();
    assert_eq!(domain.as_str(), "child-1.mesh.example.internal");
    let id = domain.workload("istio-system", "mesh-gateway");
    assert_eq!(
        id.as_str(),
        "spiffe://child-1.mesh.example.internal/ns/istio-system/sa/mesh-gateway"
    );
    assert_eq!(id.as_str().parse::<SpiffeId>().unwrap(), id);
}

#[test]
fn refuses_what_is_no_workload() {
    for bad in [
        "spiffe://a",
        "spiffe://a/ns/b",
        "spiffe://a/ns/b/sa/c/d",
        "spiffe://A/ns/b/sa/c",
        "https://a/ns/b/sa/c",
        "spiffe://a/ns//sa/c",
        "spiffe://a/ns/b/sa/..",
        "",
    ] {
        assert!(bad.parse::<SpiffeId>().is_err(), "{bad:?} was taken");
    }
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused_and_what_is_taken_comes_back(text in ".{0,80}") {
        if let Ok(name) = text.parse::<ClusterName>() {
            prop_assert_eq!(name.as_str(), text.as_str());
        }
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.as_str(), text.as_str());
        }
    }
}
