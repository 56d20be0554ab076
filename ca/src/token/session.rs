//! One session with a token: everything that calls its driver.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use aws_lc_rs::digest;
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11},
    error::{Error as Driver, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session as Opened, UserType},
    slot::Slot,
    types::AuthPin,
};
use parking_lot::Mutex;

use super::{TokenError, TokenPlace};
use crate::{KeyAlgorithm, PublicKey};

/// Drivers by path. A driver keeps one state for the whole process, so each is loaded and started once, and never stopped.
static MODULES: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

/// PINs that a token refused in this process: driver, label, and SHA-256 of the PIN. None is tried twice, whoever asks: some tokens lock
/// themselves after three.
static REFUSED: Mutex<BTreeSet<(PathBuf, String, Vec<u8>)>> = Mutex::new(BTreeSet::new());

/// An open session, and the pair found in it.
pub(super) struct Session {
    opened: Opened,
    private: ObjectHandle,
    public: PublicKey,
}

impl Session {
    pub(super) fn open(place: &TokenPlace, pin: &str) -> Result<Self, TokenError> {
        let module = module(place)?;
        let slot = slot(&module, &place.token_label)?;
        let opened = module
            .open_ro_session(slot)
            .map_err(call("open a session"))?;
        login(&module, slot, &opened, place, pin)?;
        let private = one(&opened, place, "private", ObjectClass::PRIVATE_KEY)?;
        let public = one(&opened, place, "public", ObjectClass::PUBLIC_KEY)?;
        let spki = spki(&opened, public)?.ok_or_else(|| TokenError::Unusable {
            label: place.key_label.clone(),
            reason: "it is neither ECDSA nor RSA, or the token does not show its public half"
                .to_owned(),
        })?;
        let public = PublicKey::from_spki(&spki).map_err(|error| TokenError::Unusable {
            label: place.key_label.clone(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            opened,
            private,
            public,
        })
    }

    pub(super) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A signature as it stands in certificates.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        let hash = match self.public.algorithm() {
            KeyAlgorithm::P256 => &digest::SHA256,
            KeyAlgorithm::P384 => &digest::SHA384,
            KeyAlgorithm::Rsa(_)
            | KeyAlgorithm::P521
            | KeyAlgorithm::Ed25519
            | KeyAlgorithm::Other(_) => {
                return self
                    .opened
                    .sign(&Mechanism::Sha256RsaPkcs, self.private, message)
                    .map_err(call("sign"));
            }
        };
        let hashed = digest::digest(hash, message);
        let raw = self
            .opened
            .sign(&Mechanism::Ecdsa, self.private, hashed.as_ref())
            .map_err(call("sign"))?;
        ecdsa_der(&raw).ok_or_else(|| TokenError::Call {
            action: "sign",
            reason: format!("the signature has {} bytes", raw.len()),
        })
    }
}

fn call(action: &'static str) -> impl Fn(Driver) -> TokenError {
    move |error| TokenError::Call {
        action,
        reason: error.to_string(),
    }
}

pub(super) fn module(place: &TokenPlace) -> Result<Pkcs11, TokenError> {
    let mut modules = MODULES.lock();
    if let Some(module) = modules.get(&place.module) {
        return Ok(module.clone());
    }
    let refusal = |error: Driver| TokenError::Module {
        module: place.module.display().to_string(),
        reason: error.to_string(),
    };
    let module = Pkcs11::new(&place.module).map_err(refusal)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // Another part of the process uses the driver too.
        Ok(()) | Err(Driver::Pkcs11(RvError::CryptokiAlreadyInitialized, Function::Initialize)) => {
        }
        Err(error) => return Err(refusal(error)),
    }
    modules.insert(place.module.clone(), module.clone());
    Ok(module)
}

pub(super) fn slot(module: &Pkcs11, label: &str) -> Result<Slot, TokenError> {
    let slots = module
        .get_slots_with_token()
        .map_err(call("list the tokens"))?;
    // A slot whose token cannot be read (just pulled out) has none.
    let named: Vec<Slot> = slots
        .into_iter()
        .filter(|slot| {
            module
                .get_token_info(*slot)
                .is_ok_and(|info| info.token_initialized() && info.label().trim_end() == label)
        })
        .collect();
    match named.as_slice() {
        [one] => Ok(*one),
        several => Err(TokenError::Token {
            label: label.to_owned(),
            found: several.len(),
        }),
    }
}

fn login(
    module: &Pkcs11,
    slot: Slot,
    opened: &Opened,
    place: &TokenPlace,
    pin: &str,
) -> Result<(), TokenError> {
    let label = || place.token_label.clone();
    let info = module
        .get_token_info(slot)
        .map_err(call("read the token's state"))?;
    if !info.login_required() {
        return Ok(());
    }
    if info.user_pin_locked() || info.user_pin_final_try() {
        return Err(TokenError::PinLocked { label: label() });
    }
    let print = digest::digest(&digest::SHA256, pin.as_bytes());
    let tried = (place.module.clone(), label(), print.as_ref().to_vec());
    if REFUSED.lock().contains(&tried) {
        return Err(TokenError::Pin { label: label() });
    }
    match opened.login(UserType::User, Some(&AuthPin::new(pin.into()))) {
        // A login is the process's: another session of ours is open.
        Ok(()) | Err(Driver::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(Driver::Pkcs11(
            RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinExpired,
            _,
        )) => {
            REFUSED.lock().insert(tried);
            Err(TokenError::Pin { label: label() })
        }
        Err(Driver::Pkcs11(RvError::PinLocked, _)) => Err(TokenError::PinLocked { label: label() }),
        Err(error) => Err(call("log in")(error)),
    }
}

fn one(
    opened: &Opened,
    place: &TokenPlace,
    kind: &'static str,
    class: ObjectClass,
) -> Result<ObjectHandle, TokenError> {
    let wanted = [
        Attribute::Class(class),
        Attribute::Label(place.key_label.as_bytes().to_vec()),
    ];
    let found = opened
        .find_objects(&wanted)
        .map_err(call("look for the key"))?;
    match found.as_slice() {
        [one] => Ok(*one),
        several => Err(TokenError::Key {
            kind,
            label: place.key_label.clone(),
            found: several.len(),
        }),
    }
}

/// The public key as it stands in certificates (`SubjectPublicKeyInfo`), put together from what the token shows of it.
fn spki(opened: &Opened, key: ObjectHandle) -> Result<Option<Vec<u8>>, TokenError> {
    let wanted = [
        AttributeType::KeyType,
        AttributeType::EcParams,
        AttributeType::EcPoint,
        AttributeType::Modulus,
        AttributeType::PublicExponent,
    ];
    let (mut kind, mut params, mut point, mut modulus, mut exponent) =
        (None, None, None, None, None);
    for attribute in opened
        .get_attributes(key, &wanted)
        .map_err(call("read the public key"))?
    {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "what was not asked for is not looked at"
        )]
        match attribute {
            Attribute::KeyType(of) => kind = Some(of),
            Attribute::EcParams(bytes) => params = Some(bytes),
            Attribute::EcPoint(bytes) => point = Some(bytes),
            Attribute::Modulus(bytes) => modulus = Some(bytes),
            Attribute::PublicExponent(bytes) => exponent = Some(bytes),
            _ => {}
        }
    }
    Ok(match (kind, params, point, modulus, exponent) {
        (Some(KeyType::EC), Some(curve), Some(point), _, _) => Some(ec_spki(&curve, &point)),
        (Some(KeyType::RSA), _, _, Some(modulus), Some(exponent)) => {
            Some(rsa_spki(&modulus, &exponent))
        }
        _ => None,
    })
}

/// `id-ecPublicKey`, and the curve as the token names it. The point stands in an OCTET STRING (PKCS#11 2.3.3); some drivers leave that out.
fn ec_spki(curve: &[u8], point: &[u8]) -> Vec<u8> {
    const EC: &[u8] = &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    // 65 and 97 bytes are bare points of P-256 and P-384, whatever they begin with.
    let bare = match point {
        [0x04, 65 | 97, rest @ ..] if matches!(rest.len(), 65 | 97) => rest,
        other => other,
    };
    let algorithm = tlv(0x30, &[EC, curve].concat());
    tlv(
        0x30,
        &[algorithm, tlv(0x03, &[&[0], bare].concat())].concat(),
    )
}

fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    // `rsaEncryption` with NULL.
    const RSA: &[u8] = &[
        0x30, 13, 0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 0x05, 0,
    ];
    let key = tlv(0x30, &[integer(modulus), integer(exponent)].concat());
    tlv(
        0x30,
        &[RSA, &tlv(0x03, &[&[0], key.as_slice()].concat())].concat(),
    )
}

/// A signature as tokens make it (two numbers of one length, one after the other) as it stands in certificates.
pub(super) fn ecdsa_der(raw: &[u8]) -> Option<Vec<u8>> {
    let (r, s) = raw.split_at_checked(raw.len() / 2)?;
    (!raw.is_empty() && raw.len().is_multiple_of(2))
        .then(|| tlv(0x30, &[integer(r), integer(s)].concat()))
}

/// A positive number in DER.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let significant = bytes.get(zeros..).unwrap_or_default();
    // One that would look negative, and zero itself, begin with a zero.
    let sign: &[u8] = match significant.first() {
        Some(first) if *first < 0x80 => &[],
        _ => &[0],
    };
    tlv(0x02, &[sign, significant].concat())
}

/// Tag, length and value in DER; nothing here is longer than 64 KiB.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let [.., high, low] = value.len().to_be_bytes();
    let mut der = match (high, low) {
        (0, 0..0x80) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    der.extend_from_slice(value);
    der
}
