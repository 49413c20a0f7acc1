//! The operator of `CommercePipeline` resources.

pub mod crd;
pub mod generated;
