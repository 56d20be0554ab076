//! One request, from who asks to what is given.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use mesh_ca::{CheckedCsr, Requested, check_csr};
use mesh_cluster::agent_io::Everyone;
use mesh_core::{
    issuance::{Ask, Caller, Grant, decide},
    text::line,
};
use prost_types::value::Kind;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

use super::{
    audit::{Audit, Given, Line},
    denied::Denied,
    ledger::Covering,
    material::Material,
    metrics::Counts,
    proto::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::IstioCertificateService,
    },
};

/// What ztunnel asks under: the identity of the workload it asks for.
const IMPERSONATED: &str = "ImpersonatedIdentity";
/// Most characters of an identity asked for that the audit shows.
const IDENTITY_MAX: usize = 300;
/// Longest wait for the ledger; less than a request may take.
const LEDGER: Duration = Duration::from_secs(3);

/// Who asks, as the door has found out.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) caller: Arc<Caller>,
    /// The cluster it says it is in.
    pub(super) cluster: String,
    pub(super) address: SocketAddr,
    /// The audit speaks of this request.
    pub(super) told: Arc<AtomicBool>,
}

/// What gives certificates.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) material: watch::Receiver<Option<Arc<Material>>>,
    pub(super) everyone: Everyone,
    pub(super) ledger: Arc<dyn Covering>,
    pub(super) audit: Arc<Audit>,
    pub(super) counts: Counts,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// What is given, and what the audit says of it.
struct Gift {
    chain: Vec<String>,
    given: Given,
    grant: Grant,
}

impl Service {
    async fn give(&self, asker: &Asker, request: &IstioCertificateRequest) -> Result<Gift, Denied> {
        // One look: whatever changes meanwhile is for the next request.
        let material = self.material.borrow().clone();
        let material = material
            .ok_or_else(|| Denied::later("NoSigner", "there is nothing to sign with yet"))?;
        let ask = Ask {
            cluster: &asker.cluster,
            seconds: request.validity_duration,
            impersonate: impersonated(request),
        };
        let grant = self
            .everyone
            .look(|pods| decide(&asker.caller, ask, &material.rules, pods))?;
        let csr = check_csr(request.csr.as_bytes(), Requested::Identity(&grant.identity)).map_err(
            |refusal| {
                let message = "the certificate request is not taken";
                Denied::new(
                    Code::InvalidArgument,
                    "BadRequest",
                    format!("{message}: {refusal}"),
                )
            },
        )?;
        let now = Timestamp::now();
        let end = now
            .checked_add(grant.life)
            .unwrap_or(Timestamp::MAX)
            .min(material.answers.until());
        if end <= now {
            return Err(Denied::later(
                "SignerExpired",
                "what signs has expired, and there is no other yet",
            ));
        }
        if !self.ledger.covers(material.pair, end) {
            let deadline = tokio::time::Instant::now() + LEDGER;
            let covered = self.ledger.cover(material.pair, end, deadline).await;
            covered.map_err(|why| {
                Denied::later("LedgerNotWritten", "the ledger cannot be written now")
                    .because(why.to_string())
            })?;
        }
        sign(&material, grant, &csr, now, end)
    }
}

/// Signs, and looks at what was signed before anybody sees it. Costs a tenth of a millisecond or two, so it is done on the spot.
fn sign(
    material: &Material,
    grant: Grant,
    csr: &CheckedCsr,
    now: Timestamp,
    end: Timestamp,
) -> Result<Gift, Denied> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Denied::new(
            Code::Internal,
            "NotSigned",
            "failed to sign the certificate",
        )
        .because(mesh_core::text::chain(error))
    };
    let life = end.duration_since(now);
    let issued = material
        .authority
        .sign_leaf(&grant.identity, csr.key(), life, now)
        .map_err(|error| failed(&error))?;
    let chain = material
        .answers
        .give(&issued, &grant.identity)
        .map_err(|error| failed(&error))?;
    if issued.facts.not_after > end {
        return Err(Denied::new(
            Code::Internal,
            "NotSigned",
            "failed to sign the certificate",
        )
        .because("it lives longer than the ledger says"));
    }
    let given = Given {
        serial: issued.facts.serial,
        fingerprint: issued.facts.fingerprint,
        signer: material.pair.signer,
        bundle: material.pair.bundle,
        not_after: issued.facts.not_after,
    };
    Ok(Gift {
        chain,
        given,
        grant,
    })
}

/// The identity asked for in place of the own. Anything but a text is none, as in istiod.
fn impersonated(request: &IstioCertificateRequest) -> &str {
    let metadata = request.metadata.as_ref();
    let value = metadata.and_then(|m| m.fields.get(IMPERSONATED));
    match value.and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text,
        Some(
            Kind::NullValue(_)
            | Kind::NumberValue(_)
            | Kind::BoolValue(_)
            | Kind::StructValue(_)
            | Kind::ListValue(_),
        )
        | None => "",
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let Some(asker) = request.extensions().get::<Asker>().cloned() else {
            return Err(Status::unauthenticated("nobody is known to ask"));
        };
        let request = request.into_inner();
        asker.told.store(true, Ordering::Relaxed);
        let asked_for = impersonated(&request);
        let mut line = Line {
            caller: Some(Arc::clone(&asker.caller)),
            client: asker.address.to_string(),
            identity: line(asked_for, IDENTITY_MAX),
            impersonated: !asked_for.is_empty(),
            ..Line::default()
        };
        match self.give(&asker, &request).await {
            Ok(gift) => {
                line.outcome = "issued";
                line.identity = gift.grant.identity.to_string();
                line.impersonated = gift.grant.impersonated;
                line.given = Some(gift.given);
                self.audit.given(&line);
                self.counts.issued.inc();
                Ok(Response::new(IstioCertificateResponse {
                    cert_chain: gift.chain,
                }))
            }
            Err(denied) => {
                self.counts.refused(denied.reason);
                self.audit.refused(&denied, line, Instant::now());
                Err(denied.status())
            }
        }
    }
}
