//! Sending to the parent; a process without a parent exits.

use libproto::channel::{Channel, Message};

use super::system;

/// Sends a message to the parent; `peer` is the session that it is about, or 0. A process without a
/// parent has nothing left to do: it exits.
pub fn send<S: Message, R: Message>(parent: &Channel<S, R>, peer: u64, message: &S) {
    if parent.send(peer, message).is_err() {
        system::exit_now(1);
    }
}
