//! Private keys: as text, as the bytes of one, and one made here with bytes of it changed (no key lies among the seeds).
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mesh_ca::{PrivateKey, Requested, check_csr};
use mesh_fuzz::{block, came, changed, unblock};

static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let key = PrivateKey::generate().unwrap();
    unblock(key.pem())
});
fuzz_target!(|data: &[u8]| came(judge(data)));

/// Whether it is taken.
fn judge(data: &[u8]) -> bool {
    let text = match (data.first(), str::from_utf8(data)) {
        (_, Ok(text)) if text.contains("-----BEGIN") => text.to_owned(),
        (Some(0x30), _) => block("PRIVATE KEY", data),
        _ => block("PRIVATE KEY", &changed(&SOUND, data)),
    };
    let Ok(key) = PrivateKey::from_pem(&text) else {
        return false;
    };
    assert!(!format!("{key:?}").contains("BEGIN"), "a key shows itself");
    // A key that is taken can ask for a certificate, and is the key in the request.
    let request = key.csr_pem().unwrap();
    let checked = check_csr(request.as_bytes(), Requested::Nothing).unwrap();
    assert_eq!(checked.key(), key.public());
    true
}
