//! Tokens, and the keys to judge them by: nobody is given anything but who holds a token that the API server has made, and the API server is
//! not asked about others.
#![no_main]

use http::HeaderValue;
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use mesh_fuzz::{came, changed, given::PROVEN, parts};
use mesh_fuzz_agent::{Asked, ISSUER, MEMBER, believe, framed};
use prost::Message as _;
use serde::Deserialize;
use serde_json::Value;

/// How far clocks may be apart, in seconds.
const LEEWAY: f64 = 90.0;
fuzz_target!(|data: &[u8]| came(judge(data)));

/// Keys and a token, 0xff between them. Keys: nothing, for those of the API server; or a text. Token: nothing, for a sound one; `~` and
/// changes to it; `=`, a header, a dot and claims, to be signed by the API server; `#` and a whole header of HTTP; or a text.
/// Says whether something is given.
fn judge(data: &[u8]) -> bool {
    let member = &*MEMBER;
    let [keys, token] = parts(data);
    let Ok(keys) = str::from_utf8(keys) else {
        return false;
    };
    let (keys, own) = match keys {
        "" => (member.keys.as_str(), true),
        other => (other, false),
    };
    let sound = &member.tokens[0];
    let bearer = |token: &[u8]| [b"Bearer ", token].concat();
    let header = match token {
        [] => bearer(sound.as_bytes()),
        [b'~', changes @ ..] => bearer(&changed(sound.as_bytes(), changes)),
        [b'=', made @ ..] => {
            let mut made = made.splitn(2, |byte| *byte == b'.');
            let [header, claims] = std::array::from_fn(|_| made.next().unwrap_or_default());
            bearer(member.token(header, claims).as_bytes())
        }
        [b'#', header @ ..] => header.to_vec(),
        text => bearer(text),
    };
    let Ok(header) = HeaderValue::from_bytes(&header) else {
        return false;
    };
    let asked = Asked {
        csr: member.csr.clone(),
        seconds: 0,
    };
    let body = framed(&asked.encode_to_vec());
    let outcome = member.ask(keys, &header, &HeaderValue::from_static("c1"), body);
    for reviewed in &outcome.reviewed {
        assert!(reviewed.len() <= 8192 && reviewed.split('.').count() == 3);
        if own {
            made_by_us(reviewed);
        }
    }
    if outcome.chain.is_empty() {
        assert_ne!(outcome.status.as_deref(), Some("0"));
        return false;
    }
    let [reviewed] = outcome.reviewed.as_slice() else {
        panic!("asked about {:?}", outcome.reviewed);
    };
    let claimed = |token: &str| token.rsplit_once('.').unwrap().0.to_owned();
    let ours = member.tokens.each_ref().map(|token| claimed(token));
    assert!(ours.contains(&claimed(reviewed)), "{reviewed}");
    let identity = if claimed(reviewed) == ours[0] {
        PROVEN.clone()
    } else {
        "spiffe://c1.mesh.example/ns/istio-system/sa/ztunnel"
            .parse()
            .unwrap()
    };
    believe(&outcome.chain, &member.csr, &identity);
    true
}

/// What is looked at of the claims: the others may be anything, even no text, since whoever signed them is asked what they mean.
#[derive(Deserialize)]
struct Claims {
    aud: Value,
    iss: Value,
    exp: Value,
    #[serde(default)]
    nbf: Value,
}

/// Nobody is asked about a token but one for us, of our API server, that lives.
fn made_by_us(token: &str) {
    let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token).unwrap();
    let says = |claim: &Value, wanted: &str| match claim {
        Value::Array(list) => list.iter().any(|one| one == wanted),
        one => one == wanted,
    };
    assert!(says(&claims.aud, "istio-ca"), "{}", claims.aud);
    assert!(says(&claims.iss, ISSUER), "{}", claims.iss);
    #[expect(clippy::cast_precision_loss, reason = "the year is not that late")]
    let now = Timestamp::now().as_second() as f64;
    let Claims { exp, nbf, .. } = claims;
    assert!(exp.as_f64().unwrap() > now - LEEWAY, "{exp}");
    assert!(nbf.as_f64().is_none_or(|nbf| nbf < now + LEEWAY), "{nbf}");
}
