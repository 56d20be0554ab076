//! Names, and SPIFFE IDs above all: what is taken has the one form there is, and says itself again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_core::names::{ClusterName, MeshName, SpiffeId, TrustDomain};
use mesh_fuzz::came;
fuzz_target!(|data: &[u8]| came(judge(data)));

/// Whether it is a SPIFFE ID.
fn judge(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else {
        return false;
    };
    if let Ok(name) = text.parse::<ClusterName>() {
        assert_eq!(name.as_str(), text);
        label(text);
    }
    if let Ok(name) = text.parse::<MeshName>() {
        assert_eq!(name.as_str(), text);
        label(text);
    }
    if let Ok(domain) = text.parse::<TrustDomain>() {
        assert_eq!(domain.as_str(), text);
        text.split('.').for_each(label);
    }
    let id = text.parse::<SpiffeId>();
    if let Ok(id) = &id {
        assert_eq!(id.as_str(), text);
        let parts: Vec<&str> = text.split('/').collect();
        let ["spiffe:", "", domain, "ns", namespace, "sa", account] = parts.as_slice() else {
            panic!("{text:?} is no workload");
        };
        let domain: TrustDomain = domain.parse().expect("its trust domain is one");
        assert_eq!(domain.workload(namespace, account), *id);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        assert!(
            [namespace, account]
                .iter()
                .all(|part| !part.is_empty() && part.chars().all(plain))
        );
    }
    id.is_ok()
}

fn label(text: &str) {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    assert!(
        !text.is_empty() && text.len() <= 253 && text.chars().all(plain),
        "{text:?} is no label"
    );
}
