//! A caller that leaves its own Envoy aside and speaks to the gateway by itself: nothing that the
//! intake mends or refuses helps the gateway here.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::backend::Echo;
use crate::lab::{HOST, Pair, SOON, identity};

/// What the stranger brings along.
struct Caller {
    args: Vec<String>,
}

impl Caller {
    /// The certificate of `c1`, as its owner has it.
    fn own(pair: &Pair) -> Self {
        let (chain, key) = pair.child_ca.pem_for(&identity("c1"));
        let write = |name: &str, text: &str| {
            let path = pair.child.folder.path(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (chain, key) = (write("own.crt", &chain), write("own.key", &key));
        let args = [
            "-tls1_3",
            "-cert",
            &chain,
            "-cert_chain",
            &chain,
            "-key",
            &key,
        ];
        Self {
            args: args.map(ToOwned::to_owned).into(),
        }
    }

    /// Sends a request as it is; all that came back.
    async fn say(&self, pair: &Pair, sni: &str, request: &str) -> String {
        let mut openssl = Command::new("openssl")
            .args([
                "s_client",
                "-quiet",
                "-no_ign_eof",
                "-nocommands",
                "-servername",
                sni,
            ])
            .args(["-connect", &pair.region.spec.gateway.to_string()])
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("these tests need the openssl command, version 3");
        let mut stdin = openssl.stdin.take().unwrap();
        // A refused handshake closes the pipe.
        stdin
            .write_all(request.as_bytes())
            .await
            .unwrap_or_default();
        let output = timeout(SOON, openssl.wait_with_output()).await.unwrap();
        drop(stdin);
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    }

    async fn get(&self, pair: &Pair, target: &str, more: &str) -> String {
        let request =
            format!("GET {target} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{more}\r\n");
        self.say(pair, SNI, &request).await
    }
}

const SNI: &str = "c1.r1-vmauth.kof.svc.cluster.local";

#[tokio::test]
async fn the_gateway_itself_holds_callers_to_their_paths() {
    let echo = Echo::start().await;
    let pair = Pair::up(echo.at).await;
    let caller = Caller::own(&pair);
    let tricks = [
        ("/vm/select/x", 403),
        ("/vm/insert/../select/x", 403),
        ("/vm/insert/%2e%2e/select/x", 403),
        ("/vm/insert/..;/select", 403),
        ("//vm/select/x", 403),
        ("/vm/insert/..%2fselect", 400),
        ("/vm/insert/..%5Cselect", 400),
        ("/vm/insert\\..\\select\\x", 403),
        ("/vm/insert/x#/../../select", 400),
        ("/vm/insert%00/select", 400),
        ("http://r1-vmauth/vm/insert/../select/x", 403),
        ("/vm/insertion", 403),
        ("/vm/insert?/../select", 200),
    ];
    let answers = tricks.map(|(target, _)| caller.get(&pair, target, ""));
    let answers = futures::future::join_all(answers).await;
    for ((target, status), answer) in tricks.into_iter().zip(answers) {
        let wanted = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&wanted), "{target}: {answer}");
        assert!(answer.contains("x-kof-gateway: r1"), "{target}: {answer}");
    }
    assert_eq!(echo.seen(), 1);
    // Headers that steer an Envoy from inside do nothing from outside.
    let more = "x-envoy-original-path: /vm/select/x\r\nx-original-url: /vm/select\r\n\
                x-forwarded-client-cert: By=x;URI=spiffe://evil/ns/x/sa/y\r\n\
                x-envoy-upstream-rq-timeout-ms: 1\r\nx-envoy-upstream-alt-stat-name: x\r\n";
    let answer = caller.get(&pair, "/vm/insert/x", more).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains(&format!("URI={} ", identity("c1"))),
        "{answer}"
    );
    assert!(!answer.contains("evil"), "{answer}");
    // Neither does another verb, a tunnel or an upgrade.
    let more = "upgrade: websocket\r\nconnection: upgrade\r\n";
    let answer = caller.get(&pair, "/vm/insert/x", more).await;
    assert!(!answer.contains(" 101 "), "{answer}");
    let connect = "CONNECT vmselect:8481 HTTP/1.1\r\nhost: vmselect:8481\r\n\r\n";
    let answer = caller.say(&pair, SNI, connect).await;
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
}

#[tokio::test]
async fn the_gateway_opens_for_nobody_else() {
    let echo = Echo::start().await;
    let pair = Pair::up(echo.at).await;
    let request = format!("GET /vm/insert/x HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    let own = Caller::own(&pair);
    let answer = own.say(&pair, SNI, &request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Without a certificate, with an older TLS, under another name.
    let bare = Caller {
        args: vec!["-tls1_3".to_owned()],
    };
    let mut old = Caller::own(&pair);
    old.args[0] = "-tls1_2".to_owned();
    for (what, caller, sni) in [
        ("no certificate", &bare, SNI),
        ("TLS 1.2", &old, SNI),
        ("another name", &own, "r1-vmauth.kof.svc.cluster.local"),
    ] {
        let answer = caller.say(&pair, sni, &request).await;
        assert!(!answer.contains("HTTP/1.1"), "{what}: {answer}");
    }
    assert_eq!(echo.seen(), 1);
}
