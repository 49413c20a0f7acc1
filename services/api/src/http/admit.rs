//! Before any action: who calls, and whether that caller has requests left.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use commerce_core::admin::Readiness;
use ipnet::IpNet;
use tower_http::cors::CorsLayer;

use super::{
    auth::{Identity, Tokens},
    client::{self, Peer},
    cors,
    limit::{Counted, Limiter, Standing},
};
use crate::{access::AccessConfig, state::Shared};

/// What the settings in [`AccessConfig`] come to.
#[derive(Debug)]
pub struct Access {
    /// Absent where authentication is off.
    pub tokens: Option<Arc<Tokens>>,
    limiter: Option<Limiter>,
    trusted_proxies: Vec<IpNet>,
    /// Absent where CORS is off.
    pub cors: Option<CorsLayer>,
}

impl Access {
    /// Prepares all of it.
    pub fn new(config: AccessConfig, readiness: &Readiness) -> anyhow::Result<Self> {
        let tokens = config.jwt.map(|jwt| Tokens::new(jwt, readiness)).transpose()?;
        Ok(Self {
            tokens: tokens.map(Arc::new),
            limiter: config.rate_limit.map(Limiter::new),
            trusted_proxies: config.trusted_proxies,
            cors: cors::layer(&config.allowed_origins),
        })
    }

    /// Whether [`admit`] has anything to do.
    pub fn is_restricted(&self) -> bool {
        self.tokens.is_some() || self.limiter.is_some()
    }

    /// Whose the request is: a user's, or, where no user is known, a client's.
    fn counted(&self, request: &Request, identity: Option<&Identity>) -> Option<Counted> {
        if let Some(Identity(Ok(caller))) = identity
            && let Some(user) = caller.user()
        {
            return Some(Counted::User(user.clone()));
        }
        let peer: &Peer = request.extensions().get()?;
        let address = client::address(*peer, request.headers(), &self.trusted_proxies);
        Some(Counted::address(address))
    }
}

/// Finds out who calls, for the extractors of `super::auth` to judge, and turns away who has called too often.
pub async fn admit(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let access = &app.access;
    let identity = match &access.tokens {
        Some(tokens) => Some(tokens.identify(request.headers()).await),
        None => None,
    };
    let standing = match (&access.limiter, access.counted(&request, identity.as_ref())) {
        (Some(limiter), Some(caller)) => Some(limiter.count(caller).await),
        _ => None,
    };
    let refusal = standing.as_ref().and_then(Standing::refusal);
    let mut response = if let Some(refusal) = refusal {
        refusal
    } else {
        if let Some(identity) = identity {
            request.extensions_mut().insert(identity);
        }
        next.run(request).await
    };
    if let Some(standing) = standing {
        standing.tell(response.headers_mut());
    }
    response
}
