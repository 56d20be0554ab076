//! Private keys, which never show themselves, and public ones.

use std::{fmt, sync::Arc};

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use x509_parser::{prelude::FromDer, x509::SubjectPublicKeyInfo};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    Error, TokenKey,
    facts::{KeyAlgorithm, sha256},
    pem::{self, pem_reason},
};

/// Most bytes of key text that are read; an RSA key of 4096 bits needs a little more than 3 KiB.
const KEY_MAX: usize = 16 * 1024;

/// What signs: a key in memory, which no lock guards, or one in a token.
#[derive(Clone)]
pub(crate) enum Signer {
    /// The key inside the cryptographic library; its copy of the bytes is overwritten when the last holder lets go (the library overwrites
    /// its own).
    Software(Arc<Wiped>),
    Token(TokenKey),
}

pub(crate) struct Wiped(KeyPair);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Signer {
    /// The error of a signature that was not made.
    pub(crate) fn refusal(&self, action: &'static str, source: rcgen::Error) -> Error {
        if let Self::Token(key) = self
            && let Some(complaint) = key.complaint()
        {
            return Error::Token(complaint);
        }
        Error::Crypto { action, source }
    }
}

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        match self {
            Self::Software(key) => key.0.der_bytes(),
            Self::Token(key) => key.public().data().der_bytes(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self {
            Self::Software(key) => PublicKeyData::algorithm(&key.0),
            Self::Token(key) => key.algorithm(),
        }
    }
}

impl SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match self {
            Self::Software(key) => key.0.sign(message),
            Self::Token(key) => key.sign(message),
        }
    }
}

/// The key of a CA: a [`PrivateKey`] or a [`TokenKey`].
#[derive(Clone)]
pub struct CaKey {
    signer: Signer,
    public: PublicKey,
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl CaKey {
    /// The public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn signer(&self) -> &Signer {
        &self.signer
    }
}

impl From<&PrivateKey> for CaKey {
    fn from(key: &PrivateKey) -> Self {
        Self {
            signer: key.signer.clone(),
            public: key.public.clone(),
        }
    }
}

impl From<&TokenKey> for CaKey {
    fn from(key: &TokenKey) -> Self {
        Self {
            signer: Signer::Token(key.clone()),
            public: key.public().clone(),
        }
    }
}

/// A private key. Its `Debug` shows the public half only, and its bytes are overwritten when it is dropped.
#[derive(Clone)]
pub struct PrivateKey {
    signer: Signer,
    text: Arc<Zeroizing<String>>,
    public: PublicKey,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl PrivateKey {
    /// A new key on P-256, as PKCS#8.
    ///
    /// # Errors
    ///
    /// When the random number generator fails.
    pub fn generate() -> Result<Self, Error> {
        let pair =
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| Error::Crypto {
                action: "generate a key",
                source,
            })?;
        let text = Zeroizing::new(pair.serialize_pem());
        Self::of(pair, text)
    }

    /// A key from its text: PKCS#8 (`PRIVATE KEY`), SEC1 (`EC PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`). Blocks of other kinds
    /// before it (`EC PARAMETERS`) are skipped.
    ///
    /// # Errors
    ///
    /// When there is no such block, it is broken or encrypted, or the key is of a kind that is not used here.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        if text.len() > KEY_MAX {
            return Err(Error::ReadKey {
                reason: "the text is too long",
            });
        }
        let der =
            PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|source| Error::ReadKey {
                reason: pem_reason(&source),
            })?;
        let pair = KeyPair::try_from(&der).map_err(|_source| Error::ReadKey {
            reason: "it is neither an ECDSA nor an RSA key, or it is broken or encrypted",
        })?;
        Self::of(pair, Zeroizing::new(text.to_owned()))
    }

    fn of(pair: KeyPair, text: Zeroizing<String>) -> Result<Self, Error> {
        let signer = Signer::Software(Arc::new(Wiped(pair)));
        let public = PublicKey::from_spki(&signer.subject_public_key_info())?;
        Ok(Self {
            signer,
            text: Arc::new(text),
            public,
        })
    }

    /// The key as text, for the Secret it is kept in and for Envoy. Overwritten when the last holder lets go.
    #[must_use]
    pub fn pem(&self) -> &Zeroizing<String> {
        &self.text
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A request (PKCS#10, PEM) that proves possession of the key and asks for nothing else: no subject, no extension. Who asks is
    /// known from authentication, what is granted is the signer's to say.
    ///
    /// # Errors
    ///
    /// When the library cannot sign.
    pub fn csr_pem(&self) -> Result<String, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params
            .serialize_request(&self.signer)
            .map_err(|source| Error::Crypto {
                action: "sign a certificate request",
                source,
            })?;
        Ok(pem::write("CERTIFICATE REQUEST", request.der().to_vec()))
    }

    #[cfg(test)]
    pub(crate) fn signer(&self) -> &Signer {
        &self.signer
    }
}

/// A public key of a kind that is used here, in its one canonical encoding.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: rcgen::SubjectPublicKeyInfo,
    algorithm: KeyAlgorithm,
    fingerprint: String,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey")
            .field("algorithm", &self.algorithm)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl PublicKey {
    /// From a `SubjectPublicKeyInfo` in DER. Only keys whose encoding is the one we would write ourselves are taken, so that one key has
    /// one fingerprint and one key identifier.
    pub(crate) fn from_spki(der: &[u8]) -> Result<Self, Error> {
        let unread = || Error::KeyAlgorithm {
            algorithm: "of unreadable encoding".to_owned(),
        };
        let (_, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_source| unread())?;
        let algorithm = KeyAlgorithm::of(&spki);
        if !algorithm.is_used() {
            return Err(Error::KeyAlgorithm {
                algorithm: algorithm.to_string(),
            });
        }
        let key = rcgen::SubjectPublicKeyInfo::from_der(der).map_err(|_source| unread())?;
        let point =
            |length: usize| key.der_bytes().first() == Some(&4) && key.der_bytes().len() == length;
        let usual = match algorithm {
            KeyAlgorithm::P256 => point(65),
            KeyAlgorithm::P384 => point(97),
            KeyAlgorithm::Rsa(_)
            | KeyAlgorithm::P521
            | KeyAlgorithm::Ed25519
            | KeyAlgorithm::Other(_) => true,
        };
        if !usual || key.subject_public_key_info() != der {
            return Err(Error::KeyAlgorithm {
                algorithm: format!("{algorithm} in an unusual encoding"),
            });
        }
        Ok(Self {
            key,
            algorithm,
            fingerprint: sha256(der),
        })
    }

    /// Kind and size.
    #[must_use]
    pub fn algorithm(&self) -> &KeyAlgorithm {
        &self.algorithm
    }

    /// SHA-256 of the key (`SubjectPublicKeyInfo`), lower-case hex; equals [`crate::CertFacts::key_fingerprint`] of its certificates.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn data(&self) -> &rcgen::SubjectPublicKeyInfo {
        &self.key
    }
}

#[cfg(test)]
mod tests;
