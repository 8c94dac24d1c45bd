//! A typed end of a `SOCK_SEQPACKET` socket: sends one enum, receives another.
//!
//! A record boundary ties each descriptor to its message; on a byte stream two messages can arrive
//! as one read. The type parameters make the wrong direction a compile error.
//!
//! No function here starts I/O on its own: each call is one system call that the caller asked for.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, send, sendmsg,
};

use crate::codec::CodecError;
use crate::frame::{self, FrameError, Header, MAX_FDS, MAX_FRAME};

/// One direction of one link: an enum whose variants are the messages. Implemented by
/// [`messages!`](crate::messages).
pub trait Message: Sized {
    /// The link and direction, for error texts: `session to parent`.
    const LINK: &'static str;
    /// The types of message, without what they carry: what a table of states names.
    type Kind: Copy + PartialEq + std::fmt::Debug + 'static;
    /// All types, in the order of their numbers.
    const KINDS: &'static [Self::Kind];
    /// The type of this message.
    fn kind(&self) -> Self::Kind;
    /// Its number on the wire.
    fn number(&self) -> u16;
    /// The message's name, for logs.
    fn name(&self) -> &'static str;
    /// The number of descriptors that a message of this type carries; `None`: no such type.
    fn descriptors(kind: u16) -> Option<usize>;
    /// Appends the body.
    fn encode_body(&self, out: &mut Vec<u8>) -> Result<(), CodecError>;
    /// Decodes the body of a message of type `kind`; `None`: no such type.
    fn decode_body(kind: u16, body: &[u8]) -> Option<Result<Self, CodecError>>;
}

/// A message as it came in.
#[derive(Debug)]
pub struct Received<M> {
    /// Session number, or 0.
    pub peer: u64,
    /// The message.
    pub message: M,
    /// The descriptors that came with it, as many as its type says.
    pub fds: Vec<OwnedFd>,
}

/// Why receiving failed. Everything but `Io` with `WouldBlock` or `Interrupted` ends the sender.
#[derive(Debug)]
pub enum RecvError {
    /// The other end is closed.
    Closed,
    /// The system call failed.
    Io(io::Error),
    /// The record or its descriptors did not fit (`MSG_TRUNC`, `MSG_CTRUNC`).
    Truncated,
    /// Not a frame.
    Frame(FrameError),
    /// A type that this direction does not have: link, type. Wants a typed refusal.
    UnknownType(&'static str, u16),
    /// The number of descriptors is not the one that this type of message carries.
    Descriptors(&'static str, usize),
    /// The body is not what the type says.
    Body(&'static str, u16, CodecError),
}

impl std::fmt::Display for RecvError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RecvError::Closed => write!(f, "closed"),
            RecvError::Io(e) => write!(f, "receive: {e}"),
            RecvError::Truncated => write!(f, "receive: truncated record"),
            RecvError::Frame(e) => e.fmt(f),
            RecvError::UnknownType(link, kind) => write!(f, "{link}: unknown message type {kind}"),
            RecvError::Descriptors(link, n) => write!(f, "{link}: {n} descriptors where none belong"),
            RecvError::Body(link, kind, e) => write!(f, "{link}: type {kind}: {e}"),
        }
    }
}

impl std::error::Error for RecvError {}

impl RecvError {
    /// Nothing was there to receive, or a signal came first: try again after the next poll.
    pub fn is_transient(&self) -> bool {
        matches!(self, RecvError::Io(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted))
    }
}

/// Why sending failed.
#[derive(Debug)]
pub enum SendError {
    /// The message does not fit a frame: our own mistake.
    Codec(CodecError),
    /// The descriptors are not as many as the message's type carries: our own mistake.
    Descriptors(&'static str),
    /// The system call failed. `EAGAIN` on a link that does not wait, `EPIPE`, and for descriptors
    /// also `ETOOMANYREFS` and `EMFILE`: ends that client, never the sender.
    Io(io::Error),
}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SendError::Codec(e) => e.fmt(f),
            SendError::Descriptors(link) => write!(f, "{link}: wrong number of descriptors to send"),
            SendError::Io(e) => write!(f, "send: {e}"),
        }
    }
}

impl std::error::Error for SendError {}

/// The frame of one message, ready to be sent: for senders that queue.
pub fn encode<M: Message>(peer: u64, message: &M) -> Result<Vec<u8>, SendError> {
    let mut out = vec![0; frame::HEADER_LEN];
    message.encode_body(&mut out).map_err(SendError::Codec)?;
    let length =
        u32::try_from(out.len() - frame::HEADER_LEN).map_err(|_| SendError::Codec(CodecError::TooLarge))?;
    let fds = M::descriptors(message.number()).and_then(|n| u16::try_from(n).ok()).unwrap_or(0);
    let header = Header { kind: message.number(), fds, length, peer };
    out[..frame::HEADER_LEN].copy_from_slice(&header.encode());
    Ok(out)
}

/// Decodes one record that came with `fds`.
pub fn decode<M: Message>(record: &[u8], fds: Vec<OwnedFd>) -> Result<Received<M>, RecvError> {
    let (header, body) = frame::split(record, fds.len()).map_err(RecvError::Frame)?;
    let unknown = || RecvError::UnknownType(M::LINK, header.kind);
    if M::descriptors(header.kind).ok_or_else(unknown)? != fds.len() {
        return Err(RecvError::Descriptors(M::LINK, fds.len()));
    }
    let message = M::decode_body(header.kind, body)
        .ok_or_else(unknown)?
        .map_err(|e| RecvError::Body(M::LINK, header.kind, e))?;
    Ok(Received { peer: header.peer, message, fds })
}

/// Sends one finished frame, without descriptors. `wait`: block until there is room.
pub fn send_record(fd: BorrowedFd<'_>, record: &[u8], wait: bool) -> io::Result<()> {
    let flags = if wait { SendFlags::NOSIGNAL } else { SendFlags::NOSIGNAL | SendFlags::DONTWAIT };
    loop {
        match send(fd, record, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// As [`send_record`], for the first words of a client. The daemon may have refused and closed the
/// connection before they arrive. That is no error here, because the daemon's reason can still be
/// received.
pub fn send_first_words(fd: BorrowedFd<'_>, record: &[u8]) -> io::Result<()> {
    match send_record(fd, record, true) {
        Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
        result => result,
    }
}

/// Sends one finished frame with at most [`MAX_FDS`] descriptors; does not wait for room.
pub fn send_record_with_fds(fd: BorrowedFd<'_>, record: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let vectors = [io::IoSlice::new(record)];
    loop {
        match sendmsg(fd, &vectors, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Receives one record of at most `buffer.len() - 1` bytes into `buffer`, without descriptors: the
/// kernel discards attached ones. Returns the record's length; a longer record is an error.
pub fn recv_record(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, RecvError> {
    recv_record_as(fd, buffer, RecvFlags::empty())
}

fn recv_record_as(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, RecvError> {
    match unless_reset(|| recv(fd, &mut *buffer, flags)) {
        Ok((_, 0)) => Err(RecvError::Closed),
        // The spare byte at the end tells a record that was cut off from one that just fits.
        Ok((_, n)) if n >= buffer.len() => Err(RecvError::Truncated),
        Ok((_, n)) => Ok(n),
        Err(Errno::CONNRESET) => Err(RecvError::Closed),
        Err(e) => Err(RecvError::Io(e.into())),
    }
}

/// Receives, and once more where the other end was closed with something unread: the system says so
/// before it hands out what was sent until then, which may be why the other end was closed.
fn unless_reset<T>(mut receive: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    match receive() {
        Err(Errno::CONNRESET) => receive(),
        result => result,
    }
}

/// Receives one record with at most [`MAX_FDS`] descriptors, close-on-exec.
pub fn recv_record_with_fds(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<(usize, Vec<OwnedFd>), RecvError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut vectors = [io::IoSliceMut::new(buffer)];
    let receive = || recvmsg(fd, &mut vectors, &mut control, RecvFlags::CMSG_CLOEXEC);
    let message = match unless_reset(receive) {
        Ok(message) => message,
        Err(Errno::CONNRESET) => return Err(RecvError::Closed),
        Err(e) => return Err(RecvError::Io(e.into())),
    };
    let mut fds = Vec::with_capacity(MAX_FDS);
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(RecvError::Truncated);
    }
    if message.bytes == 0 && fds.is_empty() {
        return Err(RecvError::Closed);
    }
    Ok((message.bytes, fds))
}

/// One end of a link: sends `S`, receives `R`.
#[derive(Debug)]
pub struct Channel<S, R> {
    fd: OwnedFd,
    direction: PhantomData<fn(S) -> R>,
}

impl<S, R> AsFd for Channel<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<S, R> From<OwnedFd> for Channel<S, R> {
    fn from(fd: OwnedFd) -> Self {
        Channel { fd, direction: PhantomData }
    }
}

impl<S, R> From<Channel<S, R>> for OwnedFd {
    fn from(channel: Channel<S, R>) -> OwnedFd {
        channel.fd
    }
}

impl<S: Message, R: Message> Channel<S, R> {
    /// Sends one message without descriptors; blocks until there is room.
    pub fn send(&self, peer: u64, message: &S) -> Result<(), SendError> {
        self.send_as(peer, message, true)
    }

    /// Sends one message without descriptors; `EAGAIN` when there is no room.
    pub fn try_send(&self, peer: u64, message: &S) -> Result<(), SendError> {
        self.send_as(peer, message, false)
    }

    fn send_as(&self, peer: u64, message: &S, wait: bool) -> Result<(), SendError> {
        if S::descriptors(message.number()) != Some(0) {
            return Err(SendError::Descriptors(S::LINK));
        }
        send_record(self.as_fd(), &encode(peer, message)?, wait).map_err(SendError::Io)
    }

    /// Sends one message with descriptors, as many as its type carries; does not wait for room,
    /// because a receiver that does not take its descriptors must not stop the sender.
    pub fn send_with_fds(&self, peer: u64, message: &S, fds: &[BorrowedFd<'_>]) -> Result<(), SendError> {
        if S::descriptors(message.number()) != Some(fds.len()) || fds.len() > MAX_FDS {
            return Err(SendError::Descriptors(S::LINK));
        }
        send_record_with_fds(self.as_fd(), &encode(peer, message)?, fds).map_err(SendError::Io)
    }

    /// Receives one message of a type that carries no descriptors. Needs no right to receive
    /// descriptors: the kernel drops whatever is attached.
    pub fn recv(&self) -> Result<Received<R>, RecvError> {
        let mut buffer = [0; MAX_FRAME + 1];
        let n = recv_record(self.as_fd(), &mut buffer)?;
        decode(&buffer[..n], Vec::new())
    }

    /// As [`Channel::recv`], but does not wait: `WouldBlock` when there is nothing.
    pub fn try_recv(&self) -> Result<Received<R>, RecvError> {
        let mut buffer = [0; MAX_FRAME + 1];
        let n = recv_record_as(self.as_fd(), &mut buffer, RecvFlags::DONTWAIT)?;
        decode(&buffer[..n], Vec::new())
    }

    /// Receives one message with the descriptors that its type carries.
    pub fn recv_with_fds(&self) -> Result<Received<R>, RecvError> {
        let mut buffer = [0; MAX_FRAME + 1];
        let (n, fds) = recv_record_with_fds(self.as_fd(), &mut buffer)?;
        decode(&buffer[..n], fds)
    }
}

/// Defines the enum of one direction of one link, with its [`Message`] implementation, and the enum
/// of its types:
///
/// ```
/// libproto::messages! {
///     /// What a cook tells a waiter.
///     pub enum CookToWaiter, CookToWaiterKind: "cook to waiter" {
///         /// The soup is ready, this many plates.
///         1 => SoupReady(u32),
///         /// Here is the tray (a descriptor).
///         2 => Tray(()) with 1,
///     }
/// }
/// ```
#[macro_export]
macro_rules! messages {
    ($(#[$doc:meta])* pub enum $name:ident, $kinds:ident: $link:literal {
        $($(#[$vdoc:meta])* $kind:literal => $variant:ident($body:ty) $(with $fds:literal)?,)+
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(clippy::large_enum_variant, reason = "a message lives from its receipt to its answer, and few at a time")]
        pub enum $name { $($(#[$vdoc])* $variant($body),)+ }

        #[doc = concat!("The types of [`", stringify!($name), "`].")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u16)]
        pub enum $kinds { $($(#[$vdoc])* $variant = $kind,)+ }

        impl $crate::channel::Message for $name {
            const LINK: &'static str = $link;
            type Kind = $kinds;
            const KINDS: &'static [$kinds] = &[$($kinds::$variant),+];
            fn kind(&self) -> $kinds { match self { $($name::$variant(_) => $kinds::$variant,)+ } }
            fn number(&self) -> u16 { self.kind() as u16 }
            fn name(&self) -> &'static str { match self { $($name::$variant(_) => stringify!($variant),)+ } }
            fn descriptors(kind: u16) -> Option<usize> {
                match kind { $($kind => Some(0 $(+ $fds)?),)+ _ => None }
            }
            fn encode_body(&self, out: &mut Vec<u8>) -> Result<(), $crate::codec::CodecError> {
                match self { $($name::$variant(body) => $crate::codec::encode(body, out),)+ }
            }
            fn decode_body(kind: u16, body: &[u8]) -> Option<Result<Self, $crate::codec::CodecError>> {
                match kind { $($kind => Some($crate::codec::decode(body).map($name::$variant)),)+ _ => None }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    crate::messages! {
        /// One way.
        pub enum Ask, AskKind: "ask" {
            /// A number.
            1 => Number(u32),
            /// A descriptor.
            2 => Give(()) with 1,
        }
    }
    crate::messages! {
        /// The other way.
        pub enum Answer, AnswerKind: "answer" {
            /// A text.
            1 => Text(String),
        }
    }

    fn pair() -> (Channel<Ask, Answer>, Channel<Answer, Ask>) {
        let (a, b) = raw_pair();
        (a.into(), b.into())
    }

    fn raw_pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a socketpair")
    }

    #[test]
    fn a_last_word_is_heard_though_something_was_left_unread() {
        for with_fds in [false, true] {
            let (a, b) = pair();
            a.send(0, &Ask::Number(1)).expect("sends");
            b.send(0, &Answer::Text("no".into())).expect("sends");
            drop(b);
            let heard = if with_fds { a.recv_with_fds() } else { a.recv() };
            assert_eq!(heard.expect("the last word").message, Answer::Text("no".into()));
            assert!(matches!(a.recv(), Err(RecvError::Closed)));
        }
    }

    #[test]
    fn messages_and_descriptors_arrive_together() {
        let (a, b) = pair();
        a.send(2, &Ask::Number(3)).expect("sends");
        let (x, _y) = raw_pair();
        a.send_with_fds(5, &Ask::Give(()), &[x.as_fd()]).expect("sends");
        let first = b.recv_with_fds().expect("receives");
        assert_eq!((first.peer, first.message, first.fds.len()), (2, Ask::Number(3), 0));
        let second = b.recv_with_fds().expect("receives");
        assert_eq!((second.peer, second.message, second.fds.len()), (5, Ask::Give(()), 1));
        b.send(2, &Answer::Text("yes".into())).expect("sends");
        assert_eq!(a.recv().expect("receives").message, Answer::Text("yes".into()));
    }

    #[test]
    fn an_unexpected_descriptor_is_an_error() {
        let (a, b) = pair();
        let (x, _y) = raw_pair();
        let mut record = encode(0, &Ask::Number(1)).expect("encodes");
        record[2] = 1; // says one descriptor, for a type that has none
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [x.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(a.as_fd(), &[io::IoSlice::new(&record)], &mut control, SendFlags::empty()).expect("sends");
        assert!(matches!(b.recv_with_fds(), Err(RecvError::Descriptors("ask", 1))));
    }

    #[test]
    fn a_missing_descriptor_is_an_error() {
        let (a, b) = pair();
        let record = encode(0, &Ask::Give(())).expect("encodes");
        send_record(a.as_fd(), &record, true).expect("sends");
        assert!(matches!(b.recv_with_fds(), Err(RecvError::Frame(FrameError::Descriptors { .. }))));
        assert!(matches!(a.send(0, &Ask::Give(())), Err(SendError::Descriptors("ask"))));
    }

    #[test]
    fn more_descriptors_than_fit_are_an_error_and_are_closed() {
        let (a, b) = pair();
        let (x, _y) = raw_pair();
        // The space is rounded up, so a few more may still fit (the header refuses those); sixteen
        // do not.
        let fds = [x.as_fd(); 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let record = encode(0, &Ask::Number(1)).expect("encodes");
        sendmsg(a.as_fd(), &[io::IoSlice::new(&record)], &mut control, SendFlags::empty()).expect("sends");
        assert!(matches!(b.recv_with_fds(), Err(RecvError::Truncated)));
    }

    #[test]
    fn unknown_types_long_records_and_the_end_are_told_apart() {
        let (a, b) = pair();
        let header = Header { kind: 99, fds: 0, length: 0, peer: 0 };
        send_record(a.as_fd(), &header.encode(), true).expect("sends");
        assert!(matches!(b.recv(), Err(RecvError::UnknownType("ask", 99))));
        send_record(a.as_fd(), &vec![0; MAX_FRAME + 1], true).expect("sends");
        assert!(matches!(b.recv(), Err(RecvError::Truncated)));
        drop(a);
        assert!(matches!(b.recv(), Err(RecvError::Closed)));
    }

    /// Who was refused before the greeting was sent was told of a broken pipe, and not why.
    #[test]
    fn first_words_that_come_too_late_leave_the_reason_to_be_received() {
        for too_late in [true, false] {
            let (a, b) = pair();
            if !too_late {
                send_first_words(b.as_fd(), b"hello").expect("sends");
            }
            a.send(0, &Ask::Number(7)).expect("sends");
            drop(a);
            send_first_words(b.as_fd(), b"hello").expect("is no error");
            assert!(matches!(b.recv(), Ok(Received { message: Ask::Number(7), .. })));
            assert!(matches!(b.recv(), Err(RecvError::Closed)));
        }
    }

    #[test]
    fn a_sender_that_does_not_wait_is_told() {
        let (a, _b) = pair();
        let full = (0..100_000).find_map(|n| a.try_send(0, &Ask::Number(n)).err()).expect("fills up");
        assert!(matches!(full, SendError::Io(e) if e.kind() == io::ErrorKind::WouldBlock));
    }
}
