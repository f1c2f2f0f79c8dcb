//! What the machine does.
#![cfg_attr(target_os = "none", no_std)]
pub mod x86;
#[cfg(target_os = "none")]
pub mod metal;
