//! Sending spans, as OTLP over HTTP.
//!
//! The SDK calls from a thread of its own; the requests are made in the service's runtime. A collector that is away costs
//! its spans and one line of the log.

use std::{
    fs, io,
    sync::atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use reqwest::{Certificate, redirect::Policy};
use tokio::runtime::Handle;

use super::config::{Export, Sampling};

/// Why spans can't be sent with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading OTEL_EXPORTER_OTLP_CERTIFICATE: {0}")]
    Certificate(io::Error),
    #[error("preparing the client for OTEL_EXPORTER_OTLP_ENDPOINT: {0}")]
    Client(#[from] reqwest::Error),
    #[error("preparing the export of traces: {0}")]
    Exporter(#[from] ExporterBuildError),
}

pub(super) fn provider(config: &Export) -> Result<SdkTracerProvider, Error> {
    let mut http = reqwest::Client::builder()
        .timeout(config.timeout)
        .default_headers(config.headers.iter().cloned().collect())
        .redirect(Policy::none());
    if let Some(path) = &config.ca {
        let pem = fs::read(path).map_err(Error::Certificate)?;
        for certificate in Certificate::from_pem_bundle(&pem)? {
            http = http.add_root_certificate(certificate);
        }
    }
    let client = Client {
        http: http.build()?,
        runtime: Handle::current(),
        fails: AtomicBool::new(false),
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(config.endpoint.as_str())
        .with_timeout(config.timeout)
        .build()?;
    let attributes = config
        .attributes
        .iter()
        .map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    let resource = Resource::builder_empty()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(attributes)
        .with_service_name(config.service.clone())
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .with_sampler(sampler(config.sampling))
        .build())
}

fn sampler(Sampling { ratio, parent_based }: Sampling) -> Sampler {
    let root = Sampler::TraceIdRatioBased(ratio);
    if parent_based {
        Sampler::ParentBased(Box::new(root))
    } else {
        root
    }
}

#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: Handle,
    /// Whether the last attempt failed.
    fails: AtomicBool,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let sending = self.runtime.spawn(async move { send(&http, request).await });
        let answer = sending.await?.map_err(reqwest::Error::without_url);
        let problem = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers with {}", answer.status())),
            Err(error) => Some(with_causes(error)),
        };
        let failed_before = self.fails.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(problem) if !failed_before => {
                tracing::warn!(
                    problem,
                    "the collector takes no traces; they are lost until it does"
                );
            }
            None if failed_before => tracing::info!("the collector takes traces again"),
            _ => {}
        }
        Ok(answer?)
    }
}

async fn send(http: &reqwest::Client, request: Request<Bytes>) -> reqwest::Result<Response<Bytes>> {
    let answer = http.execute(request.try_into()?).await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut response = Response::new(answer.bytes().await?);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
