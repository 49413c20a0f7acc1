//! Kinds that a cluster may have or not: those that come with definitions of others.
//!
//! Which ones there are is asked of the API server, and asked again after a while, since definitions come and go. It is not
//! watched: that would take a right on all definitions, which an operator of one namespace can't have.

use std::{collections::BTreeSet, time::Duration};

use kube::{
    Client,
    api::{ApiResource, TypeMeta},
};

use super::error::Error;

/// What was found is true for so long.
pub const KNOWN_FOR: Duration = Duration::from_secs(20);

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

/// The kinds that the cluster has.
pub async fn find(client: &Client) -> Result<BTreeSet<Kind>, Error> {
    let mut found = BTreeSet::new();
    let versions: BTreeSet<_> = Kind::ALL.map(|kind| kind.resource().api_version).into();
    for version in versions {
        let served = match client.list_api_group_resources(&version).await {
            Ok(list) => list.resources,
            // Of a group that it does not serve, the API server says so as plain text, without a reason.
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(source) => {
                let what = "which kinds the cluster has";
                return Err(Error::FetchFailed { what, source });
            }
        };
        found.extend(Kind::ALL.into_iter().filter(|kind| {
            let resource = kind.resource();
            resource.api_version == version && served.iter().any(|served| served.kind == resource.kind)
        }));
    }
    Ok(found)
}
