//! What the charts' roles allow.

use serde_json::{Value, json};

use crate::helm::{ALL_MANIFESTS, CASES, Case, HELMS};

fn of_kind<'a>(manifests: &'a [Value], kind: &str) -> Vec<&'a Value> {
    manifests
        .iter()
        .filter(|manifest| manifest["kind"] == kind)
        .collect()
}

fn words(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

#[test]
fn no_role_allows_everything_of_anything() {
    for (label, manifest) in &*ALL_MANIFESTS {
        for rule in manifest["rules"].as_array().into_iter().flatten() {
            for part in ["apiGroups", "resources", "verbs", "nonResourceURLs"] {
                assert!(!words(&rule[part]).contains(&"*"), "{label}: {rule}");
            }
            for dangerous in ["escalate", "bind", "impersonate"] {
                assert!(!words(&rule["verbs"]).contains(&dangerous), "{label}: {rule}");
            }
            let reaches = words(&rule["resources"]);
            assert!(
                !reaches.iter().any(|resource| resource.starts_with("pods/")),
                "{label}: {rule}"
            );
            if reaches.contains(&"secrets") {
                assert_eq!(
                    words(&rule["verbs"]),
                    ["get", "list", "watch"],
                    "{label}: Secrets are only read"
                );
            }
        }
        if let Some(role) = manifest["roleRef"]["name"].as_str() {
            assert!(
                !["cluster-admin", "admin", "edit"].contains(&role),
                "{label}: bound to {role}"
            );
        }
    }
}

#[test]
fn with_scope_namespace_the_operator_has_no_rights_elsewhere() {
    let case = Case {
        chart: "commerce-operator",
        values: &["--set=rbac.scope=namespace,rbac.watchNamespaces={shop,books},rbac.aggregate=false"],
    };
    for helm in &*HELMS {
        let manifests = helm.render(case);
        assert!(of_kind(&manifests, "ClusterRole").is_empty());
        assert!(of_kind(&manifests, "ClusterRoleBinding").is_empty());
        let namespaces: Vec<_> = of_kind(&manifests, "Role")
            .iter()
            .map(|role| role["metadata"]["namespace"].clone())
            .collect();
        assert_eq!(
            namespaces,
            ["shop", "books", "ns"],
            "a role for the pipelines of each, one for the leader's Lease"
        );
        for binding in of_kind(&manifests, "RoleBinding") {
            let of_its_role = of_kind(&manifests, "Role").into_iter().any(|role| {
                role["metadata"]["name"] == binding["roleRef"]["name"]
                    && role["metadata"]["namespace"] == binding["metadata"]["namespace"]
            });
            assert!(of_its_role, "{binding}");
            let subjects =
                [json!({"kind": "ServiceAccount", "name": "test-commerce-operator", "namespace": "ns"})];
            assert_eq!(binding["subjects"], json!(subjects));
        }
        assert_eq!(of_kind(&manifests, "RoleBinding").len(), 3);
        let deployment = of_kind(&manifests, "Deployment")[0];
        let variables = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
        let watched = variables
            .as_array()
            .unwrap()
            .iter()
            .find(|variable| variable["name"] == "WATCH_NAMESPACES");
        assert_eq!(watched.unwrap()["value"], "shop,books");
    }
}

/// The operator holds the same rights in one namespace as in all.
#[test]
fn both_scopes_have_the_same_rules() {
    let rules = |values, kind| {
        let manifests = HELMS[1].render(Case {
            chart: "commerce-operator",
            values,
        });
        of_kind(&manifests, kind)
            .iter()
            .find(|role| role["metadata"]["name"] == "test-commerce-operator")
            .unwrap()["rules"]
            .clone()
    };
    assert_eq!(
        rules(&[], "ClusterRole"),
        rules(&["--set=rbac.scope=namespace"], "Role")
    );
}

#[test]
fn every_rule_says_what_it_is_for() {
    let case = CASES[0];
    let chart = format!("charts/{}", case.chart);
    let rendered = HELMS[1].succeed(&["template", "test", &chart, "--show-only=templates/rbac.yaml"]);
    let mut previous = "";
    let mut rules = 0;
    for line in rendered.lines() {
        if line.starts_with("- apiGroups") {
            rules += 1;
            assert!(previous.starts_with("# "), "no comment above {line}");
        }
        previous = line;
    }
    assert!(rules >= 10, "only {rules} rules were found");
}
