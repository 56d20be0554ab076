use jiff::SignedDuration;
use mesh_api::{
    agent::{Bundle, Trust},
    mesh::WorkloadIssuer,
};
use mesh_ca::{Authority, PrivateKey, RevokedSerial, cacerts};

use super::*;
use crate::{
    intermediate::{Signer, told},
    report::Board,
    testing::{Mesh, after, now},
};

const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);
const DAY: i64 = 24 * 3600;

fn list(ca: &Authority, number: u64, serials: &[&str], at: Timestamp) -> Crl {
    let revoked: Vec<_> = serials
        .iter()
        .map(|serial| RevokedSerial {
            serial: (*serial).to_owned(),
            at,
            reason: None,
        })
        .collect();
    Crl {
        issuer: ca.certificate().key_fingerprint.clone(),
        list: ca.sign_crl(&revoked, number, WEEK, at).unwrap().pem,
    }
}

fn signer(mesh: &Mesh) -> Signer {
    let mut wanted = mesh.wanted();
    wanted.spec.intermediate_seconds = 30 * 86_400;
    let key = PrivateKey::generate().unwrap();
    let chain = mesh.sign(&wanted, 1, &key.csr_pem().unwrap(), now());
    Signer {
        generation: 1,
        authority: Arc::new(Authority::load(&chain, key.pem()).unwrap()),
    }
}

/// A member that meets one other.
struct World {
    mesh: Mesh,
    own: Signer,
    peer: Signer,
    spec: MeshAgentSpec,
    wish: Wish,
    board: Board,
}

impl World {
    fn new() -> Self {
        let mesh = Mesh::new();
        let [own, peer] = [(); 2].map(|()| signer(&mesh));
        let mut spec = mesh.wanted().spec;
        spec.trusts = vec![Trust {
            cluster: "region1".to_owned(),
            trust_domain: "region1.mesh.test".to_owned(),
            certificates: vec![peer.authority.cert_pem()],
        }];
        let wish = Wish {
            issuer: WorkloadIssuer::Agent,
            trust_domain: "child1.mesh.test".to_owned(),
            bundle: Bundle {
                generation: 1,
                roots: vec![mesh.root_pem.clone()],
            },
            default_seconds: 60,
            max_seconds: 60,
            node_accounts: Vec::new(),
            service_names: Vec::new(),
        };
        let board = Board::new();
        board.crls(&[list(&own.authority, 1, &[], now())]);
        board.intermediates(&[told(&own)], None);
        Self {
            mesh,
            own,
            peer,
            spec,
            wish,
            board,
        }
    }

    /// What the controller tells: lists of the root and of the peer.
    fn tell(&mut self, root: &[&str], number: u64, at: Timestamp) {
        let root = list(&self.mesh.root, number, root, at);
        self.spec.crls = vec![root, list(&self.peer.authority, number, &[], at)];
    }

    fn choose(&self, standing: &str, reader: Reader, at: Timestamp) -> Choice {
        let said = self.board.said();
        let (met, _again) = Met::new(&self.spec, &self.wish, &said, at);
        met.choose(standing, reader, at).unwrap()
    }

    fn text(&self, standing: &str, reader: Reader, at: Timestamp) -> Text {
        self.choose(standing, reader, at).text
    }

    fn written(&self, standing: &str) -> String {
        match self.text(standing, Reader::Proxies, now()) {
            Text::Write(text) => text,
            other @ (Text::Keep | Text::Leave | Text::Withdraw) => panic!("{other:?}"),
        }
    }
}

#[test]
fn proxies_are_given_the_list_of_every_ca_that_they_may_meet_once_something_is_revoked() {
    let mut world = World::new();
    world.tell(&[], 1, now());
    assert_eq!(world.text("", Reader::Proxies, now()), Text::Withdraw);
    world.tell(&["77"], 2, now());
    let text = world.written("");
    assert_eq!(
        (text.matches("BEGIN X509 CRL").count(), count(&text)),
        (3, 1)
    );
    assert_eq!(world.text(&text, Reader::Proxies, now()), Text::Keep);
    // Lists that were renewed are not written before the old ones age.
    world.tell(&["77"], 3, after(4 * DAY));
    let own = list(&world.own.authority, 3, &[], now());
    world.board.crls(&[own]);
    assert_eq!(
        world.text(&text, Reader::Proxies, after(5 * DAY)),
        Text::Keep
    );
    let later = world.text(&text, Reader::Proxies, after(6 * DAY));
    assert!(matches!(later, Text::Write(_)), "{later:?}");
    world.tell(&[], 4, after(4 * DAY));
    assert_eq!(
        world.text(&text, Reader::Proxies, after(5 * DAY)),
        Text::Withdraw
    );
    let kept = world.text(&text, Reader::Istiod, after(5 * DAY));
    assert_eq!(kept, Text::Keep, "istiod never forgets");
}

#[test]
fn whose_list_is_missing_is_said() {
    let mut world = World::new();
    world.tell(&["77"], 2, now());
    let peer = world.spec.crls.pop().unwrap();
    let found = world.choose("", Reader::Proxies, now());
    let why = found.obstacle.unwrap();
    assert_eq!(
        (found.text, why.reason.as_str()),
        (Text::Leave, "ListsIncomplete")
    );
    assert!(why.message.contains("list of region1:"), "{}", why.message);
    // One that another CA signed is none.
    let mut forged = peer.clone();
    forged.list = list(&world.own.authority, 9, &[], now()).list;
    world.spec.crls.push(forged);
    assert!(world.choose("", Reader::Proxies, now()).obstacle.is_some());
    world.spec.crls.pop();
    world.spec.crls.push(peer);
    assert_eq!(world.choose("", Reader::Proxies, now()).obstacle, None);
}

#[test]
fn a_list_that_finds_no_room_is_not_said_to_be_dead() {
    let mut world = World::new();
    world.tell(&["77"], 2, now());
    let said = world.board.said();
    let (mut met, _again) = Met::new(&world.spec, &world.wish, &said, now());
    let peer = &world.peer.authority.certificate().key_fingerprint;
    met.good.remove(peer);
    met.crowded.insert(peer.clone());
    let message = |met: &Met| {
        let found = met.choose("", Reader::Proxies, now()).unwrap();
        found.obstacle.unwrap().message
    };
    let said = message(&met);
    assert!(
        said.contains("no room for the revocation list of region1:"),
        "{said}"
    );
    assert!(!said.contains("no living"), "{said}");
    let own = &world.own.authority.certificate().key_fingerprint;
    met.good.remove(own);
    let said = message(&met);
    assert!(
        said.contains("no living revocation list of child1, and there is no room"),
        "{said}"
    );
}

#[test]
fn only_the_root_revokes() {
    let mut world = World::new();
    world.tell(&[], 1, now());
    let naming = list(&world.peer.authority, 9, &["5"], now());
    world.spec.crls[1] = naming.clone();
    assert_eq!(world.text("", Reader::Proxies, now()), Text::Leave);
    world.tell(&["77"], 2, now());
    let text = world.written("");
    let own = world.board.said().crls()[0].list.clone();
    let standing = merge_crls([&*world.spec.crls[0].list, &*own, &*naming.list]).unwrap();
    assert_eq!(world.written(&standing), text, "nor in what stands");
    world.tell(&[], 2, now());
    world
        .board
        .crls(&[list(&world.own.authority, 9, &["5"], now())]);
    assert_eq!(world.text("", Reader::Proxies, now()), Text::Leave);
}

#[test]
fn what_was_begun_goes_on_also_when_all_of_it_has_ended() {
    let mut world = World::new();
    world.tell(&["77"], 2, now());
    let text = world.written("");
    let late = after(8 * DAY);
    assert_eq!(world.text(&text, Reader::Proxies, late), Text::Keep);
    world.tell(&["77"], 3, late);
    world.spec.crls.pop();
    let found = world.choose(&text, Reader::Proxies, late);
    assert!(matches!(found.text, Text::Write(_)), "{found:?}");
    assert_eq!(found.obstacle.unwrap().reason, "ListsIncomplete");
    assert_eq!(world.text("", Reader::Proxies, late), Text::Leave);
}

#[test]
fn what_somebody_else_put_in_its_place_is_no_list_of_ours() {
    let mut world = World::new();
    world.tell(&["77"], 2, now());
    let text = world.written("");
    for changed in [format!("{text}x"), "x".to_owned()] {
        assert_eq!(world.written(&changed), text);
    }
    // As long as it cannot be said what should stand there, it is not handed on.
    world.spec.crls.pop();
    assert_eq!(world.text("x", Reader::Proxies, now()), Text::Leave);
}

#[test]
fn what_istiod_is_given_it_takes() {
    let mut world = World::new();
    world.tell(&["77"], 2, now());
    let Text::Write(lists) = world.text("", Reader::Istiod, now()) else {
        panic!("not begun")
    };
    let key = PrivateKey::generate().unwrap();
    let wanted = world.mesh.wanted();
    let chain = world.mesh.sign(&wanted, 1, &key.csr_pem().unwrap(), now());
    let other = Authority::load(&chain, key.pem()).unwrap();
    // Its own CA is among them, or nothing is made.
    let made = cacerts(&other, &key, &world.mesh.root_pem, Some(&lists), now());
    assert!(made.is_err());
    world.board.crls(&[list(&other, 1, &[], now())]);
    let signer = Signer {
        generation: 2,
        authority: Arc::new(other),
    };
    world.board.intermediates(&[told(&signer)], None);
    let Text::Write(lists) = world.text(&lists, Reader::Istiod, now()) else {
        panic!("not renewed for another intermediate")
    };
    let made = cacerts(
        &signer.authority,
        &key,
        &world.mesh.root_pem,
        Some(&lists),
        now(),
    );
    let made = made.unwrap();
    assert!(
        made.entries()
            .any(|(name, text)| name == maps::ENTRY && text == lists)
    );
}

#[test]
fn it_is_looked_again_when_a_list_or_a_ca_ends() {
    let mut world = World::new();
    world.tell(&[], 1, now());
    let said = world.board.said();
    let again = Met::new(&world.spec, &world.wish, &said, now()).1;
    assert_eq!(again, Some(after(7 * DAY - 300)));
}

#[test]
fn what_is_worked_out_is_worked_out_once() {
    let mut worked = Worked::default();
    let mut get = |from: u32, at: i64, until: Option<i64>| {
        let mut done = false;
        worked.get(from, after(at), || {
            done = true;
            ((), until.map(after))
        });
        done
    };
    assert!(get(1, 0, Some(10)));
    assert!(!get(1, 9, None));
    assert!(get(1, 10, Some(20)), "its time is over");
    assert!(get(2, 11, None), "it comes from something else");
    assert!(!get(2, 1000, None));
    assert!(get(2, 5, None), "the clock went back");
}
