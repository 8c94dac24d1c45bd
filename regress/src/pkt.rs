//! Git's packet lines, for scripted clients.

/// One packet with this payload.
pub fn line(payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut out = format!("{:04x}", payload.len() + 4).into_bytes();
    out.extend_from_slice(payload);
    out
}

/// Several packets and a flush packet.
pub fn lines<T: AsRef<[u8]>>(payloads: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut out: Vec<u8> = payloads.into_iter().flat_map(line).collect();
    out.extend_from_slice(FLUSH);
    out
}

/// A request of protocol v2: the command, its capabilities, a delimiter, its arguments, a flush
/// packet.
pub fn v2<T: AsRef<[u8]>>(command: &str, arguments: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut out = line(format!("command={command}\n"));
    out.extend(line("agent=regress/1\n"));
    out.extend(line("object-format=sha1"));
    out.extend_from_slice(DELIM);
    out.extend(arguments.into_iter().flat_map(line));
    out.extend_from_slice(FLUSH);
    out
}

/// The flush packet.
pub const FLUSH: &[u8] = b"0000";
/// The delimiter packet.
pub const DELIM: &[u8] = b"0001";

/// The packets in some bytes: payloads, `None` for 0000, 0001 and 0002. Stops at what is no packet.
pub fn split(mut bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut out = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(4) {
        let Some(length) = std::str::from_utf8(head).ok().and_then(|h| usize::from_str_radix(h, 16).ok())
        else {
            break;
        };
        if length < 4 {
            out.push(None);
            bytes = rest;
            continue;
        }
        let Some((payload, rest)) = rest.split_at_checked(length - 4) else { break };
        out.push(Some(payload.to_vec()));
        bytes = rest;
    }
    out
}

/// The data of the side band's first channel, which is the pack, in the answer to a fetch.
#[track_caller]
pub fn pack_of(mut answer: &[u8]) -> Vec<u8> {
    let mut pack = Vec::new();
    while let Some((head, rest)) = answer.split_at_checked(4) {
        let length =
            usize::from_str_radix(std::str::from_utf8(head).expect("a length"), 16).expect("a length");
        let (packet, rest) = rest.split_at_checked(length.saturating_sub(4)).expect("a whole packet");
        if let Some(data) = packet.strip_prefix(b"\x01") {
            pack.extend_from_slice(data);
        }
        answer = rest;
    }
    pack
}

/// The text of the `ERR` packet among some bytes.
pub fn error(bytes: &[u8]) -> Option<String> {
    split(bytes).into_iter().flatten().find_map(|payload| {
        let text = payload.strip_prefix(b"ERR ")?;
        Some(String::from_utf8_lossy(text).trim_end().to_owned())
    })
}
