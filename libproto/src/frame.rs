//! The fixed header in front of every privsep message.
//!
//! One `SOCK_SEQPACKET` record is one frame: [`HEADER_LEN`] bytes of header and a body of at most
//! [`MAX_BODY`] bytes. Numbers are little-endian; both ends run on one machine.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 2 | type of the message, unique within its direction |
//! | 2 | 2 | number of descriptors that travel with it |
//! | 4 | 4 | length of the body in bytes |
//! | 8 | 8 | peer: the session number that the message is about; 0: none |
//!
//! A question and its answer are about the same session, so that no number of a question is needed.

/// Length of a header in bytes.
pub const HEADER_LEN: usize = 16;
/// Longest body in bytes.
pub const MAX_BODY: usize = 16 * 1024;
/// Longest frame in bytes.
pub const MAX_FRAME: usize = HEADER_LEN + MAX_BODY;
/// Most descriptors in one frame: what a `session` process is started with.
pub const MAX_FDS: usize = 9;

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Type of the message, unique within its direction.
    pub kind: u16,
    /// Descriptors that travel with the frame.
    pub fds: u16,
    /// Length of the body in bytes.
    pub length: u32,
    /// Session number, or 0.
    pub peer: u64,
}

/// Why a record is not a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Fewer bytes than a header.
    Short(usize),
    /// More bytes than [`MAX_FRAME`].
    Long(usize),
    /// The header's length and the record's length differ.
    Length {
        /// What the header says, in bytes.
        claimed: u32,
        /// What arrived after the header, in bytes.
        arrived: usize,
    },
    /// The header's number of descriptors and what arrived differ.
    Descriptors {
        /// What the header says.
        claimed: u16,
        /// What arrived.
        arrived: usize,
    },
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FrameError::Short(n) => write!(f, "frame: {n} bytes, less than a header"),
            FrameError::Long(n) => write!(f, "frame: {n} bytes, more than {MAX_FRAME}"),
            FrameError::Length { claimed, arrived } => {
                write!(f, "frame: body of {claimed} bytes announced, {arrived} arrived")
            }
            FrameError::Descriptors { claimed, arrived } => {
                write!(f, "frame: {claimed} descriptors announced, {arrived} arrived")
            }
        }
    }
}

impl std::error::Error for FrameError {}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..2].copy_from_slice(&self.kind.to_le_bytes());
        out[2..4].copy_from_slice(&self.fds.to_le_bytes());
        out[4..8].copy_from_slice(&self.length.to_le_bytes());
        out[8..16].copy_from_slice(&self.peer.to_le_bytes());
        out
    }
}

/// Splits a record into header and body, after checking its length against what arrived.
/// `fds` is the number of descriptors that came with the record.
pub fn split(record: &[u8], fds: usize) -> Result<(Header, &[u8]), FrameError> {
    if record.len() > MAX_FRAME {
        return Err(FrameError::Long(record.len()));
    }
    let Some((head, body)) = record.split_first_chunk::<HEADER_LEN>() else {
        return Err(FrameError::Short(record.len()));
    };
    let [k0, k1, f0, f1, l0, l1, l2, l3, peer @ ..] = *head;
    let header = Header {
        kind: u16::from_le_bytes([k0, k1]),
        fds: u16::from_le_bytes([f0, f1]),
        length: u32::from_le_bytes([l0, l1, l2, l3]),
        peer: u64::from_le_bytes(peer),
    };
    if usize::try_from(header.length) != Ok(body.len()) {
        return Err(FrameError::Length { claimed: header.length, arrived: body.len() });
    }
    if usize::from(header.fds) != fds {
        return Err(FrameError::Descriptors { claimed: header.fds, arrived: fds });
    }
    Ok((header, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let header = Header { kind: 3, fds: 0, length: body.len() as u32, peer: u64::MAX };
        let mut record = header.encode().to_vec();
        record.extend_from_slice(body);
        record
    }

    #[test]
    fn round_trip() {
        let record = frame(b"body");
        let (header, body) = split(&record, 0).expect("a frame");
        assert_eq!((header.kind, header.peer), (3, u64::MAX));
        assert_eq!(body, b"body");
        assert_eq!(header.encode(), record[..HEADER_LEN]);
    }

    #[test]
    fn length_is_checked_against_what_arrived() {
        let mut record = frame(b"body");
        record.pop();
        assert_eq!(split(&record, 0), Err(FrameError::Length { claimed: 4, arrived: 3 }));
        assert_eq!(split(&record[..10], 0), Err(FrameError::Short(10)));
        assert_eq!(split(&[], 0), Err(FrameError::Short(0)));
        assert_eq!(split(&vec![0; MAX_FRAME + 1], 0), Err(FrameError::Long(MAX_FRAME + 1)));
    }

    #[test]
    fn an_unannounced_descriptor_is_an_error() {
        assert_eq!(split(&frame(b""), 1), Err(FrameError::Descriptors { claimed: 0, arrived: 1 }));
    }
}
