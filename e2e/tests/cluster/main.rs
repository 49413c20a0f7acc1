//! The end-to-end tests: one promise a module, on the cluster that `make up` made. `make e2e` runs them.

mod around;
mod away;
mod bad_specs;
mod conflict;
mod control_plane;
mod deletion;
mod drift;
mod flowing;
mod healing;
mod isolation;
mod load;
mod operator;
mod order;
mod ready;
mod reindex;
mod releases;
mod restarts;
mod rollout;
mod scaling;
mod steady;
mod tls;
