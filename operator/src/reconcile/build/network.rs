//! Services, and the ways in: Ingress and HTTPRoute.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        networking::v1::{
            HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule,
            IngressServiceBackend, IngressSpec, IngressTLS, ServiceBackendPort,
        },
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use kube::api::DynamicObject;
use serde_json::json;

use super::{
    super::{
        kinds::Kind,
        names::{self, Component},
        validate::Pipeline,
    },
    Identity, child_name, metadata, object,
};

/// The Service of a component: the API's has a cluster address and port 80, the others exist so that their admin port can be
/// found by name.
pub fn service<'a>(whose: impl Into<Identity<'a>>, component: Component) -> Service {
    let (whose, name) = (whose.into(), component.as_str());
    let port = |name: &str, port| ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    let mut ports = vec![port("admin", 9090)];
    if component == Component::Api {
        ports.insert(0, port("http", 80));
    }
    Service {
        metadata: metadata(whose, &child_name(whose.name, component), name),
        spec: Some(ServiceSpec {
            selector: Some(names::pod_labels(whose.name, name)),
            ports: Some(ports),
            cluster_ip: (component != Component::Api).then(|| "None".to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The Ingress, where the spec asks for one. It leads to the public port only.
pub fn ingress(pipeline: &Pipeline) -> Option<Ingress> {
    let spec = pipeline.ingress.as_ref()?;
    let backend = IngressBackend {
        service: Some(IngressServiceBackend {
            name: child_name(&pipeline.name, Component::Api),
            port: Some(ServiceBackendPort {
                name: Some("http".to_owned()),
                number: None,
            }),
        }),
        resource: None,
    };
    let path = HTTPIngressPath {
        path: Some("/".to_owned()),
        path_type: "Prefix".to_owned(),
        backend,
    };
    let mut metadata = metadata(pipeline, &pipeline.name, "api");
    let annotations: BTreeMap<_, _> = spec.annotations.clone();
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    Some(Ingress {
        metadata,
        spec: Some(IngressSpec {
            ingress_class_name: spec.class_name.clone(),
            rules: Some(vec![IngressRule {
                host: spec.host.clone(),
                http: Some(HTTPIngressRuleValue { paths: vec![path] }),
            }]),
            tls: spec.tls_secret_name.as_ref().map(|secret| {
                vec![IngressTLS {
                    hosts: spec.host.clone().map(|host| vec![host]),
                    secret_name: Some(secret.clone()),
                }]
            }),
            default_backend: None,
        }),
        status: None,
    })
}

/// The HTTPRoute, where the spec asks for one. It leads to the public port only.
pub fn route(pipeline: &Pipeline) -> Option<(Kind, DynamicObject)> {
    let asked = pipeline.gateway.as_ref()?;
    let backend = json!({ "name": child_name(&pipeline.name, Component::Api), "port": 80 });
    let mut spec = json!({ "parentRefs": asked.parent_refs, "rules": [{ "backendRefs": [backend] }] });
    if !asked.hostnames.is_empty() {
        spec["hostnames"] = json!(asked.hostnames);
    }
    let route = object(pipeline, Kind::HttpRoute, "api", &BTreeMap::new(), spec);
    Some((Kind::HttpRoute, route))
}
