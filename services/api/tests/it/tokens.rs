//! Tokens with real signatures, and an issuer that publishes its keys.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{Router, http::StatusCode, response::IntoResponse as _, routing::get};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use commerce_api::access::AccessConfig;
use commerce_core::config::Env;
use ring::{
    hmac,
    rand::SystemRandom,
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub const SECRET: &str = "a secret of the tests, at least 32 bytes";
pub const ISSUER: &str = "https://issuer.example.com/";
pub const AUDIENCE: &str = "orders";

/// What signs a token.
#[derive(Clone)]
pub enum Signer {
    Hs256(Vec<u8>),
    Rs256(Arc<RsaKeyPair>),
    Es256(Arc<EcdsaKeyPair>),
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub fn hs256() -> Self {
        Self::Hs256(SECRET.as_bytes().to_vec())
    }

    /// The same key in all tests, since making one takes long.
    pub fn rs256() -> Self {
        static KEY: LazyLock<Arc<RsaKeyPair>> = LazyLock::new(|| {
            let made = Command::new("openssl")
                .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
                .stderr(Stdio::null())
                .output()
                .unwrap();
            let pem = String::from_utf8(made.stdout).unwrap();
            let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
            Arc::new(RsaKeyPair::from_pkcs8(&STANDARD.decode(base64).unwrap()).unwrap())
        });
        Self::Rs256(KEY.clone())
    }

    /// A new key.
    pub fn es256() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        Self::Es256(Arc::new(key))
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Rs256(_) => "RS256",
            Self::Es256(_) => "ES256",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Hs256(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message)
                .as_ref()
                .to_vec(),
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .unwrap();
                signature
            }
            Self::Es256(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
        }
    }

    /// A token with this header (`alg` is added where absent) and these claims.
    pub fn token(&self, header: &Value, claims: &Value) -> String {
        let mut header = header.clone();
        if header["alg"].is_null() {
            header["alg"] = json!(self.algorithm());
        }
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        format!("{message}.{}", encode(self.sign(message.as_bytes())))
    }

    /// The `Authorization` of a good token of this user, with the key id `a`.
    pub fn bearer(&self, user: &str) -> String {
        format!("Bearer {}", self.token(&json!({"kid": "a"}), &claims(user)))
    }

    /// The public key as a JWK.
    pub fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Hs256(secret) => json!({"kty": "oct", "kid": kid, "k": encode(secret)}),
            Self::Rs256(key) => {
                let parts = rsa::PublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "kid": kid, "use": "sig", "n": encode(parts.n), "e": encode(parts.e)})
            }
            Self::Es256(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "x": x, "y": y})
            }
        }
    }

    /// What an attacker knows of the key: its public part, as bytes in a few forms that libraries have taken for secrets.
    pub fn public_forms(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Hs256(_) => Vec::new(),
            Self::Rs256(key) => {
                let parts = rsa::PublicKeyComponents::<Vec<u8>>::from(key.public());
                vec![
                    parts.n.clone(),
                    key.public().as_ref().to_vec(),
                    self.jwk("a").to_string().into_bytes(),
                ]
            }
            Self::Es256(key) => vec![key.public_key().as_ref().to_vec()],
        }
    }
}

/// Seconds since 1970, and this many more.
pub fn from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + seconds
}

/// The claims of a good token of this user.
pub fn claims(user: &str) -> Value {
    json!({"sub": user, "iss": ISSUER, "aud": AUDIENCE, "exp": from_now(300)})
}

/// The settings that these variables make.
pub fn access(pairs: &[(&str, &str)]) -> AccessConfig {
    let mut env = Env::from_pairs(pairs.iter().copied());
    let config = AccessConfig::from_env(&mut env);
    env.finish(|| config).unwrap()
}

/// Tokens of HS256 with [`SECRET`].
pub fn hs256_access() -> AccessConfig {
    access(&[
        ("AUTH_MODE", "jwt"),
        ("AUTH_JWT_ALGORITHMS", "HS256"),
        ("AUTH_JWT_SECRET", SECRET),
        ("AUTH_ISSUER", ISSUER),
        ("AUTH_AUDIENCE", AUDIENCE),
    ])
}

/// What an issuer answers.
#[derive(Clone)]
pub enum Answer {
    Keys(Vec<Value>),
    Text(String),
    Status(StatusCode),
    Never,
}

/// An issuer in this process.
pub struct Issuer {
    pub url: String,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    pub async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let (current, counter) = (answer.clone(), asked.clone());
        let route = get(async move || {
            counter.fetch_add(1, Ordering::Relaxed);
            let answer = current.lock().unwrap().clone();
            match answer {
                Answer::Keys(keys) => json!({"keys": keys}).to_string().into_response(),
                Answer::Text(text) => text.into_response(),
                Answer::Status(status) => status.into_response(),
                Answer::Never => std::future::pending().await,
            }
        });
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/jwks", route)).await });
        Self { url, answer, asked }
    }

    pub fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Tokens of this issuer, whose keys may be fetched again at once.
    pub fn access(&self, algorithms: &str) -> AccessConfig {
        let mut access = access(&[
            ("AUTH_MODE", "jwt"),
            ("AUTH_JWT_ALGORITHMS", algorithms),
            ("AUTH_JWKS_URL", &self.url),
        ]);
        if let Some(jwt) = &mut access.jwt {
            jwt.refetch_pause = Duration::from_millis(50);
        }
        access
    }
}
