//! The turn to index and check: asked of the parent when there is something to do, and given back
//! while the client sends nothing.

use std::cell::Cell;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use libproto::channel::Received;
use libproto::message::parent::{PackWait, ParentToVerify, VerifyToParent};
use libproto::message::push::VerifyToSession;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Parent, Session, send};
use crate::os::system;
use crate::os::watchdog::{self, Phase};
use crate::session::pipes::Input;

/// How long one turn may wait for its client, all waits together, before others get its place.
const PATIENCE: Duration = Duration::from_millis(100);
/// Time between two looks at the watchdog while a turn is waited for.
const TICK: Duration = Duration::from_secs(1);
/// Bytes of memory that a push takes, roughly, beside what it takes for each object and for large
/// ones.
const BASE: u64 = 72 << 20;
/// Bytes of memory for each object of the pack.
const PER_OBJECT: u64 = 100;

/// The turn of a push.
pub(super) struct PushTurn<'a> {
    parent: &'a Parent,
    session: &'a Session,
    held: Cell<bool>,
    /// How long the client was waited for in this turn.
    waited: Cell<Duration>,
    memory: Cell<u64>,
}

impl<'a> PushTurn<'a> {
    /// A turn that was not asked for yet.
    pub(super) fn new(parent: &'a Parent, session: &'a Session) -> PushTurn<'a> {
        PushTurn { parent, session, held: Cell::new(false), waited: Cell::default(), memory: Cell::new(BASE) }
    }

    /// Waits for a turn, unless there is one.
    pub(super) fn take(&self) -> io::Result<()> {
        if self.held.get() { Ok(()) } else { watchdog::during(Phase::Work, || self.ask()) }
    }

    /// `come` objects have arrived, of `claimed` in the pack's header. Waits for memory for more
    /// where that is due.
    pub(super) fn objects(&self, come: u64, claimed: u64) -> io::Result<()> {
        let Some(needed) = more_memory(self.memory.get(), come, claimed) else { return Ok(()) };
        self.memory.set(needed);
        if self.held.get() { watchdog::during(Phase::Work, || self.ask()) } else { Ok(()) }
    }

    fn ask(&self) -> io::Result<()> {
        send(self.parent, 0, &VerifyToParent::NeedTurn(self.memory.get()));
        loop {
            let mut fds = [PollFd::new(self.parent.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            watchdog::worked();
            match self.parent.try_recv() {
                Ok(Received { message: ParentToVerify::Turn(()), .. }) => break,
                Ok(Received { message: ParentToVerify::Waits(wait), .. }) => self.send_wait(&wait),
                Ok(Received { message: ParentToVerify::NoTurn(refusal), .. }) => {
                    return Err(refusal.into());
                }
                Err(e) if e.is_transient() => {}
                _ => system::exit_now(1),
            }
        }
        self.held.set(true);
        self.waited.set(Duration::ZERO);
        Ok(())
    }

    /// Tells the client why it waits, if the session listens.
    fn send_wait(&self, PackWait { made, others, limit }: &PackWait) {
        let line =
            format!("waiting for other pushes: {made} being checked, {others} more in the queue ({limit})");
        let _ = self.session.try_send(0, &VerifyToSession::Progress((line, true)));
    }

    /// Waits until the client has sent something. After a while others get the place, however often
    /// a little came meanwhile.
    fn await_input(&self, input: &Input) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            let waited = self.waited.get().saturating_add(begun.elapsed());
            let patience = if self.held.get() { PATIENCE.saturating_sub(waited) } else { TICK };
            let mut fds = [
                PollFd::new(input.fd(), PollFlags::POLLIN),
                PollFd::new(self.parent.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let [ready, word] = fds.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            let waited = self.waited.get().saturating_add(begun.elapsed());
            if !ready && waited >= PATIENCE && self.held.replace(false) {
                send(self.parent, 0, &VerifyToParent::Stalled(self.memory.get()));
            }
            if word {
                match self.parent.try_recv() {
                    Ok(Received { message: ParentToVerify::NoTurn(refusal), .. }) => {
                        return Err(refusal.into());
                    }
                    Err(e) if e.is_transient() => {}
                    _ => system::exit_now(1),
                }
            }
            if ready {
                self.waited.set(waited);
                return Ok(());
            }
        }
    }
}

/// The memory to reserve once `come` objects have arrived: enough for twice as many. `None`: the
/// reserved memory suffices. The number in a pack's header is a mere claim and reserves nothing: it
/// only bounds this reservation.
fn more_memory(reserved: u64, come: u64, claimed: u64) -> Option<u64> {
    let memory = |objects: u64| BASE.saturating_add(objects.saturating_mul(PER_OBJECT));
    // An eighth more is not worth a wait.
    let suffices = memory(come) <= reserved.saturating_add(reserved / 8);
    (!suffices).then(|| memory(come.saturating_mul(2).min(claimed.max(come))))
}

/// The client's input, which is read only in a turn.
pub(super) struct InTurn<'a> {
    pub(super) input: Input,
    pub(super) turn: &'a PushTurn<'a>,
}

impl Read for InTurn<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // What has come is our own work, the wait for it the client's.
        watchdog::during(Phase::Transfer, || self.turn.await_input(&self.input))?;
        self.turn.take()?;
        self.input.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reserved_for_objects_that_have_come_and_not_for_a_claim() {
        const MANY: u64 = 20_000_000;
        let all = |objects: u64| Some(BASE + objects * PER_OBJECT);
        // Reserved, come, claimed, and what is reserved then.
        let table = [
            (BASE, 0, MANY, None),
            (BASE, 50_000, MANY, None),
            (BASE, 50_000, 50_000, None),
            (BASE, 200_000, MANY, all(400_000)),
            (BASE, 200_000, 200_000, all(200_000)),
            (BASE, 200_000, 300_000, all(300_000)),
            (BASE + 400_000 * PER_OBJECT, 400_000, MANY, None),
            (BASE + 400_000 * PER_OBJECT, 600_000, MANY, all(1_200_000)),
            // A claim that is too small does not make less of what is there.
            (BASE, 200_000, 1, all(200_000)),
        ];
        for (reserved, come, claimed, expected) in table {
            assert_eq!(more_memory(reserved, come, claimed), expected, "{reserved} {come} {claimed}");
        }
        // All of the pack, one object after the other: never much less than what is there takes.
        let mut reserved = BASE;
        for come in (0..MANY).step_by(1000) {
            reserved = more_memory(reserved, come, MANY).unwrap_or(reserved);
            assert!(reserved + reserved / 8 >= BASE + come * PER_OBJECT, "{come}");
            assert!(reserved <= BASE + come * 2 * PER_OBJECT, "{come}");
        }
    }
}
