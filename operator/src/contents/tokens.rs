//! Authenticates agents by their tokens, which the API server reviews.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::{Api, Client, api::PostParams};
use samovar_crds::{PluginAssignmentSpec, names};
use sha2::{Digest, Sha256};

/// Reviews tokens, and caches the results for a moment.
pub(super) struct Tokens {
    reviews: Api<TokenReview>,
    /// The user name of the agents' ServiceAccount.
    agents: String,
    cache: Mutex<HashMap<[u8; 32], Cached>>,
    /// Bounds the reviews.
    rate: Mutex<TokenBucket>,
}

struct Cached {
    until: Instant,
    agent: Option<Agent>,
    /// Bounds the token's requests.
    rate: TokenBucket,
}

/// An agent, as the claims of its token identify it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agent {
    node_name: String,
    pod_name: String,
    pod_uid: String,
}

/// The reason why a token does not authenticate an agent.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error(
        "the token is invalid, expired, for another audience than {}, or not an agent's",
        names::OPERATOR
    )]
    Invalid,
    #[error("too many requests; retry in a second")]
    Throttled,
    #[error("failed to review the token: {0}")]
    Unavailable(kube::Error),
}

/// The lifetime of a cached review. For that long the token of a deleted Pod may be accepted.
const CACHE_TTL: Duration = Duration::from_secs(10);
/// Tokens in the cache. Beyond it expired entries are dropped, and if that does not suffice, all.
const CACHE_ENTRIES: usize = 4096;
/// The length of the longest token; a longer one is refused without a review.
const MAX_TOKEN_BYTES: usize = 16 << 10;

impl Tokens {
    pub(super) fn new(client: Client, namespace: &str, account: &str) -> Self {
        Self {
            reviews: Api::all(client),
            agents: format!("system:serviceaccount:{namespace}:{account}"),
            cache: Mutex::default(),
            rate: Mutex::new(TokenBucket::of(REVIEW_RATE)),
        }
    }

    /// The agent that the token was issued to.
    pub(super) async fn agent(&self, token: &str) -> Result<Agent, TokenError> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid);
        }
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(answer) = self.cached(&hash) {
            return answer;
        }
        if !self.rate.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(TokenError::Throttled);
        }
        let agent = self.review(token).await.map_err(TokenError::Unavailable)?;
        self.store(hash, agent.clone());
        agent.ok_or(TokenError::Invalid)
    }

    async fn review(&self, token: &str) -> kube::Result<Option<Agent>> {
        let audiences = vec![names::OPERATOR.to_owned()];
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(audiences.clone()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = self.reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
        // An API server without support for audiences returns none, and has not checked them.
        let is_valid = status.authenticated == Some(true) && status.audiences == Some(audiences);
        let user = status.user.unwrap_or_default();
        let is_agent = is_valid && user.username.as_ref() == Some(&self.agents);
        Ok(if is_agent { Agent::from_claims(&user) } else { None })
    }

    fn cached(&self, hash: &[u8; 32]) -> Option<Result<Agent, TokenError>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = cache.get_mut(hash).filter(|cached| cached.until > Instant::now())?;
        Some(match &cached.agent {
            _ if !cached.rate.take() => Err(TokenError::Throttled),
            Some(agent) => Ok(agent.clone()),
            None => Err(TokenError::Invalid),
        })
    }

    fn store(&self, hash: [u8; 32], agent: Option<Agent>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if cache.len() >= CACHE_ENTRIES {
            cache.retain(|_, cached| cached.until > now);
        }
        if cache.len() >= CACHE_ENTRIES {
            cache.clear();
        }
        cache.insert(hash, Cached { until: now + CACHE_TTL, agent, rate: TokenBucket::of(AGENT_RATE) });
    }
}

impl Agent {
    /// Reads the claims of a token that is bound to a Pod on a node; `None` for any other.
    fn from_claims(user: &UserInfo) -> Option<Self> {
        let extra = user.extra.as_ref()?;
        let claim = |name: &str| match extra.get(&format!("authentication.kubernetes.io/{name}"))?.as_slice()
        {
            [one] => Some(one.clone()),
            _ => None,
        };
        Some(Self {
            node_name: claim("node-name")?,
            pod_name: claim("pod-name")?,
            pod_uid: claim("pod-uid")?,
        })
    }

    /// Returns true if the assignment is this agent's.
    pub(super) fn is_assigned(&self, assignment: &PluginAssignmentSpec) -> bool {
        let Self { node_name, pod_name, pod_uid } = self;
        let agent = &assignment.agent;
        (node_name, pod_name, pod_uid) == (&assignment.node_name, &agent.pod_name, &agent.pod_uid)
    }
}

/// A token bucket: bounds the requests of a burst after a pause, and those per second.
struct TokenBucket {
    burst: f64,
    per_second: f64,
    tokens: f64,
    at: Instant,
}

/// The burst and the rate of reviews: enough for all agents of a large cluster to reconnect, and too few to overload an
/// API server.
const REVIEW_RATE: (f64, f64) = (200.0, 100.0);
/// The burst and the rate of one token's requests.
const AGENT_RATE: (f64, f64) = (100.0, 20.0);

impl TokenBucket {
    fn of((burst, per_second): (f64, f64)) -> Self {
        Self { burst, per_second, tokens: burst, at: Instant::now() }
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        self.tokens =
            (self.tokens + now.duration_since(self.at).as_secs_f64() * self.per_second).min(self.burst);
        self.at = now;
        let enough = self.tokens >= 1.0;
        self.tokens -= f64::from(enough);
        enough
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn agent(extra: &Value) -> Option<Agent> {
        Agent::from_claims(&serde_json::from_value(json!({ "username": "agent", "extra": extra })).unwrap())
    }

    fn claims(node: &str, pod: &str, uid: &str) -> Value {
        json!({
            "authentication.kubernetes.io/node-name": [node],
            "authentication.kubernetes.io/pod-name": [pod],
            "authentication.kubernetes.io/pod-uid": [uid],
        })
    }

    #[test]
    fn an_assignment_belongs_to_its_own_agent_alone() {
        let assignment: PluginAssignmentSpec = serde_json::from_value(json!({
            "nodeName": "node", "agent": { "podName": "agent", "podUid": "uid" },
            "plugin": "text", "revision": "text-1", "revisionNumber": 1, "image": "r/text@sha256:1",
        }))
        .unwrap();
        let is_assigned = |extra: &Value| agent(extra).is_some_and(|agent| agent.is_assigned(&assignment));
        assert!(is_assigned(&claims("node", "agent", "uid")));
        for (node, pod, uid) in
            [("other", "agent", "uid"), ("node", "other", "uid"), ("node", "agent", "other")]
        {
            assert!(!is_assigned(&claims(node, pod, uid)));
        }
        for claim in ["node-name", "pod-name", "pod-uid"] {
            let mut some = claims("node", "agent", "uid");
            some.as_object_mut().unwrap().remove(&format!("authentication.kubernetes.io/{claim}"));
            assert_eq!(agent(&some), None, "{claim}");
        }
    }

    #[test]
    fn a_token_bucket_is_bounded_and_refills_with_time() {
        let mut rate = TokenBucket::of((200.0, 1.0));
        assert_eq!((0..1000).filter(|_| rate.take()).count(), 200);
        rate.at = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        assert!(rate.take());
    }
}
