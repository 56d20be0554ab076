//! Against dnsmasq.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    process::{Child, Command},
};

use super::{World, addresses};
use crate::{Miss, State};

/// dnsmasq on a port of loopback; killed by its handle when the test is over.
struct Dnsmasq {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Dnsmasq {
    fn new() -> Self {
        let address = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let folder = std::env::temp_dir().join(format!("mesh-dns-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("hosts"), "").unwrap();
        Self {
            child: Self::start(address, &folder),
            folder,
            address,
        }
    }

    fn start(address: SocketAddr, folder: &std::path::Path) -> Child {
        Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
                "--user=",
            ])
            .args([
                "--listen-address=127.0.0.1",
                "--pid-file",
                "--log-facility=-",
                "--local=/example.org/",
                "--local-ttl=1",
            ])
            .arg(format!("--port={}", address.port()))
            .arg(format!("--addn-hosts={}", folder.join("hosts").display()))
            .spawn()
            .expect("this test needs dnsmasq (Debian: dnsmasq-base)")
    }

    fn hosts(&self, lines: &str) {
        fs::write(self.folder.join("hosts"), lines).unwrap();
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-HUP", &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.stop();
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

#[tokio::test]
#[ignore = "needs dnsmasq on the machine (Debian: dnsmasq-base)"]
async fn a_real_server_is_followed_through_change_outage_and_denial() {
    let mut server = Dnsmasq::new();
    let mut world = World::new(server.address, &["gw.example.org", "none.example.org"]);
    // Not up yet, then up and empty.
    world
        .until_state("gw.example.org", |state| {
            state == State::Unresolved(Miss::NxDomain)
        })
        .await;
    server.hosts("192.0.2.1 gw.example.org\n");
    world.until_at("gw.example.org", &["192.0.2.1"]).await;
    server.hosts("192.0.2.2 gw.example.org\n2001:db8::2 gw.example.org\n");
    world
        .until_at("gw.example.org", &["192.0.2.2", "2001:db8::2"])
        .await;
    server.stop();
    world
        .until_state("gw.example.org", |state| {
            matches!(
                state,
                State::Stale {
                    miss: Miss::Timeout,
                    ..
                }
            )
        })
        .await;
    assert_eq!(
        world.at("gw.example.org"),
        addresses(&["192.0.2.2", "2001:db8::2"])
    );
    server.child = Dnsmasq::start(server.address, &server.folder);
    world
        .until_at("gw.example.org", &["192.0.2.2", "2001:db8::2"])
        .await;
    server.hosts("");
    world
        .until_state("gw.example.org", |state| {
            matches!(
                state,
                State::Stale {
                    miss: Miss::NxDomain,
                    ..
                }
            )
        })
        .await;
    assert_eq!(
        world.at("gw.example.org"),
        addresses(&["192.0.2.2", "2001:db8::2"])
    );
    server.hosts("192.0.2.3 gw.example.org\n");
    world
        .until_state("gw.example.org", |state| state == State::Fresh)
        .await;
    // The IPv6 address goes once the server has said three times that there is none beside a good IPv4 answer.
    world.until_at("gw.example.org", &["192.0.2.3"]).await;
    world
        .until_state("none.example.org", |state| {
            state == State::Unresolved(Miss::NxDomain)
        })
        .await;
}
