use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use super::changes;

fn conditions(said: &[(&str, &str, &str)]) -> Vec<Condition> {
    said.iter()
        .map(|(kind, status, reason)| Condition {
            type_: (*kind).to_owned(),
            status: (*status).to_owned(),
            reason: (*reason).to_owned(),
            message: String::new(),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        })
        .collect()
}

fn news(before: &[(&str, &str, &str)], after: &[(&str, &str, &str)]) -> Vec<String> {
    let (before, after) = (conditions(before), conditions(after));
    changes(&before, &after)
        .iter()
        .map(|c| format!("{} {}", c.type_, c.reason))
        .collect()
}

#[test]
fn an_event_is_news_and_what_follows_from_it_is_none() {
    let well = [
        ("Reachable", "True", "Answers"),
        ("Enrolled", "True", "Delivered"),
        ("Ready", "True", "Ready"),
    ];
    let lost = [
        ("Reachable", "False", "Timeout"),
        ("Enrolled", "False", "Delivering"),
        ("Ready", "False", "Reachable"),
    ];
    let refused = [
        ("Reachable", "False", "ConnectionRefused"),
        ("Enrolled", "False", "Delivering"),
        ("Ready", "False", "Reachable"),
    ];
    assert_eq!(news(&well, &lost), ["Reachable Timeout"]);
    assert_eq!(news(&lost, &lost), Vec::<String>::new());
    assert_eq!(news(&lost, &refused), ["Reachable ConnectionRefused"]);
    assert_eq!(
        news(&lost, &well),
        ["Reachable Answers", "Enrolled Delivered", "Ready Ready"]
    );
}
