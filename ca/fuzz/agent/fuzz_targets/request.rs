//! Calls of `CreateCertificate` by somebody who is known: the message, and what stands beside it. What is given is for who asks, or for a
//! workload on the node of who asks, if that is the account of a node.
#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use mesh_ca::facts;
use mesh_fuzz::{came, given::PROVEN, parts};
use mesh_fuzz_agent::{Asked, MEMBER, believe, framed};
use prost::Message as _;

/// The account of a node asks.
const NODE: u8 = 1;
/// The message has the header that gRPC gives it already.
const WHOLE: u8 = 2;
/// A sound request for a certificate is put into the message.
const SOUND: u8 = 4;
fuzz_target!(|data: &[u8]| came(judge(data)));

/// A byte with flags, the cluster, 0xff, and the message.
/// Says whether something is given.
fn judge(data: &[u8]) -> bool {
    let member = &*MEMBER;
    let Some((flags, rest)) = data.split_first() else {
        return false;
    };
    let [cluster, message] = parts(rest);
    let Ok(cluster) = HeaderValue::from_bytes(cluster) else {
        return false;
    };
    let node = flags & NODE != 0;
    let token = format!("Bearer {}", member.tokens[usize::from(node)]);
    let mut message = message.to_vec();
    if flags & SOUND != 0 {
        // The last one counts.
        let csr = member.csr.clone();
        message.extend(Asked { csr, seconds: 0 }.encode_to_vec());
    }
    let body = if flags & WHOLE != 0 {
        message
    } else {
        framed(&message)
    };
    let token = HeaderValue::from_str(&token).unwrap();
    let outcome = member.ask(&member.keys, &token, &cluster, body.clone());
    assert_eq!(outcome.reviewed.len(), 1);
    let Some(leaf) = outcome.chain.first() else {
        assert_ne!(outcome.status.as_deref(), Some("0"));
        return false;
    };
    assert!(
        matches!(cluster.as_bytes(), b"" | b"c1" | b"Kubernetes"),
        "{cluster:?}"
    );
    let asked = Asked::decode(&body[5..]).expect("what is answered can be read");
    assert!(asked.seconds <= 86_400, "{}", asked.seconds);
    let leaf = facts(leaf).expect("it is a certificate").remove(0);
    let [identity] = leaf.uris.as_slice() else {
        panic!("{:?}", leaf.uris);
    };
    let ztunnel = "spiffe://c1.mesh.example/ns/istio-system/sa/ztunnel";
    let may = [PROVEN.as_str(), ztunnel];
    let may = if node { may.as_slice() } else { &may[..1] };
    assert!(may.contains(&identity.as_str()), "{identity}");
    believe(&outcome.chain, &asked.csr, &identity.parse().unwrap());
    true
}
