//! Calls to the operating system: descriptors, processes, accounts, memory, the log. All `unsafe`
//! code of this crate is here. Calls that only Linux or only OpenBSD has are in [`system`], unless
//! they belong to the sandbox.

pub mod accounts;
pub mod credentials;
pub mod error;
pub mod free_space;
pub mod log;
pub mod memory;
#[cfg(all(any(test, target_env = "musl"), target_arch = "x86_64"))]
pub mod musl_mem;
pub mod passwd;
pub mod signals;
pub mod spawn;
pub mod system;
pub mod to_parent;
pub mod watchdog;
