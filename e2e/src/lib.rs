//! What the end-to-end tests share: the way to the cluster that `make up` made, to the pipelines in it and to their stores.
//!
//! The tests see the project as its users do: through the Kubernetes API, `kubectl`, `helm` and HTTP, and through the
//! stores themselves. They know none of the operator's or the services' own types.

pub mod cluster;
pub mod environment;
pub mod eventually;
pub mod k6;
pub mod orders;
pub mod pipeline;
pub mod scenario;
pub mod stores;
pub mod tenant;
