use super::*;
use crate::testing::Mesh;

fn pod(ips: &[&str], ready: bool, leaving: bool) -> PodSeen {
    PodSeen {
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ready,
        leaving,
    }
}

fn pods(list: &[(&str, PodSeen)]) -> BTreeMap<String, PodSeen> {
    list.iter()
        .map(|(name, pod)| ((*name).to_owned(), pod.clone()))
        .collect()
}

fn ours(selects: bool) -> BTreeMap<String, ServiceSeen> {
    BTreeMap::from([(
        "region1-vmauth".to_owned(),
        ServiceSeen {
            selects,
            families: BTreeSet::new(),
        },
    )])
}

fn ips(slices: &BTreeMap<String, Slice>) -> Vec<String> {
    slices
        .values()
        .flat_map(|slice| slice.addresses.iter().map(ToString::to_string))
        .collect()
}

#[test]
fn lists_pods_that_are_ready_one_slice_a_family() {
    let intent = Mesh::new().intent();
    let pods = pods(&[
        ("a", pod(&["10.1.0.1", "fd00::1"], true, false)),
        ("b", pod(&["10.1.0.2"], false, false)),
        ("c", pod(&["10.1.0.3"], true, false)),
    ]);
    let slices = wanted(&intent, &pods, &ours(false), &BTreeSet::new());
    assert_eq!(
        slices.keys().collect::<Vec<_>>(),
        ["region1-vmauth-mesh-v4", "region1-vmauth-mesh-v6"]
    );
    assert_eq!(ips(&slices), ["10.1.0.1", "10.1.0.3", "fd00::1"]);
    assert!(
        slices
            .values()
            .all(|s| s.port == ("http".to_owned(), 8427) && s.marks == intent.marks)
    );
    assert!(
        acts(&slices, &slices).is_empty(),
        "what is equal is skipped"
    );
}

#[test]
fn when_no_pod_is_ready_those_that_stay_are_listed() {
    let intent = Mesh::new().intent();
    let pods = pods(&[
        ("a", pod(&["10.1.0.1"], false, false)),
        ("b", pod(&["10.1.0.2"], false, true)),
    ]);
    assert_eq!(
        ips(&wanted(&intent, &pods, &ours(false), &BTreeSet::new())),
        ["10.1.0.1"]
    );
}

#[test]
fn services_of_others_are_left_alone() {
    let intent = Mesh::new().intent();
    let pods = pods(&[("a", pod(&["10.1.0.1"], true, false))]);
    assert!(
        wanted(&intent, &pods, &BTreeMap::new(), &BTreeSet::new()).is_empty(),
        "not ours"
    );
    assert!(
        wanted(&intent, &pods, &ours(true), &BTreeSet::new()).is_empty(),
        "has a selector"
    );
}

#[test]
fn what_is_no_longer_called_is_deleted_and_what_differs_is_applied() {
    let mut intent = Mesh::new().intent();
    let first = pods(&[("a", pod(&["10.1.0.1"], true, false))]);
    let second = pods(&[("a", pod(&["10.1.0.9"], true, false))]);
    let there = wanted(&intent, &first, &ours(false), &BTreeSet::new());
    let changed = wanted(&intent, &second, &ours(false), &BTreeSet::new());
    let name = "region1-vmauth-mesh-v4".to_owned();
    assert_eq!(
        acts(&changed, &there),
        [Act::Apply(name.clone(), changed[&name].clone())]
    );
    intent.spec.consume.clear();
    assert_eq!(
        acts(
            &wanted(&intent, &second, &ours(false), &BTreeSet::new()),
            &there
        ),
        [Act::Delete(name)]
    );
}

#[test]
fn what_is_withdrawn_goes_and_what_is_called_beside_it_stays() {
    let mut intent = Mesh::new().intent();
    let mut second = intent.spec.consume[0].clone();
    (second.region, second.service) = ("region2".to_owned(), "region2-vmauth".to_owned());
    intent.spec.consume.push(second);
    let pods = pods(&[("a", pod(&["10.1.0.1"], true, false))]);
    let mut services = ours(false);
    services.insert(
        "region2-vmauth".to_owned(),
        services["region1-vmauth"].clone(),
    );
    let dead = BTreeSet::from(["region1".to_owned()]);
    let there = wanted(&intent, &pods, &services, &BTreeSet::new());
    let left = wanted(&intent, &pods, &services, &dead);
    assert_eq!(left.keys().collect::<Vec<_>>(), ["region2-vmauth-mesh-v4"]);
    let gone = Act::Delete("region1-vmauth-mesh-v4".to_owned());
    assert_eq!(acts(&left, &there), [gone]);
    assert_eq!(acts(&there, &left).len(), 1, "it comes back");
}

#[test]
fn sidecars_lose_the_entries_of_a_withdrawn_region_only() {
    let mut intent = Mesh::new().intent();
    let host = Host {
        service: "region1-vmauth".to_owned(),
        port: 8427,
        protocol: Protocol::Http,
        sni: String::new(),
        accounts: vec!["vmauth".to_owned()],
        identities: Vec::new(),
        prefixes: Vec::new(),
    };
    intent.spec.consume[0].sidecars = Sidecars::Static;
    intent.spec.consume[0].hosts = vec![host];
    let at = BTreeSet::from(["192.0.2.1:15443".parse().unwrap()]);
    let places = Places {
        addresses: BTreeMap::from([("region1".to_owned(), at)]),
        ..Places::default()
    };
    for (withdrawn, entries_left) in [("region2", 1), ("region1", 0)] {
        let withdrawn = BTreeSet::from([withdrawn.to_owned()]);
        let left = entries(&intent, &places, &withdrawn);
        assert_eq!(left.len(), entries_left);
        // Else an entry of which nothing is known now would be kept.
        let kept = is_called(&intent, "region1-vmauth", &withdrawn);
        assert_eq!(kept, entries_left == 1);
    }
}
