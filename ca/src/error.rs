//! What can go wrong while keys and certificates are read, made or signed.

use jiff::Timestamp;

use crate::TokenError;

/// Why a key or certificate could not be read, or a certificate not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// More text than any honest chain has.
    #[error("failed to read certificates: {size} bytes of text, at most {max} are read")]
    PemTooLarge {
        /// Bytes given.
        size: usize,
        /// Bytes read at most.
        max: usize,
    },
    /// More certificates than any honest chain has.
    #[error("failed to read certificates: more than {max} of them")]
    TooManyCertificates {
        /// Certificates read at most.
        max: usize,
    },
    /// The text holds no certificate.
    #[error("failed to find a certificate in the text")]
    NoCertificate,
    /// The text is not PEM.
    #[error("failed to read PEM: {reason}")]
    ReadPem {
        /// What the reader said; never holds the text itself.
        reason: &'static str,
    },
    /// A block is not a certificate.
    #[error("failed to read certificate {index}: {reason}")]
    ReadCertificate {
        /// Its place in the text, from 0.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The text holds no private key that we know to use.
    #[error("failed to read the private key: {reason}")]
    ReadKey {
        /// What the reader said; never holds the key.
        reason: &'static str,
    },
    /// Neither P-256, P-384 nor RSA of 2048 to 4096 bits.
    #[error(
        "failed to use a key of algorithm {algorithm}: only P-256, P-384 and RSA with 2048 to 4096 bits are used"
    )]
    KeyAlgorithm {
        /// What it is.
        algorithm: String,
    },
    /// The key does not belong to the certificate.
    #[error(
        "failed to match the private key with the certificate {subject:?}: they do not belong together"
    )]
    KeyMismatch {
        /// Subject of the certificate.
        subject: String,
    },
    /// The certificate may not sign certificates.
    #[error("failed to use {subject:?} as a CA: {reason}")]
    NotACa {
        /// Its subject.
        subject: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The subject cannot be written again byte by byte, so what it signs could never be verified.
    #[error("failed to write the name {subject:?} again as it stands in the CA's certificate")]
    ReproduceSubject {
        /// Its subject.
        subject: String,
    },
    /// A certificate of the chain was not issued by the one behind it.
    #[error("failed to link {subject:?} with {issuer:?} behind it in the chain")]
    BrokenChain {
        /// The lower one.
        subject: String,
        /// The one that should have issued it.
        issuer: String,
    },
    /// The signer, or a certificate above it, is not valid yet: one of two clocks is wrong.
    #[error("failed to sign with {subject:?}: it is valid from {not_before} on, and it is {now}")]
    SignerNotYetValid {
        /// Subject of the certificate.
        subject: String,
        /// Start of its life.
        not_before: Timestamp,
        /// The time given.
        now: Timestamp,
    },
    /// The signer, or a certificate above it, is no longer valid.
    #[error("failed to sign with {subject:?}: it expired at {not_after}, and it is {now}")]
    SignerExpired {
        /// Subject of the certificate.
        subject: String,
        /// End of its life.
        not_after: Timestamp,
        /// The time given.
        now: Timestamp,
    },
    /// A life shorter than a second, or one that ends beyond the calendar.
    #[error("failed to make a certificate that lives for {seconds} s from {now} on")]
    Lifetime {
        /// The life asked for.
        seconds: i64,
        /// The time given.
        now: Timestamp,
    },
    /// A path length does not allow another CA below this one.
    #[error("failed to sign a CA with {subject:?}: its path length is 0")]
    PathLength {
        /// Its subject.
        subject: String,
    },
    /// The text or the bytes are not a revocation list, or not a complete one.
    #[error("failed to read a revocation list: {reason}")]
    ReadCrl {
        /// What is wrong with it.
        reason: String,
    },
    /// The CA's key usage leaves out revocation lists, or the CA has none: no peer would believe a list of it.
    #[error(
        "failed to sign a revocation list with {subject:?}: its key usage does not allow cRLSign"
    )]
    CrlUsage {
        /// Its subject.
        subject: String,
    },
    /// Not 1 to 20 bytes in hex, or zero.
    #[error("failed to read {serial:?} as a serial number in hex")]
    Serial {
        /// What was given, cut.
        serial: String,
    },
    /// Not a DNS name in lower case.
    #[error("failed to take {name:?} as a DNS name in lower case")]
    DnsName {
        /// What was given, cut.
        name: String,
    },
    /// A server has 1 to 64 names.
    #[error("failed to make a server's certificate with {count} DNS names")]
    DnsNames {
        /// How many.
        count: usize,
    },
    /// The token that holds the key did not sign.
    #[error("failed to sign with the CA's key")]
    Token(#[source] TokenError),
    /// Somebody asks for a certificate over the signer's own key.
    #[error("failed to sign: the request carries the key of the signer")]
    OwnKey,
    /// The cryptographic library refused.
    #[error("failed to {action}")]
    Crypto {
        /// What was tried.
        action: &'static str,
        /// What it said.
        #[source]
        source: rcgen::Error,
    },
    /// The random number generator failed.
    #[error("failed to draw a random serial number")]
    Random,
    /// The certificate just made does not satisfy its own rules; it is thrown away.
    #[error("failed to make a certificate that keeps the rules: {rule}")]
    Judged {
        /// The rule it breaks.
        rule: &'static str,
    },
}
