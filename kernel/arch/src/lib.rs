//! What the machine does.
#![cfg_attr(target_os = "none", no_std)]
#[cfg(target_os = "none")]
pub mod metal;
