//! Packets of Git's wire protocol (`gitprotocol-common`, pkt-line): four hexadecimal digits of
//! length, then the payload; `0000` flush, `0001` delimiter, `0002` response-end.

use crate::wire_error::WireError;

/// Longest packet in bytes, its length digits included.
pub const PACKET_MAX: usize = 65520;
/// Longest payload of a packet in bytes.
pub const PAYLOAD_MAX: usize = PACKET_MAX - HEADER_LEN;
/// Longest piece of data in one packet of `side-band-64k` and of v2, in bytes.
pub const BAND_MAX: usize = PAYLOAD_MAX - 1;
/// Longest piece of data in one packet of the old `side-band`, in bytes.
pub const SMALL_BAND_MAX: usize = 995;
/// Bytes of length digits in front of each packet.
pub const HEADER_LEN: usize = 4;
/// A packet that ends a section or a message.
pub const FLUSH: &[u8; 4] = b"0000";
/// A packet between two sections of a v2 message.
pub const DELIM: &[u8; 4] = b"0001";
/// An empty packet of side band 1, which says "still here".
pub const KEEPALIVE: &[u8; 5] = b"0005\x01";

/// The channels of a side band.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Band {
    /// Pack data.
    Data = 1,
    /// Progress for the user.
    Progress = 2,
    /// One line about a fatal error, after which nothing comes.
    Error = 3,
}

/// What four bytes of length say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// `0000`
    Flush,
    /// `0001`
    Delim,
    /// `0002`
    ResponseEnd,
    /// A payload of so many bytes follows, 0 to [`PAYLOAD_MAX`].
    Data(usize),
    /// More bytes follow than a packet may have.
    TooLong(usize),
}

impl Header {
    /// Reads the length digits.
    ///
    /// # Errors
    /// [`WireError::LengthFormat`] for anything but hexadecimal digits, [`WireError::TooShort`] for
    /// the length 3.
    pub fn parse(digits: [u8; HEADER_LEN]) -> Result<Header, WireError> {
        let mut length = 0;
        for digit in digits {
            let value = char::from(digit).to_digit(16).ok_or(WireError::LengthFormat)?;
            length = length * 16 + value as usize;
        }
        match length {
            0 => Ok(Header::Flush),
            1 => Ok(Header::Delim),
            2 => Ok(Header::ResponseEnd),
            3 => Err(WireError::TooShort),
            4..=PACKET_MAX => Ok(Header::Data(length - HEADER_LEN)),
            _ => Ok(Header::TooLong(length - HEADER_LEN)),
        }
    }
}

/// A whole packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0000`
    Flush,
    /// `0001`
    Delim,
    /// `0002`
    ResponseEnd,
    /// The payload, possibly empty (`0004`).
    Data(&'a [u8]),
}

impl<'a> Packet<'a> {
    /// The payload as a line, without the line feed that may end it; `None` for a packet that is
    /// none.
    ///
    /// # Errors
    /// [`WireError::TooShort`] if the packet is empty: no line of the protocol is.
    pub fn line(self) -> Result<Option<&'a [u8]>, WireError> {
        match self {
            Packet::Data([]) => Err(WireError::TooShort),
            Packet::Data(payload) => Ok(Some(chomp(payload))),
            _ => Ok(None),
        }
    }

    /// The error for this packet in a place where only a line may be.
    pub fn unexpected(self) -> WireError {
        match self {
            Packet::Flush => WireError::UnexpectedFlush,
            Packet::Delim => WireError::UnexpectedDelim,
            Packet::ResponseEnd => WireError::UnexpectedResponseEnd,
            Packet::Data(payload) => WireError::UnexpectedLine(crate::wire_error::quote(payload)),
        }
    }
}

/// Drops one line feed at the end.
pub fn chomp(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// Puts packets together from bytes as they come.
///
/// Tells how many bytes the packet under way still [needs](Decoder::need): a caller that reads no
/// more than that at a time reads exactly (four bytes, then the length) and leaves what follows the
/// packet, say a pack, in the pipe. Holds one packet at most.
#[derive(Debug)]
pub struct Decoder {
    header: [u8; HEADER_LEN],
    payload: Vec<u8>,
    state: DecoderState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DecoderState {
    Header {
        have: usize,
    },
    Payload {
        length: usize,
    },
    /// Too long: its bytes are read and dropped, so that a client that promises more than it sends
    /// is told so.
    Skip {
        left: usize,
    },
    Complete(Header),
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// A decoder at the beginning of a packet.
    pub fn new() -> Decoder {
        Decoder { header: [0; HEADER_LEN], payload: Vec::new(), state: DecoderState::Header { have: 0 } }
    }

    /// How many more bytes can be taken before the next decision; never 0.
    pub fn need(&self) -> usize {
        match self.state {
            DecoderState::Header { have } => HEADER_LEN - have,
            DecoderState::Payload { length } => length - self.payload.len(),
            DecoderState::Skip { left } => left,
            DecoderState::Complete(_) => HEADER_LEN,
        }
    }

    /// Whether no byte of a packet has come: the end of the input is an orderly one here.
    pub fn at_boundary(&self) -> bool {
        matches!(self.state, DecoderState::Header { have: 0 } | DecoderState::Complete(_))
    }

    /// The packet that the last [`Decoder::push`] completed, if it did.
    pub fn packet(&self) -> Option<Packet<'_>> {
        match self.state {
            DecoderState::Complete(Header::Flush) => Some(Packet::Flush),
            DecoderState::Complete(Header::Delim) => Some(Packet::Delim),
            DecoderState::Complete(Header::ResponseEnd) => Some(Packet::ResponseEnd),
            DecoderState::Complete(_) => Some(Packet::Data(&self.payload)),
            _ => None,
        }
    }

    /// Takes bytes from the front of `input`, at most to the end of one packet. Returns how many it
    /// took, and the packet if it is whole. The packet stays readable until the next call.
    ///
    /// # Errors
    /// A bad length, or a packet above the limit once all its bytes came. The decoder is of no use
    /// afterwards.
    pub fn push(&mut self, input: &[u8]) -> Result<(usize, Option<Packet<'_>>), WireError> {
        if let DecoderState::Complete(_) = self.state {
            self.payload.clear();
            self.state = DecoderState::Header { have: 0 };
        }
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            match self.state {
                DecoderState::Header { have } => {
                    let n = rest.len().min(HEADER_LEN - have);
                    self.header[have..have + n].copy_from_slice(&rest[..n]);
                    taken += n;
                    if have + n < HEADER_LEN {
                        self.state = DecoderState::Header { have: have + n };
                        return Ok((taken, None));
                    }
                    self.state = match Header::parse(self.header)? {
                        Header::Data(length) if length > 0 => DecoderState::Payload { length },
                        Header::TooLong(left) => DecoderState::Skip { left },
                        complete => DecoderState::Complete(complete),
                    };
                }
                DecoderState::Payload { length } => {
                    let n = rest.len().min(length - self.payload.len());
                    self.payload.extend_from_slice(&rest[..n]);
                    taken += n;
                    if self.payload.len() < length {
                        return Ok((taken, None));
                    }
                    self.state = DecoderState::Complete(Header::Data(length));
                }
                DecoderState::Skip { left } => {
                    let n = rest.len().min(left);
                    taken += n;
                    if n == left {
                        return Err(WireError::TooLong);
                    }
                    self.state = DecoderState::Skip { left: left - n };
                    return Ok((taken, None));
                }
                DecoderState::Complete(_) => return Ok((taken, self.packet())),
            }
        }
    }
}

/// The length digits of a packet whose payload has `payload` bytes.
///
/// # Errors
/// [`WireError::TooLong`] above [`PAYLOAD_MAX`].
pub fn header(payload: usize) -> Result<[u8; HEADER_LEN], WireError> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if payload > PAYLOAD_MAX {
        return Err(WireError::TooLong);
    }
    let length = payload + HEADER_LEN;
    Ok([12, 8, 4, 0].map(|shift| DIGITS[(length >> shift) & 15]))
}

/// Appends a packet with this payload.
///
/// # Errors
/// [`WireError::TooLong`] above [`PAYLOAD_MAX`]; `out` is as it was then.
pub fn write(out: &mut Vec<u8>, payload: &[u8]) -> Result<(), WireError> {
    write_parts(out, &[payload])
}

/// Appends a packet of several parts in a row.
///
/// # Errors
/// [`WireError::TooLong`] above [`PAYLOAD_MAX`].
pub fn write_parts(out: &mut Vec<u8>, parts: &[&[u8]]) -> Result<(), WireError> {
    let length = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    let header = header(length)?;
    out.reserve(header.len() + length);
    out.extend_from_slice(&header);
    for part in parts {
        out.extend_from_slice(part);
    }
    Ok(())
}

/// Appends an `ERR` packet. The text is cut to what fits.
pub fn write_err(out: &mut Vec<u8>, text: &str) {
    let text = &text.as_bytes()[..text.len().min(PAYLOAD_MAX - 4)];
    let length = header(4 + text.len()).expect("cut to what fits into a packet");
    out.extend_from_slice(&length);
    out.extend_from_slice(b"ERR ");
    out.extend_from_slice(text);
}

/// The five bytes in front of `data` bytes on a side band.
///
/// # Errors
/// [`WireError::TooLong`] above [`BAND_MAX`].
pub fn band_header(band: Band, data: usize) -> Result<[u8; 5], WireError> {
    let [a, b, c, d] = header(data.saturating_add(1))?;
    Ok([a, b, c, d, band as u8])
}

/// Appends `data` on a side band, in pieces of at most `max` bytes ([`BAND_MAX`] or
/// [`SMALL_BAND_MAX`]). Nothing is appended for no data.
pub fn write_band(out: &mut Vec<u8>, band: Band, data: &[u8], max: usize) {
    for piece in data.chunks(max.clamp(1, BAND_MAX)) {
        let length = band_header(band, piece.len()).expect("pieces are cut to what fits into a packet");
        out.extend_from_slice(&length);
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, PartialEq)]
    enum Owned {
        Flush,
        Delim,
        ResponseEnd,
        Data(Vec<u8>),
    }

    fn owned(packet: Packet<'_>) -> Owned {
        match packet {
            Packet::Flush => Owned::Flush,
            Packet::Delim => Owned::Delim,
            Packet::ResponseEnd => Owned::ResponseEnd,
            Packet::Data(payload) => Owned::Data(payload.to_vec()),
        }
    }

    fn decode(bytes: &[u8], step: usize) -> Result<(Vec<Owned>, bool), WireError> {
        let mut decoder = Decoder::new();
        let mut packets = Vec::new();
        for piece in bytes.chunks(step) {
            let mut rest = piece;
            while !rest.is_empty() {
                let (taken, packet) = decoder.push(rest)?;
                packets.extend(packet.map(owned));
                assert!(taken > 0);
                rest = &rest[taken..];
            }
        }
        Ok((packets, decoder.at_boundary()))
    }

    #[test]
    fn lengths() {
        assert_eq!(Header::parse(*b"0000"), Ok(Header::Flush));
        assert_eq!(Header::parse(*b"0001"), Ok(Header::Delim));
        assert_eq!(Header::parse(*b"0002"), Ok(Header::ResponseEnd));
        assert_eq!(Header::parse(*b"0003"), Err(WireError::TooShort));
        assert_eq!(Header::parse(*b"0004"), Ok(Header::Data(0)));
        assert_eq!(Header::parse(*b"fff0"), Ok(Header::Data(PAYLOAD_MAX)));
        assert_eq!(Header::parse(*b"FFF1"), Ok(Header::TooLong(65517)));
        for bad in [b"00g0", b"+001", b" 001", b"0x10", b"\0\0\0\0"] {
            assert_eq!(Header::parse(*bad), Err(WireError::LengthFormat));
        }
    }

    #[test]
    fn exact_reading_asks_for_four_bytes_and_then_for_the_length() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.need(), 4);
        assert_eq!(decoder.push(b"00").unwrap(), (2, None));
        assert_eq!(decoder.need(), 2);
        assert_eq!(decoder.push(b"09").unwrap(), (2, None));
        assert_eq!(decoder.need(), 5);
        assert_eq!(decoder.push(b"helloPACK").unwrap(), (5, Some(Packet::Data(b"hello"))));
        assert!(decoder.at_boundary());
        assert_eq!(decoder.need(), 4);
    }

    #[test]
    fn a_packet_above_the_limit_is_told_from_one_that_never_comes() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.push(b"ffffwant").unwrap(), (8, None));
        assert!(!decoder.at_boundary());
        assert_eq!(decoder.push(&[0; 65531 - 4]), Err(WireError::TooLong));
    }

    #[test]
    fn framing_of_bands_and_errors() {
        let mut out = Vec::new();
        write_band(&mut out, Band::Progress, b"hi\r", BAND_MAX);
        write_band(&mut out, Band::Data, b"", BAND_MAX);
        write_err(&mut out, "no");
        assert_eq!(out, b"0008\x02hi\r000aERR no");
        let mut out = Vec::new();
        write_band(&mut out, Band::Data, &[7; BAND_MAX + 1], usize::MAX);
        assert_eq!(&out[..5], b"fff0\x01");
        assert_eq!(&out[PACKET_MAX..], b"0006\x01\x07");
        let mut out = Vec::new();
        write_band(&mut out, Band::Data, &[7; 1000], SMALL_BAND_MAX);
        assert_eq!(&out[..5], b"03e8\x01");
        assert_eq!(write(&mut out, &[0; PAYLOAD_MAX + 1]), Err(WireError::TooLong));
        let mut out = Vec::new();
        write_err(&mut out, &"x".repeat(100_000));
        assert_eq!(out.len(), PACKET_MAX);
    }

    #[test]
    fn lines() {
        assert_eq!(Packet::Data(b"done\n").line(), Ok(Some(&b"done"[..])));
        assert_eq!(Packet::Data(b"done").line(), Ok(Some(&b"done"[..])));
        assert_eq!(Packet::Data(b"").line(), Err(WireError::TooShort));
        assert_eq!(Packet::Flush.line(), Ok(None));
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_in_any_pieces(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
            step in 1usize..400,
        ) {
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for payload in payloads {
                write(&mut bytes, &payload).unwrap();
                bytes.extend_from_slice(FLUSH);
                expected.push(Owned::Data(payload));
                expected.push(Owned::Flush);
            }
            prop_assert_eq!(decode(&bytes, step), Ok((expected, true)));
        }

        #[test]
        fn pieces_make_no_difference(bytes in proptest::collection::vec(
            prop_oneof![Just(b'0'), Just(b'1'), Just(b'2'), Just(b'5'), any::<u8>()], 0..200), step in 1usize..9) {
            prop_assert_eq!(decode(&bytes, step), decode(&bytes, 1000));
        }
    }
}
