//! The issuer's keys, kept fresh.
//!
//! They are fetched at start, every few minutes, and when a token names one that is not known, but never sooner than a pause
//! after the fetch before: tokens are made by strangers, and must not make us a burden to the issuer. Keys that were
//! good stay good while the issuer is away or talks nonsense, until a later set leaves them out.

use std::{error::Error as _, path::PathBuf, sync::Arc, time::Duration};

use commerce_core::admin::Gate;
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use url::Url;

use super::{Refusal, keys::KeySet};

/// How old keys from a URL get before they are fetched again without anybody asking.
const URL_REFRESH: Duration = Duration::from_mins(5);
/// The same for a file, which costs next to nothing to read.
const FILE_REFRESH: Duration = Duration::from_secs(30);
/// A fetch that takes longer has failed.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a failed fetch as long as no keys are known.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How long a request waits for a key that it is the first to name.
const PATIENCE: Duration = Duration::from_secs(3);
/// The largest set that is read, in bytes.
const LARGEST: usize = 256 * 1024;

const UNKNOWN_KEY: Refusal = Refusal::BadToken("the key of the token is not known");

/// Where the set is.
#[derive(Debug)]
pub enum Source {
    Url(reqwest::Client, Url),
    File(PathBuf),
}

/// The set, as it is known.
#[derive(Debug)]
pub struct Jwks {
    source: Source,
    algorithms: Vec<Algorithm>,
    pause: Duration,
    known: watch::Sender<Known>,
    wanted: Notify,
}

#[derive(Debug, Clone, Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    fetches: u64,
    fetched: Option<Instant>,
}

impl Source {
    /// A set behind a URL. With `ca`, the PEM of the only authority that is believed.
    pub fn url(url: Url, ca: Option<&[u8]>) -> Result<Self, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            // Keys come from where the configuration says, not from where that points.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = ca {
            builder = builder
                .tls_built_in_root_certs(false)
                .add_root_certificate(reqwest::Certificate::from_pem(pem)?);
        }
        Ok(Self::Url(builder.build()?, url))
    }

    async fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Url(client, url) => fetch(client, url).await,
            Self::File(path) => tokio::fs::read(path)
                .await
                .map_err(|error| format!("reading {}: {error}", path.display())),
        }
    }

    fn refresh(&self) -> Duration {
        match self {
            Self::Url(..) => URL_REFRESH,
            Self::File(_) => FILE_REFRESH,
        }
    }
}

async fn fetch(client: &reqwest::Client, url: &Url) -> Result<Vec<u8>, String> {
    let told = |error: reqwest::Error| match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    let mut response = client.get(url.clone()).send().await.map_err(told)?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("{url} answered {status}"));
    }
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(told)? {
        text.extend_from_slice(&chunk);
        if text.len() > LARGEST {
            return Err(format!("{url} answered more than {LARGEST} bytes"));
        }
    }
    Ok(text)
}

impl Jwks {
    /// Nothing is known until [`Jwks::keep_fresh`] runs. `pause` is the shortest time between two fetches.
    pub fn new(source: Source, algorithms: Vec<Algorithm>, pause: Duration) -> Self {
        Self {
            source,
            algorithms,
            pause,
            known: watch::Sender::default(),
            wanted: Notify::new(),
        }
    }

    /// The key that a token names. Asks the issuer where it is not known, unless that was done a moment ago.
    pub async fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<DecodingKey>, Refusal> {
        let known = self.known.borrow().clone();
        let keys = known.keys.as_ref().ok_or(Refusal::NoKeys)?;
        if let Some(key) = keys.find(kid, algorithm) {
            return Ok(key);
        }
        let just_asked = known.fetched.is_some_and(|at| at.elapsed() < self.pause);
        if kid.is_none() || just_asked {
            return Err(UNKNOWN_KEY);
        }
        let mut watching = self.known.subscribe();
        self.wanted.notify_one();
        let fetched = timeout(PATIENCE, watching.wait_for(|now| now.fetches > known.fetches)).await;
        let keys = match fetched {
            Ok(Ok(now)) => now.keys.clone(),
            _ => None,
        };
        keys.and_then(|keys| keys.find(kid, algorithm)).ok_or(UNKNOWN_KEY)
    }

    /// Fetches again and again; `gate` tells how that goes.
    pub async fn keep_fresh(&self, gate: Gate) {
        loop {
            let read = timeout(FETCH_TIMEOUT, self.source.read())
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s", FETCH_TIMEOUT.as_secs())));
            let parsed = read.and_then(|text| KeySet::parse(&text, &self.algorithms));
            gate.report(&parsed);
            let fresh = parsed.is_ok();
            let mut none_known = false;
            self.known.send_modify(|known| {
                if let Ok(keys) = parsed {
                    known.keys = Some(Arc::new(keys));
                }
                known.fetches += 1;
                known.fetched = Some(Instant::now());
                none_known = known.keys.is_none();
            });
            sleep(if none_known { FIRST_RETRY } else { self.pause }).await;
            if fresh {
                // Ends early where a key is wanted.
                let _ = timeout(self.source.refresh(), self.wanted.notified()).await;
            }
        }
    }
}
