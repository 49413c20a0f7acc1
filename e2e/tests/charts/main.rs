//! The charts, without a cluster: linted and rendered by the real Helm 3 and Helm 4, and what they render is checked.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod helm;
mod manifests;
mod pods;
mod rights;
mod sources;
mod values;
