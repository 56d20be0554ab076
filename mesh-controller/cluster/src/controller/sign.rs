//! Judging a member's request for an intermediate, and signing it. Who asks is known from the API server of the member, which
//! authenticated the requester and wrote his name into the request.

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
use mesh_ca::{IntermediateSubject, Requested, check_csr};
use serde_json::json;

use super::look::Terms;
use crate::{
    apply::Gate,
    call::{CallError, call},
    metrics::Judged,
};

/// What an intermediate may be used for; a request may ask for no more.
const USAGES: [&str; 2] = ["cert sign", "crl sign"];

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: it is not ours, or has its answer.
    Leave,
    /// Sign it.
    Sign { chain: String },
    /// Deny it.
    Deny {
        reason: &'static str,
        message: String,
    },
    /// Nothing now: it is our side that cannot.
    Wait(String),
}

/// Judges a request of the member that `terms` are about, for its intermediate of this generation.
pub(crate) fn judge(
    request: &CertificateSigningRequest,
    terms: &Terms,
    generation: u32,
    now: Timestamp,
) -> Verdict {
    let spec = &request.spec;
    if spec.signer_name != labels::SIGNER || is_answered(request) {
        return Verdict::Leave;
    }
    let deny = |reason, message: String| Verdict::Deny { reason, message };
    if spec.username.as_deref() != Some(labels::AGENT_USER) {
        let who = spec.username.clone().unwrap_or_default();
        return deny(
            "WrongRequester",
            format!(
                "only {} may ask for an intermediate, not {who}",
                labels::AGENT_USER
            ),
        );
    }
    let usages = spec.usages.clone().unwrap_or_default();
    if let Some(usage) = usages
        .iter()
        .find(|usage| !USAGES.contains(&usage.as_str()))
    {
        return deny(
            "WrongUsages",
            format!("an intermediate is not for {usage:?}"),
        );
    }
    let checked = match check_csr(&spec.request.0, Requested::Nothing) {
        Ok(checked) => checked,
        Err(refusal) => return deny("BadRequest", refusal.to_string()),
    };
    let most = i64::from(terms.intermediate_seconds);
    let life = SignedDuration::from_secs(
        spec.expiration_seconds
            .map_or(most, |asked| most.min(i64::from(asked))),
    );
    let subject = IntermediateSubject {
        mesh: terms.mesh.clone(),
        cluster: terms.cluster.clone(),
        generation,
    };
    match terms
        .root
        .authority
        .sign_intermediate(&checked, &subject, life, now)
    {
        Ok(issued) => Verdict::Sign {
            chain: issued.chain_pem,
        },
        Err(error) => Verdict::Wait(error.to_string()),
    }
}

fn is_answered(request: &CertificateSigningRequest) -> bool {
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

/// Writes the verdict into the member.
pub(crate) async fn answer(
    client: &Client,
    request: &CertificateSigningRequest,
    verdict: Verdict,
    gate: &Gate,
) -> Result<Option<Judged>, CallError> {
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
    match verdict {
        Verdict::Leave => Ok(None),
        Verdict::Wait(why) => {
            tracing::warn!(request = %name, why, "Cannot sign now");
            Ok(None)
        }
        Verdict::Deny { reason, message } => {
            allowed("deny")?;
            tracing::warn!(request = %name, reason, why = message, "Denying");
            let body = decided("Denied", reason, &message);
            call(
                "deny",
                &object,
                api.patch_approval(&name, &params, &Patch::Merge(&body)),
            )
            .await?;
            Ok(Some(Judged::Denied))
        }
        Verdict::Sign { chain } => {
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
            let certificate = ByteString(chain.into_bytes());
            let body = json!({ "metadata": { "uid": request.uid() }, "status": { "certificate": certificate } });
            call(
                "sign",
                &object,
                api.patch_status(&name, &params, &Patch::Merge(&body)),
            )
            .await?;
            tracing::info!(request = %name, "Signed an intermediate");
            Ok(Some(Judged::Signed))
        }
    }
}

#[cfg(test)]
mod tests;
