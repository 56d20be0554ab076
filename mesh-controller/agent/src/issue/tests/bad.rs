//! Requests that are not taken, over gRPC: each a status that fits and a line of the audit, none a certificate.

use std::{
    fmt::Write as _,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use mesh_ca::PrivateKey;
use tonic::Code;

use super::world::{World, ask, csr, id, plain, send};

/// A request by OpenSSL: key options, and what its configuration says of extensions.
fn by_openssl(key: &[&str], extensions: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("mesh-issue-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let run = |args: &[&str]| {
        let output = Command::new("openssl").args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
    };
    let (key_file, csr_file, config) = (path("key.pem"), path("csr.pem"), path("req.cnf"));
    run(&[&["genpkey", "-out", &key_file], key].concat());
    let text = format!(
        "[req]\ndistinguished_name=dn\nprompt=no\nreq_extensions=ext\n[dn]\nO=\n[ext]\n{extensions}\n"
    );
    std::fs::write(&config, text.replace("O=\n", "")).unwrap();
    run(&[
        "req", "-new", "-key", &key_file, "-out", &csr_file, "-config", &config, "-subj", "/",
    ]);
    let made = std::fs::read_to_string(&csr_file).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    made
}

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

#[tokio::test]
async fn requests_as_istio_sends_them_are_taken() {
    let world = World::new().await;
    let client = world.client().await;
    let own = id("kof", "collector");
    let rsa: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    for (key, extensions) in [
        // pilot-agent: RSA, one critical name; ztunnel: P-256, one name.
        (rsa, format!("subjectAltName=critical,URI:{own}")),
        (P256, format!("subjectAltName=URI:{own}")),
    ] {
        let message = plain(by_openssl(key, &extensions));
        let answer = send(&client, ask(&world.token(1), message)).await.unwrap();
        let facts = mesh_ca::facts(&answer[0]).unwrap().remove(0);
        assert_eq!(facts.uris, [own.as_str()]);
    }
}

#[tokio::test]
async fn bad_requests_are_refused_and_told() {
    let world = World::new().await;
    let client = world.client().await;
    let own = id("kof", "collector");
    let good = csr();
    let mut many = String::from("subjectAltName=@names\n[names]\n");
    for n in 0..200 {
        writeln!(many, "URI.{n}=spiffe://child1.mesh.test/ns/kof/sa/s{n}").unwrap();
    }
    // The name extension once by its name and once by its number.
    let twice = format!("subjectAltName=URI:{own}\n2.5.29.17=DER:3003820161");
    let weak: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"];
    let curve: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"];
    let ed: &[&str] = &["-algorithm", "ED25519"];
    let certificate = world.mesh.root_pem.clone();
    let secret = PrivateKey::generate().unwrap().pem().to_string();
    let table = [
        ("nothing", String::new()),
        ("garbage", "garbage".to_owned()),
        ("a certificate", certificate),
        ("a private key", secret.clone()),
        ("truncated", good.get(..good.len() / 2).unwrap().to_owned()),
        ("cut inside", good.replace("\nMI", "\n")),
        ("two", format!("{good}{good}")),
        (
            "another's name",
            by_openssl(
                P256,
                "subjectAltName=URI:spiffe://child1.mesh.test/ns/kof/sa/other",
            ),
        ),
        (
            "a DNS name",
            by_openssl(P256, "subjectAltName=DNS:example.com"),
        ),
        ("two hundred names", by_openssl(P256, &many)),
        ("an extension twice", by_openssl(P256, &twice)),
        (
            "a CA",
            by_openssl(P256, "basicConstraints=critical,CA:TRUE"),
        ),
        (
            "a weak key",
            by_openssl(weak, "subjectAltName=URI:spiffe://x"),
        ),
        ("P-521", by_openssl(curve, "keyUsage=digitalSignature")),
        ("Ed25519", by_openssl(ed, "keyUsage=digitalSignature")),
        (
            "longer than is read",
            format!("{}{good}", "# comment\n".repeat(2000)),
        ),
    ];
    for (what, csr) in table {
        world.lines.lock().clear();
        let refused = send(&client, ask(&world.token(1), plain(csr.clone()))).await;
        let status = refused.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
        for line in world.lines() {
            assert_eq!(
                (line.outcome, line.reason),
                ("refused", "BadRequest"),
                "{what}"
            );
            assert!(line.caller.is_some() && line.given.is_none());
            assert!(!format!("{line:?}").contains(secret.get(30..60).unwrap()));
        }
    }
    let refused = "mesh_agent_workload_certificates_refused_total{reason=\"BadRequest\"}";
    assert_eq!(world.metric(refused), 16);
    assert_eq!(world.metric("mesh_agent_workload_certificates_issued"), 0);
}

#[tokio::test]
async fn messages_that_are_too_long_are_not_read() {
    let world = World::new().await;
    let client = world.client().await;
    let own = id("kof", "collector");
    // 10,000 names are more than a message holds.
    let mut names = format!("subjectAltName=@names\n[names]\nURI.0={own}\n");
    for n in 1..10_000 {
        writeln!(names, "URI.{n}=spiffe://child1.mesh.test/ns/kof/sa/s{n}").unwrap();
    }
    let long = by_openssl(P256, &names);
    assert!(long.len() > 64 * 1024, "{}", long.len());
    for csr in [long, "A".repeat(1 << 20)] {
        let status = send(&client, ask(&world.token(1), plain(csr)))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
        let line = world.lines().pop().unwrap();
        assert_eq!((line.outcome, line.reason), ("refused", "BadMessage"));
        assert_eq!(
            line.caller.as_deref().map(|c| c.account.as_str()),
            Some("collector")
        );
    }
    send(&client, ask(&world.token(1), plain(csr())))
        .await
        .unwrap();
}
