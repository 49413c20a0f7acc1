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

/// The examples for the stores of dev-stores name Secrets and keys that this chart makes.
#[test]
fn the_examples_name_secrets_that_the_stores_have() {
    let examples: [(&str, &[&str]); 2] = [
        ("dev-stores", &[]),
        ("dev-stores-tls", &["--set=tls.enabled=true"]),
    ];
    for (example, values) in examples {
        let file = root().join(format!("charts/commerce-pipeline/examples/{example}.yaml"));
        let example: Value = serde_norway::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let mut asked = Vec::new();
        find_secret_keys(&example, &mut asked);
        assert!(asked.len() >= 3, "{asked:?}");
        for helm in &*HELMS {
            let template = [&["template", "stores", "charts/dev-stores"], values].concat();
            let manifests = documents(&helm.succeed(&template));
            for (name, key) in &asked {
                let secret = named(&manifests, "Secret", name);
                let value = [&secret["data"][key], &secret["stringData"][key]]
                    .into_iter()
                    .find(|value| value.is_string());
                assert!(value.is_some(), "the Secret {name} has no key {key}");
            }
        }
    }
}

/// Each Secret and key that a spec refers to.
fn find_secret_keys(spec: &Value, found: &mut Vec<(String, String)>) {
    for (field, value) in spec.as_object().into_iter().flatten() {
        let defaults: &[&str] = match field.as_str() {
            "secretRef" => &["uri"],
            "certificateSecretRef" => &["tls.crt", "tls.key"],
            _ if field.ends_with("SecretRef") => &[],
            _ => {
                find_secret_keys(value, found);
                continue;
            }
        };
        let name = value["name"].as_str().unwrap().to_owned();
        let keys = value["key"].as_str().map_or(defaults.to_vec(), |key| vec![key]);
        assert!(!keys.is_empty(), "{field} names no key");
        found.extend(keys.into_iter().map(|key| (name.clone(), key.to_owned())));
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

/// Passwords and certificates are made at random where no cluster can be asked for those of the last time.
fn forget_passwords(manifest: &mut Value) {
    let annotations = "/spec/template/metadata/annotations";
    if let Some(annotations) = manifest.pointer_mut(annotations).and_then(Value::as_object_mut) {
        annotations.remove("checksum/certificate");
    }
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
