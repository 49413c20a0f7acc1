//! The Secrets that a pipeline refers to, as they were when it was reconciled.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::Secret;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::names;
use crate::crd::CommercePipelineSpec;

/// One key of a Secret, and the field of the spec that names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKey {
    pub secret: String,
    pub key: String,
    pub field: &'static str,
}

/// The Secrets that exist, by name.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, BTreeMap<String, Vec<u8>>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why the value of a key is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error(
        "{field} names the Secret {secret}, which does not exist in this namespace: create it, or correct the field"
    )]
    Secret { field: &'static str, secret: String },
    #[error(
        "{field} names the key {key}, which the Secret {secret} does not have (it has: {has}): correct the field, or add the key"
    )]
    Key {
        field: &'static str,
        secret: String,
        key: String,
        has: String,
    },
    #[error("{field}: the key {key} of the Secret {secret} is empty or not text: correct the Secret")]
    Value {
        field: &'static str,
        secret: String,
        key: String,
    },
}

impl Secrets {
    /// Keeps the content of `found`.
    pub fn new(found: impl IntoIterator<Item = Secret>) -> Self {
        let content = |secret: Secret| {
            let data = secret
                .data
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.0))
                .collect();
            Some((secret.metadata.name?, data))
        };
        Self(found.into_iter().filter_map(content).collect())
    }

    /// The text under a key, without spaces and line ends around it.
    pub fn text(&self, at: &SecretKey) -> Result<SecretString, Missing> {
        let (field, secret, key) = (at.field, at.secret.clone(), at.key.clone());
        let Some(data) = self.0.get(&secret) else {
            return Err(Missing::Secret { field, secret });
        };
        let Some(value) = data.get(&key) else {
            let has = data.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Missing::Key {
                field,
                secret,
                key,
                has,
            });
        };
        match std::str::from_utf8(value).map(str::trim) {
            Ok(text) if !text.is_empty() => Ok(SecretString::from(text)),
            _ => Err(Missing::Value { field, secret, key }),
        }
    }

    /// A fingerprint of the values under `keys`, which changes when one of them does.
    ///
    /// It is 32 bits short: enough to see a change, and too little to tell from it which of many guesses at a password is
    /// the right one, since anyone who may read pods may read it.
    #[must_use]
    pub fn fingerprint<'a>(&self, keys: impl IntoIterator<Item = &'a SecretKey>) -> String {
        let mut hasher = Sha256::new();
        for key in keys {
            hasher.update([key.secret.as_bytes(), b"/", key.key.as_bytes(), b"="].concat());
            if let Ok(text) = self.text(key) {
                hasher.update(text.expose_secret());
            }
            hasher.update([0]);
        }
        names::hex(&hasher.finalize(), 8)
    }
}

/// The names of the Secrets that a spec refers to and whose content matters to the pipeline.
#[must_use]
pub fn referenced(spec: &CommercePipelineSpec) -> Vec<String> {
    let mut names = vec![spec.postgres.secret_ref.name.clone()];
    names.extend(spec.redis.secret_ref.iter().map(|r| r.name.clone()));
    names.extend(
        spec.redis
            .auth
            .iter()
            .map(|auth| auth.password_secret_ref.name.clone()),
    );
    let encrypted = [
        &spec.postgres.tls,
        &spec.kafka.tls,
        &spec.elasticsearch.tls,
        &spec.redis.tls,
    ];
    for tls in encrypted.into_iter().flatten() {
        names.extend(tls.ca_secret_ref.iter().map(|r| r.name.clone()));
        names.extend(tls.certificate_secret_ref.iter().map(|r| r.name.clone()));
    }
    names.extend(
        spec.kafka
            .sasl
            .iter()
            .map(|sasl| sasl.password_secret_ref.name.clone()),
    );
    names.extend(
        spec.elasticsearch
            .auth
            .iter()
            .map(|auth| auth.password_secret_ref.name.clone()),
    );
    if let Some(jwt) = spec.api.auth.as_ref().and_then(|auth| auth.jwt.as_ref()) {
        let keys = [&jwt.secret_ref, &jwt.jwks_secret_ref, &jwt.ca_secret_ref];
        names.extend(keys.into_iter().flatten().map(|r| r.name.clone()));
    }
    names.sort();
    names.dedup();
    names
}
