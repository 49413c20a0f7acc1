//! Who calls, and what a route asks of its caller.
//!
//! A route declares its requirement by an argument of its handler, before all others that can refuse a request:
//! [`Caller`] (anybody who is known) or [`CatalogueWriter`] (somebody who may change the catalogue). A route without
//! either is open. With authentication off, both let everybody through.
//!
//! What always holds: which algorithms and keys are good is decided by configuration, never by a token; where it is not
//! known who calls, nobody does; a token is repeated in no answer and no log line.

mod crypto;
mod document;
mod jwks;
mod keys;
mod token;

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};

pub use self::{document::describe, token::Tokens};
use crate::{problem::Problem, state::Shared};

/// The scope that administration of the catalogue takes.
pub const CATALOGUE_WRITE: &str = "catalog:write";

/// Who calls.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Authentication is off: somebody who may do everything.
    Anyone,
    /// The subject of a good token.
    User(Arc<User>),
}

/// The subject of a token.
#[derive(Debug)]
pub struct User {
    /// Fits [`super::rules::USER_ID`].
    pub id: Arc<str>,
    /// Whether the token has the scope [`CATALOGUE_WRITE`].
    writes_catalogue: bool,
}

/// A caller who may change the catalogue.
#[derive(Debug)]
pub struct CatalogueWriter;

impl Caller {
    /// The user that the caller is bound to; `None`: to none.
    pub fn user(&self) -> Option<&Arc<str>> {
        match self {
            Self::Anyone => None,
            Self::User(user) => Some(&user.id),
        }
    }

    /// Whether an order of this user is the caller's business. Where it is not, the answer is that of an order which does
    /// not exist, so that nobody learns which ids do.
    pub fn may_see(&self, user_id: &str) -> bool {
        self.user().is_none_or(|own| **own == *user_id)
    }

    fn may_write_catalogue(&self) -> bool {
        match self {
            Self::Anyone => true,
            Self::User(user) => user.writes_catalogue,
        }
    }
}

/// What `super::admit` found out about a request's caller.
#[derive(Debug, Clone)]
pub struct Identity(pub Result<Caller, Refusal>);

impl FromRequestParts<Shared> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Refusal> {
        if app.access.tokens.is_none() {
            return Ok(Self::Anyone);
        }
        match parts.extensions.get() {
            Some(Identity(found)) => found.clone(),
            None => Err(Refusal::NoToken),
        }
    }
}

impl FromRequestParts<Shared> for CatalogueWriter {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Refusal> {
        let caller = Caller::from_request_parts(parts, app).await?;
        if caller.may_write_catalogue() {
            Ok(Self)
        } else {
            Err(Refusal::NoScope)
        }
    }
}

/// Why a caller is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NoToken,
    /// What is wrong with the token, in words that fit a quoted string of RFC 6750.
    BadToken(&'static str),
    /// The keys that it would be checked with are not known yet.
    NoKeys,
    NoScope,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (problem, challenge) = match self {
            Self::NoKeys => {
                let cause = "the issuer's keys are not known yet";
                return Problem::unavailable("checking the token", &cause).into_response();
            }
            // RFC 6750, 3.1: who has sent no token is told no error.
            Self::NoToken => {
                let detail = "this takes a token: Authorization: Bearer <token>";
                (Problem::unauthorized(detail), "Bearer".to_owned())
            }
            Self::BadToken(why) => {
                let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{why}\"");
                (Problem::unauthorized(why), challenge)
            }
            Self::NoScope => {
                let detail = format!("this takes a token with the scope {CATALOGUE_WRITE}");
                let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{CATALOGUE_WRITE}\"");
                (Problem::forbidden(detail), challenge)
            }
        };
        let mut response = problem.into_response();
        if let Ok(challenge) = HeaderValue::try_from(challenge) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
