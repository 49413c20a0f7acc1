//! What the charts take from elsewhere in the repository is taken as it is, from the folder and from a package alike.

use std::{fs, path::Path};

use serde_json::Value;

use crate::helm::{CASES, Case, HELMS, documents, root};

fn named<'a>(manifests: &'a [Value], kind: &str, name: &str) -> &'a Value {
    manifests
        .iter()
        .find(|manifest| manifest["kind"] == kind && manifest["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

fn script(name: &str) -> String {
    fs::read_to_string(root().join("k6").join(name)).unwrap()
}

#[test]
fn the_load_scripts_are_the_files_of_k6() {
    for helm in &*HELMS {
        let manifests = helm.render(Case {
            chart: "k6",
            values: &[],
        });
        let scripts = named(&manifests, "ConfigMap", "test-1")["data"]
            .as_object()
            .unwrap();
        assert_eq!(
            scripts.keys().collect::<Vec<_>>(),
            ["lib.js", "load.js", "smoke.js", "steady.js"]
        );
        for (name, text) in scripts {
            assert_eq!(text, &script(name), "{name}");
        }
    }
}

#[test]
fn helm_test_runs_the_smoke_script() {
    let values = &["--values=charts/commerce-pipeline/examples/dev-stores.yaml"];
    for helm in &*HELMS {
        let manifests = helm.render(Case {
            chart: "commerce-pipeline",
            values,
        });
        let scripts = named(&manifests, "ConfigMap", "test-test")["data"]
            .as_object()
            .unwrap();
        assert_eq!(scripts.keys().collect::<Vec<_>>(), ["lib.js", "smoke.js"]);
        for (name, text) in scripts {
            assert_eq!(text, &script(name), "{name}");
        }
    }
}

#[test]
fn the_definition_is_that_of_crds_and_is_kept() {
    let source = fs::read_to_string(root().join("crds/commercepipelines.yaml")).unwrap();
    let source: Value = serde_norway::from_str(&source).unwrap();
    for helm in &*HELMS {
        let manifests = helm.render(Case {
            chart: "commerce-operator",
            values: &[],
        });
        let definition = named(
            &manifests,
            "CustomResourceDefinition",
            "commercepipelines.commerce.lab",
        );
        assert_eq!(definition["spec"], source["spec"]);
        assert_eq!(
            definition["metadata"]["annotations"]["helm.sh/resource-policy"],
            "keep"
        );
    }
}

/// The pipeline's spec is what the values say, and nothing more.
#[test]
fn the_spec_is_the_values_spec() {
    let values = "charts/commerce-pipeline/examples/operators.yaml";
    let mut expected: Value =
        serde_norway::from_str(&fs::read_to_string(root().join(values)).unwrap()).unwrap();
    let defaults = fs::read_to_string(root().join("charts/commerce-pipeline/values.yaml")).unwrap();
    let defaults: Value = serde_norway::from_str(&defaults).unwrap();
    expected["spec"]["image"] = defaults["spec"]["image"].clone();
    for helm in &*HELMS {
        let case = Case {
            chart: "commerce-pipeline",
            values: &["--values=charts/commerce-pipeline/examples/operators.yaml"],
        };
        assert_eq!(
            named(&helm.render(case), "CommercePipeline", "test")["spec"],
            expected["spec"]
        );
    }
}

/// The charts reach files outside their folders by links, which a package has to resolve.
#[test]
fn a_packaged_chart_renders_the_same() {
    for helm in &*HELMS {
        for case in CASES {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let chart = format!("charts/{}", case.chart);
            helm.succeed(&[
                "package",
                &chart,
                "--destination",
                folder.path().to_str().unwrap(),
            ]);
            let package = only_file(folder.path());
            let render = |chart: &str| {
                let mut arguments = vec!["template", "test", chart];
                arguments.extend(case.values);
                let mut manifests = documents(&helm.succeed(&arguments));
                manifests.iter_mut().for_each(forget_passwords);
                manifests
            };
            assert_eq!(render(&package), render(&chart), "{case:?}");
        }
    }
}

/// Passwords are made at random where no cluster can be asked for those of the last time.
fn forget_passwords(manifest: &mut Value) {
    if manifest["kind"] == "Secret" {
        for contents in ["data", "stringData"] {
            for (_, value) in manifest[contents].as_object_mut().into_iter().flatten() {
                *value = Value::Null;
            }
        }
    }
}

fn only_file(folder: &Path) -> String {
    let mut files = fs::read_dir(folder).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    file.to_str().unwrap().to_owned()
}
