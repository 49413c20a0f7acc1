//! `spec.api.auth`, `spec.api.rateLimit`, `spec.api.cors`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;

/// How callers of the API prove who they are.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode != 'JWT' || has(self.jwt)")
        .message("api.auth.mode: JWT needs to know which tokens are good: add api.auth.jwt, or set api.auth.mode: None")
        .field_path(".jwt"),
    validation = Rule::new("self.mode == 'JWT' || !has(self.jwt)")
        .message("api.auth.jwt has no effect while api.auth.mode is None, and everybody may do everything: set api.auth.mode: JWT, or remove api.auth.jwt")
        .field_path(".jwt")
)]
pub struct AuthSpec {
    /// `None`: not at all, everybody may do everything; for a lab. `JWT`: by a token in `Authorization: Bearer`; its subject
    /// is the user, who sees only orders of their own, and administration of the catalogue takes the scope `catalog:write`.
    #[serde(default)]
    pub mode: AuthMode,

    /// Which tokens are good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtSpec>,
}

/// How callers of the API prove who they are.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthMode {
    #[default]
    None,
    #[serde(rename = "JWT")]
    Jwt,
}

/// Which JSON Web Tokens are good. All of them need an expiry (`exp`) and a subject (`sub`).
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.secretRef) ? 1 : 0) + (has(self.jwksUrl) ? 1 : 0) + (has(self.jwksSecretRef) ? 1 : 0) == 1")
        .message("api.auth.jwt takes its keys from exactly one place: set one of secretRef (for HS256), jwksUrl and jwksSecretRef (for RS256 and ES256), and remove the others"),
    validation = Rule::new("!has(self.secretRef) || self.algorithms.all(a, a == 'HS256')")
        .message("api.auth.jwt.secretRef holds a shared secret, which goes with HS256 alone: set algorithms: [HS256], or replace secretRef by jwksUrl")
        .field_path(".algorithms"),
    validation = Rule::new("(!has(self.jwksUrl) && !has(self.jwksSecretRef)) || self.algorithms.all(a, a != 'HS256')")
        .message("HS256 signs with a shared secret, which no key set may publish: set api.auth.jwt.algorithms to RS256, ES256 or both, or take the secret from secretRef")
        .field_path(".algorithms"),
    validation = Rule::new("!has(self.caSecretRef) || (has(self.jwksUrl) && self.jwksUrl.startsWith('https://'))")
        .message("api.auth.jwt.caSecretRef only matters for https: change api.auth.jwt.jwksUrl to https://, or remove api.auth.jwt.caSecretRef")
        .field_path(".caSecretRef")
)]
pub struct JwtSpec {
    /// How tokens are signed: `HS256` with a secret; `RS256`, `ES256` or both with a key set.
    #[schemars(length(min = 1, max = 2))]
    pub algorithms: Vec<JwtAlgorithm>,

    /// The secret of HS256, at least 32 bytes of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,

    /// Where the issuer publishes its keys (JWKS). They are fetched every five minutes, and when a token names a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    #[x_kube(
        validation = Rule::new("!self.contains('@')")
            .message("api.auth.jwt.jwksUrl must not hold credentials: keys are public, so take them from where they need none"),
        validation = Rule::new("self.contains('@') || self.matches('^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~%/?&=:-]*)?$')")
            .message("api.auth.jwt.jwksUrl is http:// or https://, a host, an optional port and an optional path, for example https://issuer.example.com/.well-known/jwks.json")
    )]
    pub jwks_url: Option<String>,

    /// A key set (JWKS) in a Secret, for an issuer that the pods can't reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_secret_ref: Option<SecretKeyRef>,

    /// Certificate authority that signed the certificate of `jwksUrl`, PEM. Absent: the public authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,

    /// What a token's issuer (`iss`) must be. Absent: not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub issuer: Option<String>,

    /// What a token's audience (`aud`) must be or hold. Absent: not checked, so that a token that the issuer made for another
    /// service is good here, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub audience: Option<String>,
}

/// How a token is signed.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JwtAlgorithm {
    HS256,
    RS256,
    ES256,
}

impl JwtAlgorithm {
    /// As tokens spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
        }
    }
}

/// How much one caller may ask of one replica: so many requests at once, after which they come back evenly over the window. A
/// caller is a token's subject or, without one, a client's address.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitSpec {
    /// Requests in a window. Each replica counts for itself.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: i32,

    /// The window, in whole seconds.
    #[serde(default = "one_second")]
    #[schemars(length(max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,5}(s|m|h))+$')")
            .message("api.rateLimit.window is a duration such as 1s or 5m: use the units s, m and h"),
        validation = Rule::new("!self.matches('^([0-9]{1,5}(s|m|h))+$') || (duration(self) >= duration('1s') && duration(self) <= duration('24h'))")
            .message("api.rateLimit.window must be between 1s and 24h")
    )]
    pub window: String,
}

/// Which pages of other origins may call the API from a browser.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CorsSpec {
    /// Origins as browsers send them, for example `https://shop.example.com`; `*` alone for all.
    #[schemars(length(min = 1, max = 20), inner(length(min = 1, max = 300)))]
    #[x_kube(
        validation = Rule::new("self.all(o, o == '*' || (o.matches('^https?://[a-z0-9.-]+(:[0-9]{1,5})?$') && !o.matches('^(http:.*:80|https:.*:443)$')))")
            .message("api.cors.allowedOrigins are http:// or https:// and a host in lower case, with a port only where it is not the scheme's own and nothing after it, for example https://shop.example.com"),
        validation = Rule::new("size(self) == 1 || self.all(o, o != '*')")
            .message("api.cors.allowedOrigins: * allows all origins, so nothing else can stand beside it: remove * or the others")
    )]
    pub allowed_origins: Vec<String>,
}

fn one_second() -> String {
    "1s".into()
}
