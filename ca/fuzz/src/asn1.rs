//! Just enough DER to sign again what was changed: a certificate, a request and a list are each what is signed, an algorithm and a signature.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use mesh_ca::PrivateKey;

/// `ecdsa-with-SHA256`.
const ALGORITHM: [u8; 12] = [
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];
/// What stands before the point of a P-256 key.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// One element.
#[must_use]
pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut der = vec![tag];
    if content.len() < 0x80 {
        der.push(u8::try_from(content.len()).unwrap());
    } else {
        der.push(0x80 | u8::try_from(length.len()).unwrap());
        der.extend(length);
    }
    der.extend(content);
    der
}

/// The first element of sound DER, with its header, and how long that is.
fn first(der: &[u8]) -> (&[u8], usize) {
    let (header, length) = match der[1] {
        short @ 0..0x80 => (2, usize::from(short)),
        long => {
            let more = usize::from(long & 0x7f);
            let length = der[2..2 + more].iter();
            let length = length.fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (2 + more, length)
        }
    };
    (&der[..header + length], header)
}

/// What is signed of sound DER.
#[must_use]
pub fn to_be_signed(der: &[u8]) -> &[u8] {
    let (whole, header) = first(der);
    first(&whole[header..]).0
}

/// A key that signs anything.
pub struct Signer(EcdsaKeyPair);

impl Signer {
    /// This key.
    #[must_use]
    pub fn new(key: &PrivateKey) -> Self {
        let der = crate::unblock(key.pem());
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der);
        Self(pair.expect("our keys are P-256"))
    }

    /// Its public half, as certificates hold it.
    #[must_use]
    pub fn public(&self) -> Vec<u8> {
        [P256.as_slice(), self.0.public_key().as_ref()].concat()
    }

    /// This, signed.
    #[must_use]
    pub fn sign(&self, signed: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&SystemRandom::new(), signed);
        let signature = signature.expect("a key in memory signs");
        let bits = element(3, &[[0].as_slice(), signature.as_ref()].concat());
        element(0x30, &[signed, &ALGORITHM, &bits].concat())
    }
}
