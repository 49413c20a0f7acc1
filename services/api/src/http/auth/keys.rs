//! A JSON Web Key Set (RFC 7517): the public keys that an issuer signs with now.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

/// Sizes of an RSA modulus in bytes that are taken: 2048 to 8192 bits.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// The keys that tokens can be checked with.
#[derive(Debug)]
pub struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    decoding: Arc<DecodingKey>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// The keys in `text` that go with one of `algorithms`. Others, and keys for other purposes than signatures, are left
    /// out; a set without any is an error, which says so in words.
    pub fn parse(text: &[u8], algorithms: &[Algorithm]) -> Result<Self, String> {
        // The parser's own message may repeat what it read.
        let document: Document =
            serde_json::from_slice(text).map_err(|_| "what was read is not a JSON Web Key Set".to_owned())?;
        let keys: Vec<_> = document
            .keys
            .into_iter()
            .filter_map(|value| key(&serde_json::from_value(value).ok()?, algorithms))
            .collect();
        if keys.is_empty() {
            return Err(format!(
                "the JSON Web Key Set has no key for signatures by {algorithms:?}"
            ));
        }
        Ok(Self(keys))
    }

    /// The key with this id. A token that names none is taken at its word where there is only one.
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<Arc<DecodingKey>> {
        let mut found = self
            .0
            .iter()
            .filter(|key| key.algorithm == algorithm && (kid.is_none() || key.kid.as_deref() == kid));
        let first = found.next()?;
        (kid.is_some() || found.next().is_none()).then(|| first.decoding.clone())
    }
}

fn key(jwk: &Jwk, algorithms: &[Algorithm]) -> Option<Key> {
    let common = &jwk.common;
    let for_signatures = common
        .public_key_use
        .as_ref()
        .is_none_or(|purpose| *purpose == PublicKeyUse::Signature)
        && common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let (algorithm, key) = match &jwk.algorithm {
        AlgorithmParameters::RSA(parameters) => {
            let number = |text: &str| {
                let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
                // Some issuers write the sign's zero, which is not part of the number.
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                Some(bytes[zeros..].to_vec())
            };
            let (modulus, exponent) = (number(&parameters.n)?, number(&parameters.e)?);
            let usable = RSA_MODULUS.contains(&modulus.len());
            let key = usable.then(|| DecodingKey::from_rsa_raw_components(&modulus, &exponent))?;
            (Algorithm::RS256, key)
        }
        AlgorithmParameters::EllipticCurve(parameters) if parameters.curve == EllipticCurve::P256 => {
            let key = DecodingKey::from_ec_components(&parameters.x, &parameters.y).ok()?;
            (Algorithm::ES256, key)
        }
        // A symmetric key that everybody can read is nobody's.
        _ => return None,
    };
    let named = common.key_algorithm.is_none_or(|named| named == algorithm.into());
    (for_signatures && named && algorithms.contains(&algorithm)).then(|| Key {
        kid: common.key_id.clone(),
        algorithm,
        decoding: Arc::new(key),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ec(changes: &Value) -> Value {
        let mut key = json!({"kty": "EC", "crv": "P-256", "kid": "a", "x": "AA", "y": "AA"});
        for (name, value) in changes.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    }

    fn parse(keys: &[Value]) -> Result<KeySet, String> {
        KeySet::parse(
            json!({"keys": keys}).to_string().as_bytes(),
            &[Algorithm::RS256, Algorithm::ES256],
        )
    }

    #[test]
    fn only_keys_for_the_signatures_that_are_asked_for_are_taken() {
        for good in [
            json!({}),
            json!({"use": "sig"}),
            json!({"alg": "ES256"}),
            json!({"key_ops": ["verify"]}),
        ] {
            assert!(parse(&[ec(&good)]).is_ok(), "{good}");
        }
        for other in [
            ec(&json!({"use": "enc"})),
            ec(&json!({"alg": "ES384"})),
            ec(&json!({"alg": "HS256"})),
            ec(&json!({"key_ops": ["sign"]})),
            ec(&json!({"crv": "P-384"})),
            json!({"kty": "oct", "kid": "a", "k": "c2VjcmV0"}),
            json!({"kty": "RSA", "kid": "short", "n": "AQAB", "e": "AQAB"}),
            json!("text"),
        ] {
            assert!(parse(std::slice::from_ref(&other)).is_err(), "{other}");
            assert!(parse(&[other, ec(&json!({}))]).is_ok(), "its neighbour is fine");
        }
    }

    #[test]
    fn a_token_without_a_key_id_is_checked_only_where_there_is_one_key() {
        let one = parse(&[ec(&json!({}))]).unwrap();
        assert!(one.find(None, Algorithm::ES256).is_some());
        assert!(one.find(None, Algorithm::RS256).is_none());
        let two = parse(&[ec(&json!({})), ec(&json!({"kid": "b"}))]).unwrap();
        assert!(two.find(None, Algorithm::ES256).is_none());
        assert!(two.find(Some("b"), Algorithm::ES256).is_some());
        assert!(two.find(Some("c"), Algorithm::ES256).is_none());
    }
}
