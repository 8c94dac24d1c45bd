//! Bytes from outside as text that harms nobody.

use std::fmt;

/// Makes text from outside safe for a log line, a terminal and a message to a client: letters and
/// digits of every script and printable ASCII stay, everything else (control bytes, terminal
/// escapes, bidirectional marks, quotes, backslashes, bytes that are not UTF-8) becomes `\xNN`. The
/// result is at most four times as long as the input.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let plain = if c.is_ascii() {
                !c.is_ascii_control() && c != '"' && c != '\\'
            } else {
                c.is_alphanumeric()
            };
            if plain {
                out.push(c);
            } else {
                let mut utf8 = [0; 4];
                push_hex(&mut out, c.encode_utf8(&mut utf8).as_bytes());
            }
        }
        push_hex(&mut out, chunk.invalid());
    }
    out
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    use fmt::Write;
    for b in bytes {
        // Writing to a string cannot fail.
        let _ = write!(out, "\\x{b:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_leave_nothing_that_a_terminal_obeys() {
        assert_eq!(escape(b"refs/heads/main x"), "refs/heads/main x");
        assert_eq!(escape(b"\x1b]0;x\x07\n\"\\"), "\\x1b]0;x\\x07\\x0a\\x22\\x5c");
        assert_eq!(escape("\u{e9}\u{202e}\u{9b}".as_bytes()), "\u{e9}\\xe2\\x80\\xae\\xc2\\x9b");
        assert_eq!(escape(b"a\xffb"), "a\\xffb");
    }
}
