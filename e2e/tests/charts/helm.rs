//! Runs Helm 3 and Helm 4, which e2e/cluster finds or builds, and keeps in its cache.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
};

use serde::Deserialize as _;
use serde_json::Value;

/// Helm 3 and Helm 4.
pub static HELMS: LazyLock<[Helm; 2]> = LazyLock::new(|| {
    let script = ". e2e/cluster/lib.sh && e2e/cluster/tools helm3 helm && printf %s \"$CACHE/bin\"";
    let output = Command::new("bash")
        .args(["-c", script])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let folder = PathBuf::from(text(&output.stdout));
    ["helm3", "helm"].map(|name| Helm {
        program: folder.join(name),
    })
});

/// One version of Helm.
pub struct Helm {
    program: PathBuf,
}

/// A chart with the values to render it with.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub chart: &'static str,
    /// Arguments for Helm; paths are relative to the repository.
    pub values: &'static [&'static str],
}

/// What each chart is rendered with: its smallest values, and values that switch on what is off by default.
pub const CASES: &[Case] = &[
    Case {
        chart: "commerce-operator",
        values: &[],
    },
    Case {
        chart: "commerce-operator",
        values: &[
            "--set=replicas=1,rbac.scope=namespace,rbac.watchNamespaces={shop},rbac.aggregate=false,crds.install=false",
            "--set=image.registry=registry.example.com/lab/,image.tag=1.2.3,imagePullSecrets[0].name=pull",
            "--set=podLabels.team=a,podAnnotations.note=b,nodeSelector.zone=c,priorityClassName=high",
            "--set=tolerations[0].operator=Exists,reconcile.concurrency=8,reconcile.driftInterval=1h",
            r#"--set-json=affinity={"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"zone"}]}}"#,
        ],
    },
    Case {
        chart: "commerce-operator",
        values: &["--set=serviceAccount.create=false,rbac.create=false,metrics.service.enabled=false"],
    },
    Case {
        chart: "commerce-pipeline",
        values: &["--values=charts/commerce-pipeline/examples/dev-stores.yaml"],
    },
    Case {
        chart: "commerce-pipeline",
        values: &["--values=charts/commerce-pipeline/examples/dev-stores-tls.yaml"],
    },
    Case {
        chart: "commerce-pipeline",
        values: &[
            "--values=charts/commerce-pipeline/examples/operators.yaml",
            "--set=name=orders,labels.team=a,annotations.note=b,spec.imagePullSecrets[0].name=pull",
        ],
    },
    Case {
        chart: "dev-stores",
        values: &[],
    },
    Case {
        chart: "dev-stores",
        values: &[
            "--values=charts/dev-stores/examples/official-images.yaml",
            "--set=storageClassName=fast,images.pullSecrets[0].name=pull",
        ],
    },
    Case {
        chart: "dev-stores",
        values: &["--set=tls.enabled=true"],
    },
    Case {
        chart: "k6",
        values: &[],
    },
    Case {
        chart: "k6",
        values: &[
            "--set=script=load,vus=50,baseUrl=http://orders-api.shop.svc",
            "--set-string=duration=5m,nodeSelector.zone=c,imagePullSecrets[0].name=pull",
        ],
    },
];

impl Helm {
    /// Runs Helm in the repository's folder, with settings and caches of its own.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("helm");
        Command::new(&self.program)
            .args(arguments)
            .current_dir(root())
            .env_remove("KUBECONFIG")
            .envs(["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|name| (name, &home)))
            .output()
            .unwrap()
    }

    /// Runs Helm; the test fails unless it succeeds.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "helm {arguments:?}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Renders a chart as the release `test` in the namespace `ns`; its manifests, in the order of the output.
    pub fn render(&self, case: Case) -> Vec<Value> {
        let chart = format!("charts/{}", case.chart);
        let mut arguments = vec!["template", "test", &chart, "--namespace=ns"];
        arguments.extend(case.values);
        documents(&self.succeed(&arguments))
    }
}

/// The documents of a YAML stream, without the empty ones.
pub fn documents(yaml: &str) -> Vec<Value> {
    serde_norway::Deserializer::from_str(yaml)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|document| !document.is_null())
        .collect()
}

/// All manifests of all cases and both Helms, each with a label for messages.
pub static ALL_MANIFESTS: LazyLock<Vec<(String, Value)>> = LazyLock::new(|| {
    let mut manifests = Vec::new();
    for case in CASES {
        for helm in &*HELMS {
            for manifest in helm.render(*case) {
                let label = format!(
                    "{} {} of {case:?}",
                    manifest["kind"], manifest["metadata"]["name"]
                );
                manifests.push((label, manifest));
            }
        }
    }
    manifests
});

/// The repository's folder.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
