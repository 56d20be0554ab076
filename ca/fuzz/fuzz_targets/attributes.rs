//! Certificate requests that prove possession of their key, whatever else they say: a subject and attributes, signed here. Without that no
//! change to a request would get past its signature.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mesh_ca::PrivateKey;
use mesh_fuzz::{
    IDENTITY,
    asn1::{Signer, element},
    came, given,
};

static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::new(&PrivateKey::generate().unwrap()));

/// The identifier of the extension with names.
const NAMES: [u8; 5] = [6, 3, 0x55, 0x1d, 0x11];
/// The value of the extension by which a CA is one.
const CA: [u8; 5] = [0x30, 3, 1, 1, 0xff];
fuzz_target!(|data: &[u8]| came(judge(data)));

/// The first byte says how long the subject is; 0: it is empty, as in sound ones.
/// Says whether it is taken.
fn judge(data: &[u8]) -> bool {
    let Some((length, rest)) = data.split_first() else {
        return false;
    };
    let (subject, attributes) = rest.split_at(usize::from(*length).min(rest.len()));
    let subject: &[u8] = if subject.is_empty() {
        &[0x30, 0]
    } else {
        subject
    };
    let request = [[2, 1, 0].as_slice(), subject, &SIGNER.public(), attributes].concat();
    let taken = given::judge(&SIGNER.sign(&element(0x30, &request)));
    if taken {
        // What may be asked for is the identity that was proven, and not to be a CA.
        let holds = |bytes: &[u8]| attributes.windows(bytes.len()).any(|found| found == bytes);
        assert!(
            !holds(&NAMES) || holds(IDENTITY.as_bytes()),
            "a foreign name"
        );
        assert!(!holds(&CA), "a CA");
    }
    taken
}
