//! The one place that knows how message bodies are encoded: bincode 2, serde derives, a limit.
//!
//! The crate is finished and no longer maintained; a change of codec stays a change of this file.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::MAX_BODY;

/// Why a body could not be encoded or decoded.
#[derive(Debug, PartialEq, Eq)]
pub enum CodecError {
    /// The value needs more than [`MAX_BODY`] bytes.
    TooLarge,
    /// The bytes are not a value of the expected type.
    Malformed,
    /// The value ended before the body did: bytes left over.
    TrailingBytes(usize),
}

impl std::fmt::Display for CodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CodecError::TooLarge => write!(f, "message body: more than {MAX_BODY} bytes"),
            CodecError::Malformed => write!(f, "message body: malformed"),
            CodecError::TrailingBytes(n) => write!(f, "message body: {n} bytes too many"),
        }
    }
}

impl std::error::Error for CodecError {}

/// Fixed-width integers in little-endian order would be simpler to read in a dump, but the variable
/// encoding keeps batches of small numbers small. The limit bounds what a decoder may claim to
/// need.
const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_BODY>,
> = bincode::config::standard().with_limit::<MAX_BODY>();

/// Appends the encoding of `value` to `out`; at most [`MAX_BODY`] bytes.
pub fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    // The crate's limit holds for decoding only, so the length is checked here.
    let body = bincode::serde::encode_to_vec(value, CONFIG).map_err(|_| CodecError::Malformed)?;
    if body.len() > MAX_BODY {
        return Err(CodecError::TooLarge);
    }
    out.extend_from_slice(&body);
    Ok(())
}

/// Decodes exactly one value; every byte of `body` must be used.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    if body.len() > MAX_BODY {
        return Err(CodecError::TooLarge);
    }
    let (value, used) = bincode::serde::decode_from_slice(body, CONFIG).map_err(|_| CodecError::Malformed)?;
    match body.len().checked_sub(used) {
        Some(0) => Ok(value),
        Some(left) => Err(CodecError::TrailingBytes(left)),
        None => Err(CodecError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
        let mut out = Vec::new();
        encode(value, &mut out).expect("encodes");
        out
    }

    #[test]
    fn round_trip() {
        let value = (7u64, String::from("refs/heads/main"), vec![1u8, 2, 3]);
        assert_eq!(decode::<(u64, String, Vec<u8>)>(&bytes(&value)), Ok(value));
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        let mut body = bytes(&5u32);
        body.push(0);
        assert_eq!(decode::<u32>(&body), Err(CodecError::TrailingBytes(1)));
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        // A vector that says it has 2^62 elements.
        let body = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0x40];
        assert_eq!(decode::<Vec<u64>>(&body), Err(CodecError::Malformed));
    }

    #[test]
    fn too_large_is_refused_on_both_sides() {
        let big = vec![1u8; MAX_BODY + 1];
        assert_eq!(encode(&big, &mut Vec::new()), Err(CodecError::TooLarge));
        assert_eq!(decode::<Vec<u8>>(&big), Err(CodecError::TooLarge));
    }
}
