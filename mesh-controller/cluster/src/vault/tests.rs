use k8s_openapi::ByteString;

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

/// The same root, as Istio keeps it.
fn as_istio(mut secret: Secret) -> Secret {
    let data = secret.data.take().unwrap();
    let moved = data.into_iter().map(|(entry, bytes)| {
        let entry = match entry.as_str() {
            CERTIFICATE => "ca-cert.pem",
            _ => "ca-key.pem",
        };
        (entry.to_owned(), bytes)
    });
    // istio-ca-secret has all of these, empty where it has nothing.
    let empty = ["cert-chain.pem", "key.pem", "root-cert.pem"]
        .map(|entry| (entry.to_owned(), ByteString(Vec::new())));
    secret.data = Some(moved.chain(empty).collect());
    secret
}

#[test]
fn reads_what_istio_keeps_and_knows_the_root_again() {
    let made = made();
    let known = load(&made, None).unwrap();
    let istio = load(&as_istio(made), Some(&known.status)).unwrap();
    assert_eq!((istio.key, istio.facts), (known.key, known.facts));
}

#[test]
fn findings_are_told_with_what_they_cost_and_only_what_cannot_work_is_refused() {
    let finding = |severity| AdoptionFinding {
        severity,
        what: "what".to_owned(),
        costs: "costs",
    };
    let told = acceptable(&[finding(Severity::Warning), finding(Severity::Note)]).unwrap();
    let told: Vec<&str> = told.iter().map(|f| f.severity.as_str()).collect();
    assert_eq!(told, ["Warning", "Note"]);
    assert_eq!(
        acceptable(&[finding(Severity::Note), finding(Severity::Refused)]),
        Err("what; costs".to_owned())
    );
}
