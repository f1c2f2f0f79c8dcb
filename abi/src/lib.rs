//! The numbers and layouts that the kernel and its users share.
//!
//! Every word that crosses the border between the kernel and a user program is
//! described here once: the call numbers ([`call`]), the five argument
//! registers of each call ([`args`]), the status that comes back ([`status`]),
//! capability range descriptors and typed items ([`crd`]), permission bits and
//! well-known selectors ([`cap`]), the message page and the vCPU state page
//! ([`utcb`], [`mtd`]), the information page ([`hip`]) and the exit reasons of
//! a guest ([`exit`]), and what the kernel tells about itself ([`log`]).
//!
//! This crate decides nothing: whether a call is allowed and what it does is
//! the business of the kernel. The text that goes with it is `docs/spec`.
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

pub mod args;
pub mod call;
pub mod cap;
pub mod crd;
pub mod exit;
pub mod hip;
pub mod log;
pub mod mtd;
pub mod status;
pub mod utcb;

pub use call::Call;
pub use cap::Selector;
pub use crd::{Crd, CrdKind, ItemKind, TypedItem};
pub use mtd::Mtd;
pub use status::Status;

/// Version of the interface, as in the HIP's `api_ver`.
pub const API_VERSION: u32 = 10000;

/// Bytes in a page, a UTCB and a kernel page.
pub const PAGE_SIZE: u64 = 4096;

/// Binary logarithm of [`PAGE_SIZE`].
pub const PAGE_BITS: u32 = 12;
