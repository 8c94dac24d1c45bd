//! Applying a delta to its base (`gitformat-pack`, "Deltified representation").

/// Reads a number of seven bits to a byte, the lowest first.
fn number(delta: &[u8], at: &mut usize) -> Result<u64, &'static str> {
    let mut value = 0;
    let mut shift = 0;
    loop {
        let byte = *delta.get(*at).ok_or("delta cut short")?;
        *at += 1;
        let part = u64::from(byte & 0x7f);
        if shift > 63 || (part << shift) >> shift != part {
            return Err("delta with a size of more than 64 bits");
        }
        value |= part << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
}

/// The sizes that a delta declares: of its base, of its result, and where its instructions begin.
pub fn sizes(delta: &[u8]) -> Result<(u64, u64, usize), &'static str> {
    let mut at = 0;
    let base = number(delta, &mut at)?;
    let result = number(delta, &mut at)?;
    Ok((base, result, at))
}

/// One instruction of a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instruction {
    /// So many bytes of the base from there on.
    Copy {
        /// Where in the base.
        from: u64,
        /// How many bytes.
        len: u64,
    },
    /// So many bytes of the delta itself.
    Insert {
        /// Where in the delta.
        at: usize,
        /// How many bytes.
        len: u64,
    },
}

impl Instruction {
    /// How many bytes it yields.
    pub(crate) fn len(self) -> u64 {
        match self {
            Instruction::Copy { len, .. } | Instruction::Insert { len, .. } => len,
        }
    }
}

/// The instruction at this place of a delta, and the place of the next one.
pub(crate) fn instruction(delta: &[u8], at: usize) -> Result<(Instruction, usize), &'static str> {
    const CUT: &str = "delta cut short";
    let opcode = *delta.get(at).ok_or(CUT)?;
    let mut next = at + 1;
    if opcode & 0x80 == 0 {
        if opcode == 0 {
            return Err("delta with a reserved instruction");
        }
        let end = next + usize::from(opcode);
        return if end > delta.len() {
            Err(CUT)
        } else {
            Ok((Instruction::Insert { at: next, len: opcode.into() }, end))
        };
    }
    let mut values = [0u64; 2];
    for bit in 0..7usize {
        if opcode & (1 << bit) != 0 {
            let byte = *delta.get(next).ok_or(CUT)?;
            next += 1;
            values[bit / 4] |= u64::from(byte) << (8 * (bit % 4));
        }
    }
    let [from, len] = values;
    Ok((Instruction::Copy { from, len: if len == 0 { 0x10000 } else { len } }, next))
}

/// The reason where a result exceeds the caller's limit.
pub(crate) const TOO_LARGE: &str = "delta result larger than the limit";

/// Applies a whole delta. `limit` is the largest result in bytes that the caller takes; `room` is
/// memory for it if it fits: its content is lost, and what is more than twice as large as needed is
/// given back. The error is the reason.
///
/// Every instruction is checked against the base and against the declared size of the result,
/// before a byte is copied.
pub fn apply(base: &[u8], delta: &[u8], limit: u64, room: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    const CUT: &str = "delta cut short";
    const BEYOND: &str = "delta copies from beyond its base";
    const LONG: &str = "delta yields more than it declares";
    let (base_size, result_size, start) = sizes(delta)?;
    if base_size != base.len() as u64 {
        return Err("delta for a base of another size");
    }
    if result_size > limit {
        return Err(TOO_LARGE);
    }
    let size = usize::try_from(result_size).map_err(|_| "delta result larger than memory")?;
    // The most that this many bytes of instructions can yield, so that a lie costs no memory.
    let most = delta.len().saturating_mul(base.len().min(0xff_ffff)).saturating_add(delta.len());
    if size > most {
        return Err("delta yields less than it declares");
    }
    let mut result = if room.capacity() / 2 > size { Vec::new() } else { room };
    result.clear();
    result.reserve_exact(size);
    let mut rest = &delta[start..];
    while let [opcode, tail @ ..] = rest {
        rest = tail;
        if opcode & 0x80 != 0 {
            let (mut from, mut count) = (0usize, 0usize);
            for i in 0..4 {
                if opcode & (1 << i) != 0 {
                    let (byte, tail) = rest.split_first().ok_or(CUT)?;
                    from |= usize::from(*byte) << (8 * i);
                    rest = tail;
                }
            }
            for i in 0..3 {
                if opcode & (0x10 << i) != 0 {
                    let (byte, tail) = rest.split_first().ok_or(CUT)?;
                    count |= usize::from(*byte) << (8 * i);
                    rest = tail;
                }
            }
            if count == 0 {
                count = 0x10000;
            }
            let end = from.checked_add(count).ok_or(BEYOND)?;
            let bytes = base.get(from..end).ok_or(BEYOND)?;
            if count > size - result.len() {
                return Err(LONG);
            }
            result.extend_from_slice(bytes);
        } else if *opcode != 0 {
            let count = usize::from(*opcode);
            let (bytes, tail) = rest.split_at_checked(count).ok_or(CUT)?;
            if count > size - result.len() {
                return Err(LONG);
            }
            result.extend_from_slice(bytes);
            rest = tail;
        } else {
            return Err("delta with a reserved instruction");
        }
    }
    if result.len() != size {
        return Err("delta yields less than it declares");
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_inserts() {
        let base = b"hello, world";
        let delta = [12, 10, 0x91, 7, 5, 5, b'!', b'?', b'a', b'b', b'c'];
        assert_eq!(apply(base, &delta, 100, Vec::new()).unwrap(), b"world!?abc");
        assert_eq!(apply(base, &delta, 9, Vec::new()), Err("delta result larger than the limit"));
    }

    #[test]
    fn room_is_used_if_it_fits() {
        let delta = [12, 10, 0x91, 7, 5, 5, b'!', b'?', b'a', b'b', b'c'];
        for (room, kept) in [(0, false), (9, false), (10, true), (21, true), (22, false), (1 << 20, false)] {
            let room: Vec<u8> = Vec::with_capacity(room);
            let (place, capacity) = (room.as_ptr(), room.capacity());
            let result = apply(b"hello, world", &delta, 100, room).unwrap();
            assert_eq!(result, b"world!?abc");
            assert_eq!(result.capacity() == capacity && result.as_ptr() == place, kept, "{capacity}");
        }
    }

    #[test]
    fn every_lie_is_refused() {
        let base = b"0123456789";
        for (delta, why) in [
            (&[][..], "delta cut short"),
            (&[10], "delta cut short"),
            (&[9, 1, 1, b'a'], "delta for a base of another size"),
            (&[10, 2, 1, b'a'], "delta yields less than it declares"),
            (&[10, 1, 2, b'a', b'b'], "delta yields more than it declares"),
            (&[10, 4, 2, b'a'], "delta cut short"),
            (&[10, 2, 0x91, 9, 2], "delta copies from beyond its base"),
            (&[10, 2, 0x91, 9], "delta cut short"),
            (&[10, 5, 0x80], "delta copies from beyond its base"),
            (&[10, 1, 0, 1, b'a'], "delta with a reserved instruction"),
            (&[10, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, b'a'], "delta yields less than it declares"),
            (&[0xff; 12], "delta with a size of more than 64 bits"),
        ] {
            assert_eq!(apply(base, delta, u64::MAX, Vec::new()).unwrap_err(), why, "{delta:?}");
        }
    }

    #[test]
    fn an_empty_size_means_64_kib() {
        let base = vec![7; 0x10000];
        let delta = [0x80, 0x80, 4, 0x80, 0x80, 4, 0x80];
        assert_eq!(apply(&base, &delta, u64::MAX, Vec::new()).unwrap(), base);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(base: Vec<u8>, delta: Vec<u8>, right: bool) {
            let mut input = delta;
            if right && base.len() < 128 && !input.is_empty() {
                input[0] = base.len() as u8;
            }
            if let Ok(result) = apply(&base, &input, 1 << 20, Vec::new()) {
                assert_eq!(result.len() as u64, sizes(&input).unwrap().1);
            }
        }
    }
}
