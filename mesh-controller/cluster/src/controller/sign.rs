//! Judging a member's request for an intermediate, and signing it. Who asks is known from the API server of the member, which
//! authenticated the requester and wrote his name into the request.

mod bench;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use mesh_api::labels;
use mesh_ca::{CheckedCsr, CsrRefusal, IntermediateSubject, Issued, Requested, check_csr};
use mesh_core::facts::Obstacle;
use serde_json::json;

pub(crate) use self::bench::{Bench, Bucket, Known};
use crate::{
    apply::Gate,
    call::{CallError, call},
    metrics::Judged,
    vault::{self, Root},
};

/// What an intermediate may be used for; a request may ask for no more, and must ask for the first.
const USAGES: [&str; 2] = ["cert sign", "crl sign"];
/// The shortest life that Kubernetes lets anybody ask for.
const SHORTEST: i32 = 600;
/// How long a request may be at odds with what its sender reports: both are written within seconds, in any order.
const AT_ODDS: SignedDuration = SignedDuration::from_secs(60);
/// How long a root may take to sign. Keys in tokens behind a network take tenths of a second.
const PATIENCE: Duration = Duration::from_secs(35);

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: it is not ours, or has its answer.
    Leave,
    /// Sign it.
    Sign(Box<Order>),
    /// Deny it.
    Deny {
        reason: &'static str,
        message: String,
    },
    /// Nothing now: it is our side that cannot, or the sender has not said everything yet.
    Wait(String),
}

/// What is to be signed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) checked: CheckedCsr,
    pub(crate) subject: IntermediateSubject,
    pub(crate) life: SignedDuration,
}

/// Judges a request of the member that the bench is about.
pub(crate) fn judge(
    request: &CertificateSigningRequest,
    bench: &Bench<'_>,
    now: Timestamp,
) -> Verdict {
    if request.spec.signer_name != labels::SIGNER || is_answered(request) {
        return Verdict::Leave;
    }
    weigh(request, bench, now).unwrap_or_else(|verdict| verdict)
}

fn deny(reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict::Deny {
        reason,
        message: message.into(),
    }
}

fn weigh(
    request: &CertificateSigningRequest,
    bench: &Bench<'_>,
    now: Timestamp,
) -> Result<Verdict, Verdict> {
    let spec = &request.spec;
    if spec.username.as_deref() != Some(labels::AGENT_USER) {
        let who: String = spec
            .username
            .iter()
            .flat_map(|w| w.chars())
            .take(100)
            .collect();
        let message = format!(
            "only {} may ask for an intermediate, not {who}",
            labels::AGENT_USER
        );
        return Err(deny("WrongRequester", message));
    }
    let usages: Vec<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    if let Some(usage) = usages.iter().find(|usage| !USAGES.contains(*usage)) {
        return Err(deny(
            "WrongUsages",
            format!("an intermediate is not for {usage:?}"),
        ));
    }
    if !usages.contains(&"cert sign") {
        return Err(deny("WrongUsages", "an intermediate is for \"cert sign\""));
    }
    if let Some(seconds) = spec.expiration_seconds.filter(|asked| *asked < SHORTEST) {
        let message =
            format!("{seconds} s are asked for; an intermediate lives {SHORTEST} s at least");
        return Err(deny("BadExpiration", message));
    }
    let generation = bench.generation(&request.name_any())?;
    let checked = check_csr(&spec.request.0, Requested::Nothing)
        .map_err(|refusal| deny(reason(&refusal), refusal.to_string()))?;
    bench.key(checked.key().fingerprint(), generation)?;
    if bench.is_answered(generation, now) {
        let since = request.metadata.creation_timestamp.as_ref().map(|at| at.0);
        let fresh = since.is_none_or(|since| now.duration_since(since) < AT_ODDS);
        let message = format!(
            "generation {generation} was signed, and the agent reports that it holds it; a new one is signed when half of its life is over"
        );
        return Err(if fresh {
            Verdict::Wait(message)
        } else {
            deny("AlreadyAnswered", message)
        });
    }
    let most = i64::from(bench.terms.intermediate_seconds);
    let asked = spec.expiration_seconds.map_or(most, i64::from);
    let left = bench.terms.root.not_after.duration_since(now);
    if left < SignedDuration::from_secs(i64::from(SHORTEST)) {
        let message = format!(
            "the root ends at {}: too soon to sign anything",
            bench.terms.root.not_after
        );
        return Err(Verdict::Wait(message));
    }
    Ok(Verdict::Sign(Box::new(Order {
        checked,
        subject: IntermediateSubject {
            mesh: bench.terms.mesh.clone(),
            cluster: bench.terms.cluster.clone(),
            generation,
        },
        life: SignedDuration::from_secs(most.min(asked)),
    })))
}

/// One word for what is wrong with a request.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what has no word of its own is a bad request, and so is what is refused later"
)]
fn reason(refusal: &CsrRefusal) -> &'static str {
    match refusal {
        CsrRefusal::KeyAlgorithm { .. }
        | CsrRefusal::RsaSize { .. }
        | CsrRefusal::RsaExponent
        | CsrRefusal::KeyEncoding => "WeakKey",
        CsrRefusal::SignatureAlgorithm { .. } | CsrRefusal::ProofOfPossession => "BadSignature",
        CsrRefusal::AsksToBeCa
        | CsrRefusal::Extension { .. }
        | CsrRefusal::KeyUsage { .. }
        | CsrRefusal::ExtendedKeyUsage { .. } => "ForeignExtension",
        CsrRefusal::Subject { .. }
        | CsrRefusal::ForeignName { .. }
        | CsrRefusal::SeveralNames { .. } => "ForeignName",
        _ => "BadRequest",
    }
}

/// Signs, apart from the tasks of others: a key in a token may take its time.
///
/// # Errors
///
/// Why the root cannot sign now.
pub(crate) async fn sign(root: &Root, order: Order, now: Timestamp) -> Result<Issued, Obstacle> {
    let authority = Arc::clone(root.signer.as_ref().map_err(Clone::clone)?);
    vault::patiently(PATIENCE, move || {
        authority.sign_intermediate(&order.checked, &order.subject, order.life, now)
    })
    .await
}

pub(crate) fn is_answered(request: &CertificateSigningRequest) -> bool {
    let Some(status) = &request.status else {
        return false;
    };
    let settled =
        |c: &CertificateSigningRequestCondition| matches!(c.type_.as_str(), "Denied" | "Failed");
    status.certificate.as_ref().is_some_and(|c| !c.0.is_empty())
        || status.conditions.iter().flatten().any(settled)
}

fn is_approved(request: &CertificateSigningRequest) -> bool {
    let conditions = request
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "Approved" && c.status == "True")
}

/// An answer to be written.
#[derive(Debug)]
pub(crate) enum Answer {
    /// This certificate.
    Signed(Box<Issued>),
    /// None, and why.
    Denied {
        reason: &'static str,
        message: String,
    },
}

/// Writes an answer into the member.
pub(crate) async fn answer(
    client: &Client,
    request: &CertificateSigningRequest,
    answer: &Answer,
    gate: &Gate,
) -> Result<Judged, CallError> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let name = request.name_any();
    let object = format!("CertificateSigningRequest {name}");
    let allowed = |verb| {
        if gate() {
            Ok(())
        } else {
            Err(CallError::NotLeading {
                verb,
                object: object.clone(),
            })
        }
    };
    let params = PatchParams {
        field_manager: Some(labels::CONTROLLER.to_owned()),
        ..PatchParams::default()
    };
    let decided = |kind: &str, reason: &str, message: &str| {
        let condition =
            json!({ "type": kind, "status": "True", "reason": reason, "message": message });
        json!({ "metadata": { "uid": request.uid() }, "status": { "conditions": [condition] } })
    };
    match answer {
        Answer::Denied { reason, message } => {
            allowed("deny")?;
            let body = decided("Denied", reason, message);
            call(
                "deny",
                &object,
                api.patch_approval(&name, &params, &Patch::Merge(&body)),
            )
            .await?;
            Ok(Judged::Denied)
        }
        Answer::Signed(issued) => {
            if !is_approved(request) {
                allowed("approve")?;
                let body = decided(
                    "Approved",
                    "AgentOfMember",
                    "kof-istio signs the intermediate of this member",
                );
                call(
                    "approve",
                    &object,
                    api.patch_approval(&name, &params, &Patch::Merge(&body)),
                )
                .await?;
            }
            allowed("sign")?;
            let certificate = ByteString(issued.chain_pem.clone().into_bytes());
            let body = json!({ "metadata": { "uid": request.uid() }, "status": { "certificate": certificate } });
            call(
                "sign",
                &object,
                api.patch_status(&name, &params, &Patch::Merge(&body)),
            )
            .await?;
            Ok(Judged::Signed)
        }
    }
}

/// One line in the audit log: who asked, and what he was given.
pub(crate) fn audit(
    member: &str,
    request: &CertificateSigningRequest,
    answer: &Answer,
    bench: &Bench<'_>,
) {
    let spec = &request.spec;
    let name = request.name_any();
    let who = spec.username.as_deref().unwrap_or_default();
    let pod = of_requester(request, "authentication.kubernetes.io/pod-name");
    let node = of_requester(request, "authentication.kubernetes.io/node-name");
    let (mesh, cluster) = (bench.terms.mesh.as_str(), bench.terms.cluster.as_str());
    match answer {
        Answer::Signed(issued) => {
            let facts = &issued.facts;
            tracing::info!(
                target: "audit", event = "intermediate.signed", mesh, member, cluster, request = name, who, pod, node,
                subject = facts.subject, serial = facts.serial, fingerprint = facts.fingerprint, key = facts.key_fingerprint,
                root = bench.terms.root.status.fingerprint, not_after = %facts.not_after, "Signed an intermediate"
            );
        }
        Answer::Denied { reason, message } => tracing::warn!(
            target: "audit", event = "intermediate.denied", mesh, member, cluster, request = name, who, pod, node, reason,
            why = message, "Denied an intermediate"
        ),
    }
}

/// What the API server wrote about the requester, if it did.
fn of_requester(request: &CertificateSigningRequest, key: &str) -> String {
    let values = request.spec.extra.iter().filter_map(|extra| extra.get(key));
    values
        .flatten()
        .next()
        .map_or(String::new(), |value| value.chars().take(253).collect())
}

#[cfg(test)]
mod tests;
