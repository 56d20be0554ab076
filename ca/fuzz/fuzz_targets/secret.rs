//! Secrets with a root in them, in each layout, with entries missing, surplus and spoilt. What is not refused can sign.
#![no_main]

use std::{collections::BTreeMap, sync::LazyLock};

use jiff::SignedDuration;
use libfuzzer_sys::fuzz_target;
use mesh_ca::{Authority, RootMaterial, read_root};
use mesh_fuzz::{NOW, came, changed};

static ROOT: LazyLock<RootMaterial> = LazyLock::new(|| {
    let life = SignedDuration::from_hours(24);
    let mesh = "default".parse().unwrap();
    Authority::generate_root(&mesh, 1, life, NOW).unwrap().1
});
const ENTRIES: [&str; 7] = [
    "tls.crt",
    "tls.key",
    "ca.crt",
    "ca-cert.pem",
    "ca-key.pem",
    "cert-chain.pem",
    "root-cert.pem",
];
fuzz_target!(|data: &[u8]| came(judge(data)));

/// The first byte says which entries there are. The rest is parts with 0xff between them: an empty part stands for the sound text, any other for
/// itself, or for the sound text with bytes of it changed.
/// Says whether it is taken.
fn judge(data: &[u8]) -> bool {
    let Some((pick, rest)) = data.split_first() else {
        return false;
    };
    let mut parts = rest.split(|byte| *byte == 0xff);
    let mut entries: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for (bit, name) in ENTRIES.into_iter().enumerate() {
        if pick >> bit & 1 == 0 {
            continue;
        }
        let sound = if name.ends_with("key") || name.ends_with("key.pem") {
            ROOT.key_pem.as_str()
        } else {
            ROOT.cert_pem.as_str()
        };
        let value = match parts.next() {
            None | Some([]) => sound.as_bytes().to_vec(),
            Some([b'~', changes @ ..]) => changed(sound.as_bytes(), changes),
            Some(text) => text.to_vec(),
        };
        entries.insert(name, value);
    }
    let entries = entries
        .iter()
        .map(|(name, value)| (*name, value.as_slice()));
    let Ok(found) = read_root(&entries.collect(), None, NOW) else {
        return false;
    };
    assert!(
        !format!("{found:?}").contains("PRIVATE"),
        "a key shows itself"
    );
    let taken = found.refusal().is_none();
    if taken {
        let key = found.key_pem.as_ref().expect("there is a key");
        Authority::load(&found.chain_pem, key).expect("what is not refused can sign");
    }
    taken
}
