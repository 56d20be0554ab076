//! Who asks the agent for a certificate: what the API server says about tokens, and by which keys it signs them.

use std::collections::BTreeMap;

use http::Request;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::{Api, api::PostParams};
use mesh_core::issuance::{AUDIENCE, Review};
use serde::Deserialize;

use super::{AgentIoError, OwnCluster, write::call};

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// By which keys an API server signs tokens of service accounts, as it publishes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedKeys {
    /// The keys, a JSON Web Key Set.
    pub keys: String,
    /// Who the tokens say made them; none if that is not published.
    pub issuer: Option<String>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

fn review(object: TokenReview) -> Review {
    let status = object.status.unwrap_or_default();
    let user = status.user.unwrap_or_default();
    let extra: BTreeMap<String, Vec<String>> = user.extra.unwrap_or_default();
    let first = |key: &str| extra.get(key).and_then(|values| values.first()).cloned();
    Review {
        authenticated: status.authenticated.unwrap_or_default(),
        audiences: status.audiences.unwrap_or_default(),
        username: user.username.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        pod: first(POD_NAME),
        pod_uid: first(POD_UID),
        node: first(NODE_NAME),
    }
}

impl OwnCluster {
    /// Asks the API server whose token that is.
    ///
    /// # Errors
    ///
    /// When it does not answer; a token that is not good is an answer.
    pub async fn review_token(&self, token: &str) -> Result<Review, AgentIoError> {
        let object = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let asking = reviews.create(&params, &object);
        Ok(review(call("create", "TokenReview", asking).await?))
    }

    /// Reads by which keys the API server signs.
    ///
    /// # Errors
    ///
    /// When it does not tell the keys.
    pub async fn published_keys(&self) -> Result<PublishedKeys, AgentIoError> {
        let keys = self.read_path("/openid/v1/jwks").await?;
        // An API server may hide this, or publish an address that is not for us; the keys are what counts.
        let issuer = match self.read_path("/.well-known/openid-configuration").await {
            Ok(text) => serde_json::from_str::<Discovery>(&text)
                .ok()
                .map(|discovery| discovery.issuer),
            Err(_hidden) => None,
        };
        Ok(PublishedKeys { keys, issuer })
    }

    async fn read_path(&self, path: &'static str) -> Result<String, AgentIoError> {
        let request = Request::get(path).body(Vec::new());
        let reading = async {
            let request = request.map_err(kube::Error::HttpError)?;
            self.client.request_text(request).await
        };
        call("get", path, reading).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_word_of_the_api_server_is_read_whole() {
        let answer = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "metadata": {}, "spec": {"token": "t"},
            "status": {
                "authenticated": true, "audiences": ["istio-ca"],
                "user": {
                    "username": "system:serviceaccount:kof:collector",
                    "groups": ["system:serviceaccounts"],
                    "extra": {
                        POD_NAME: ["collector-0"], POD_UID: ["u-1"], NODE_NAME: ["n1"],
                        "authentication.kubernetes.io/credential-id": ["JTI=1"],
                    },
                },
            },
        });
        let said = review(serde_json::from_value(answer).unwrap());
        assert!(said.authenticated);
        assert_eq!(said.audiences, ["istio-ca"]);
        assert_eq!(said.username, "system:serviceaccount:kof:collector");
        assert_eq!(said.groups, ["system:serviceaccounts"]);
        assert_eq!(said.pod.as_deref(), Some("collector-0"));
        assert_eq!(said.pod_uid.as_deref(), Some("u-1"));
        assert_eq!(said.node.as_deref(), Some("n1"));
        let refused = json!({"spec": {}, "status": {"error": "token expired"}});
        let said = review(serde_json::from_value(refused).unwrap());
        assert_eq!(said, Review::default());
    }
}
