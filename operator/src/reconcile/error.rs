//! What stops a pass, one variant for each station. The variant's name is the reason in conditions and events.

pub use commerce_core::admin::chain;

use super::validate::Invalid;

/// A step that failed. It is tried again, later and later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {what}: {source}")]
    FetchFailed { what: &'static str, source: kube::Error },
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("{0}")]
    StoresUnreachable(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Superseded(String),
    #[error(
        "nothing is written into the stores, since this replica can't be sure that no other works: it could not renew its Lease lately"
    )]
    LeaseUncertain,
    #[error("{0}")]
    DowngradeRefused(String),
    #[error("{0}")]
    MigrationFailed(String),
    #[error("{0}")]
    TopicsFailed(String),
    #[error("{0}")]
    IndexFailed(String),
    #[error("{0}")]
    ReindexFailed(String),
    #[error("applying {kind} {name}: {source}")]
    ApplyFailed {
        kind: String,
        name: String,
        source: kube::Error,
    },
    #[error("writing the status: {0}")]
    StatusFailed(#[source] kube::Error),
    #[error("{0}")]
    CleanupFailed(String),
    #[error("changing the finalizer: {0}")]
    FinalizerFailed(#[source] kube::Error),
    #[error(
        "this operator can't read the resource: {0}; bring the operator and the CRD to the same version, or correct the field"
    )]
    Unreadable(String),
}

impl Error {
    /// In one word, for conditions, events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::FetchFailed { .. } => "FetchFailed",
            Self::Invalid(invalid) => invalid.reason(),
            Self::StoresUnreachable(_) => "StoresUnreachable",
            Self::Conflict(_) => "Conflict",
            Self::Superseded(_) => "Superseded",
            Self::LeaseUncertain => "LeaseUncertain",
            Self::DowngradeRefused(_) => "DowngradeRefused",
            Self::MigrationFailed(_) => "MigrationFailed",
            Self::TopicsFailed(_) => "TopicsFailed",
            Self::IndexFailed(_) => "IndexFailed",
            Self::ReindexFailed(_) => "ReindexFailed",
            Self::ApplyFailed { .. } => "ApplyFailed",
            Self::StatusFailed(_) => "StatusFailed",
            Self::CleanupFailed(_) => "CleanupFailed",
            Self::FinalizerFailed(_) => "FinalizerFailed",
            Self::Unreadable(_) => "Unreadable",
        }
    }
}

/// Why a pass ends before its last station.
#[derive(Debug)]
pub enum Stop {
    /// Something that takes its time: its end wakes the pipeline.
    Waiting {
        reason: &'static str,
        message: String,
    },
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The innermost cause of an error: for "is it there?", what stands around it says nothing more.
#[must_use]
pub fn root(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}
