use super::*;

const PLACE: &str = "Secret n/s";

fn made() -> Secret {
    let (_, material) = Authority::generate_root(
        &"default".parse().unwrap(),
        1,
        SignedDuration::from_hours(24 * 900),
        Timestamp::now(),
    )
    .unwrap();
    secret("s", &material.cert_pem, &material.key_pem)
}

fn load(secret: &Secret, recorded: Option<&RootStatus>) -> Result<Root, Obstacle> {
    loaded(secret, PLACE, "s", recorded, Timestamp::now())
}

#[test]
fn loads_what_it_made_and_records_it() {
    let root = load(&made(), None).unwrap();
    assert_eq!((root.status.generation, root.facts.generation), (1, 1));
    assert!(!format!("{root:?}").contains("PRIVATE"));
}

#[test]
fn never_takes_another_root_for_the_recorded_one() {
    let recorded = load(&made(), None).unwrap().status;
    let refusal = load(&made(), Some(&recorded)).unwrap_err();
    assert_eq!(refusal.reason, "RootReplaced");
    assert!(refusal.message.contains(PLACE));
}

#[test]
fn refuses_what_cannot_sign() {
    let mut without_key = made();
    without_key.data.as_mut().unwrap().remove(KEY);
    let mut anothers_key = made();
    let key = made().data.unwrap().remove(KEY).unwrap();
    anothers_key
        .data
        .as_mut()
        .unwrap()
        .insert(KEY.to_owned(), key);
    for secret in [without_key, anothers_key, Secret::default()] {
        assert_eq!(load(&secret, None).unwrap_err().reason, "RootInvalid");
    }
}
