use super::*;
use crate::testing::Mesh;

fn seen(data: &Entries, marks: &[(&str, &str)]) -> SecretSeen {
    SecretSeen {
        resource_version: "1".to_owned(),
        labels: marks
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        data: data.clone(),
    }
}

fn with(roots: &str, key: &str) -> Entries {
    let entry =
        |name: &str, text: &str| (name.to_owned(), Zeroizing::new(text.as_bytes().to_vec()));
    Entries::from([entry(ROOTS, roots), entry("ca-key.pem", key)])
}

#[test]
fn only_what_is_absent_or_ours_is_written_and_only_as_istiod_takes_it() {
    let [a, b] = [(); 2].map(|()| Mesh::new().root_pem);
    let marks = BTreeMap::from([("m".to_owned(), "1".to_owned())]);
    let ours = [("m", "1"), ("another", "label")];
    let wanted = with(&a, "k");
    let decided = |read: Option<SecretSeen>| decide((read.as_ref(), false), &wanted, &marks);
    assert_eq!(decided(None), Next::Write);
    assert_eq!(decided(Some(seen(&wanted, &ours))), Next::Nothing);
    let back = seen(&wanted, &ours);
    assert_eq!(decide((Some(&back), true), &wanted, &marks), Next::Write);
    assert_eq!(decided(Some(seen(&with(&a, "old"), &ours))), Next::Write);
    let both = format!("{a}{b}");
    assert_eq!(decided(Some(seen(&with(&both, "k"), &ours))), Next::Write);
    assert_eq!(decided(Some(seen(&Entries::new(), &ours))), Next::Write);
    let reason = |next: Next| match next {
        Next::Refused(why) => why.reason,
        other @ (Next::Nothing | Next::Write) => panic!("{other:?}"),
    };
    assert_eq!(
        reason(decided(Some(seen(&with(&b, "k"), &ours)))),
        "BundleRefused"
    );
    for foreign in [vec![], vec![("m", "2")]] {
        assert_eq!(
            reason(decided(Some(seen(&wanted, &foreign)))),
            "CacertsForeign"
        );
    }
}

/// A cluster that was a member before: other labels, and an intermediate of the same root for it.
#[test]
fn what_was_ours_is_known_by_its_certificate_and_not_by_its_labels() {
    let mesh = Mesh::new();
    let wanted = mesh.wanted();
    let intermediate = |mesh: &Mesh, wanted: &Wanted| {
        let request = PrivateKey::generate().unwrap().csr_pem().unwrap();
        // It ended long ago.
        let chain = mesh.sign(wanted, 7, &request, crate::testing::now());
        let end = "-----END CERTIFICATE-----\n";
        let (first, _) = chain.split_once(end).unwrap();
        format!("{first}{end}")
    };
    let left = |certificate: &str, labels: &[(&str, &str)]| {
        let entry = Zeroizing::new(certificate.as_bytes().to_vec());
        let data = Entries::from([(CERTIFICATE.to_owned(), entry)]);
        taken_back(&seen(&data, labels), &wanted)
    };
    let other = [("another", "label")];
    let own = intermediate(&mesh, &wanted);
    let back = left(&own, &other).unwrap();
    assert!(is_ours(&back, &wanted.marks));
    assert!(
        back.labels.contains_key("another"),
        "what others put there stays"
    );
    let marks: Vec<(&str, &str)> = wanted
        .marks
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    assert!(left(&own, &marks).is_none(), "it says so itself");
    let mut sibling = wanted.clone();
    sibling.cluster = "child2".parse().unwrap();
    for (certificate, whose) in [
        (intermediate(&Mesh::new(), &wanted), "of another root"),
        (intermediate(&mesh, &sibling), "of another member"),
        (mesh.root_pem.clone(), "the root itself"),
        (String::new(), "nothing"),
    ] {
        assert!(left(&certificate, &other).is_none(), "{whose}");
    }
}
