//! Who can say whose a token is.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use mesh_cluster::agent_io::{OwnCluster, PublishedKeys};
use mesh_core::{issuance::Review, text::chain};

/// A future that can be kept in a box.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why nothing is known about a token, or about the keys: for people, without the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAnswer(pub String);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoAnswer {}

/// Says whose a token is: the API server of this cluster, or what stands in for it in tests and measurements.
pub trait Authenticate: Send + Sync + 'static {
    /// Whose token this is.
    fn review<'a>(&'a self, token: &'a str) -> Boxed<'a, Result<Review, NoAnswer>>;

    /// The keys that tokens are signed with.
    fn keys(&self) -> Boxed<'_, Result<PublishedKeys, NoAnswer>>;
}

impl Authenticate for OwnCluster {
    fn review<'a>(&'a self, token: &'a str) -> Boxed<'a, Result<Review, NoAnswer>> {
        Box::pin(async move {
            let said = self.review_token(token).await;
            said.map_err(|error| NoAnswer(chain(&error)))
        })
    }

    fn keys(&self) -> Boxed<'_, Result<PublishedKeys, NoAnswer>> {
        Box::pin(async move {
            let said = self.published_keys().await;
            said.map_err(|error| NoAnswer(chain(&error)))
        })
    }
}

impl<T: Authenticate + ?Sized> Authenticate for Arc<T> {
    fn review<'a>(&'a self, token: &'a str) -> Boxed<'a, Result<Review, NoAnswer>> {
        (**self).review(token)
    }

    fn keys(&self) -> Boxed<'_, Result<PublishedKeys, NoAnswer>> {
        (**self).keys()
    }
}
