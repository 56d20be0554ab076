//! Defects put in on purpose: each is caught by at least one judge, and who caught it is in the output.

use jiff::SignedDuration;
use rcgen::{
    BasicConstraints, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SerialNumber,
};

use crate::case::{Case, Role};
use crate::judges::{self, NAMES};
use crate::raw::{AKI, BASIC, IDENTITY, Plan, SAN, SKI, date, extension, name, replace, tlv, uri};
use crate::table::{Row, print};

/// What is wrong, with which part, and how to make it so.
type Defect = (&'static str, Role, fn(&mut Plan));

const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// An OCTET STRING of 20 bytes.
const SOME_KEY_ID: &[u8] = b"\x04\x14aaaaaaaaaaaaaaaaaaaa";
const CA_TRUE: &[u8] = b"\x30\x03\x01\x01\xff";

const OF_LEAVES: &[Defect] = &[
    ("leaf without subject key identifier", Role::Leaf, |plan| {
        plan.leaf.is_ca = IsCa::NoCa;
        plan.leaf.custom_extensions = vec![extension(BASIC, true, b"\x30\x00")];
    }),
    ("leaf without basic constraints", Role::Leaf, |plan| {
        plan.leaf.is_ca = IsCa::NoCa;
        plan.leaf.custom_extensions = vec![extension(SKI, false, SOME_KEY_ID)];
    }),
    (
        "leaf with CA:FALSE written out (not DER)",
        Role::Leaf,
        |plan| {
            plan.leaf.is_ca = IsCa::NoCa;
            plan.leaf.custom_extensions = vec![
                extension(SKI, false, SOME_KEY_ID),
                extension(BASIC, true, b"\x30\x03\x01\x01\x00"),
            ];
        },
    ),
    ("leaf that is a CA", Role::Leaf, |plan| {
        plan.leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }),
    ("keyEncipherment on an EC leaf", Role::Leaf, |plan| {
        plan.leaf.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }),
    ("leaf that may sign certificates", Role::Leaf, |plan| {
        plan.leaf.key_usages.push(KeyUsagePurpose::KeyCertSign);
    }),
    ("leaf without key usage", Role::Leaf, |plan| {
        plan.leaf.key_usages = Vec::new();
    }),
    ("leaf without extended key usage", Role::Leaf, |plan| {
        plan.leaf.extended_key_usages = Vec::new();
    }),
    ("leaf for servers only", Role::Leaf, |plan| {
        plan.leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    }),
    ("leaf with a third purpose", Role::Leaf, |plan| {
        plan.leaf
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::Any);
    }),
    ("empty O= copied from the request", Role::Leaf, |plan| {
        plan.leaf.distinguished_name = name(&[(DnType::OrganizationName, "")]);
    }),
    ("name not critical without a subject", Role::Leaf, |plan| {
        plan.leaf.subject_alt_names = Vec::new();
        let names = tlv(0x30, &tlv(0x86, IDENTITY.as_bytes()));
        plan.leaf.custom_extensions = vec![extension(SAN, false, &names)];
    }),
    ("leaf without a name", Role::Leaf, |plan| {
        plan.leaf.subject_alt_names = Vec::new();
    }),
    ("leaf with two SPIFFE IDs", Role::Leaf, |plan| {
        plan.leaf
            .subject_alt_names
            .push(uri("spiffe://c1.mesh.example/ns/kof/sa/other"));
    }),
    ("serial number negative", Role::Leaf, |plan| {
        plan.edit_leaf = Some(|tbs| replace(tbs, b"\x02\x10\x5a", b"\x02\x10\xda"));
    }),
    ("serial number zero", Role::Leaf, |plan| {
        plan.leaf.serial_number = Some(SerialNumber::from(0_u64));
    }),
    ("serial number of 21 bytes", Role::Leaf, |plan| {
        plan.leaf.serial_number = Some(SerialNumber::from(vec![0x5a; 21]));
    }),
    ("serial number that can be guessed", Role::Leaf, |plan| {
        plan.leaf.serial_number = Some(SerialNumber::from(7_u64));
    }),
    ("no authority key identifier", Role::Leaf, |plan| {
        plan.leaf.use_authority_key_identifier_extension = false;
    }),
    ("authority key identifier of nobody", Role::Leaf, |plan| {
        plan.leaf.use_authority_key_identifier_extension = false;
        let id = tlv(0x30, &tlv(0x80, b"aaaaaaaaaaaaaaaaaaaa"));
        plan.leaf.custom_extensions = vec![extension(AKI, false, &id)];
    }),
    ("issuer named otherwise than it is", Role::Leaf, |plan| {
        plan.leaf_issuer = Some(name(&[(DnType::CommonName, "somebody else")]));
    }),
    ("expired leaf", Role::Leaf, |plan| {
        plan.leaf.not_before = date(-HOUR * 3);
        plan.leaf.not_after = date(-HOUR);
    }),
    ("leaf of tomorrow", Role::Leaf, |plan| {
        plan.leaf.not_before = date(HOUR);
    }),
    ("two words on the signature algorithm", Role::Leaf, |plan| {
        plan.edit_leaf = Some(|tbs| {
            replace(
                tbs,
                b"\x2a\x86\x48\xce\x3d\x04\x03\x02",
                b"\x2a\x86\x48\xce\x3d\x04\x03\x03",
            );
        });
    }),
    ("broken signature", Role::Leaf, |plan| {
        plan.spoil_leaf = Some(|der| replace(der, b"ns/kof/sa", b"ns/kot/sa"));
    }),
    ("critical extension that nobody knows", Role::Leaf, |plan| {
        plan.leaf.custom_extensions =
            vec![extension(&[1, 3, 6, 1, 4, 1, 99_999, 1], true, b"\x05\x00")];
    }),
    ("one extension twice", Role::Leaf, |plan| {
        plan.leaf.custom_extensions = vec![extension(SKI, false, SOME_KEY_ID)];
    }),
];

const OF_AUTHORITIES: &[Defect] = &[
    ("intermediate without cRLSign", Role::Intermediate, |plan| {
        plan.member.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }),
    (
        "intermediate without certSign",
        Role::Intermediate,
        |plan| {
            plan.member.key_usages = vec![KeyUsagePurpose::CrlSign];
        },
    ),
    (
        "intermediate without key usage",
        Role::Intermediate,
        |plan| {
            plan.member.key_usages = Vec::new();
        },
    ),
    (
        "intermediate that also shakes hands",
        Role::Intermediate,
        |plan| {
            plan.member
                .key_usages
                .push(KeyUsagePurpose::DigitalSignature);
        },
    ),
    (
        "intermediate without path length",
        Role::Intermediate,
        |plan| {
            plan.member.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        },
    ),
    ("intermediate that is no CA", Role::Intermediate, |plan| {
        plan.member.is_ca = IsCa::ExplicitNoCa;
    }),
    (
        "intermediate without subject key identifier",
        Role::Intermediate,
        |plan| {
            plan.member.is_ca = IsCa::NoCa;
            plan.member.custom_extensions =
                vec![extension(BASIC, true, b"\x30\x06\x01\x01\xff\x02\x01\x00")];
        },
    ),
    (
        "intermediate for servers only",
        Role::Intermediate,
        |plan| {
            plan.member.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        },
    ),
    ("expired intermediate", Role::Intermediate, |plan| {
        plan.member.not_before = date(-HOUR * 3);
        plan.member.not_after = date(-HOUR);
    }),
    ("root without cRLSign", Role::Root, |plan| {
        plan.root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }),
    ("root without key usage", Role::Root, |plan| {
        plan.root.key_usages = Vec::new();
    }),
    ("root with path length 0", Role::Root, |plan| {
        plan.root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    }),
    ("root without subject key identifier", Role::Root, |plan| {
        plan.root.is_ca = IsCa::NoCa;
        plan.root.custom_extensions = vec![extension(BASIC, true, CA_TRUE)];
    }),
    (
        "root whose basic constraints are not critical",
        Role::Root,
        |plan| {
            plan.root.is_ca = IsCa::NoCa;
            plan.root.custom_extensions = vec![
                extension(BASIC, false, CA_TRUE),
                extension(SKI, false, SOME_KEY_ID),
            ];
            plan.root.key_identifier_method =
                rcgen::KeyIdMethod::PreSpecified(SOME_KEY_ID[2..].to_vec());
        },
    ),
];

const OF_LISTS: &[Defect] = &[
    ("list without number", Role::List, |plan| {
        plan.member_list.number = None;
    }),
    ("list with a negative number", Role::List, |plan| {
        plan.member_list.number = Some(vec![0xda]);
    }),
    ("list without end", Role::List, |plan| {
        plan.member_list.next_update = None;
    }),
    (
        "list without authority key identifier",
        Role::List,
        |plan| plan.member_list.aki = false,
    ),
    ("list of yesterday", Role::List, |plan| {
        plan.member_list.next_update = Some(-SignedDuration::from_mins(10));
    }),
    ("list signed by somebody else", Role::List, |plan| {
        plan.member_list.foreign_key = true;
    }),
    ("list that names a serial twice", Role::List, |plan| {
        plan.member_list.revoked = Some(vec![vec![7], vec![7]]);
    }),
    ("list with an empty list in it", Role::List, |plan| {
        plan.member_list.revoked = Some(Vec::new());
    }),
    ("list of version 1 with extensions", Role::List, |plan| {
        plan.member_list.version = None;
    }),
    (
        "list that is only a change of another",
        Role::List,
        |plan| {
            let delta = [
                b"\x06\x03\x55\x1d\x1b\x01\x01\xff".as_slice(),
                &tlv(0x04, b"\x02\x01\x01"),
            ];
            plan.member_list.further = tlv(0x30, &delta.concat());
        },
    ),
    ("no list of the intermediate", Role::Leaf, |plan| {
        plan.member_list.left_out = true;
    }),
];

/// No judge from outside sees anything wrong with these: they are allowed, only not by us.
const OURS_ALONE: &[&str] = &[
    "leaf without basic constraints",
    "leaf without key usage",
    "leaf without extended key usage",
    "leaf with a third purpose",
    "leaf with two SPIFFE IDs",
    "serial number that can be guessed",
    "intermediate that also shakes hands",
    "intermediate without path length",
];

#[test]
fn the_sound_ones_are_accepted() {
    for role in [Role::Root, Role::Intermediate, Role::Leaf, Role::List] {
        let said = judges::all(&Plan::sound().case("sound", role));
        assert!(said.iter().all(Vec::is_empty), "{role:?}: {said:?}");
    }
}

#[test]
fn every_defect_is_caught() {
    let defects = [OF_LEAVES, OF_AUTHORITIES, OF_LISTS].concat();
    let cases: Vec<Case> = defects
        .into_iter()
        .map(|(name, role, change)| {
            let mut plan = Plan::sound();
            change(&mut plan);
            plan.case(name, role)
        })
        .collect();
    let rows = judges::rows(&cases);
    print("Defects put in on purpose", &rows);
    let outside = |row: &Row| {
        let mut said = NAMES.iter().zip(&row.said);
        said.any(|(judge, said)| *judge != "rules" && !said.is_empty())
    };
    let missed: Vec<&str> = rows
        .iter()
        .filter(|row| row.said.iter().all(Vec::is_empty))
        .map(|row| row.name.as_str())
        .collect();
    assert_eq!(missed, Vec::<&str>::new(), "caught by nobody");
    for (place, judge) in NAMES.iter().enumerate() {
        let caught = rows
            .iter()
            .filter(|row| !row.said[place].is_empty())
            .count();
        assert!(caught > 0, "{judge} caught nothing: does it look?");
    }
    let ours: Vec<&str> = rows
        .iter()
        .filter(|row| !outside(row))
        .map(|row| row.name.as_str())
        .collect();
    assert_eq!(ours, OURS_ALONE, "caught by our own rules only");
}
