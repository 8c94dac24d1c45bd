//! The two protocols of gotd, with no I/O of their own: messages between its processes (frames,
//! typed messages, channels), and Git's wire protocol (pkt-lines and requests).
//!
//! **Invariant:** nothing here opens a file, looks at a clock or starts I/O that the caller did not
//! ask for, and there is no `unsafe`.

#![forbid(unsafe_code)]

pub mod channel;
pub mod codec;
pub mod frame;
pub mod limits;
pub mod message;
pub mod refusal;
pub mod states;

pub mod advertise;
pub mod command;
pub mod names;
pub mod pktline;
pub mod request;
pub mod self_service;
pub mod wire_error;
