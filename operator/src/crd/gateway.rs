//! `spec.api.gateway`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// An `HTTPRoute` of the Gateway API that leads to the REST API. It needs the definitions of the Gateway API; while the
/// cluster has them not, the condition `IntegrationsMissing` tells so.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// The Gateways that the route is to be part of.
    #[schemars(length(min = 1, max = 8))]
    pub parent_refs: Vec<GatewayRef>,

    /// Host names that callers use. Absent: every host name that the Gateway takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    #[x_kube(validation = Rule::new("self.all(h, h.matches('^([*][.])?[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$'))")
        .message("api.gateway.hostnames are host names in lower case without scheme, port or path, for example orders.example.com or *.example.com"))]
    pub hostnames: Vec<String>,
}

/// A Gateway, or one of its listeners.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRef {
    /// Name of the Gateway.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,

    /// Its namespace; the pipeline's if absent. The Gateway must allow routes from the pipeline's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: Option<String>,

    /// Name of a listener; all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub section_name: Option<String>,
}
