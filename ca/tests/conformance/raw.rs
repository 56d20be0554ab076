//! Certificates and lists made by hand, so that any rule can be broken. Nothing here comes from the crate that is tested.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber, SigningKey as _,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::case::{Case, Role};

pub const IDENTITY: &str = "spiffe://c1.mesh.example/ns/kof/sa/collector";
const ECDSA_SHA256: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
pub const AKI: &[u64] = &[2, 5, 29, 35];
pub const SKI: &[u64] = &[2, 5, 29, 14];
pub const SAN: &[u64] = &[2, 5, 29, 17];
pub const BASIC: &[u64] = &[2, 5, 29, 19];
const NUMBER: &[u8] = b"\x06\x03\x55\x1d\x14";
const LIST_AKI: &[u8] = b"\x06\x03\x55\x1d\x23";

/// A change of the bytes that are signed.
type Edit = fn(&mut Vec<u8>);

/// A root, an intermediate, a workload and the lists of both CAs, all of them sound until something is changed.
pub struct Plan {
    pub root: CertificateParams,
    pub member: CertificateParams,
    pub leaf: CertificateParams,
    pub root_list: List,
    pub member_list: List,
    pub edit_leaf: Option<Edit>,
    /// A change of the whole certificate after it was signed.
    pub spoil_leaf: Option<Edit>,
    /// The subject that the leaf names as its issuer, if not the intermediate's.
    pub leaf_issuer: Option<DistinguishedName>,
}

/// A revocation list, field by field.
pub struct List {
    pub version: Option<u8>,
    pub next_update: Option<SignedDuration>,
    /// Contents of INTEGERs.
    pub revoked: Option<Vec<Vec<u8>>>,
    pub number: Option<Vec<u8>>,
    pub aki: bool,
    pub further: Vec<u8>,
    pub foreign_key: bool,
    pub left_out: bool,
}

fn list() -> List {
    List {
        version: Some(1),
        next_update: Some(SignedDuration::from_hours(24)),
        revoked: None,
        number: Some(vec![1]),
        aki: true,
        further: Vec::new(),
        foreign_key: false,
        left_out: false,
    }
}

pub fn date(offset: SignedDuration) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp((Timestamp::now() + offset).as_second()).unwrap()
}

pub fn name(parts: &[(DnType, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (kind, value) in parts {
        name.push(kind.clone(), *value);
    }
    name
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn common(serial: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date(-SignedDuration::from_hours(1));
    params.not_after = date(SignedDuration::from_hours(24));
    let mut number = [0x5a; 16];
    number[15] = serial;
    params.serial_number = Some(SerialNumber::from(number.to_vec()));
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::Sha256;
    params
}

fn ca(serial: u8, cn: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = common(serial);
    params.distinguished_name = name(&[
        (DnType::OrganizationName, "default"),
        (DnType::CommonName, cn),
    ]);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub fn extension(oid: &[u64], critical: bool, content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

impl Plan {
    pub fn sound() -> Self {
        let mut root = ca(1, "root", BasicConstraints::Unconstrained);
        root.use_authority_key_identifier_extension = false;
        let mut leaf = common(3);
        leaf.subject_alt_names = vec![uri(IDENTITY)];
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Self {
            root,
            member: ca(2, "intermediate", BasicConstraints::Constrained(0)),
            leaf,
            root_list: list(),
            member_list: list(),
            edit_leaf: None,
            spoil_leaf: None,
            leaf_issuer: None,
        }
    }

    /// Signs all of it; `role` says which part is judged.
    pub fn case(&self, name: &str, role: Role) -> Case {
        let [root_key, member_key, leaf_key] = [(); 3].map(|()| KeyPair::generate().unwrap());
        let root = self.root.self_signed(&root_key).unwrap().der().to_vec();
        let issuer = Issuer::from_params(&self.root, &root_key);
        let member = self.member.signed_by(&member_key, &issuer).unwrap();
        let member = member.der().to_vec();
        let mut above = self.member.clone();
        if let Some(other) = &self.leaf_issuer {
            above.distinguished_name = other.clone();
        }
        let issuer = Issuer::from_params(&above, &member_key);
        let leaf = self.leaf.signed_by(&leaf_key, &issuer).unwrap();
        let mut leaf = leaf.der().to_vec();
        if let Some(edit) = self.edit_leaf {
            leaf = resign(&leaf, &member_key, edit);
        }
        if let Some(spoil) = self.spoil_leaf {
            spoil(&mut leaf);
        }
        let root_list = self.root_list.sign(&root, &root_key);
        let member_list = self.member_list.sign(&member, &member_key);
        let cert = |der: &[u8]| pem("CERTIFICATE", der);
        let own = match role {
            Role::Root => cert(&root),
            Role::Intermediate => cert(&member),
            Role::Leaf | Role::Server => cert(&leaf),
            Role::List => member_list.clone(),
        };
        Case {
            name: name.to_owned(),
            role,
            own,
            chain: cert(&leaf) + &cert(&member),
            key: leaf_key.serialize_pem(),
            anchors: cert(&root),
            lists: root_list + &member_list,
            partial: false,
            peer: IDENTITY.to_owned(),
        }
    }
}

impl List {
    fn sign(&self, issuer: &[u8], key: &KeyPair) -> String {
        if self.left_out {
            return String::new();
        }
        let (_, issuer) = X509Certificate::from_der(issuer).unwrap();
        let mut tbs = Vec::new();
        if let Some(version) = self.version {
            tbs.extend(tlv(0x02, &[version]));
        }
        tbs.extend(ECDSA_SHA256);
        tbs.extend(issuer.subject().as_raw());
        tbs.extend(time(-SignedDuration::from_hours(1)));
        if let Some(next) = self.next_update {
            tbs.extend(time(next));
        }
        if let Some(revoked) = &self.revoked {
            let entries: Vec<u8> = revoked
                .iter()
                .flat_map(|serial| {
                    let entry = [tlv(0x02, serial), time(-SignedDuration::from_hours(2))];
                    tlv(0x30, &entry.concat())
                })
                .collect();
            tbs.extend(tlv(0x30, &entries));
        }
        let mut extensions = self.further.clone();
        if self.aki {
            let id = key_id(&issuer);
            let content = tlv(0x04, &tlv(0x30, &tlv(0x80, &id)));
            extensions.extend(tlv(0x30, &[LIST_AKI, &content].concat()));
        }
        if let Some(number) = &self.number {
            let content = tlv(0x04, &tlv(0x02, number));
            extensions.extend(tlv(0x30, &[NUMBER, &content].concat()));
        }
        if !extensions.is_empty() {
            tbs.extend(tlv(0xa0, &tlv(0x30, &extensions)));
        }
        let other = KeyPair::generate().unwrap();
        let key = if self.foreign_key { &other } else { key };
        pem("X509 CRL", &signed(&tlv(0x30, &tbs), ECDSA_SHA256, key))
    }
}

fn key_id(issuer: &X509Certificate<'_>) -> Vec<u8> {
    let oid = x509_parser::oid_registry::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER;
    let ski = issuer.get_extension_unique(&oid).unwrap();
    // OCTET STRING in the extension: two bytes of header.
    ski.map_or_else(|| vec![1; 20], |ski| ski.value[2..].to_vec())
}

fn time(offset: SignedDuration) -> Vec<u8> {
    let text = (Timestamp::now() + offset)
        .strftime("%y%m%d%H%M%SZ")
        .to_string();
    tlv(0x17, text.as_bytes())
}

/// One element of DER.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..0x80 => out.push(u8::try_from(short).unwrap()),
        middle @ 0x80..0x100 => out.extend([0x81, u8::try_from(middle).unwrap()]),
        long => {
            out.push(0x82);
            out.extend(u16::try_from(long).unwrap().to_be_bytes());
        }
    }
    out.extend(content);
    out
}

/// The first element of `der`, and what stands behind it.
fn first(der: &[u8]) -> (&[u8], &[u8]) {
    let (header, length) = match der[1] {
        0x82 => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
        0x81 => (3, usize::from(der[2])),
        short => (2, usize::from(short)),
    };
    der.split_at(header + length)
}

fn signed(tbs: &[u8], algorithm: &[u8], key: &KeyPair) -> Vec<u8> {
    let mut bits = vec![0];
    bits.extend(key.sign(tbs).unwrap());
    tlv(0x30, &[tbs, algorithm, &tlv(0x03, &bits)].concat())
}

/// The certificate with other bytes to be signed (of the same length).
fn resign(der: &[u8], key: &KeyPair, edit: Edit) -> Vec<u8> {
    let (outer, _) = first(der);
    let header = outer.len() - first_content(outer);
    let (tbs, rest) = first(&outer[header..]);
    let (algorithm, _) = first(rest);
    let mut tbs = tbs.to_vec();
    edit(&mut tbs);
    signed(&tbs, algorithm, key)
}

fn first_content(der: &[u8]) -> usize {
    match der[1] {
        0x82 => usize::from(der[2]) << 8 | usize::from(der[3]),
        0x81 => usize::from(der[2]),
        short => usize::from(short),
    }
}

/// Replaces a run of bytes that occurs once.
pub fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let at = bytes
        .windows(old.len())
        .position(|window| window == old)
        .expect("the bytes to replace are there");
    bytes[at..at + new.len()].copy_from_slice(new);
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), config)
}
