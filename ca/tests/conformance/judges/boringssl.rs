//! BoringSSL: one real Envoy with two doors. A request comes in by the first without TLS, goes on over mutual TLS to the second, and is answered
//! there, so the certificate is judged once as a server's and once as a client's.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Complaints, provided};
use crate::case::{Case, Folder, Role};

/// How long Envoy may take to open its doors, on a machine that does much else.
const START: Duration = Duration::from_mins(1);

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        drop(self.0.wait());
    }
}

pub fn judge(case: &Case) -> Complaints {
    let folder = Folder::new();
    let config = folder.file("envoy.json", config(case, &folder).to_string());
    let log = folder.path("log");
    let child = Command::new(provided("ENVOY_BIN"))
        .args([
            "--config-path",
            &config,
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
        ])
        .args([
            "--log-level",
            "warning",
            "--disable-hot-restart",
            "--log-path",
            &log,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut envoy = Ended(child);
    let door = folder.path("in");
    let deadline = Instant::now() + START;
    let mut stream = loop {
        if let Ok(stream) = UnixStream::connect(&door) {
            break stream;
        }
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        if envoy.0.try_wait().unwrap().is_some() {
            return vec![refusal(&log())];
        }
        assert!(
            Instant::now() < deadline,
            "{}: Envoy opened no door: {}",
            case.name,
            log()
        );
        std::thread::sleep(Duration::from_millis(20));
    };
    stream.set_read_timeout(Some(START)).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: judge\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    if answer.starts_with("HTTP/1.1 200") && answer.ends_with("they met") {
        return Vec::new();
    }
    let body = answer.rsplit("\r\n\r\n").next().unwrap_or_default();
    // The end of a long line of library, file and reason says what it was.
    let words = body.rsplit("OPENSSL_internal:").next().unwrap_or_default();
    vec![words.replace('_', " ")]
}

/// Why Envoy did not start.
fn refusal(log: &str) -> String {
    let line = log
        .lines()
        .find(|line| line.contains("[critical]") || line.contains("[error]"))
        .unwrap_or(log);
    format!("not loaded: {}", line.rsplit("] ").next().unwrap_or(line))
}

fn config(case: &Case, folder: &Folder) -> Value {
    let file = |name, text| json!({ "filename": folder.file(name, text) });
    let kind = if case.role == Role::Server {
        "DNS"
    } else {
        "URI"
    };
    let mut context = json!({
        "trusted_ca": file("anchors.pem", &case.anchors),
        "match_typed_subject_alt_names": [{ "san_type": kind, "matcher": { "exact": case.peer } }],
    });
    if !case.lists.is_empty() {
        context["crl"] = file("lists.pem", &case.lists);
        context["only_verify_leaf_cert_crl"] = case.partial.into();
    }
    let common = json!({
        // As the Envoys that we drive. In TLS 1.2 Envoy's default curves leave out certificates over P-384.
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": file("chain.pem", &case.chain),
            "private_key": file("key.pem", &case.key),
        }],
        "validation_context": context,
    });
    let server = typed(
        "transport_sockets.tls.v3.DownstreamTlsContext",
        json!({ "require_client_certificate": true, "common_tls_context": common }),
    );
    let client = typed(
        "transport_sockets.tls.v3.UpstreamTlsContext",
        json!({ "common_tls_context": common }),
    );
    let met =
        json!({ "direct_response": { "status": 200, "body": { "inline_string": "they met" } } });
    let onwards = json!({ "route": { "cluster": "out" } });
    let endpoint = json!({ "endpoint": { "address": pipe(folder, "out") } });
    json!({
        "node": { "id": "judge", "cluster": "judge" },
        "static_resources": {
            "listeners": [
                door(&pipe(folder, "out"), &met, Some(&server)),
                door(&pipe(folder, "in"), &onwards, None),
            ],
            "clusters": [{
                "name": "out",
                "type": "STATIC",
                "transport_socket": client,
                "load_assignment": { "cluster_name": "out", "endpoints": [{ "lb_endpoints": [endpoint] }] },
            }],
        },
    })
}

fn pipe(folder: &Folder, name: &str) -> Value {
    json!({ "pipe": { "path": folder.path(name) } })
}

fn typed(kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.{kind}").into();
    json!({ "name": kind, "typed_config": config })
}

fn door(address: &Value, action: &Value, socket: Option<&Value>) -> Value {
    let mut route = json!({ "match": { "prefix": "/" } });
    for (key, value) in action.as_object().unwrap() {
        route[key] = value.clone();
    }
    let mut http = json!({
        "stat_prefix": "door",
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] },
        "http_filters": [typed("filters.http.router.v3.Router", json!({}))],
    });
    if socket.is_none() {
        let why = "%UPSTREAM_TRANSPORT_FAILURE_REASON% %RESPONSE_CODE_DETAILS%";
        http["local_reply_config"] =
            json!({ "body_format": { "text_format_source": { "inline_string": why } } });
    }
    let kind = "filters.network.http_connection_manager.v3.HttpConnectionManager";
    let mut chain = json!({ "filters": [typed(kind, http)] });
    if let Some(socket) = socket {
        chain["transport_socket"] = socket.clone();
    }
    json!({ "address": address, "filter_chains": [chain] })
}
