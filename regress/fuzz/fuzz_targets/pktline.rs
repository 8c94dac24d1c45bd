//! The packet decoder: pieces make no difference, and it never holds more than one packet.
#![no_main]
use libfuzzer_sys::fuzz_target;
use libproto::pktline::{Decoder, PAYLOAD_MAX, Packet};
use libproto::wire_error::WireError;

fn run(data: &[u8], step: usize) -> Result<(Vec<Vec<u8>>, bool), WireError> {
    let mut decoder = Decoder::new();
    let mut packets = Vec::new();
    for piece in data.chunks(step) {
        let mut rest = piece;
        while !rest.is_empty() {
            let (taken, packet) = decoder.push(rest)?;
            if let Some(packet) = packet {
                let payload = match packet {
                    Packet::Data(payload) => payload,
                    Packet::Flush => b"flush",
                    Packet::Delim => b"delim",
                    Packet::ResponseEnd => b"end",
                };
                assert!(payload.len() <= PAYLOAD_MAX);
                packets.push(payload.to_vec());
            }
            assert!(taken > 0);
            rest = &rest[taken..];
            assert!(decoder.need() > 0);
        }
    }
    Ok((packets, decoder.at_boundary()))
}

fuzz_target!(|data: &[u8]| {
    let Some((&step, data)) = data.split_first() else { return };
    assert_eq!(run(data, usize::from(step).max(1)), run(data, usize::MAX));
});
