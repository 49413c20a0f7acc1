//! Who may call the API, from where and how much.

use std::net::IpAddr;

use ipnet::IpNet;
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::{Problem, SecretKey, Secrets, duration, positive, stores::key};
use crate::crd::{ApiSpec, AuthMode, JwtSpec, RateLimitSpec, SecretKeyRef};

/// HS256 is as strong as its secret; the API refuses a shorter one, too.
const SHORTEST_SECRET: usize = 32;

/// `spec.api.auth`, `rateLimit`, `cors` and `trustedProxies`.
#[derive(Clone, Debug)]
pub struct Access {
    /// Absent where authentication is off.
    pub jwt: Option<Jwt>,
    pub rate_limit: Option<RateLimit>,
    pub allowed_origins: Vec<String>,
    pub trusted_proxies: Vec<String>,
    /// All Secrets in it.
    pub files: Vec<SecretKey>,
}

/// Which tokens are good.
#[derive(Clone, Debug)]
pub struct Jwt {
    pub algorithms: Vec<&'static str>,
    pub keys: JwtKeys,
    pub issuer: Option<String>,
    pub audience: Option<String>,
}

/// Where the keys are.
#[derive(Clone, Debug)]
pub enum JwtKeys {
    Secret(SecretKey),
    Set(SecretKey),
    Url { url: String, ca: Option<SecretKey> },
}

/// `spec.api.rateLimit`.
#[derive(Clone, Debug)]
pub struct RateLimit {
    pub requests: u32,
    pub window: String,
}

/// Checks them.
pub fn access(spec: &ApiSpec, secrets: &Secrets) -> Result<Access, Problem> {
    let auth = spec.auth.as_ref().filter(|auth| auth.mode == AuthMode::Jwt);
    let jwt = match auth {
        None => None,
        Some(auth) => {
            let spec = auth.jwt.as_ref().ok_or(Problem::Field {
                field: "api.auth.jwt",
                value: "absent".to_owned(),
                accepted: "the keys that tokens are checked with",
            })?;
            Some(jwt(spec, secrets)?)
        }
    };
    let files = match jwt.as_ref().map(|jwt| &jwt.keys) {
        None => Vec::new(),
        Some(JwtKeys::Secret(at) | JwtKeys::Set(at)) => vec![at.clone()],
        Some(JwtKeys::Url { ca, .. }) => ca.iter().cloned().collect(),
    };
    Ok(Access {
        jwt,
        rate_limit: spec.rate_limit.as_ref().map(rate_limit).transpose()?,
        allowed_origins: spec
            .cors
            .as_ref()
            .map(|cors| cors.allowed_origins.clone())
            .unwrap_or_default(),
        trusted_proxies: trusted_proxies(&spec.trusted_proxies)?,
        files,
    })
}

fn jwt(spec: &JwtSpec, secrets: &Secrets) -> Result<Jwt, Problem> {
    let of = |reference: &SecretKeyRef, field| key(&reference.name, &reference.key, field);
    let keys = match (&spec.secret_ref, &spec.jwks_secret_ref, &spec.jwks_url) {
        (Some(reference), None, None) => {
            let at = of(reference, "api.auth.jwt.secretRef");
            if secrets.text(&at)?.expose_secret().len() < SHORTEST_SECRET {
                let accepted = "a secret of at least 32 bytes, which HS256 takes";
                return Err(Problem::Secret { at, accepted });
            }
            JwtKeys::Secret(at)
        }
        (None, Some(reference), None) => {
            let at = of(reference, "api.auth.jwt.jwksSecretRef");
            let text = secrets.text(&at)?;
            let set: Option<Value> = serde_json::from_str(text.expose_secret()).ok();
            if !set.is_some_and(|set| set["keys"].is_array()) {
                let accepted = "a JSON Web Key Set, which is a JSON object with the array keys";
                return Err(Problem::Secret { at, accepted });
            }
            JwtKeys::Set(at)
        }
        (None, None, Some(url)) => {
            let ca = spec.ca_secret_ref.as_ref();
            let ca = ca.map(|reference| of(reference, "api.auth.jwt.caSecretRef"));
            if let Some(at) = &ca {
                secrets.text(at)?;
            }
            JwtKeys::Url { url: url.clone(), ca }
        }
        _ => {
            return Err(Problem::Field {
                field: "api.auth.jwt",
                value: "without keys, or with more than one place for them".to_owned(),
                accepted: "exactly one of secretRef, jwksUrl and jwksSecretRef",
            });
        }
    };
    Ok(Jwt {
        algorithms: spec
            .algorithms
            .iter()
            .map(|algorithm| algorithm.as_str())
            .collect(),
        keys,
        issuer: spec.issuer.clone(),
        audience: spec.audience.clone(),
    })
}

fn rate_limit(spec: &RateLimitSpec) -> Result<RateLimit, Problem> {
    Ok(RateLimit {
        requests: positive("api.rateLimit.requests", spec.requests)?,
        window: duration("api.rateLimit.window", &spec.window)?,
    })
}

/// The rules at admission know the characters only.
fn trusted_proxies(spec: &[String]) -> Result<Vec<String>, Problem> {
    for text in spec {
        if text.parse::<IpNet>().is_err() && text.parse::<IpAddr>().is_err() {
            return Err(Problem::Field {
                field: "api.trustedProxies",
                value: text.clone(),
                accepted: "addresses and networks such as 10.0.0.0/8 or 192.168.1.7",
            });
        }
    }
    Ok(spec.to_vec())
}
