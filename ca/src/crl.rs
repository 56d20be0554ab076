//! Revocation lists: what they contain, how one is judged, when the next is due, and how several become one text.
//!
//! A list belongs to one CA key. It is complete (no deltas, no partitions), of version 2, with a number that grows and the key identifier of
//! its CA, and it exists from the CA's first day: Envoy refuses everything below a CA without a list once it was given any.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use mesh_core::text::hex;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject};
use x509_parser::{
    extensions::ParsedExtension, prelude::FromDer,
    revocation_list::CertificateRevocationList as Parsed,
};

use crate::{
    Authority, Error, LEAF_BACKDATE, Usage, VerifyError,
    facts::{instant, parse, read_facts, sha256},
    pem::{self, PEM_MAX, pem_reason},
    profile::date,
};

/// The label of a list's block of text.
pub(crate) const LABEL: &str = "X509 CRL";

/// Most bytes of the lists of several CAs in one text. A `ConfigMap` holds 1 MiB; one list has no more than [`PEM_MAX`].
const TEXT_MAX: usize = 768 * 1024;

/// Longest serial number in bytes (RFC 5280 4.1.2.2).
const SERIAL_MAX: usize = 20;

/// A certificate that nobody is to believe any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedSerial {
    /// Its serial number in hex, as [`crate::CertFacts::serial`] shows it.
    pub serial: String,
    /// Since when.
    pub at: Timestamp,
    /// Why, as far as a list can say it.
    pub reason: Option<RevocationReason>,
}

/// Why a certificate was revoked (RFC 5280 5.3.1). What cannot be said with one of these is left out of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RevocationReason {
    /// Somebody else has the key of a workload.
    KeyCompromise,
    /// Somebody else has the key of a CA.
    CaCompromise,
    /// Another certificate took its place.
    Superseded,
    /// Its holder is no more.
    CessationOfOperation,
    /// Its holder may not have it any longer.
    PrivilegeWithdrawn,
}

impl From<RevocationReason> for rcgen::RevocationReason {
    fn from(reason: RevocationReason) -> Self {
        match reason {
            RevocationReason::KeyCompromise => Self::KeyCompromise,
            RevocationReason::CaCompromise => Self::CaCompromise,
            RevocationReason::Superseded => Self::Superseded,
            RevocationReason::CessationOfOperation => Self::CessationOfOperation,
            RevocationReason::PrivilegeWithdrawn => Self::PrivilegeWithdrawn,
        }
    }
}

/// What a list says. Says nothing about whether anybody should believe it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrlFacts {
    /// Issuer, as text for people.
    pub issuer: String,
    /// Key identifier of the CA, lower-case hex.
    pub aki: String,
    /// Grows with each list of one CA.
    pub number: u64,
    /// From when on it counts.
    pub this_update: Timestamp,
    /// When it counts no longer: Envoy then refuses all that it speaks of.
    pub next_update: Timestamp,
    /// The serial numbers it names, lower-case hex as in [`crate::CertFacts::serial`], each with the time of its revocation.
    pub serials: BTreeMap<String, Timestamp>,
    /// SHA-256 of the whole list, lower-case hex.
    pub fingerprint: String,
}

impl CrlFacts {
    /// When the next is to be made: at half of its life, earlier by up to a tenth of it. `noise` is 0 to 1.
    #[must_use]
    pub fn renew_at(&self, noise: f64) -> Timestamp {
        // It was made some time after its life began; near the end of its CA that time is most of its life.
        let made = self
            .this_update
            .saturating_add(LEAF_BACKDATE)
            .map_or(self.next_update, |made| made.min(self.next_update));
        let life = self.next_update.duration_since(made);
        let wait = life.as_secs_f64() * (0.5 - 0.1 * noise.clamp(0.0, 1.0));
        SignedDuration::try_from_secs_f64(wait)
            .ok()
            .and_then(|wait| made.saturating_add(wait).ok())
            .unwrap_or(made)
    }

    /// The next is to be made now.
    #[must_use]
    pub fn is_due(&self, noise: f64, now: Timestamp) -> bool {
        self.renew_at(noise) <= now
    }
}

/// The number of the next list of a CA: more than the last one's, and the seconds of the clock if those are more, so that it grows even
/// when nobody remembers the last one.
#[must_use]
pub fn next_crl_number(last: Option<u64>, now: Timestamp) -> u64 {
    let clock = u64::try_from(now.as_second()).unwrap_or(0);
    last.map_or(clock, |last| clock.max(last.saturating_add(1)))
}

/// A list just signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCrl {
    /// It, as text.
    pub pem: String,
    /// What it says.
    pub facts: CrlFacts,
}

impl Authority {
    /// Signs the revocation list of this authority's key. Its life begins [`LEAF_BACKDATE`] before `now` and ends at `now + lifetime`, cut to
    /// the life of this chain. A serial given twice is taken once, with its first time.
    ///
    /// # Errors
    ///
    /// When this authority is not valid now, its key usage does not allow lists, or a serial number is none.
    pub fn sign_crl(
        &self,
        revoked: &[RevokedSerial],
        number: u64,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<IssuedCrl, Error> {
        let own = self.certificate();
        if !own.usages.contains(&Usage::CrlSign) {
            return Err(Error::CrlUsage {
                subject: own.subject.clone(),
            });
        }
        let life = self.life(lifetime, LEAF_BACKDATE, now)?;
        let mut entries = BTreeMap::new();
        for one in revoked {
            let serial = serial(&one.serial)?;
            let entry = entries.entry(hex(&serial)).or_insert((serial, one));
            if one.at < entry.1.at {
                entry.1 = one;
            }
        }
        let count = entries.len();
        let params = CertificateRevocationListParams {
            this_update: date(life.from),
            next_update: date(life.to),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: entries.into_values().map(entry).collect(),
            // rcgen would compute one; an adopted CA keeps its own.
            key_identifier_method: self.key_id_method()?,
        };
        let list = params
            .signed_by(self.issuer())
            .map_err(|source| self.key().refusal("sign a revocation list", source))?;
        let facts = self.judge_list(list.der(), count)?;
        Ok(IssuedCrl {
            pem: pem::write(LABEL, list.der().to_vec()),
            facts,
        })
    }

    fn key_id_method(&self) -> Result<KeyIdMethod, Error> {
        let Some(id) = &self.certificate().ski else {
            return Ok(KeyIdMethod::Sha256);
        };
        bytes(id)
            .map(KeyIdMethod::PreSpecified)
            .ok_or(Error::Judged {
                rule: "its CA's key identifier is hex",
            })
    }

    /// Reads back what was just signed.
    fn judge_list(
        &self,
        list: &CertificateRevocationListDer<'_>,
        count: usize,
    ) -> Result<CrlFacts, Error> {
        let facts = read_list(list)?;
        let parsed = parse_list(list)?;
        let own = parse(self.own(), 0)?;
        let rules = [
            (
                parsed.issuer().as_raw() == own.subject().as_raw()
                    && parsed.verify_signature(own.public_key()).is_ok(),
                "it names its issuer and is signed by it",
            ),
            (
                self.certificate()
                    .ski
                    .as_ref()
                    .is_none_or(|ski| *ski == facts.aki),
                "it points at the key of its issuer",
            ),
            (facts.serials.len() == count, "it names what was revoked"),
        ];
        match rules.into_iter().find(|(kept, _)| !kept) {
            None => Ok(facts),
            Some((_, rule)) => Err(Error::Judged { rule }),
        }
    }
}

fn entry((serial, one): (Vec<u8>, &RevokedSerial)) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: date(one.at),
        reason_code: one.reason.map(Into::into),
        invalidity_date: None,
    }
}

/// The bytes of a serial number in hex, without leading zeros.
fn serial(text: &str) -> Result<Vec<u8>, Error> {
    let refusal = || Error::Serial {
        serial: text.chars().take(2 * SERIAL_MAX + 2).collect(),
    };
    let digits = text.trim_start_matches('0');
    if digits.is_empty() || digits.len() > 2 * SERIAL_MAX {
        return Err(refusal());
    }
    let even = if digits.len().is_multiple_of(2) {
        ""
    } else {
        "0"
    };
    bytes(&format!("{even}{digits}")).ok_or_else(refusal)
}

/// The bytes of a text of hex digits.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    digits?
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(high << 4 | low),
            _ => None,
        })
        .collect()
}

/// What a list says, DER or PEM; exactly one.
///
/// Only lists that keep the rules of RFC 5280 5.2 are read: version 2, a number, a key identifier, an end, nothing critical that is not
/// understood (so neither deltas nor partitions).
///
/// # Errors
///
/// When it is too large, cannot be read, or breaks one of those rules.
pub fn crl_facts(list: &[u8]) -> Result<CrlFacts, Error> {
    within(PEM_MAX, list.len())?;
    if list.first() == Some(&0x30) {
        return read_list(&CertificateRevocationListDer::from(list));
    }
    let text = str::from_utf8(list).map_err(|_source| refusal("it is neither DER nor text"))?;
    match lists(text)?.as_slice() {
        [one] => read_list(one),
        [] => Err(refusal("there is none in the text")),
        _ => Err(refusal("there is more than one in the text")),
    }
}

/// Judges a list before anybody is told to go by it: one block of text as we write it, of this CA, signed by it, and alive.
///
/// # Errors
///
/// The first rule that it breaks.
pub fn verify_crl(
    list_pem: &str,
    issuer_cert_pem: &str,
    now: Timestamp,
) -> Result<CrlFacts, VerifyError> {
    let broken = |rule| VerifyError::List { rule };
    within(PEM_MAX, list_pem.len()).map_err(VerifyError::ReadList)?;
    let lists = lists(list_pem).map_err(VerifyError::ReadList)?;
    let [list] = lists.as_slice() else {
        return Err(broken("a list is shown alone"));
    };
    // It is handed on as it is, and Envoys read more of a text than we do, or refuse it.
    if list_pem != pem::write(LABEL, list.to_vec()) {
        return Err(broken("a list is one block of text, as we write it"));
    }
    let facts = read_list(list).map_err(VerifyError::ReadList)?;
    let issuers = pem::certificates(issuer_cert_pem).map_err(VerifyError::ReadAnchors)?;
    let issuer = issuers
        .first()
        .ok_or(VerifyError::ReadAnchors(Error::NoCertificate))?;
    let above = read_facts(issuer, 0).map_err(VerifyError::ReadAnchors)?;
    if !above.is_valid_at(now) {
        return Err(VerifyError::OutsideLife {
            subject: above.subject,
            not_before: above.not_before,
            not_after: above.not_after,
            now,
        });
    }
    let parsed = parse_list(list).map_err(VerifyError::ReadList)?;
    let ca = parse(issuer, 0).map_err(VerifyError::ReadAnchors)?;
    let rules = [
        (
            above.is_ca && above.usages.contains(&Usage::CrlSign),
            "the issuer of a list is a CA whose key usage allows lists",
        ),
        (
            parsed.issuer().as_raw() == ca.subject().as_raw(),
            "a list names its issuer",
        ),
        (
            above.ski.as_ref().is_none_or(|ski| *ski == facts.aki),
            "a list points at the key of its issuer",
        ),
        (
            parsed.verify_signature(ca.public_key()).is_ok(),
            "a list is signed by its issuer",
        ),
        (facts.this_update <= now, "the life of a list has begun"),
        (now < facts.next_update, "the life of a list has not ended"),
    ];
    match rules.into_iter().find(|(kept, _)| !kept) {
        None => Ok(facts),
        Some((_, rule)) => Err(broken(rule)),
    }
}

/// One text (`ca-crl.pem`) of the lists of several CAs: one list for each CA, the one with the highest number, in the order of the CAs' key
/// identifiers, so that the same lists give the same bytes wherever they are put together. No lists give no text.
///
/// Nothing is verified here: judge each list with [`verify_crl`] first.
///
/// # Errors
///
/// When a text holds no list or one that cannot be read, or all together are too long.
pub fn merge_crls<'a, T>(texts: T) -> Result<String, Error>
where
    T: IntoIterator<Item = &'a str>,
{
    let mut newest = BTreeMap::new();
    for text in texts {
        let lists = lists(text)?;
        if lists.is_empty() {
            return Err(refusal("there is none in the text"));
        }
        for list in lists {
            let facts = read_list(&list)?;
            let issuer = parse_list(&list)?.issuer().as_raw().to_vec();
            // Of two with one number, the one that came later; of two made in the same second, always the same one.
            let rank = (facts.number, facts.this_update, facts.fingerprint);
            let held = newest
                .entry((facts.aki, issuer))
                .or_insert_with(|| (rank.clone(), list.clone()));
            if held.0 < rank {
                *held = (rank, list);
            }
        }
    }
    let text: String = newest
        .into_values()
        .map(|(_, list)| pem::write(LABEL, list.to_vec()))
        .collect();
    within(TEXT_MAX, text.len())?;
    Ok(text)
}

/// The lists of a text, each as a text of its own: [`merge_crls`] the other way round. Other blocks are skipped.
///
/// # Errors
///
/// When the text is too long, or is not PEM.
pub fn split_crls(text: &str) -> Result<Vec<String>, Error> {
    let lists = lists(text)?;
    Ok(lists
        .iter()
        .map(|der| pem::write(LABEL, der.to_vec()))
        .collect())
}

fn refusal(reason: impl Into<String>) -> Error {
    Error::ReadCrl {
        reason: reason.into(),
    }
}

fn within(max: usize, size: usize) -> Result<(), Error> {
    if size > max {
        return Err(Error::PemTooLarge { size, max });
    }
    Ok(())
}

/// The lists of a text, in order; other blocks are skipped.
pub(crate) fn lists(text: &str) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
    within(TEXT_MAX, text.len())?;
    CertificateRevocationListDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| Error::ReadPem {
            reason: pem_reason(&source),
        })
}

fn parse_list<'a>(der: &'a CertificateRevocationListDer<'_>) -> Result<Parsed<'a>, Error> {
    let (rest, list) = Parsed::from_der(der).map_err(|source| refusal(source.to_string()))?;
    if !rest.is_empty() {
        return Err(refusal(format!("{} bytes stand behind it", rest.len())));
    }
    Ok(list)
}

fn read_list(der: &CertificateRevocationListDer<'_>) -> Result<CrlFacts, Error> {
    // What is critical and not understood, versions, negative numbers: webpki looks at all of these, at entries only when it owns them.
    webpki::BorrowedCertRevocationList::from_der(der)
        .and_then(|list| list.to_owned())
        .map_err(|source| refusal(source.to_string()))?;
    let list = parse_list(der)?;
    if !list
        .extensions()
        .iter()
        .all(|extension| known(extension.parsed_extension()))
    {
        return Err(refusal(
            "it is for some certificates only, or only a change of another",
        ));
    }
    // Readers that differ in which of two they take, or in what they make of an entry, differ in whom they believe; Go refuses the text.
    if list
        .iter_revoked_certificates()
        .flat_map(|one| one.extensions())
        .any(|extension| !known_of_entry(extension.parsed_extension()))
    {
        return Err(refusal("an entry says something that is not understood"));
    }
    let aki = list.extensions().iter().filter_map(|extension| {
        if let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() {
            id.key_identifier.as_ref()
        } else {
            None
        }
    });
    let aki = only(aki, "key identifier of its issuer")?;
    let number = list.extensions().iter().filter_map(|extension| {
        if let ParsedExtension::CRLNumber(number) = extension.parsed_extension() {
            Some(number)
        } else {
            None
        }
    });
    let number = only(number, "number")?;
    let next_update = list.next_update().ok_or_else(|| refusal("it has no end"))?;
    let serials = list
        .iter_revoked_certificates()
        .map(|one| (hex(one.raw_serial()), instant(one.revocation_date)))
        .collect();
    Ok(CrlFacts {
        issuer: list.issuer().to_string(),
        aki: hex(aki.0),
        number: u64::try_from(number).map_err(|_source| refusal("its number is too high"))?,
        this_update: instant(list.last_update()),
        next_update: instant(next_update),
        serials,
        fingerprint: sha256(der),
    })
}

/// The one of its kind.
fn only<T>(mut found: impl Iterator<Item = T>, what: &str) -> Result<T, Error> {
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(refusal(format!("it has no {what}"))),
        (Some(_), Some(_)) => Err(refusal(format!("it has more than one {what}"))),
    }
}

/// An extension of an entry that everybody reads alike.
fn known_of_entry(extension: &ParsedExtension<'_>) -> bool {
    matches!(
        extension,
        ParsedExtension::ReasonCode(_) | ParsedExtension::InvalidityDate(_)
    )
}

/// An extension of a complete list.
fn known(extension: &ParsedExtension<'_>) -> bool {
    matches!(
        extension,
        ParsedExtension::AuthorityKeyIdentifier(_) | ParsedExtension::CRLNumber(_)
    )
}

#[cfg(test)]
mod tests;
