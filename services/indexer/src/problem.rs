//! What is the matter with a connection, in words that lead to the cause.

use std::error::Error;

use commerce_core::elasticsearch;

/// An error of a call on Elasticsearch, with its cause.
pub(crate) fn with_cause(error: &elasticsearch::Error) -> String {
    match error {
        elasticsearch::Error::Transport { action, source } => {
            format!("calling Elasticsearch to {action}: {}", causes(source))
        }
        other => other.to_string(),
    }
}

/// The causes of an error without the error itself, which says little more than "error sending request for url".
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        causes.push(error.to_string());
        next = error.source();
    }
    // A wrapper that adds nothing says the same as its cause.
    causes.dedup();
    causes.retain(|cause| *cause != error.to_string());
    if causes.is_empty() {
        error.to_string()
    } else {
        causes.join(": ")
    }
}
