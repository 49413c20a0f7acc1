//! The operator of `CommercePipeline` resources.
//!
//! [`controller`] decides when a pipeline is looked at, [`reconcile`] is one pass over it, [`crd`] is the resource itself.

pub mod cli;
pub mod config;
pub mod context;
pub mod controller;
pub mod crd;
pub mod generated;
pub mod leader;
pub mod metrics;
pub mod plan;
pub mod reconcile;
pub mod run;
