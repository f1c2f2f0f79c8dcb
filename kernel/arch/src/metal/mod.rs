//! The machine itself.
pub mod serial;
