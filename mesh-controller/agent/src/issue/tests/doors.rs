use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::{NamedGroup, ProtocolVersion};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::Instant};
use tonic::Code;

use super::{
    super::{Limits, Serving},
    world::{Changes, NAME, World, call, spawn, tls},
};

#[tokio::test]
async fn it_is_known_by_its_names_and_the_mesh_root() {
    let world = World::new().await;
    let stream = tls(world.address, &world.mesh.root_pem, NAME)
        .await
        .unwrap();
    let (_, session) = stream.get_ref();
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(b"h2".as_slice()));
    let group = session.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
    let other = tls(
        world.address,
        &world.mesh.root_pem,
        "other.istio-system.svc",
    )
    .await;
    assert!(other.is_err());
    let stranger = super::world::Mesh::new();
    assert!(tls(world.address, &stranger.root_pem, NAME).await.is_err());
}

#[tokio::test]
async fn nothing_is_sent_to_resume_a_session_with() {
    let world = World::new().await;
    let mut stream = tls(world.address, &world.mesh.root_pem, NAME)
        .await
        .unwrap();
    // Tickets would come before the first frame.
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
}

#[tokio::test]
async fn a_new_serving_certificate_is_noticed_by_new_connections_only() {
    let world = World::new().await;
    let old = world.client().await;
    call(&old, &world.token(1)).await.unwrap();
    let next = world.mesh.material(2, 1, vec![world.mesh.root_pem.clone()]);
    let serving = Arc::new(Serving::make(&next, Timestamp::now()).unwrap());
    let serial = serving.facts.serial.clone();
    world.serving.send_replace(Some(serving));
    call(&old, &world.token(1)).await.unwrap();
    let stream = tls(world.address, &world.mesh.root_pem, NAME)
        .await
        .unwrap();
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().unwrap()[0].to_vec();
    let shown = pem_of(&shown);
    assert_eq!(mesh_ca::facts(&shown).unwrap()[0].serial, serial);
    call(&old, &world.token(1)).await.unwrap();
}

/// PEM without a library: `mesh_ca` reads text only.
fn pem_of(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        for chunk in line.chunks(3) {
            let mut word = [0_u8; 4];
            word[1..=chunk.len()].copy_from_slice(chunk);
            let word = u32::from_be_bytes(word);
            for place in 0..4 {
                let index = (word >> (18 - 6 * place)) & 0x3f;
                let shown = place <= chunk.len();
                text.push(if shown {
                    char::from(ALPHABET[index as usize])
                } else {
                    '='
                });
            }
        }
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

#[tokio::test]
async fn idle_connections_make_room_for_others() {
    let limits = Limits {
        connections: 3,
        ..Limits::default()
    };
    let world = World::with(Changes {
        limits,
        ..Changes::default()
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let client = world.client().await;
        call(&client, &world.token(1)).await.unwrap();
        held.push(client);
    }
    // All places are taken by connections on which nothing is asked.
    let waited = tokio::time::timeout(Duration::from_secs(20), world.client()).await;
    let fourth = waited.expect("nobody made room");
    call(&fourth, &world.token(1)).await.unwrap();
    assert!(world.metric("mesh_agent_workload_connections") <= 3);
    // Who was sent away comes back without noticing.
    call(&held[0], &world.token(1)).await.unwrap();
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let world = World::with(Changes {
        limits,
        ..Changes::default()
    })
    .await;
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    let mut bytes = [0; 1];
    let ended = tokio::time::timeout(Duration::from_secs(20), silent.read(&mut bytes)).await;
    assert!(matches!(ended.unwrap(), Ok(0) | Err(_)));
    let client = world.client().await;
    call(&client, &world.token(1)).await.unwrap();
    assert_eq!(world.metric("mesh_agent_workload_handshakes_failed"), 1);
}

#[tokio::test]
async fn other_services_are_elsewhere() {
    let world = World::new().await;
    let stream = tls(world.address, &world.mesh.root_pem, NAME)
        .await
        .unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    let connection = spawn(connection);
    let request = http::Request::post("https://mesh-ca.istio-system.svc/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources")
        .header("content-type", "application/grpc")
        .body(String::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = tonic::Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::Unimplemented);
    connection.abort();
}

#[tokio::test]
async fn when_it_stops_nobody_is_listened_to_any_more() {
    let world = World::new().await;
    let client = world.client().await;
    call(&client, &world.token(1)).await.unwrap();
    world.stop.send_replace(true);
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(world.address).await.is_ok() {
        assert!(Instant::now() < deadline, "it still listens");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::timeout(Duration::from_secs(20), world.server)
        .await
        .unwrap()
        .unwrap();
}
