//! Kinds that a cluster may have or not: those that come with definitions of others.
//!
//! Which ones there are is asked of the API server, and asked again after a while, since definitions come and go. Definitions are
//! not watched: that would take a right on all of them, which an operator of one namespace can't have.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kube::{
    Client,
    api::{ApiResource, TypeMeta},
};

use super::error::root;
use crate::context::Context;

/// What was found is true for so long.
pub const KNOWN_FOR: Duration = Duration::from_secs(20);
/// A server behind the API server that takes longer to answer counts as down.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A kind that a cluster may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    PodMonitor,
    PrometheusRule,
    HttpRoute,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::PodMonitor, Self::PrometheusRule, Self::HttpRoute];

    /// How the API server calls it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = match self {
            Self::PodMonitor => ("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"),
            Self::PrometheusRule => ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"),
            Self::HttpRoute => ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
        };
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: format!("{group}/{version}"),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    }

    #[must_use]
    pub fn types(self) -> TypeMeta {
        let ApiResource {
            api_version, kind, ..
        } = self.resource();
        TypeMeta { api_version, kind }
    }

    /// The field that asks for it, and where its definition comes from.
    #[must_use]
    pub fn asked_by(self) -> (&'static str, &'static str) {
        match self {
            Self::PodMonitor => ("monitoring.podMonitor", "the Prometheus Operator"),
            Self::PrometheusRule => ("monitoring.alerts", "the Prometheus Operator"),
            Self::HttpRoute => ("api.gateway", "the Gateway API"),
        }
    }
}

/// What was found of the kinds that a cluster may have.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    served: BTreeSet<Kind>,
    /// Kinds of a group that could not be asked for, as when the server behind it is down; and why.
    unknown: BTreeMap<Kind, String>,
}

/// Whether the cluster has a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    Yes,
    No,
    /// It could not be found out, and why.
    Unknown(String),
}

impl Kinds {
    /// Whether the cluster has it.
    #[must_use]
    pub fn served(&self, kind: Kind) -> Served {
        match self.unknown.get(&kind) {
            Some(why) => Served::Unknown(why.clone()),
            None if self.served.contains(&kind) => Served::Yes,
            None => Served::No,
        }
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(served: I) -> Self {
        Self {
            served: served.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// What the cluster has, as it was a moment ago.
pub async fn known(context: &Context) -> Kinds {
    if let Some(known) = context.memory.kinds() {
        return known;
    }
    let found = find(&context.client).await;
    context.memory.has_kinds(found.clone());
    found
}

/// The kinds that the cluster has. What can't be found out about one group keeps nobody from the others.
async fn find(client: &Client) -> Kinds {
    let mut found = Kinds::default();
    let versions: BTreeSet<_> = Kind::ALL.map(|kind| kind.resource().api_version).into();
    for version in versions {
        let of_group = Kind::ALL
            .into_iter()
            .filter(|kind| kind.resource().api_version == version);
        match tokio::time::timeout(TIMEOUT, client.list_api_group_resources(&version)).await {
            Ok(Ok(list)) => {
                let served = |kind: &Kind| {
                    let kind = kind.resource().kind;
                    list.resources.iter().any(|served| served.kind == kind)
                };
                found.served.extend(of_group.filter(served));
            }
            // Of a group that it does not serve, the API server says so as plain text, without a reason.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
            failed => {
                let why = match failed {
                    Ok(Err(kube::Error::Api(status))) => format!("the API server answers {}", status.code),
                    Ok(Err(error)) => root(&error),
                    _ => format!("no answer within {} s", TIMEOUT.as_secs()),
                };
                tracing::warn!(version, why, "asking which kinds the cluster has");
                found.unknown.extend(of_group.map(|kind| (kind, why.clone())));
            }
        }
    }
    found
}
