//! The operator's configuration, from environment variables.

use std::net::SocketAddr;
use std::time::Duration;

use commerce_core::{
    admin,
    config::{ConfigError, Env},
    telemetry::LogConfig,
};

use crate::context::Settings;

/// The operator's configuration.
#[derive(Clone, Debug)]
pub struct OperatorConfig {
    pub log: LogConfig,
    pub admin: SocketAddr,
    /// The namespaces to serve; all if there are none.
    pub watch_namespaces: Vec<String>,
    /// This replica's name, for the Lease and for events.
    pub identity: String,
    /// Where the Lease is; the client's default if absent.
    pub namespace: Option<String>,
    /// Pipelines that are worked on at the same time; where namespaces are named, in each.
    pub concurrency: u16,
    pub settings: Settings,
}

impl OperatorConfig {
    /// Reads `WATCH_NAMESPACES` (separated by commas), `POD_NAME`, `POD_NAMESPACE`, `RECONCILE_CONCURRENCY`, `PROBE_INTERVAL`,
    /// `DRIFT_INTERVAL`, and what all programs read: `LOG_LEVEL`, `LOG_LEVEL_FILE`,
    /// `LOG_FORMAT`, `ADMIN_ADDR`.
    pub fn from_env(mut env: Env) -> Result<Self, ConfigError> {
        let log = LogConfig::from_env(&mut env);
        let admin = admin::address_from_env(&mut env);
        let watch_namespaces = namespaces(&env.optional_text("WATCH_NAMESPACES").unwrap_or_default());
        let process = || format!("commerce-operator-{}", std::process::id());
        let identity = env.optional_text("POD_NAME").unwrap_or_else(process);
        let namespace = env.optional_text("POD_NAMESPACE");
        let concurrency = env.number("RECONCILE_CONCURRENCY", 16, 1, 64);
        let probe_interval = env.duration("PROBE_INTERVAL", Duration::from_secs(30));
        let drift_interval = env.duration("DRIFT_INTERVAL", Duration::from_mins(5));
        env.finish(|| {
            Some(Self {
                log: log?,
                admin: admin?,
                watch_namespaces,
                identity,
                namespace,
                concurrency: concurrency?,
                settings: Settings {
                    probe_interval: probe_interval?,
                    drift_interval: drift_interval?,
                },
            })
        })
    }
}

/// Each once, since two watches of one would work on the same pipelines.
fn namespaces(list: &str) -> Vec<String> {
    let mut names: Vec<_> = list
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::namespaces;

    #[test]
    fn each_namespace_counts_once_and_none_means_all() {
        assert_eq!(namespaces(" b,a,,b"), ["a", "b"]);
        assert_eq!(namespaces(""), Vec::<String>::new());
    }
}
