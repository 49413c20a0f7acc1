//! Values: what a chart does not know is refused by name, and what is documented is what there is.

use std::{fs, process::Command};

use serde_json::Value;

use crate::helm::{CASES, HELMS, root, text};

#[test]
fn every_chart_passes_strict_lint() {
    for case in CASES {
        for helm in &*HELMS {
            let chart = format!("charts/{}", case.chart);
            let mut arguments = vec!["lint", "--strict", &chart];
            arguments.extend(case.values);
            helm.succeed(&arguments);
        }
    }
}

#[test]
fn a_value_that_is_misspelt_or_wrong_is_refused_by_its_name() {
    let stores = "--values=charts/commerce-pipeline/examples/dev-stores.yaml";
    let refused: &[(&str, &[&str], &str)] = &[
        ("commerce-operator", &["--set=replicsa=3"], "replicsa"),
        ("commerce-operator", &["--set=replicas=0"], "replicas"),
        ("commerce-operator", &["--set=image.tagg=1"], "tagg"),
        ("commerce-operator", &["--set=log.format=xml"], "format"),
        ("commerce-operator", &["--set=rbac.scope=galaxy"], "scope"),
        ("commerce-operator", &["--set=resources.limit.cpu=1"], "limit"),
        (
            "commerce-operator",
            &["--set=metrics.service.enable=true"],
            "enable",
        ),
        // Not a question of the schema, since two values contradict each other.
        (
            "commerce-operator",
            &["--set=rbac.watchNamespaces={shop}"],
            "set rbac.scope=namespace",
        ),
        ("commerce-pipeline", &[], "postgres"),
        (
            "commerce-pipeline",
            &[stores, "--set=spec.kafka.topics.partition=3"],
            "partition",
        ),
        (
            "commerce-pipeline",
            &[stores, "--set=spec.elasticsearch.index.shards=0"],
            "shards",
        ),
        (
            "commerce-pipeline",
            &[stores, "--set=spec.deletionPolicy=Keep"],
            "deletionPolicy",
        ),
        (
            "commerce-pipeline",
            &[stores, "--set=spec.api.replica=3"],
            "replica",
        ),
        ("commerce-pipeline", &[stores, "--set=name=Shop"], "name"),
        ("commerce-pipeline", &[stores, "--set=test.img.tag=1"], "img"),
        ("dev-stores", &["--set=postgress.storage=1Gi"], "postgress"),
        ("dev-stores", &["--set=kafka.heapp=1g"], "heapp"),
        ("dev-stores", &["--set=tls.enabled=maybe"], "enabled"),
        ("k6", &["--set=script=soak"], "script"),
        ("k6", &["--set=baseUrl=shop-api"], "baseUrl"),
        ("k6", &["--set=duration=long"], "duration"),
        ("k6", &["--set=vu=3"], "vu"),
    ];
    for (chart, values, named) in refused {
        for helm in &*HELMS {
            let chart = format!("charts/{chart}");
            let mut arguments = vec!["template", "test", &chart];
            arguments.extend(*values);
            let output = helm.run(&arguments);
            let message = text(&output.stderr);
            assert!(!output.status.success(), "{arguments:?} was accepted");
            assert!(
                message.contains(named),
                "{arguments:?} was refused without naming {named}: {message}"
            );
        }
    }
}

/// A schema that lets unknown keys pass at any level would let a misspelt one pass.
#[test]
fn every_schema_is_closed() {
    for chart in charts() {
        let schema: Value =
            serde_json::from_str(&read(&format!("charts/{chart}/values.schema.json"))).unwrap();
        let mut open = Vec::new();
        find_open("", &schema, &mut open);
        assert!(
            open.is_empty(),
            "the schema of {chart} lets unknown keys pass in {open:?}"
        );
    }
}

fn find_open(path: &str, schema: &Value, open: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            let lists_keys = fields.get("properties").is_some_and(Value::is_object);
            if lists_keys
                && fields.get("type") == Some(&Value::from("object"))
                && schema["additionalProperties"] != false
            {
                open.push(path.to_owned());
            }
            for (key, value) in fields {
                find_open(&format!("{path}/{key}"), value, open);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| find_open(path, value, open)),
        _ => {}
    }
}

#[test]
fn tables_of_values_and_the_schema_of_the_spec_are_up_to_date() {
    let output = Command::new(env!("CARGO_BIN_EXE_chartdocs"))
        .arg("--check")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// The pipeline's chart asks for the images of its own version.
#[test]
fn the_default_tag_is_the_charts_version() {
    let chart: Value = serde_norway::from_str(&read("charts/commerce-pipeline/Chart.yaml")).unwrap();
    let values: Value = serde_norway::from_str(&read("charts/commerce-pipeline/values.yaml")).unwrap();
    assert_eq!(values["spec"]["image"]["tag"], chart["appVersion"]);
    let k6: Value = serde_norway::from_str(&read("charts/k6/Chart.yaml")).unwrap();
    assert_eq!(values["test"]["image"]["tag"], k6["appVersion"]);
}

fn charts() -> Vec<&'static str> {
    let mut charts: Vec<_> = CASES.iter().map(|case| case.chart).collect();
    charts.dedup();
    charts
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}
