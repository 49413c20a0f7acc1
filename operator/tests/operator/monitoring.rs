//! Alert rules and the dashboard ask for metrics that the services have, as Prometheus reads them.

use std::collections::BTreeSet;

use commerce_operator::{
    metrics::{Metrics, Reason, Request},
    reconcile::{build, kinds::Kind, validate::validate},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::Value;

use crate::fixtures::{full, parsed, secrets};

/// The names of all metrics of a service, as they stand before the braces in its `/metrics`.
fn metrics(register: impl FnOnce(&mut Registry)) -> BTreeSet<String> {
    let mut registry = Registry::default();
    register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let name = |line: &str| line.split(['{', ' ']).next().unwrap().to_owned();
    samples.map(name).collect()
}

/// Name and matchers of each metric that a query asks for.
fn asked(query: &str) -> Vec<(String, String)> {
    let mut asked = Vec::new();
    for (at, _) in query.match_indices('{') {
        let name = query[..at]
            .rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
            .next()
            .unwrap();
        let matchers = query[at..].split_once('}').unwrap().0;
        asked.push((name.to_owned(), matchers.to_owned()));
    }
    asked
}

fn queries() -> Vec<String> {
    let pipeline = validate(&parsed(&full(), &[]), &secrets()).unwrap();
    let objects = build::objects(&pipeline);
    let mut queries = Vec::new();
    let rules = objects
        .optional
        .iter()
        .find(|(kind, _)| *kind == Kind::PrometheusRule);
    for rule in rules.unwrap().1.data["spec"]["groups"][0]["rules"]
        .as_array()
        .unwrap()
    {
        queries.push(rule["expr"].as_str().unwrap().to_owned());
    }
    for (_, text) in objects.dashboards.unwrap().data.unwrap() {
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let mut refs = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                assert!(refs.insert((panel["id"].clone().to_string(), target["refId"].to_string())));
                queries.push(target["expr"].as_str().unwrap().to_owned());
            }
        }
    }
    queries
}

#[test]
fn every_query_asks_for_metrics_that_the_service_has() {
    let known = [
        ("shop-api", metrics(commerce_api::example_metrics)),
        ("shop-relay", metrics(commerce_relay::example_metrics)),
        ("shop-indexer", metrics(commerce_indexer::example_metrics)),
    ];
    let queries = queries();
    assert!(queries.len() > 30);
    let mut wrong = Vec::new();
    for query in &queries {
        let asked = asked(query);
        assert!(!asked.is_empty(), "{query}");
        for (name, matchers) in asked {
            let (_, names) = known
                .iter()
                .find(|(pods, _)| matchers.contains(&format!("pod=~\"{pods}-[a-z0-9]+")))
                .unwrap_or_else(|| panic!("no service is asked in {query}"));
            assert!(matchers.contains("namespace=\"store\""), "{query}");
            if !names.contains(&name) {
                wrong.push(format!("{name} in {query}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The test above is only as good as this: a name that no service has is found.
#[test]
fn a_metric_that_does_not_exist_is_noticed() {
    let names = metrics(commerce_relay::example_metrics);
    assert!(names.contains("commerce_relay_active") && names.contains("mcl_kafka_publish_success_total"));
    assert!(
        !names.contains("mcl_kafka_publish_success"),
        "counters end in _total"
    );
    let asked = asked(r#"sum(rate(a_total{pod="x"}[5m])) / sum by (le) (b_bucket{pod="y",z="1"})"#);
    let names: Vec<_> = asked.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a_total", "b_bucket"]);
}

/// The names of the metrics that the programs register, whether there are samples yet or not.
fn registered() -> BTreeSet<String> {
    let mut registry = Registry::default();
    let own = Metrics::new(&mut registry);
    own.pipelines_are(["true", "false", "unknown"].map(|ready| (ready, 0)));
    own.errors.get_or_create(&Reason { reason: "Failed" }).inc();
    let request = Request {
        verb: "get",
        resource: "pods".to_owned(),
        code: "200".to_owned(),
    };
    own.requests.get_or_create(&request).inc();
    commerce_api::example_metrics(&mut registry);
    commerce_relay::example_metrics(&mut registry);
    commerce_indexer::example_metrics(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let of = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some(if kind == "counter" {
            format!("{name}_total")
        } else {
            name.to_owned()
        })
    };
    text.lines().filter_map(of).collect()
}

/// The rows of the docs' table of metrics: the names in each, `…_end` being another one that begins as the one before it does.
fn documented() -> Vec<Vec<String>> {
    let docs = include_str!("../../../docs/operations.md");
    let (_, section) = docs.split_once("\n## Metrics\n").unwrap();
    let (table, _) = section.split_once("\n## ").unwrap();
    let rows = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let names = |row: &str| {
        let names = row
            .split(['`', ',', ' '])
            .map(|name| name.split('{').next().unwrap_or_default());
        names
            .filter(|name| name.contains('_'))
            .map(str::to_owned)
            .collect()
    };
    rows.map(names).collect()
}

#[test]
fn the_docs_tell_of_every_metric_and_of_none_that_does_not_exist() {
    let registered = registered();
    let (mut untold, mut unknown) = (registered.clone(), Vec::new());
    let rows = documented();
    assert!(rows.len() > 10);
    for row in rows {
        let mut full = String::new();
        for name in row {
            let found = match name.strip_prefix('…') {
                None => {
                    full.clone_from(&name);
                    registered.get(&name)
                }
                Some(end) => registered.iter().find(|known| {
                    known
                        .strip_suffix(end)
                        .is_some_and(|start| full.starts_with(&format!("{start}_")))
                }),
            };
            match found {
                Some(found) => drop(untold.remove(found)),
                None => unknown.push(name),
            }
        }
    }
    assert_eq!(
        (untold, unknown),
        Default::default(),
        "not told of, and told of in vain"
    );
}
