//! Requests: with a library where the request is a good one, by hand where it is not.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
    pub trailers: HeaderMap,
}

impl Answer {
    /// A header, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).map(|value| value.to_str().unwrap());
        value.unwrap_or_default()
    }
}

async fn read(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        trailers: body.trailers().cloned().unwrap_or_default(),
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    }
}

/// One request on a connection of its own.
pub async fn send(at: SocketAddr, version: Version, request: Request<Full<Bytes>>) -> Answer {
    let sent = async {
        let io = TokioIo::new(TcpStream::connect(at).await.unwrap());
        if version == Version::HTTP_2 {
            let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .unwrap();
            let task = tokio::spawn(connection);
            let answer = read(sender.send_request(request).await.unwrap()).await;
            task.abort();
            answer
        } else {
            let (mut sender, connection) = conn::http1::handshake(io).await.unwrap();
            let task = tokio::spawn(connection);
            let answer = read(sender.send_request(request).await.unwrap()).await;
            task.abort();
            answer
        }
    };
    timeout(PATIENCE, sent).await.expect("no answer in time")
}

pub async fn get(at: SocketAddr, host: &str, path: &str) -> Answer {
    let request = Request::builder().uri(path).header("host", host);
    let request = request.body(Full::default()).unwrap();
    send(at, Version::HTTP_11, request).await
}

pub async fn post(at: SocketAddr, host: &str, path: &str, body: &[u8]) -> Answer {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("host", host);
    let body = Full::new(Bytes::copy_from_slice(body));
    send(at, Version::HTTP_11, request.body(body).unwrap()).await
}

/// A gRPC call with one message, over HTTP/2 without TLS.
pub async fn grpc(at: SocketAddr, host: &str, method: &str, message: &[u8]) -> Answer {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{host}{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let request = request.body(Full::new(Bytes::from(framed))).unwrap();
    send(at, Version::HTTP_2, request).await
}

/// A request target as it is, without any library that might mend it. Status and head.
pub async fn raw(at: SocketAddr, host: &str, target: &str) -> (u16, String) {
    let asked = async {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = timeout(PATIENCE, asked).await.expect("no answer in time");
    let status = answer.split(' ').nth(1).unwrap_or_default().parse();
    (status.unwrap_or(0), answer)
}

/// An answer whose pieces are read one by one.
pub struct Stream {
    body: Incoming,
    task: JoinHandle<hyper::Result<()>>,
}

impl Stream {
    /// The next piece of the body; none at its end or when the connection broke.
    pub async fn next(&mut self) -> Option<Bytes> {
        let frame = timeout(PATIENCE, self.body.frame()).await;
        let frame = frame.expect("no piece in time")?;
        frame.ok()?.into_data().ok()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub async fn stream(at: SocketAddr, host: &str, path: &str) -> Stream {
    let io = TokioIo::new(TcpStream::connect(at).await.unwrap());
    let (mut sender, connection) = conn::http1::handshake(io).await.unwrap();
    let task = tokio::spawn(connection);
    let request = Request::builder().uri(path).header("host", host);
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    Stream {
        body: response.into_body(),
        task,
    }
}
