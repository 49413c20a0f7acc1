//! The variables that OpenTelemetry's specification names, read as all others are
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).

use std::{path::PathBuf, time::Duration};

use axum::http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret as _;
use url::Url;

use crate::config::Env;

/// Where traces go, and which. The default is nowhere.
#[derive(Debug, Clone, Default)]
pub struct TraceConfig(pub(super) Option<Export>);

#[derive(Debug, Clone)]
pub(super) struct Export {
    /// Takes OTLP over HTTP.
    pub(super) endpoint: Url,
    /// Sent along; the values are secrets.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) ca: Option<PathBuf>,
    pub(super) timeout: Duration,
    pub(super) service: String,
    pub(super) attributes: Vec<(String, String)>,
    pub(super) sampling: Sampling,
}

/// Which traces that begin here are recorded: a share of them, and whether the caller's decision goes before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampling {
    pub(super) ratio: f64,
    pub(super) parent_based: bool,
}

impl TraceConfig {
    /// Reads the `OTEL_…` variables; without an endpoint, nothing is recorded. `service` is the service's name unless
    /// `OTEL_SERVICE_NAME` says otherwise.
    pub fn from_env(env: &mut Env, service: &str) -> Option<Self> {
        let disabled = env.parsed("OTEL_SDK_DISABLED", false, "true or false", |text| {
            text.parse().ok()
        })?;
        let exporter = env.parsed("OTEL_TRACES_EXPORTER", true, "otlp or none", |text| match text {
            "otlp" => Some(true),
            "none" => Some(false),
            _ => None,
        })?;
        let accepted = "an http or https URL such as http://collector:4318";
        let of_all = env.parsed("OTEL_EXPORTER_OTLP_ENDPOINT", None, accepted, |text| {
            let mut url = url(text)?;
            url.set_path(&format!("{}/v1/traces", url.path().trim_end_matches('/')));
            Some(Some(url))
        })?;
        let endpoint = env.parsed("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", of_all, accepted, |text| {
            Some(Some(url(text)?))
        })?;
        let Some(endpoint) = endpoint.filter(|_| exporter && !disabled) else {
            return Some(Self::default());
        };
        for name in [
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        ] {
            env.parsed(name, (), "http/protobuf", |text| {
                (text == "http/protobuf").then_some(())
            })?;
        }
        for name in [
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        ] {
            env.parsed(name, (), "none", |text| (text == "none").then_some(()))?;
        }
        let headers = headers(env);
        let ca = env.optional_file("OTEL_EXPORTER_OTLP_CERTIFICATE");
        let timeout = env.number("OTEL_EXPORTER_OTLP_TIMEOUT", 10_000, 1, 600_000);
        let accepted = "name=value[,name=value…]";
        let attributes = env.parsed("OTEL_RESOURCE_ATTRIBUTES", Vec::new(), accepted, pairs);
        let sampling = sampling(env);
        Some(Self(Some(Export {
            endpoint,
            headers: headers?,
            ca,
            timeout: Duration::from_millis(timeout?),
            service: env
                .optional_text("OTEL_SERVICE_NAME")
                .unwrap_or_else(|| service.to_owned()),
            attributes: attributes?,
            sampling: sampling?,
        })))
    }
}

fn url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

/// The values are secrets, so a mistake does not repeat them.
fn headers(env: &mut Env) -> Option<Vec<(HeaderName, HeaderValue)>> {
    const NAME: &str = "OTEL_EXPORTER_OTLP_HEADERS";
    let Some(text) = env.optional_secret(NAME) else {
        return Some(Vec::new());
    };
    let header = |(name, value): (String, String)| {
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::try_from(name).ok()?, value))
    };
    let headers = pairs(text.expose_secret()).and_then(|pairs| pairs.into_iter().map(header).collect());
    if headers.is_none() {
        env.problem(format!(
            "{NAME} is not usable; it takes name=value[,name=value…], with special characters percent-encoded"
        ));
    }
    headers
}

/// `name=value,…`, percent-decoded.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pair = |text: &str| {
        let (name, value) = text.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((name.trim().to_owned(), value.into_owned())).filter(|(name, _)| !name.is_empty())
    };
    text.split(',').map(pair).collect()
}

fn sampling(env: &mut Env) -> Option<Sampling> {
    let accepted = "always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or \
                    parentbased_traceidratio";
    let ratio = env.parsed(
        "OTEL_TRACES_SAMPLER_ARG",
        1.0,
        "a number from 0 to 1 such as 0.05",
        |text| text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)),
    );
    let by_default = Sampling {
        ratio: 1.0,
        parent_based: true,
    };
    let mut sampling = env.parsed("OTEL_TRACES_SAMPLER", by_default, accepted, |text| {
        let (parent_based, root) = match text.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, text),
        };
        let ratio = match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => f64::NAN,
            _ => return None,
        };
        Some(Sampling { ratio, parent_based })
    })?;
    if sampling.ratio.is_nan() {
        sampling.ratio = ratio?;
    }
    Some(sampling)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Export>, String> {
        let mut env = Env::from_pairs(pairs.iter().copied());
        let config = TraceConfig::from_env(&mut env, "commerce-api");
        env.finish(|| config)
            .map(|config| config.0)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_traced_without_an_endpoint_or_when_switched_off() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert!(read(&[]).unwrap().is_none());
        assert!(
            read(&[endpoint, ("OTEL_SDK_DISABLED", "true")])
                .unwrap()
                .is_none()
        );
        assert!(
            read(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")])
                .unwrap()
                .is_none()
        );
        let export = read(&[endpoint]).unwrap().unwrap();
        assert_eq!(export.endpoint.as_str(), "http://collector:4318/v1/traces");
        assert_eq!(export.service, "commerce-api");
        let own = (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "https://collector/otlp/traces",
        );
        let export = read(&[endpoint, own]).unwrap().unwrap();
        assert_eq!(export.endpoint.as_str(), "https://collector/otlp/traces");
    }

    #[test]
    fn a_share_of_the_traces_is_taken() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        let export = read(&[
            endpoint,
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ]);
        let quarter = Sampling {
            ratio: 0.25,
            parent_based: true,
        };
        assert_eq!(export.unwrap().unwrap().sampling, quarter);
    }

    #[test]
    fn mistakes_name_the_variable_and_never_a_header() {
        let error = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ])
        .unwrap_err();
        for name in ["HEADERS", "TIMEOUT", "SAMPLER is", "SAMPLER_ARG"] {
            assert!(error.contains(name), "{name} is not in {error}");
        }
        assert!(!error.contains("hunter2"), "{error}");
        let error = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")]).unwrap_err();
        assert!(error.contains("an http or https URL"), "{error}");
    }
}
