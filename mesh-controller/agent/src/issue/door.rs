//! What happens to a request before anything of its body is read: there must be room for it, and it must be known who asks.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use http::{
    HeaderMap, Request, Response,
    header::{AUTHORIZATION, HeaderName},
};
use tokio::time::timeout;
use tonic::{Code, Status, body::Body, codegen::StdError, server::NamedService as _};

use super::{
    Limits,
    audit::Line,
    callers::Callers,
    denied::Denied,
    proto::istio_certificate_service_server::IstioCertificateServiceServer,
    service::{Asker, Service},
};

/// Longest message that is read: a request for a certificate has less than 4 KiB.
const MESSAGE_MAX: usize = 64 * 1024;

const CLUSTER: HeaderName = HeaderName::from_static("clusterid");

type Grpc = IstioCertificateServiceServer<Service>;

/// What all connections share.
pub(super) struct Door {
    pub(super) callers: Callers,
    pub(super) service: Service,
    grpc: Grpc,
    inside: AtomicUsize,
    limits: Limits,
}

/// A request that is being answered.
struct Inside<'a>(&'a Door, Instant);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
        self.0.service.counts.in_flight.dec();
        self.0.service.counts.took(self.1.elapsed());
    }
}

impl Door {
    pub(super) fn new(callers: Callers, service: Service, limits: Limits) -> Self {
        let grpc = Grpc::new(service.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(usize::MAX);
        Self {
            callers,
            service,
            grpc,
            inside: AtomicUsize::new(0),
            limits,
        }
    }

    fn enter(&self) -> Result<Inside<'_>, Denied> {
        let most = self.limits.in_flight;
        let entered = self
            .inside
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |inside| {
                (inside < most).then_some(inside + 1)
            });
        match entered {
            Ok(_) => {
                self.service.counts.in_flight.inc();
                Ok(Inside(self, Instant::now()))
            }
            Err(_full) => Err(Denied::busy("Busy", "too many requests at once")),
        }
    }

    /// Answers one request.
    pub(super) async fn answer<B>(&self, request: Request<B>, address: SocketAddr) -> Response<Body>
    where
        B: hyper::body::Body<Error: Into<StdError> + Send> + Send + 'static,
    {
        let path = request.uri().path();
        let ours = path
            .strip_prefix('/')
            .and_then(|path| path.split_once('/'))
            .is_some_and(|(service, _)| service == Grpc::NAME);
        if !ours {
            // istiod's other services are on this port too; who asks for them here is told that they are elsewhere.
            return Status::unimplemented("only certificates are given here").into_http();
        }
        let _inside = match self.enter() {
            Ok(inside) => inside,
            Err(denied) => return self.refuse(&denied, Line::default(), address),
        };
        let caller = match bearer(request.headers()) {
            Ok(token) => self.callers.whose(token).await,
            Err(denied) => Err(denied),
        };
        let caller = match caller {
            Ok(caller) => caller,
            Err(denied) => return self.refuse(&denied, Line::default(), address),
        };
        let asker = Asker {
            caller,
            cluster: cluster(request.headers()),
            address,
            told: Arc::new(AtomicBool::new(false)),
        };
        self.pass(request, asker).await
    }

    /// Passes a request on whose sender is known.
    async fn pass<B>(&self, mut request: Request<B>, asker: Asker) -> Response<Body>
    where
        B: hyper::body::Body<Error: Into<StdError> + Send> + Send + 'static,
    {
        let (address, told) = (asker.address, Arc::clone(&asker.told));
        let line = Line {
            caller: Some(Arc::clone(&asker.caller)),
            ..Line::default()
        };
        request.extensions_mut().insert(asker);
        let mut grpc = self.grpc.clone();
        let answering = tonic::codegen::Service::call(&mut grpc, request);
        let Ok(answered) = timeout(self.limits.patience, answering).await else {
            let denied = Denied::new(
                Code::DeadlineExceeded,
                "TooSlow",
                "the request did not arrive whole in time",
            );
            return self.refuse(&denied, line, address);
        };
        let response = match answered {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if !told.load(Ordering::Relaxed) {
            // It never came to the service: the message was too long, or none.
            let said = Status::from_header_map(response.headers());
            let denied = Denied::new(
                said.as_ref().map_or(Code::Unknown, Status::code),
                "BadMessage",
                "the message cannot be read",
            )
            .because(said.map(|s| s.message().to_owned()).unwrap_or_default());
            return self.refuse(&denied, line, address);
        }
        response
    }

    fn refuse(&self, denied: &Denied, mut line: Line, address: SocketAddr) -> Response<Body> {
        line.client = address.to_string();
        self.service.counts.refused(denied.reason);
        self.service.audit.refused(denied, line, Instant::now());
        denied.status().into_http()
    }
}

/// The one bearer token.
fn bearer(headers: &HeaderMap) -> Result<&str, Denied> {
    let none = || Denied::new(Code::Unauthenticated, "NoToken", "there is no bearer token");
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(none());
    };
    let value = value.to_str().map_err(|_source| none())?;
    let (scheme, token) = value.split_once(' ').ok_or_else(none)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(token.trim())
    } else {
        Err(none())
    }
}

/// The cluster that the caller says it is in; empty if it does not say, or says it more than once.
fn cluster(headers: &HeaderMap) -> String {
    let mut values = headers.get_all(CLUSTER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => {
            // What cannot be read is no cluster that is known.
            let text = value.to_str().unwrap_or("?");
            text.chars().take(256).collect()
        }
        _ => String::new(),
    }
}
