//! `tls` of a store: the certificates that its fields name, parsed.

use commerce_core::tls::{Invalid, Names, Tls};

use super::{Problem, SecretKey, Secrets, stores::key};
use crate::crd::TlsSpec;

/// The fields of each store, for advice on a failed handshake and for what is wrong with a Secret.
pub const POSTGRES: Names = Names {
    address: "the URI of postgres.secretRef",
    tls: "postgres.tls",
    ca: "postgres.tls.caSecretRef",
    certificate: "postgres.tls.certificateSecretRef",
    key: "postgres.tls.certificateSecretRef",
};
pub const KAFKA: Names = Names {
    address: "kafka.bootstrapServers, or in what the brokers advertise",
    tls: "kafka.tls",
    ca: "kafka.tls.caSecretRef",
    certificate: "kafka.tls.certificateSecretRef",
    key: "kafka.tls.certificateSecretRef",
};
pub const ELASTICSEARCH: Names = Names {
    address: "elasticsearch.url",
    tls: "the scheme of elasticsearch.url",
    ca: "elasticsearch.tls.caSecretRef",
    certificate: "elasticsearch.tls.certificateSecretRef",
    key: "elasticsearch.tls.certificateSecretRef",
};
pub const REDIS: Names = Names {
    address: "redis.host, or in the URI of redis.secretRef",
    tls: "redis.tls",
    ca: "redis.tls.caSecretRef",
    certificate: "redis.tls.certificateSecretRef",
    key: "redis.tls.certificateSecretRef",
};

/// The keys of Secrets that hold a store's certificates.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    pub ca: Option<SecretKey>,
    pub certificate: Option<(SecretKey, SecretKey)>,
}

impl Certificates {
    /// All of them.
    pub fn files(&self) -> impl Iterator<Item = SecretKey> {
        let (certificate, key) = self.certificate.clone().unzip();
        [self.ca.clone(), certificate, key].into_iter().flatten()
    }
}

/// Checks `tls`.
pub fn tls(spec: &TlsSpec, names: &Names, secrets: &Secrets) -> Result<(Tls, Certificates), Problem> {
    let ca = spec
        .ca_secret_ref
        .as_ref()
        .map(|r| key(&r.name, &r.key, names.ca));
    let certificate = spec.certificate_secret_ref.as_ref().map(|r| {
        (
            key(&r.name, &r.certificate, names.certificate),
            key(&r.name, &r.key, names.key),
        )
    });
    let authorities = ca.as_ref().map(|at| secrets.text(at)).transpose()?;
    let pair = match &certificate {
        None => None,
        Some((certificate, key)) => Some((secrets.text(certificate)?, secrets.text(key)?)),
    };
    let problem = |invalid| {
        let (certificate, key) = certificate.clone().unzip();
        let (at, accepted) = match invalid {
            Invalid::Ca => (ca.clone(), "the certificate of an authority in PEM"),
            Invalid::Certificate => (certificate, "a certificate in PEM"),
            Invalid::Key => (key, "a private key in PEM without a passphrase"),
            Invalid::Mismatch => (key, "the private key of the certificate beside it"),
        };
        match at {
            Some(at) => Problem::Secret { at, accepted },
            None => Problem::Field {
                field: names.tls,
                value: "not usable".to_owned(),
                accepted,
            },
        }
    };
    let tls = Tls::new(authorities, pair).map_err(problem)?;
    Ok((tls, Certificates { ca, certificate }))
}

/// Checks `tls` where it is there.
pub fn optional(
    spec: Option<&TlsSpec>,
    names: &Names,
    secrets: &Secrets,
) -> Result<(Option<Tls>, Certificates), Problem> {
    match spec {
        None => Ok((None, Certificates::default())),
        Some(spec) => tls(spec, names, secrets).map(|(tls, certificates)| (Some(tls), certificates)),
    }
}
