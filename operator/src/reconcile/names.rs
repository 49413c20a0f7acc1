//! Names, labels and annotations: the operator's marks on what it makes.

use std::{collections::BTreeMap, fmt::Write as _};

use sha2::{Digest as _, Sha256};

/// Field manager of server-side apply, and value of `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "commerce-operator";
/// Keeps a deleted pipeline until its stores are dealt with.
pub const FINALIZER: &str = "commerce.lab/cleanup";
/// `true` on a pipeline gives up on stores that can't be cleaned up.
pub const ABANDON: &str = "commerce.lab/abandon-external";
/// `true` on a pipeline takes over stores that are marked as another one's.
pub const ADOPT: &str = "commerce.lab/adopt-external";
/// On each child: fingerprint of what the operator applied.
pub const APPLIED: &str = "commerce.lab/applied";
/// On pod templates: fingerprint of the Secrets that the pods use, so that a changed one rolls them.
pub const SECRETS: &str = "commerce.lab/secrets";

/// On Deployments and their revisions: fingerprint of the pod template.
pub const REVISION: &str = "commerce.lab/revision";
/// On Deployments whose replicas change by themselves: how many are enough.
pub const ENOUGH: &str = "commerce.lab/enough-replicas";

/// On the Job that fills an index: that index, and the one whose place it is to take.
pub const REINDEX_INTO: &str = "commerce.lab/reindex-into";
pub const REINDEX_FROM: &str = "commerce.lab/reindex-from";

/// One of the three services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    Api,
    Relay,
    Indexer,
}

impl Component {
    /// All of them, in the order in which they are rolled out: readers of new events before their writers.
    pub const ALL: [Self; 3] = [Self::Indexer, Self::Relay, Self::Api];

    /// Its name in images, labels and names of objects.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Relay => "relay",
            Self::Indexer => "indexer",
        }
    }
}

/// Label that all children of a pipeline have.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

/// Label selector of all children of a pipeline.
#[must_use]
pub fn selector(pipeline: &str) -> String {
    format!("{INSTANCE}={pipeline},app.kubernetes.io/managed-by={MANAGER}")
}

/// What selects the pods of a component. It must never change: a Deployment's selector is fixed.
#[must_use]
pub fn pod_labels(pipeline: &str, component: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".into(), format!("commerce-{component}")),
        (INSTANCE.into(), pipeline.into()),
        ("app.kubernetes.io/component".into(), component.into()),
    ])
}

/// Labels of each child.
#[must_use]
pub fn labels(pipeline: &str, component: &str) -> BTreeMap<String, String> {
    let mut labels = pod_labels(pipeline, component);
    labels.insert("app.kubernetes.io/part-of".into(), "commerce-pipeline".into());
    labels.insert("app.kubernetes.io/managed-by".into(), MANAGER.into());
    labels
}

/// The first `digits` hexadecimal digits of a hash.
#[must_use]
pub fn hex(hash: &[u8], digits: usize) -> String {
    let mut text = hash.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    text.truncate(digits);
    text
}

/// At most 40 characters, as Grafana has it of a dashboard's uid: a long text ends in a fingerprint of all of it.
#[must_use]
pub fn short(text: &str) -> String {
    if text.len() <= 40 {
        return text.to_owned();
    }
    let fingerprint = hex(&Sha256::digest(text), 8);
    format!("{}-{fingerprint}", &text[..31])
}
