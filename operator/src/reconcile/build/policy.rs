//! NetworkPolicies: what the pods of a component have to do with the network, and nothing else.
//!
//! Stores are named by host, which a NetworkPolicy can't say, so connections are allowed by port.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use redis::ConnectionAddr;
use url::Url;

use super::{
    super::{
        names::{self, Component},
        services::ADMIN_PORT,
        validate::{JwtKeys, Pipeline},
    },
    metadata,
};
use crate::crd::{Migrations, NetworkPolicySpec as Asked, PeerSpec};

/// Where the API takes requests.
pub const HTTP_PORT: u16 = 8080;
/// DNS, and DNS as the pods of `OpenShift` serve it: a policy sees the port of the pod behind the Service.
const DNS: [u16; 2] = [53, 5353];

/// The policies of a pipeline, one for the pods of each component.
pub fn policies(pipeline: &Pipeline) -> Vec<NetworkPolicy> {
    let Some(asked) = &pipeline.network else {
        return Vec::new();
    };
    let migrates = pipeline.postgres.migrations == Migrations::Auto;
    let migration = migrates.then(|| policy(pipeline, asked, "migrate", Vec::new(), postgres(pipeline)));
    let mut stores = postgres(pipeline);
    stores.extend(elasticsearch(pipeline));
    let reindex = policy(pipeline, asked, "reindex", Vec::new(), stores);
    let of = |component: Component| {
        let mut ingress = vec![ingress(ADMIN_PORT, Some(readers(asked)))];
        if component == Component::Api {
            ingress.insert(0, self::ingress(HTTP_PORT, None));
        }
        let ports = ports(pipeline, component);
        policy(pipeline, asked, component.as_str(), ingress, ports)
    };
    let services = Component::ALL.into_iter().map(of);
    services.chain(migration).chain([reindex]).collect()
}

fn policy(
    pipeline: &Pipeline,
    asked: &Asked,
    component: &str,
    ingress: Vec<NetworkPolicyIngressRule>,
    mut ports: BTreeSet<u16>,
) -> NetworkPolicy {
    ports.extend(
        asked
            .egress_ports
            .iter()
            .filter_map(|port| u16::try_from(*port).ok()),
    );
    let rule = |ports: Vec<NetworkPolicyPort>| NetworkPolicyEgressRule {
        ports: Some(ports),
        to: None,
    };
    let dns = DNS
        .into_iter()
        .flat_map(|number| [port("UDP", number), port("TCP", number)]);
    let stores = ports.into_iter().map(|number| port("TCP", number));
    NetworkPolicy {
        metadata: metadata(pipeline, &format!("{}-{component}", pipeline.name), component),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(&names::pod_labels(&pipeline.name, component))),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(ingress),
            egress: Some(vec![rule(dns.collect()), rule(stores.collect())]),
        }),
    }
}

/// Where the pods of a component connect to.
fn ports(pipeline: &Pipeline, component: Component) -> BTreeSet<u16> {
    let mut ports = postgres(pipeline);
    if component != Component::Api {
        let servers = pipeline.kafka.bootstrap_servers.split(',');
        ports.extend(servers.filter_map(|server| server.rsplit_once(':')?.1.parse::<u16>().ok()));
    }
    if component != Component::Relay {
        ports.extend(elasticsearch(pipeline));
        ports.extend(match pipeline.redis.connect.client.get_connection_info().addr() {
            ConnectionAddr::Tcp(_, port) | ConnectionAddr::TcpTls { port, .. } => Some(*port),
            _ => None,
        });
    }
    if component == Component::Api
        && let Some(JwtKeys::Url { url, .. }) = pipeline.access.jwt.as_ref().map(|jwt| &jwt.keys)
    {
        ports.extend(of_url(url));
    }
    if let Some(tracing) = &pipeline.tracing {
        ports.extend(of_url(&tracing.otlp_endpoint));
    }
    ports
}

fn postgres(pipeline: &Pipeline) -> BTreeSet<u16> {
    [pipeline.postgres.connect.get_port()].into()
}

fn elasticsearch(pipeline: &Pipeline) -> Option<u16> {
    pipeline.elasticsearch.connect.url.port_or_known_default()
}

fn of_url(url: &str) -> Option<u16> {
    Url::parse(url).ok()?.port_or_known_default()
}

/// Who may ask a pod how it goes: the operator, and who reads the metrics.
fn readers(asked: &Asked) -> Vec<NetworkPolicyPeer> {
    let operator = PeerSpec {
        pod_labels: BTreeMap::from([
            (
                "app.kubernetes.io/part-of".to_owned(),
                "commerce-pipeline".to_owned(),
            ),
            ("app.kubernetes.io/component".to_owned(), "operator".to_owned()),
        ]),
        ..PeerSpec::default()
    };
    let peer = |peer: &PeerSpec| NetworkPolicyPeer {
        // An empty selector is every namespace; an absent one would be the pipeline's own.
        namespace_selector: Some(selector(&peer.namespace_labels)),
        pod_selector: (!peer.pod_labels.is_empty()).then(|| selector(&peer.pod_labels)),
        ip_block: None,
    };
    std::iter::once(&operator)
        .chain(&asked.metrics_from)
        .map(peer)
        .collect()
}

fn selector(labels: &BTreeMap<String, String>) -> LabelSelector {
    LabelSelector {
        match_labels: (!labels.is_empty()).then(|| labels.clone()),
        match_expressions: None,
    }
}

fn ingress(number: u16, from: Option<Vec<NetworkPolicyPeer>>) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        ports: Some(vec![port("TCP", number)]),
        from,
    }
}

fn port(protocol: &str, number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(number.into())),
        end_port: None,
    }
}
