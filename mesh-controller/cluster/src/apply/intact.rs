//! Whether an object still is what we applied: every field that we wrote has our value, and is still ours.
//!
//! Two looks are needed. Values alone do not see a list into which somebody put an element of his own; ownership
//! alone does not see nothing, but the API server writes it down for us: whoever changes a field of ours takes it out of our
//! `managedFields` entry (Kubernetes, server-side apply).

use serde_json::{Map, Value};

/// Whether `live` holds all of `wanted`, and `manager` owns all of it. What others added beside it does not matter.
#[must_use]
pub fn intact(wanted: &Value, live: &Value, manager: &str) -> bool {
    let Some(fields) = owned(live, manager) else {
        return false;
    };
    let (Some(wanted), Some(live)) = (wanted.as_object(), live.as_object()) else {
        return false;
    };
    wanted
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "apiVersion" | "kind"))
        .all(|(key, wanted)| {
            let wanted = if key == "metadata" {
                without_identity(wanted)
            } else {
                wanted.clone()
            };
            member(key, &wanted, live, fields)
        })
}

/// What the manager applied, as `fieldsV1`.
fn owned<'a>(live: &'a Value, manager: &str) -> Option<&'a Map<String, Value>> {
    let entries = live.get("metadata")?.get("managedFields")?.as_array()?;
    let ours = |entry: &&Value| {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        text("manager") == Some(manager)
            && text("operation") == Some("Apply")
            && text("subresource").unwrap_or_default().is_empty()
    };
    entries.iter().find(ours)?.get("fieldsV1")?.as_object()
}

/// Name, namespace and UID are nobody's fields.
fn without_identity(metadata: &Value) -> Value {
    let Some(metadata) = metadata.as_object() else {
        return metadata.clone();
    };
    let kept = metadata
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "name" | "namespace" | "uid"));
    Value::Object(
        kept.map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    )
}

fn member(
    key: &str,
    wanted: &Value,
    live: &Map<String, Value>,
    fields: &Map<String, Value>,
) -> bool {
    if is_nothing(wanted) {
        return true;
    }
    match (
        live.get(key),
        fields.get(&format!("f:{key}")).and_then(Value::as_object),
    ) {
        (Some(live), Some(fields)) => held(wanted, live, fields),
        (_, _) => false,
    }
}

/// What the API server need not keep.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_nothing),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn held(wanted: &Value, live: &Value, fields: &Map<String, Value>) -> bool {
    let whole = fields.keys().all(|key| key == ".");
    match (wanted, live) {
        // Owned as a whole: nobody may have put anything into it.
        (_, _) if whole => same(wanted, live),
        (Value::Object(wanted), Value::Object(live)) => wanted
            .iter()
            .all(|(key, value)| member(key, value, live, fields)),
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.iter().all(|element| listed(element, live, fields))
        }
        (_, _) => false,
    }
}

/// An element of a list that others may add to: found by its keys (`k:{"name":"x"}`) or its value (`v:"x"`).
fn listed(wanted: &Value, live: &[Value], fields: &Map<String, Value>) -> bool {
    fields.iter().any(|(mark, fields)| {
        if let Some(value) = mark.strip_prefix("v:") {
            return serde_json::from_str::<Value>(value).is_ok_and(|value| value == *wanted)
                && live.contains(wanted);
        }
        let Some(Ok(Value::Object(keys))) =
            mark.strip_prefix("k:").map(serde_json::from_str::<Value>)
        else {
            return false;
        };
        let has = |element: &Value| {
            keys.iter()
                .all(|(key, value)| element.get(key) == Some(value))
        };
        // A key that we left out was defaulted.
        let means = keys
            .iter()
            .all(|(key, value)| wanted.get(key).is_none_or(|wanted| wanted == value));
        let (Some(found), Some(fields), true) =
            (live.iter().find(|e| has(e)), fields.as_object(), means)
        else {
            return false;
        };
        held(wanted, found, fields)
    })
}

/// The same, but for defaults that the API server put into objects.
fn same(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().all(|(key, value)| {
            is_nothing(value) || live.get(key).is_some_and(|live| same(value, live))
        }),
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.len() == live.len()
                && wanted
                    .iter()
                    .zip(live)
                    .all(|(wanted, live)| same(wanted, live))
        }
        // 1.0 is read back as 1.
        (Value::Number(wanted), Value::Number(live)) => {
            wanted == live || wanted.as_f64() == live.as_f64()
        }
        (wanted, live) => wanted == live,
    }
}

#[cfg(test)]
mod tests;
