//! TLS towards the stores: whom we trust, who we are, and what a failed handshake asks for.
//!
//! Whatever is in a [`Tls`] has been parsed, so a file that is no certificate is found at start and not by the first
//! connection. A server's certificate is always verified, its host name included; there is no way to turn that off.

use std::sync::Arc;

use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use secrecy::{ExposeSecret, SecretString};

use crate::config::Env;

/// Whom to trust, and who we are; all PEM.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    ca: Option<SecretString>,
    certificate: Option<(SecretString, SecretString)>,
}

/// What is wrong with certificates or keys. The text completes "it holds …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("no certificate of an authority in PEM")]
    Ca,
    #[error("no certificate in PEM")]
    Certificate,
    #[error("no private key in PEM without a passphrase")]
    Key,
    #[error("a key that does not belong to the certificate")]
    Mismatch,
}

/// How a person sets what a connection needs: names of variables, or of fields of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// Where the store is.
    pub address: &'static str,
    /// What turns TLS on and off.
    pub tls: &'static str,
    pub ca: &'static str,
    pub certificate: &'static str,
    pub key: &'static str,
}

/// The variables of the services.
pub mod variables {
    use super::Names;

    pub const POSTGRES: Names = Names {
        address: "DATABASE_URL or DATABASE_HOST",
        tls: "DATABASE_TLS",
        ca: "DATABASE_CA_FILE",
        certificate: "DATABASE_CERTIFICATE_FILE",
        key: "DATABASE_KEY_FILE",
    };
    pub const KAFKA: Names = Names {
        address: "KAFKA_BOOTSTRAP_SERVERS, or what the brokers advertise",
        tls: "KAFKA_SECURITY_PROTOCOL",
        ca: "KAFKA_CA_FILE",
        certificate: "KAFKA_CERTIFICATE_FILE",
        key: "KAFKA_KEY_FILE",
    };
    pub const ELASTICSEARCH: Names = Names {
        address: "ELASTICSEARCH_URL",
        tls: "the scheme of ELASTICSEARCH_URL",
        ca: "ELASTICSEARCH_CA_FILE",
        certificate: "ELASTICSEARCH_CERTIFICATE_FILE",
        key: "ELASTICSEARCH_KEY_FILE",
    };
    pub const REDIS: Names = Names {
        address: "REDIS_URL or REDIS_HOST",
        tls: "REDIS_TLS",
        ca: "REDIS_CA_FILE",
        certificate: "REDIS_CERTIFICATE_FILE",
        key: "REDIS_KEY_FILE",
    };
}

impl Tls {
    /// Without `ca` the public authorities are trusted. `certificate` is the client's, with its key, for mutual TLS.
    pub fn new(
        ca: Option<SecretString>,
        certificate: Option<(SecretString, SecretString)>,
    ) -> Result<Self, Invalid> {
        if let Some(ca) = &ca {
            check_authorities(ca)?;
        }
        if let Some((certificate, key)) = &certificate {
            check_pair(certificate, key)?;
        }
        Ok(Self { ca, certificate })
    }

    /// Reads the files that the variables name; `None` where no variable asks for TLS.
    pub fn from_env(env: &mut Env, names: &Names) -> Option<Self> {
        let ca = pem(env, names.ca);
        let certificate = pem(env, names.certificate);
        let key = pem(env, names.key);
        if certificate.is_some() != key.is_some() {
            env.problem(format!(
                "{} and {} go together; only one is set",
                names.certificate, names.key
            ));
        }
        let pair = certificate.zip(key);
        if ca.is_none() && pair.is_none() {
            return None;
        }
        match Self::new(ca, pair) {
            Ok(tls) => Some(tls),
            Err(invalid) => {
                let name = match invalid {
                    Invalid::Ca => names.ca,
                    Invalid::Certificate => names.certificate,
                    Invalid::Key | Invalid::Mismatch => names.key,
                };
                env.problem(format!(
                    "{name} names a file that is not usable: it holds {invalid}"
                ));
                None
            }
        }
    }

    /// The authorities to trust, PEM.
    #[must_use]
    pub fn ca(&self) -> Option<&str> {
        self.ca.as_ref().map(ExposeSecret::expose_secret)
    }

    /// The client's certificates and its key, PEM.
    #[must_use]
    pub fn certificate(&self) -> Option<(&str, &str)> {
        self.certificate
            .as_ref()
            .map(|(certificate, key)| (certificate.expose_secret(), key.expose_secret()))
    }
}

fn pem(env: &mut Env, name: &str) -> Option<SecretString> {
    let path = env.optional_file(name)?;
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(SecretString::from(text)),
        // That there is no such file has been said.
        Err(_) if !path.is_file() => None,
        Err(error) => {
            env.problem(format!(
                "{name} is {:?}; reading that file: {error}",
                path.display()
            ));
            None
        }
    }
}

fn certificates(pem: &SecretString) -> Option<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.expose_secret().as_bytes()).collect();
    found.ok().filter(|found| !found.is_empty())
}

fn check_authorities(pem: &SecretString) -> Result<(), Invalid> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem).ok_or(Invalid::Ca)? {
        store.add(certificate).map_err(|_| Invalid::Ca)?;
    }
    Ok(())
}

fn check_pair(certificate: &SecretString, key: &SecretString) -> Result<(), Invalid> {
    let chain = certificates(certificate).ok_or(Invalid::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes()).map_err(|_| Invalid::Key)?;
    let provider = Arc::new(ring::default_provider());
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(Invalid::Mismatch),
        Err(rustls::Error::InvalidCertificate(_)) => Err(Invalid::Certificate),
        Err(_) => Err(Invalid::Key),
    }
}

/// What the words of a TLS library or of a store mean, in lower case and without spaces. The first that fits counts: OpenSSL says
/// "certificate verify failed" of everything.
const MEANINGS: [(&[&str], Meaning); 8] = [
    (
        &[
            "notvalidforname",
            "hostnamemismatch",
            "ipaddressmismatch",
            "certificateismatch",
        ],
        Meaning::OtherHost,
    ),
    (
        &[
            "certificateexpired",
            "hasexpired",
            "expiredcertificate",
            "invalidpeercertificate:expired",
        ],
        Meaning::Expired,
    ),
    (
        &[
            "certificaterequired",
            "badcertificate",
            "validclientcertificate",
            "clientauthenticationmightberequired",
        ],
        Meaning::WantsCertificate,
    ),
    (
        &["alert:unknownca", "alertunknownca", "alert:certificateunknown"],
        Meaning::DistrustsUs,
    ),
    (
        &["unknownissuer", "selfsignedcertificate"],
        Meaning::UnknownAuthority,
    ),
    (&["certificateverifyfailed"], Meaning::Unverified),
    (
        &["invalidcontenttype", "wrongversionnumber", "doesnotsupporttls"],
        Meaning::SpeaksNoTls,
    ),
    (
        &[
            "noencryption",
            "connectingtoasslistener",
            "connectingtoassllistener",
        ],
        Meaning::WantsTls,
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    OtherHost,
    Expired,
    WantsCertificate,
    DistrustsUs,
    UnknownAuthority,
    Unverified,
    SpeaksNoTls,
    WantsTls,
}

/// `problem`, and what to do about it where it comes from TLS.
#[must_use]
pub fn advise(problem: String, names: &Names) -> String {
    let plain: String = problem
        .chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, '_' | '-' | '\''))
        .flat_map(char::to_lowercase)
        .collect();
    let meaning = MEANINGS
        .iter()
        .find(|(words, _)| words.iter().any(|word| plain.contains(word)));
    let Names {
        address,
        tls,
        ca,
        certificate,
        ..
    } = names;
    let advice = match meaning {
        None => return problem,
        Some((_, Meaning::OtherHost)) => {
            format!("its certificate is for another host: use a name that the certificate has in {address}")
        }
        Some((_, Meaning::Expired)) => "its certificate has expired: renew it".to_owned(),
        Some((_, Meaning::WantsCertificate)) => {
            format!("it wants a client certificate that it trusts: give one in {certificate}")
        }
        Some((_, Meaning::DistrustsUs)) => {
            format!(
                "it does not trust the client certificate: give one of its own authority in {certificate}"
            )
        }
        Some((_, Meaning::UnknownAuthority)) => {
            format!(
                "its certificate is signed by nobody who is trusted: give the authority that signed it in {ca}"
            )
        }
        Some((_, Meaning::Unverified)) => format!(
            "its certificate is signed by nobody who is trusted, or is for another host: give the authority that signed it in {ca}, and use a name that the certificate has in {address}"
        ),
        Some((_, Meaning::SpeaksNoTls)) => {
            format!("it does not speak TLS there: correct {address}, or turn TLS off in {tls}")
        }
        Some((_, Meaning::WantsTls)) => format!("it wants TLS: turn it on in {tls}"),
    };
    format!("{problem}; {advice}")
}

/// The same for a check of a service, by the check's name.
#[must_use]
pub fn advise_check(problem: String, check: &str) -> String {
    let names = match check {
        "postgres" | "postgresql" => &variables::POSTGRES,
        "kafka" | "events" | "dead-letters" => &variables::KAFKA,
        "elasticsearch" => &variables::ELASTICSEARCH,
        "redis" => &variables::REDIS,
        _ => return problem,
    };
    advise(problem, names)
}
