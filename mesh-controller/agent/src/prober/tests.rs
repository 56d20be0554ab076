use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use mesh_core::probe::Class;

use super::*;
use crate::testing::Mesh;

fn prober(intake: SocketAddr) -> Prober {
    of(Way::Intake(intake))
}

fn of(way: Way) -> Prober {
    let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
    Prober {
        way,
        peers: None,
        board: Board::new(),
        metrics,
    }
}

/// Answers each connection with the next of these bytes; hands back what was asked.
pub(super) async fn server(
    answers: Vec<&'static str>,
) -> (
    SocketAddr,
    tokio::sync::mpsc::UnboundedReceiver<String>,
    JoinSet<()>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, asks) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            asked
                .send(String::from_utf8_lossy(&request[..read]).into_owned())
                .unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (address, asks, tasks)
}

#[tokio::test]
async fn asks_as_users_do_and_reads_the_answer() {
    let consume = Mesh::new().intent().spec.consume[0].clone();
    let answers = vec![
        "HTTP/1.1 401 Unauthorized\r\nx-envoy-upstream-service-time: 2\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\nx-envoy-upstream-service-time: 2\r\nx-kof-refused: path\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\nx-kof-intake: child1\r\nx-kof-flags: UH\r\ncontent-length: 19\r\n\r\nno healthy upstream",
        "",
    ];
    let (address, mut asks, _server) = server(answers).await;
    let prober = prober(address);
    assert_eq!(
        prober.ask(&consume).await,
        Ok(()),
        "the backend asks for a password: the path works"
    );
    let request = asks.recv().await.unwrap().to_lowercase();
    assert!(
        request.starts_with("get /vm/select/0/prometheus/api/v1/query?query=1 http/1.1"),
        "{request}"
    );
    assert!(
        request.contains("host: region1-vmauth\r\n")
            && request.contains("user-agent: mesh-probe\r\n"),
        "{request}"
    );
    for class in [Class::Path, Class::Name, Class::Intake] {
        assert_eq!(prober.ask(&consume).await.unwrap_err().class, class);
    }
    assert_eq!(
        prober.ask(&consume).await.unwrap_err().class,
        Class::Intake,
        "nobody listens any more"
    );
}

#[tokio::test]
async fn probes_at_once_and_again_when_envoy_has_taken_something_new() {
    let consume = Mesh::new().intent().spec.consume[0].clone();
    let ok = "HTTP/1.1 200 OK\r\nx-envoy-upstream-service-time: 2\r\ncontent-length: 0\r\n\r\n";
    let (address, mut asks, _server) = server(vec![ok, ok]).await;
    let prober = prober(address);
    let of = |accepted| {
        Arc::new(Paths {
            consume: BTreeMap::from([(consume.region.clone(), consume.clone())]),
            accepted,
        })
    };
    let (tx, rx) = watch::channel(of(1));
    let mut tasks = JoinSet::new();
    tasks.spawn(prober.run(rx));
    let soon = Duration::from_millis(1500);
    timeout(soon, asks.recv()).await.unwrap().unwrap();
    tx.send_replace(of(2));
    timeout(soon, asks.recv()).await.unwrap().unwrap();
}

#[test]
fn looks_sooner_again_after_the_first_bad_answers() {
    assert_eq!(
        [0, 1, 2, 3, 4, 5, 99].map(|bad| pause(bad).as_millis()),
        [3000, 200, 400, 800, 1600, 3000, 3000]
    );
}

#[test]
fn a_sidecar_is_given_time_before_a_new_path_is_called_broken() {
    let intake = Way::Intake(SocketAddr::from(([127, 0, 0, 1], 1)));
    assert!(is_old_enough(intake, Duration::ZERO));
    assert!(!is_old_enough(Way::Sidecar, Duration::from_secs(1)));
    assert!(is_old_enough(Way::Sidecar, PATIENCE));
}

#[tokio::test]
async fn a_path_from_a_sidecar_that_fails_is_counted_and_not_told_at_first() {
    let mut consume = Mesh::new().intent().spec.consume[0].clone();
    consume.sidecars = Sidecars::Static;
    let prober = of(Way::Sidecar);
    let (board, metrics) = (prober.board.clone(), prober.metrics.clone());
    let paths = Arc::new(Paths {
        consume: BTreeMap::from([(consume.region.clone(), consume)]),
        accepted: 1,
    });
    let (_tx, rx) = watch::channel(paths);
    let mut tasks = JoinSet::new();
    tasks.spawn(prober.run(rx));
    let failed = crate::metrics::Outcome {
        region: "region1".to_owned(),
        result: Class::Name.as_str(),
    };
    let counted = async {
        while metrics.probes.get_or_create(&failed).get() < 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(4), counted).await.unwrap();
    assert_eq!(board.said(), Board::new().said(), "nothing is said yet");
}
