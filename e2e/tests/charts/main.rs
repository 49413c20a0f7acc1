//! The charts, without a cluster: linted and rendered by the real Helm 3 and Helm 4, and what they render is checked.

mod helm;
mod manifests;
mod pods;
mod rights;
mod sources;
mod values;
