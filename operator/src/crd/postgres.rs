//! `spec.postgres`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DeletionPolicy, TlsSpec, UriSecretRef};

/// The database of orders, stock and outbox.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PostgresSpec {
    /// Secret with a `postgresql://` URI. The Secret that CloudNativePG writes for an application fits as it is.
    pub secret_ref: UriSecretRef,

    /// Encrypts the connections and verifies the server (`verify-full`), whatever the URI says. An empty object trusts the public
    /// certificate authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,

    /// Most connections that each replica of the API and the relay opens. The API keeps one or two of them for placing
    /// orders.
    #[serde(default = "pool_size")]
    #[schemars(range(min = 2, max = 200))]
    pub pool_size: i32,

    /// Who brings the schema up to date: `Auto` runs a Job before each rollout; `Manual` waits until somebody has run
    /// `api migrate`.
    #[serde(default)]
    pub migrations: Migrations,

    /// How long a day of the outbox is kept after it has ended. It stays for longer where an event of it is not
    /// published yet, or parked.
    #[serde(default = "outbox_retention")]
    #[schemars(length(max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,9}(ms|s|m|h))+$')")
            .message("postgres.outboxRetention is a duration such as 24h or 168h: use the units ms, s, m and h"),
        validation = Rule::new("!self.matches('^([0-9]{1,9}(ms|s|m|h))+$') || (duration(self) >= duration('1h') && duration(self) <= duration('2160h'))")
            .message("postgres.outboxRetention must be between 1h and 2160h (90 days)")
    )]
    pub outbox_retention: String,

    /// What happens to the tables when the pipeline is deleted; `spec.deletionPolicy` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// Who brings the database schema up to date.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Migrations {
    #[default]
    Auto,
    Manual,
}

fn pool_size() -> i32 {
    10
}

fn outbox_retention() -> String {
    "168h".into()
}
