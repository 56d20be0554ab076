//! Asking a running controller or agent for its readiness: what `helm test` runs.

use std::time::Duration;

use anyhow::Context as _;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time};

/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(5);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);
/// Most bytes of an answer.
const ANSWER: usize = 64 << 10;

/// Asks until the answer is yes, or says what the last one was.
pub(crate) async fn wait(address: &str, within: Duration) -> anyhow::Result<()> {
    let mut last = None;
    let asking = async {
        loop {
            let error = match time::timeout(QUESTION, ask(address)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(_) => anyhow::anyhow!("no answer in {} s", QUESTION.as_secs()),
            };
            tracing::info!(error = format!("{error:#}"), "not ready yet");
            last = Some(error);
            time::sleep(PAUSE).await;
        }
    };
    if time::timeout(within, asking).await.is_ok() {
        tracing::info!(address, "ready");
        return Ok(());
    }
    let last = last.unwrap_or_else(|| anyhow::anyhow!("no answer"));
    Err(last.context(format!(
        "{address} was not ready within {} s",
        within.as_secs()
    )))
}

async fn ask(address: &str) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address)
        .await
        .context("failed to connect")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/readyz")
        .header(header::HOST, address)
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER).collect().await;
        let body = body
            .map_err(|e| anyhow::anyhow!("failed to read the answer: {e}"))?
            .to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
    };
    let (status, body) = tokio::select! {
        answer = answer => answer?,
        // it ends with the answer, or else before it
        ended = connection => { ended?; anyhow::bail!("the connection ended without an answer") }
    };
    anyhow::ensure!(status == StatusCode::OK, "it says {status}: {body}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use prometheus_client::registry::Registry;
    use tokio::task::JoinSet;

    use super::*;
    use crate::admin::{self, Admin};

    async fn serve(ready: Arc<AtomicBool>) -> (String, JoinSet<()>) {
        let port = admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = port.address().unwrap().to_string();
        let admin = Admin {
            alive: Box::new(|| Ok(())),
            ready: Box::new(move || {
                let ready = ready.load(Ordering::SeqCst);
                ready
                    .then_some(())
                    .ok_or_else(|| "still reading".to_owned())
            }),
            registry: Registry::default(),
        };
        let mut server = JoinSet::new();
        server.spawn(port.serve(Arc::new(admin)));
        (address, server)
    }

    #[tokio::test]
    async fn it_waits_for_a_yes_and_tells_the_last_no() {
        let ready = Arc::new(AtomicBool::new(false));
        let (address, _server) = serve(Arc::clone(&ready)).await;
        let error = wait(&address, Duration::from_millis(700))
            .await
            .unwrap_err();
        assert!(format!("{error:#}").contains("still reading"), "{error:#}");
        let asking = wait(&address, Duration::from_secs(20));
        let turn = async {
            time::sleep(Duration::from_millis(100)).await;
            ready.store(true, Ordering::SeqCst);
        };
        let (answer, ()) = tokio::join!(asking, turn);
        answer.unwrap();
    }

    #[tokio::test]
    async fn nobody_there_is_no_yes() {
        let error = wait("127.0.0.1:1", Duration::from_millis(600))
            .await
            .unwrap_err();
        assert!(
            format!("{error:#}").contains("failed to connect"),
            "{error:#}"
        );
    }
}
