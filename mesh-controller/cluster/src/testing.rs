//! A stand-in for an API server, for tests of what we ask of one: it keeps objects by path, gives them versions, writes down who applied
//! which field, and refuses what it is told to refuse. What a real one makes of our requests is shown by the tests of the fleet.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};

#[derive(Debug, Default)]
struct Shelf {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// `METHOD path`, writes only.
    writes: Vec<String>,
    /// Paths on which every write is forbidden; after `GET ` those that may not be read.
    forbidden: BTreeSet<String>,
    /// Nobody answers.
    silent: bool,
}

/// The stand-in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fake(Arc<Mutex<Shelf>>);

impl Fake {
    pub(crate) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { fake.answer(request).await }
        });
        Client::new(service, "default")
    }

    /// What was written since the last time this was asked.
    pub(crate) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().writes)
    }

    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut kept = self.0.lock();
        kept.version += 1;
        object["metadata"]["resourceVersion"] = json!(kept.version.to_string());
        object["metadata"]["uid"] = json!(format!("uid-{}", kept.version));
        kept.objects.insert(path.to_owned(), object);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().objects.get(path).cloned()
    }

    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().objects.remove(path);
    }

    pub(crate) fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut kept = self.0.lock();
        kept.version += 1;
        let version = json!(kept.version.to_string());
        let object = kept.objects.get_mut(path).unwrap();
        change(object);
        object["metadata"]["resourceVersion"] = version;
    }

    pub(crate) fn forbid(&self, path: &str) {
        self.0.lock().forbidden.insert(path.to_owned());
    }

    pub(crate) fn fall_silent(&self) {
        self.0.lock().silent = true;
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        if self.0.lock().silent {
            std::future::pending::<()>().await;
        }
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let (code, answer) = self
            .0
            .lock()
            .answer(&parts.method, parts.uri.path(), &query, body);
        let bytes = serde_json::to_vec(&answer).map_err(std::io::Error::other)?;
        Response::builder()
            .status(code)
            .body(Body::from(bytes))
            .map_err(std::io::Error::other)
    }
}

type Answer = (StatusCode, Value);

fn failure(code: StatusCode, reason: &str) -> Answer {
    let status = json!({ "kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason, "message": reason });
    (code, status)
}

impl Shelf {
    fn answer(&mut self, method: &Method, path: &str, query: &str, body: Value) -> Answer {
        if *method == Method::GET && self.forbidden.contains(&format!("GET {path}")) {
            return failure(StatusCode::FORBIDDEN, "Forbidden");
        }
        if *method != Method::GET {
            self.writes.push(format!("{method} {path}"));
            if self.forbidden.contains(path) {
                return failure(StatusCode::FORBIDDEN, "Forbidden");
            }
        }
        match (method.as_str(), self.objects.get(path).cloned()) {
            ("GET", Some(object)) => (StatusCode::OK, object),
            ("GET", None) if query.contains("limit=") || query.contains("Selector") => {
                (StatusCode::OK, self.list(path, query))
            }
            ("PATCH", live) => self.apply(path, query, live.as_ref(), &body),
            ("POST", _) if path.ends_with("/token") => self.token(path, body),
            ("POST", _) => {
                let path = format!(
                    "{path}/{}",
                    body["metadata"]["name"].as_str().unwrap_or_default()
                );
                if self.objects.contains_key(&path) {
                    return failure(StatusCode::CONFLICT, "AlreadyExists");
                }
                self.keep(&path, None, body)
            }
            ("PUT", Some(live)) => {
                if live["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                self.keep(path, Some(&live), body)
            }
            ("DELETE", Some(live)) => {
                if live["metadata"]["uid"] != body["preconditions"]["uid"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                self.objects.remove(path);
                (
                    StatusCode::OK,
                    json!({ "kind": "Status", "status": "Success", "code": 200 }),
                )
            }
            (_, _) => failure(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    /// A token of an account that is there, for as long as is asked.
    fn token(&mut self, path: &str, mut request: Value) -> Answer {
        let account = path.strip_suffix("/token").unwrap_or_default();
        if !self.objects.contains_key(account) {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        }
        self.version += 1;
        let seconds = request["spec"]["expirationSeconds"]
            .as_i64()
            .unwrap_or_default();
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        let end = jiff::Timestamp::from_second(end.as_second()).unwrap();
        request["status"] = json!({ "token": format!("token-{}", self.version), "expirationTimestamp": end.to_string() });
        (StatusCode::CREATED, request)
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let query = query
            .replace("%3D", "=")
            .replace("%2C", ",")
            .replace("%2F", "/");
        let selector = query
            .split('&')
            .find_map(|part| part.strip_prefix("labelSelector="))
            .unwrap_or_default();
        let wanted: Vec<(&str, &str)> = selector
            .split(',')
            .filter_map(|part| part.split_once('='))
            .collect();
        let name = query
            .split('&')
            .find_map(|part| part.strip_prefix("fieldSelector=metadata.name="));
        let plural = path.rsplit('/').next().unwrap_or_default();
        let api = path.strip_suffix(plural).unwrap_or_default();
        let found = self.objects.iter().filter(|(at, object)| {
            let of_kind = at.starts_with(api) && at.split('/').rev().nth(1) == Some(plural);
            of_kind
                && name.is_none_or(|name| object["metadata"]["name"] == *name)
                && wanted
                    .iter()
                    .all(|(key, value)| object["metadata"]["labels"][key] == *value)
        });
        let items: Vec<Value> = found.map(|(_, object)| object.clone()).collect();
        json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": items })
    }

    fn apply(&mut self, path: &str, query: &str, live: Option<&Value>, body: &Value) -> Answer {
        let manager = query
            .split('&')
            .find_map(|part| part.strip_prefix("fieldManager="))
            .unwrap_or_default();
        let mut fields = owned(body);
        if let Some(metadata) = fields["f:metadata"].as_object_mut() {
            metadata.retain(|key, _| !matches!(key.as_str(), "f:name" | "f:namespace" | "f:uid"));
        }
        let mut next = live.cloned().unwrap_or_else(|| json!({}));
        merge(&mut next, body);
        drop_nulls(&mut next);
        next["metadata"]["managedFields"] =
            json!([{ "manager": manager, "operation": "Apply", "fieldsV1": fields }]);
        self.keep(path, live, next)
    }

    fn keep(&mut self, path: &str, live: Option<&Value>, mut object: Value) -> Answer {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object["metadata"]["generation"] = json!(self.version);
        object["metadata"]["uid"] = live.map_or_else(
            || json!(format!("uid-{}", self.version)),
            |live| live["metadata"]["uid"].clone(),
        );
        self.objects.insert(path.to_owned(), object.clone());
        (StatusCode::OK, object)
    }
}

/// Every field of an object, as `fieldsV1`; lists are owned as a whole.
fn owned(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, value)| (format!("f:{key}"), owned(value)))
                .collect(),
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            json!({})
        }
    }
}

/// In a merge patch, null takes a field away.
fn drop_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, inner| !inner.is_null());
        map.values_mut().for_each(drop_nulls);
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
