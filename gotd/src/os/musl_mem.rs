//! The C library's functions for copying and comparing bytes, where that is musl: musl's functions
//! go byte by byte, or start a string instruction for every few bytes. With them a pack costs a
//! fifth more. The names and the meaning are those of string.h.
//!
//! No loop here may look like one of these functions to the compiler, which would call them from
//! themselves.

use std::arch::asm;
use std::ffi::{c_int, c_void};

/// Up to here bytes are copied by loads and stores in a row; above, by a string instruction, which
/// then pays.
const SHORT: usize = 128;

/// memcpy(3).
///
/// # Safety
/// As in C: `count` bytes can be read at `from` and written at `to`, and the two do not overlap.
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
pub unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void {
    // SAFETY: the caller's promise; the string instruction goes upwards, since the direction flag
    // is clear by the ABI.
    unsafe {
        if count <= SHORT {
            copy_short(to.cast(), from.cast(), count);
        } else {
            asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags));
        }
    }
    to
}

/// memmove(3).
///
/// # Safety
/// As in C: `count` bytes can be read at `from` and written at `to`.
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
pub unsafe extern "C" fn memmove(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void {
    // SAFETY: the caller's promise. Short copies read everything before they write; of long ones,
    // only those that would overwrite what is still to be read begin at the end.
    unsafe {
        if count <= SHORT {
            copy_short(to.cast(), from.cast(), count);
        } else if (to as usize).wrapping_sub(from as usize) >= count {
            return memcpy(to, from, count);
        } else {
            let (to, from) = (to.cast::<u8>(), from.cast::<u8>());
            let mut left = count;
            while left >= 32 {
                left -= 32;
                let block: [u128; 2] = from.add(left).cast::<[u128; 2]>().read_unaligned();
                to.add(left).cast::<[u128; 2]>().write_unaligned(block);
                // Not a loop that the compiler knows.
                asm!("", options(nostack, preserves_flags));
            }
            copy_short(to, from, left);
        }
    }
    to
}

/// At most [`SHORT`] bytes, which may overlap: everything is read before anything is written.
///
/// # Safety
/// As [`memmove`].
#[inline(always)]
unsafe fn copy_short(to: *mut u8, from: *const u8, count: usize) {
    /// The first and the last bytes, as many as fit into a `T` each; they overlap where there are
    /// fewer.
    macro_rules! ends {
        ($type:ty) => {{
            let last = count - size_of::<$type>();
            let (a, b) =
                (from.cast::<$type>().read_unaligned(), from.add(last).cast::<$type>().read_unaligned());
            to.cast::<$type>().write_unaligned(a);
            to.add(last).cast::<$type>().write_unaligned(b);
        }};
    }
    // SAFETY: each branch reads and writes within `count` bytes.
    unsafe {
        match count {
            0 => {}
            1 => to.write(from.read()),
            2..4 => ends!(u16),
            4..8 => ends!(u32),
            8..16 => ends!(u64),
            16..=32 => ends!(u128),
            33..=64 => ends!([u128; 2]),
            _ => ends!([u128; 4]),
        }
    }
}

/// memcmp(3).
///
/// # Safety
/// As in C: `count` bytes can be read at both places.
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
pub unsafe extern "C" fn memcmp(a: *const c_void, b: *const c_void, count: usize) -> c_int {
    let (a, b) = (a.cast::<u8>(), b.cast::<u8>());
    // SAFETY: every read is of bytes before `count`.
    unsafe {
        let mut at = 0;
        while at + 8 <= count {
            let (x, y) = (a.add(at).cast::<u64>().read_unaligned(), b.add(at).cast::<u64>().read_unaligned());
            if x != y {
                return if u64::from_be(x) < u64::from_be(y) { -1 } else { 1 };
            }
            at += 8;
            asm!("", options(nostack, preserves_flags, nomem));
        }
        while at < count {
            let (x, y) = (a.add(at).read(), b.add(at).read());
            if x != y {
                return c_int::from(x) - c_int::from(y);
            }
            at += 1;
            asm!("", options(nostack, preserves_flags, nomem));
        }
    }
    0
}

/// bcmp(3): what the compiler calls where only equality matters.
///
/// # Safety
/// As [`memcmp`].
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
pub unsafe extern "C" fn bcmp(a: *const c_void, b: *const c_void, count: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { memcmp(a, b, count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_compares_as_slices_do() {
        let source: Vec<u8> = (0..600u32).map(|n| (n * 7 % 251) as u8).collect();
        for count in (0..300).chain([511, 512, 513]) {
            for shift in [0usize, 1, 3, 8, 31, 32, 33, 64] {
                // SAFETY: all places are inside the vectors.
                unsafe {
                    let mut copied = vec![0; 600];
                    memcpy(copied.as_mut_ptr().cast(), source.as_ptr().add(shift).cast(), count);
                    let at = copied.iter().zip(&source[shift..shift + count]).position(|(a, b)| a != b);
                    assert_eq!(at, None, "{count} bytes");
                    assert!(copied[count..].iter().all(|b| *b == 0), "{count} bytes");
                    for (to, from) in [(shift, 0), (0, shift)] {
                        let (mut ours, mut expected) = (source.clone(), source.clone());
                        memmove(ours.as_mut_ptr().add(to).cast(), ours.as_ptr().add(from).cast(), count);
                        for (n, byte) in source[from..from + count].iter().enumerate() {
                            expected[to + n] = *byte;
                        }
                        assert!(ours.iter().eq(expected.iter()), "{count} bytes from {from} to {to}");
                    }
                    let mut other = source.clone();
                    assert_eq!(memcmp(other.as_ptr().cast(), source.as_ptr().cast(), count), 0);
                    if count > shift {
                        other[count - 1 - shift] ^= 0x80;
                        let greater = other[count - 1 - shift] > source[count - 1 - shift];
                        let order = memcmp(other.as_ptr().cast(), source.as_ptr().cast(), count);
                        assert_eq!(order > 0, greater, "{count} bytes, differing {shift} before the end");
                        assert_ne!(bcmp(other.as_ptr().cast(), source.as_ptr().cast(), count), 0);
                    }
                }
            }
        }
    }
}
