pub mod cancel;
pub mod create;
pub mod get;
pub mod search;
pub mod timeline;
