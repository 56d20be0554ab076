//! The certificates of a mesh: what they must look like, who may sign what, and how to judge one.
//!
//! Everything here is a function of its arguments, apart from the randomness that key generation, serial numbers
//! and signing need, and from `token`, which calls a driver. No clock, no files, no network: `now` is an argument, and what is made is handed
//! back as text.
//!
//! | to | use |
//! |---|---|
//! | make or adopt a root, load an intermediate | [`Authority::generate_root`], [`Authority::load`] |
//! | read a root from a Secret and look at it before adopting it | [`read_root`], [`adopt_check`] |
//! | sign with a key in a token | [`TokenKey::open`], [`Authority::of`], [`Authority::generate_root_with`] |
//! | make a key and ask for a certificate | [`PrivateKey::generate`], [`PrivateKey::csr_pem`] |
//! | judge a request | [`check_csr`] |
//! | sign | [`Authority::sign_intermediate`], [`Authority::sign_leaf`], [`Authority::sign_server`] |
//! | write what Istio's programs read | [`answer`], [`Answers`], [`cacerts`] |
//! | revoke | [`Authority::sign_crl`], [`verify_crl`], [`merge_crls`], [`split_crls`] |
//! | see what a certificate says | [`facts`] |
//! | judge a chain | [`verify_leaf`], [`verify_intermediate`] |
//!
//! What the three kinds of certificate contain is written in one place, `profile`, and held there by a test that walks
//! the rules one by one.

mod adopt;
mod authority;
mod crl;
mod csr;
mod error;
mod facts;
mod istio;
mod key;
mod pem;
mod profile;
mod source;
mod token;
mod verify;

pub use adopt::{AdoptionFinding, Severity, adopt_check, adopt_check_public};
pub use authority::{Authority, Issued, RootMaterial};
pub use crl::{
    CrlFacts, IssuedCrl, RevocationReason, RevokedSerial, crl_facts, merge_crls, next_crl_number,
    split_crls, verify_crl,
};
pub use csr::{CSR_MAX, CheckedCsr, CsrRefusal, Requested, check_csr};
pub use error::Error;
pub use facts::{CertFacts, ExtendedUsage, KeyAlgorithm, Usage, facts};
pub use istio::{Answers, BundleChange, CaCerts, answer, bundle_change, cacerts, verify_answer};
pub use key::{CaKey, PrivateKey, PublicKey};
pub use pem::{CERTIFICATES_MAX, PEM_MAX, bundle};
pub use profile::{CA_BACKDATE, IntermediateSubject, LEAF_BACKDATE};
pub use source::{RootLayout, RootText, SourceError, read_root};
pub use token::{TOKEN_PATIENCE, TokenError, TokenKey, TokenPlace};
pub use verify::{
    VerifyError, recognise_intermediate, verify_intermediate, verify_leaf, was_intermediate,
};

#[cfg(test)]
mod testing;
