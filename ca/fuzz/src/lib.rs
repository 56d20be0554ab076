//! What the targets share: inputs made of what is sound, and what may be given for a request.

pub mod asn1;
pub mod given;
pub mod member;

use std::{env, sync::LazyLock};

use jiff::Timestamp;

/// The identity that everything sound is about.
pub const IDENTITY: &str = "spiffe://c1.mesh.example/ns/kof/sa/collector";

/// When it is, where a target may say so.
pub const NOW: Timestamp = Timestamp::constant(1_795_233_600, 0);

/// Most bytes that are changed.
const CHANGES_MAX: usize = 8;

/// What is to come of every input, while `run` tries the seeds whose names say so.
static EXPECTED: LazyLock<Option<bool>> =
    LazyLock::new(|| env::var("EXPECT").ok().map(|name| name == "ok"));

/// What came of an input: whether it was taken.
///
/// # Panics
///
/// When it is a seed whose name says something else.
pub fn came(taken: bool) {
    if let Some(expected) = *EXPECTED {
        assert_eq!(taken, expected, "a seed is not what its name says");
    }
}

/// Something sound with bytes of it changed: each three bytes say where and how.
#[must_use]
pub fn changed(sound: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut changed = sound.to_vec();
    for change in changes.chunks_exact(3).take(CHANGES_MAX) {
        let place = usize::from(u16::from_be_bytes([change[0], change[1]])) % changed.len();
        changed[place] ^= change[2];
    }
    changed
}

/// The parts of an input, 0xff between them; the last one may hold more of these. What is not there is empty.
#[must_use]
pub fn parts<const COUNT: usize>(data: &[u8]) -> [&[u8]; COUNT] {
    let mut parts = data.splitn(COUNT, |byte| *byte == 0xff);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// A PEM block.
#[must_use]
pub fn block(label: &str, der: &[u8]) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), lines)
}

/// The bytes of the first PEM block.
#[must_use]
pub fn unblock(text: &str) -> Vec<u8> {
    pem::parse(text).expect("it is PEM").into_contents()
}
