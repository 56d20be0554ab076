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
    let decided = |read: Option<SecretSeen>| decide(read.as_ref(), &wanted, &marks);
    assert_eq!(decided(None), Next::Write);
    assert_eq!(decided(Some(seen(&wanted, &ours))), Next::Nothing);
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
