//! Who may call, from where and how much: the settings.

use std::{net::IpAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use commerce_core::config::Env;
use ipnet::IpNet;
use jsonwebtoken::Algorithm;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

/// HS256 is as strong as its secret; RFC 7518 (3.2) asks for as many bits as the hash has.
const SHORTEST_SECRET: usize = 32;
/// How soon the keys may be asked for again, so that nobody who sends made-up tokens can make us a burden to the issuer.
const REFETCH_PAUSE: Duration = Duration::from_secs(10);
/// Longer than the ingress controllers keep idle connections (nginx 60 s, Traefik 90 s), so that it is they who close: a
/// request that crosses our closing would be lost.
const HEADER_TIMEOUT: Duration = Duration::from_secs(100);

/// Everything that decides whether a request gets to its action.
#[derive(Debug, Clone)]
pub struct AccessConfig {
    /// How callers prove who they are; absent: not at all, everybody may do everything.
    pub jwt: Option<JwtConfig>,
    /// How much a caller may ask of this replica; absent: as much as it likes.
    pub rate_limit: Option<RateLimit>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Origins whose pages may read answers, as browsers spell them; `*` for all; none: CORS is off.
    pub allowed_origins: Vec<String>,
    /// How long a connection may take to send the head of a request, and be idle before it.
    pub header_timeout: Duration,
    /// Connections at a time; more wait until one ends.
    pub max_connections: usize,
}

/// Which tokens are accepted.
#[derive(Debug, Clone)]
pub struct JwtConfig {
    /// Never taken from a token.
    pub algorithms: Vec<Algorithm>,
    pub keys: KeySource,
    /// What `iss` must be; absent: not checked.
    pub issuer: Option<String>,
    /// What `aud` must be or hold; absent: not checked.
    pub audience: Option<String>,
    /// The shortest time between two fetches of the keys; 10 s except in tests.
    pub refetch_pause: Duration,
}

/// Where the keys come from that tokens are checked with.
#[derive(Debug, Clone)]
pub enum KeySource {
    Secret(SecretString),
    Url { url: Url, ca: Option<PathBuf> },
    File(PathBuf),
}

/// So many requests in any window, spread evenly after a burst of as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub requests: NonZeroU32,
    /// Whole seconds.
    pub window: Duration,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            jwt: None,
            rate_limit: None,
            trusted_proxies: Vec::new(),
            allowed_origins: Vec::new(),
            header_timeout: HEADER_TIMEOUT,
            max_connections: 10_000,
        }
    }
}

impl AccessConfig {
    /// Reads the variables `AUTH_…`, `RATE_LIMIT_…`, `TRUSTED_PROXIES`, `CORS_ALLOWED_ORIGINS`, `HTTP_HEADER_TIMEOUT` and
    /// `HTTP_MAX_CONNECTIONS`.
    pub fn from_env(env: &mut Env) -> Option<Self> {
        let default = Self::default();
        // A mistake is noted in `env`, which then gives no configuration at all, least of all an open one.
        let jwt = auth(env);
        let rate_limit = rate_limit(env);
        let accepted = "addresses and networks separated by commas, such as 10.0.0.0/8,192.168.1.7";
        let trusted_proxies = list(env, "TRUSTED_PROXIES", accepted, |text| {
            text.parse()
                .ok()
                .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        });
        let accepted = "origins such as https://shop.example.com separated by commas, or *";
        let allowed_origins = list(env, "CORS_ALLOWED_ORIGINS", accepted, origin);
        if let Some(origins) = &allowed_origins
            && origins.len() > 1
            && origins.iter().any(|origin| origin == "*")
        {
            env.problem("CORS_ALLOWED_ORIGINS has * beside others; it takes * alone, or origins");
        }
        let header_timeout = env.duration("HTTP_HEADER_TIMEOUT", default.header_timeout);
        let max_connections = env.number("HTTP_MAX_CONNECTIONS", default.max_connections, 1, 1_000_000);
        Some(Self {
            jwt,
            rate_limit,
            trusted_proxies: trusted_proxies?,
            allowed_origins: allowed_origins?,
            header_timeout: header_timeout?,
            max_connections: max_connections?,
        })
    }
}

/// What is between commas, each parsed.
fn list<T>(env: &mut Env, name: &str, accepted: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    env.parsed(name, Vec::new(), accepted, |text| {
        text.split(',').map(|entry| parse(entry.trim())).collect()
    })
}

/// An origin as browsers send it: scheme, host and port, nothing after them.
fn origin(text: &str) -> Option<String> {
    let is_origin =
        |url: Url| matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text;
    (text == "*" || Url::parse(text).is_ok_and(is_origin)).then(|| text.to_owned())
}

fn auth(env: &mut Env) -> Option<JwtConfig> {
    let jwt = env.parsed("AUTH_MODE", false, "none or jwt", |text| match text {
        "none" => Some(false),
        "jwt" => Some(true),
        _ => None,
    })?;
    if jwt {
        return self::jwt(env);
    }
    for name in [
        "AUTH_JWT_ALGORITHMS",
        "AUTH_JWT_SECRET",
        "AUTH_JWT_SECRET_FILE",
        "AUTH_JWKS_URL",
        "AUTH_JWKS_FILE",
        "AUTH_JWKS_CA_FILE",
        "AUTH_ISSUER",
        "AUTH_AUDIENCE",
    ] {
        if env.optional_text(name).is_some() {
            env.problem(format!(
                "{name} is set and AUTH_MODE is none, which checks nobody; set AUTH_MODE=jwt, or remove {name}"
            ));
        }
    }
    None
}

fn jwt(env: &mut Env) -> Option<JwtConfig> {
    let accepted = "HS256 with a secret; RS256, ES256 or both, separated by a comma, with a JWKS";
    let algorithms = env.text("AUTH_JWT_ALGORITHMS", accepted).and_then(|text| {
        let parsed: Option<Vec<_>> = text.split(',').map(|name| algorithm(name.trim())).collect();
        if parsed.is_none() {
            env.problem(format!("AUTH_JWT_ALGORITHMS is {text:?}; it takes {accepted}"));
        }
        parsed
    });
    let keys = key_source(env);
    if let (Some(algorithms), Some(keys)) = (&algorithms, &keys) {
        let shared = matches!(keys, KeySource::Secret(_));
        if algorithms
            .iter()
            .any(|algorithm| (*algorithm == Algorithm::HS256) != shared)
        {
            let given = if shared {
                "AUTH_JWT_SECRET(_FILE)"
            } else {
                "AUTH_JWKS_URL or AUTH_JWKS_FILE"
            };
            env.problem(format!(
                "AUTH_JWT_ALGORITHMS does not go with {given}; it takes {accepted}"
            ));
        }
    }
    Some(JwtConfig {
        algorithms: algorithms?,
        keys: keys?,
        issuer: env.optional_text("AUTH_ISSUER"),
        audience: env.optional_text("AUTH_AUDIENCE"),
        refetch_pause: REFETCH_PAUSE,
    })
}

fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "HS256" => Some(Algorithm::HS256),
        "RS256" => Some(Algorithm::RS256),
        "ES256" => Some(Algorithm::ES256),
        _ => None,
    }
}

fn key_source(env: &mut Env) -> Option<KeySource> {
    let sources = [
        "AUTH_JWT_SECRET",
        "AUTH_JWT_SECRET_FILE",
        "AUTH_JWKS_URL",
        "AUTH_JWKS_FILE",
    ];
    let set: Vec<_> = sources
        .into_iter()
        .filter(|name| env.optional_text(name).is_some())
        .collect();
    let &[source] = &set[..] else {
        let found = if set.is_empty() {
            "none is".to_owned()
        } else {
            format!("{} are", set.join(" and "))
        };
        env.problem(format!(
            "AUTH_MODE is jwt, which takes exactly one of {}; {found} set",
            sources.join(", ")
        ));
        return None;
    };
    let ca = env.optional_file("AUTH_JWKS_CA_FILE");
    if ca.is_some() && source != "AUTH_JWKS_URL" {
        env.problem("AUTH_JWKS_CA_FILE is set and AUTH_JWKS_URL is not; the authority is for https:// URLs");
    }
    match source {
        "AUTH_JWKS_URL" => {
            let accepted = "an http:// or https:// URL without credentials";
            let url = env.text(source, accepted).and_then(|text| {
                Url::parse(&text).ok().filter(|url| {
                    matches!(url.scheme(), "http" | "https")
                        && url.username().is_empty()
                        && url.password().is_none()
                })
            });
            if url.is_none() {
                // It may hold credentials, so it is not repeated.
                env.problem(format!("AUTH_JWKS_URL is not usable; it takes {accepted}"));
            }
            Some(KeySource::Url { url: url?, ca })
        }
        "AUTH_JWKS_FILE" => env.optional_file(source).map(KeySource::File),
        _ => {
            let secret = env.secret("AUTH_JWT_SECRET", "the secret that tokens are signed with")?;
            let length = secret.expose_secret().len();
            if length < SHORTEST_SECRET {
                env.problem(format!(
                    "{source} gives a secret of {length} bytes; it takes at least {SHORTEST_SECRET}"
                ));
            }
            Some(KeySource::Secret(secret))
        }
    }
}

fn rate_limit(env: &mut Env) -> Option<RateLimit> {
    let requests = env.number("RATE_LIMIT_REQUESTS", 0, 0, 1_000_000);
    let accepted = "whole seconds from 1s to 24h, such as 1s or 1m";
    let window = env.parsed("RATE_LIMIT_WINDOW", Duration::from_secs(1), accepted, |text| {
        let window = humantime::parse_duration(text).ok()?;
        let whole = window.subsec_nanos() == 0;
        (whole && (Duration::from_secs(1)..=Duration::from_hours(24)).contains(&window)).then_some(window)
    });
    if requests == Some(0) && env.optional_text("RATE_LIMIT_WINDOW").is_some() {
        env.problem("RATE_LIMIT_WINDOW is set without RATE_LIMIT_REQUESTS, how many requests it takes");
    }
    let (requests, window) = (NonZeroU32::new(requests?)?, window?);
    Some(RateLimit { requests, window })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn read(pairs: &[(&str, &str)]) -> Result<AccessConfig, String> {
        let mut env = Env::from_pairs(pairs.iter().copied());
        let config = AccessConfig::from_env(&mut env);
        env.finish(|| config).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_on_unless_configured() {
        let config = read(&[]).unwrap();
        assert!(config.jwt.is_none() && config.rate_limit.is_none());
        assert!(config.trusted_proxies.is_empty() && config.allowed_origins.is_empty());
    }

    #[test]
    fn what_goes_together_is_accepted() {
        let config = read(&[
            ("AUTH_MODE", "jwt"),
            ("AUTH_JWT_ALGORITHMS", "RS256, ES256"),
            ("AUTH_JWKS_URL", "https://issuer.example.com/jwks"),
            ("RATE_LIMIT_REQUESTS", "100"),
            ("RATE_LIMIT_WINDOW", "1m"),
            ("TRUSTED_PROXIES", "10.0.0.0/8, 192.168.1.7,fd00::/8"),
            (
                "CORS_ALLOWED_ORIGINS",
                "https://shop.example.com,http://localhost:3000",
            ),
        ])
        .unwrap();
        assert_eq!(
            config.jwt.unwrap().algorithms,
            [Algorithm::RS256, Algorithm::ES256]
        );
        assert_eq!(config.rate_limit.unwrap().window, Duration::from_mins(1));
        assert_eq!(
            (config.trusted_proxies.len(), config.allowed_origins.len()),
            (3, 2)
        );
        read(&[
            ("AUTH_MODE", "jwt"),
            ("AUTH_JWT_ALGORITHMS", "HS256"),
            ("AUTH_JWT_SECRET", SECRET),
        ])
        .unwrap();
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_name_and_without_secrets() {
        let url = ("AUTH_JWKS_URL", "https://issuer.example.com/jwks");
        let jwt = ("AUTH_MODE", "jwt");
        let hs256 = ("AUTH_JWT_ALGORITHMS", "HS256");
        let rs256 = ("AUTH_JWT_ALGORITHMS", "RS256");
        let secret = ("AUTH_JWT_SECRET", SECRET);
        for (pairs, expected) in [
            (
                &[("AUTH_MODE", "basic")][..],
                "AUTH_MODE is \"basic\"; it takes none or jwt",
            ),
            (&[secret], "AUTH_JWT_SECRET is set and AUTH_MODE is none"),
            (&[jwt, secret], "AUTH_JWT_ALGORITHMS is not set"),
            (&[jwt, rs256], "exactly one of"),
            (
                &[jwt, hs256, secret, url],
                "AUTH_JWT_SECRET and AUTH_JWKS_URL are set",
            ),
            (&[jwt, rs256, secret], "does not go with AUTH_JWT_SECRET"),
            (&[jwt, hs256, url], "does not go with AUTH_JWKS_URL"),
            (
                &[jwt, ("AUTH_JWT_ALGORITHMS", "RS256,HS256"), url],
                "does not go with",
            ),
            (
                &[jwt, ("AUTH_JWT_ALGORITHMS", "none"), url],
                "AUTH_JWT_ALGORITHMS is \"none\"",
            ),
            (
                &[jwt, hs256, ("AUTH_JWT_SECRET", "short-secret")],
                "a secret of 12 bytes",
            ),
            (
                &[jwt, rs256, ("AUTH_JWKS_URL", "https://u:short-secret@issuer/")],
                "AUTH_JWKS_URL is not usable",
            ),
            (
                &[jwt, rs256, ("AUTH_JWKS_FILE", "/nowhere")],
                "there is no such file",
            ),
            (&[("RATE_LIMIT_REQUESTS", "many")], "RATE_LIMIT_REQUESTS is"),
            (
                &[("RATE_LIMIT_REQUESTS", "5"), ("RATE_LIMIT_WINDOW", "1500ms")],
                "whole seconds",
            ),
            (&[("RATE_LIMIT_WINDOW", "1s")], "without RATE_LIMIT_REQUESTS"),
            (&[("TRUSTED_PROXIES", "10.0.0.0/33")], "TRUSTED_PROXIES is"),
            (
                &[("CORS_ALLOWED_ORIGINS", "https://shop.example.com/")],
                "CORS_ALLOWED_ORIGINS is",
            ),
            (
                &[("CORS_ALLOWED_ORIGINS", "*,https://shop.example.com")],
                "* alone",
            ),
            (&[("HTTP_MAX_CONNECTIONS", "0")], "HTTP_MAX_CONNECTIONS is"),
        ] {
            let error = read(pairs).unwrap_err();
            assert!(error.contains(expected), "{pairs:?}: {error}");
            assert!(
                !error.contains("short-secret") && !error.contains(SECRET),
                "{error}"
            );
        }
    }
}
