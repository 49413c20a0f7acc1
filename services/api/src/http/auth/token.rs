//! Bearer tokens (RFC 6750) that are JSON Web Tokens (RFC 7519).

use std::{fs, sync::Arc};

use anyhow::Context as _;
use axum::http::{HeaderMap, header};
use commerce_core::admin::{Gate, Need, Readiness};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::Value;

use super::{
    CATALOGUE_WRITE, Caller, Identity, Refusal, User, crypto,
    jwks::{Jwks, Source},
};
use crate::{
    access::{JwtConfig, KeySource},
    http::rules::USER_ID,
};

/// How far the issuer's clock may be off, in seconds.
const LEEWAY: u64 = 30;
/// The longest token that is looked at, in bytes.
const LONGEST: usize = 16 * 1024;

/// Checks tokens.
#[derive(Debug)]
pub struct Tokens {
    keys: Keys,
    /// One for each algorithm, since their keys are of different kinds.
    validations: Vec<Validation>,
}

#[derive(Debug)]
enum Keys {
    Secret(Arc<DecodingKey>),
    Set(Box<Jwks>, Gate),
}

/// What is read of a token beside what the validation looks at.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    scope: Value,
    #[serde(default)]
    scp: Value,
}

impl Tokens {
    /// Prepares to check them; a set of keys becomes part of `readiness`.
    pub fn new(config: JwtConfig, readiness: &Readiness) -> anyhow::Result<Self> {
        crypto::install();
        let validations = config.algorithms.iter().map(|algorithm| {
            let mut validation = Validation::new(*algorithm);
            let mut required = vec!["exp", "sub"];
            validation.leeway = LEEWAY;
            validation.validate_nbf = true;
            validation.validate_aud = config.audience.is_some();
            if let Some(issuer) = &config.issuer {
                validation.set_issuer(&[issuer]);
                required.push("iss");
            }
            if let Some(audience) = &config.audience {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            validation.set_required_spec_claims(&required);
            validation
        });
        let validations = validations.collect();
        let source = match config.keys {
            KeySource::Secret(secret) => {
                let key = DecodingKey::from_secret(secret.expose_secret().as_bytes());
                return Ok(Self {
                    keys: Keys::Secret(Arc::new(key)),
                    validations,
                });
            }
            KeySource::File(path) => Source::File(path),
            KeySource::Url { url, ca } => {
                let pem = ca
                    .map(|path| fs::read(&path).with_context(|| format!("reading {}", path.display())))
                    .transpose()?;
                Source::url(url, pem.as_deref()).context("preparing the client for AUTH_JWKS_URL")?
            }
        };
        let jwks = Jwks::new(source, config.algorithms, config.refetch_pause);
        let gate = readiness.gate("jwks", Need::ToStart);
        Ok(Self {
            keys: Keys::Set(Box::new(jwks), gate),
            validations,
        })
    }

    /// Keeps the keys fresh for as long as it is polled.
    pub async fn keep_fresh(&self) {
        if let Keys::Set(jwks, gate) = &self.keys {
            jwks.keep_fresh(gate.clone()).await;
        }
    }

    /// Who sends a request with these headers.
    pub async fn identify(&self, headers: &HeaderMap) -> Identity {
        Identity(match bearer(headers) {
            Ok(token) => self.check(token).await,
            Err(refusal) => Err(refusal),
        })
    }

    async fn check(&self, token: &str) -> Result<Caller, Refusal> {
        let head = decode_header(token).map_err(|_| Refusal::BadToken("the token is not a signed JWT"))?;
        let validation = self.validation(head.alg)?;
        if head.crit.is_some() {
            // RFC 7515, 4.1.11: it says that there is more to check than we know.
            return Err(Refusal::BadToken(
                "the token asks for extensions (crit) that are not known",
            ));
        }
        let key = match &self.keys {
            Keys::Secret(key) => key.clone(),
            Keys::Set(jwks, _) => jwks.find(head.kid.as_deref(), head.alg).await?,
        };
        let data = decode::<Claims>(token, &key, validation).map_err(|error| explain(error.kind()))?;
        caller(&data.claims)
    }

    fn validation(&self, algorithm: Algorithm) -> Result<&Validation, Refusal> {
        self.validations
            .iter()
            .find(|validation| validation.algorithms.contains(&algorithm))
            .ok_or(Refusal::BadToken("the algorithm of the token is not accepted"))
    }
}

/// The one token in the headers.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(Refusal::NoToken)?;
    if values.next().is_some() {
        return Err(Refusal::BadToken("there is more than one header Authorization"));
    }
    let text = value.to_str().unwrap_or_default();
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        // Another scheme is no token at all; the challenge says which one is taken.
        return Err(Refusal::NoToken);
    }
    let token = token.trim();
    if token.is_empty() || token.len() > LONGEST {
        return Err(Refusal::BadToken("the token is empty or too long"));
    }
    Ok(token)
}

fn caller(claims: &Claims) -> Result<Caller, Refusal> {
    let subject = claims.sub.as_str().and_then(USER_ID.parse);
    let id = subject.ok_or(Refusal::BadToken(
        "the subject (sub) of the token is not text of 1 to 128 characters without control characters",
    ))?;
    Ok(Caller::User(Arc::new(User {
        id: id.into(),
        writes_catalogue: grants(&claims.scope) || grants(&claims.scp),
    })))
}

/// Scopes are a text with spaces between them (RFC 8693, 4.2), or an array, as some issuers write them.
fn grants(scopes: &Value) -> bool {
    match scopes {
        Value::String(text) => text.split(' ').any(|scope| scope == CATALOGUE_WRITE),
        Value::Array(list) => list.iter().any(|scope| scope == CATALOGUE_WRITE),
        _ => false,
    }
}

fn explain(error: &ErrorKind) -> Refusal {
    Refusal::BadToken(match error {
        ErrorKind::InvalidSignature => "the signature of the token is wrong",
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the issuer (iss) of the token is not accepted",
        ErrorKind::InvalidAudience => "the token is for another audience (aud)",
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => match claim.as_str()
        {
            "exp" => "the token does not say when it expires (exp)",
            "sub" => "the token has no subject (sub)",
            "iss" => "the token has no issuer (iss)",
            "aud" => "the token has no audience (aud)",
            _ => "a claim of the token can not be read",
        },
        ErrorKind::InvalidAlgorithm => "the algorithm of the token is not accepted",
        _ => "the token is not a signed JWT",
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde_json::json;

    use super::*;

    #[test]
    fn scopes_are_text_or_an_array_and_match_whole() {
        for scopes in [
            json!("catalog:write"),
            json!("a catalog:write b"),
            json!(["a", "catalog:write"]),
        ] {
            assert!(grants(&scopes), "{scopes}");
        }
        for scopes in [
            json!(null),
            json!(""),
            json!("catalog:writer"),
            json!("catalog:read,catalog:write"),
            json!(["catalog:write catalog:read"]),
            json!({"catalog:write": true}),
        ] {
            assert!(!grants(&scopes), "{scopes}");
        }
    }

    #[test]
    fn one_bearer_token_is_read_and_nothing_else() {
        let read = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read(&["Bearer a.b.c"]).unwrap(), "a.b.c");
        assert_eq!(read(&["bEARER  a.b.c"]).unwrap(), "a.b.c");
        assert_eq!(read(&[]), Err(Refusal::NoToken));
        assert_eq!(read(&["Basic dTpw"]), Err(Refusal::NoToken));
        for bad in [&["Bearer"][..], &["Bearer "], &["Bearer a", "Bearer a"]] {
            assert!(matches!(read(bad), Err(Refusal::BadToken(_))), "{bad:?}");
        }
    }
}
