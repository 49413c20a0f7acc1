pub mod get;
pub mod stock;
