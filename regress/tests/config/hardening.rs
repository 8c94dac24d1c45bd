//! What the linker and the C library do for the programs; doc/decisions/0013 has the reasons.
//!
//! The attack: a session can be made to write one wrong word. In musl's static programs the tables
//! of functions stayed writable although the header promised otherwise, because only musl's dynamic
//! loader protects them. So the headers are not believed alone: processes at work are looked at.

use std::fs;
use std::ops::Range;
use std::path::Path;

use regress::{Site, binaries, is_root};

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PT_GNU_RELRO: u32 = 0x6474_e552;
const EXECUTE: u32 = 1;
const WRITE: u32 = 2;
const DT_RPATH: u64 = 15;
const DT_TEXTREL: u64 = 22;
const DT_BIND_NOW: u64 = 24;
const DT_RUNPATH: u64 = 29;
const DT_FLAGS: u64 = 30;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_TEXTREL: u64 = 4;
const DF_BIND_NOW: u64 = 8;
const DF_1_NOW: u64 = 1;
const DF_1_PIE: u64 = 0x0800_0000;

/// What an ELF file says of itself (64 bits, little-endian).
struct Elf {
    kind: u16,
    headers: Vec<Header>,
    dynamic: Vec<(u64, u64)>,
}

struct Header {
    kind: u32,
    flags: u32,
    address: u64,
    size: u64,
}

fn number<const N: usize>(bytes: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).expect("in memory");
    let mut number = [0; 8];
    number[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(number)
}

fn read(program: &Path) -> Elf {
    let bytes = fs::read(program).expect("reads");
    assert_eq!(&bytes[..6], b"\x7fELF\x02\x01", "{}", program.display());
    let (start, size) = (number::<8>(&bytes, 32), number::<2>(&bytes, 54));
    let (mut headers, mut dynamic) = (Vec::new(), Vec::new());
    for n in 0..number::<2>(&bytes, 56) {
        let at = start + n * size;
        let small = |at| u32::try_from(number::<4>(&bytes, at)).expect("four bytes");
        let header = Header {
            kind: small(at),
            flags: small(at + 4),
            address: number::<8>(&bytes, at + 16),
            size: number::<8>(&bytes, at + 40),
        };
        if header.kind == PT_DYNAMIC {
            let (from, size) = (number::<8>(&bytes, at + 8), number::<8>(&bytes, at + 32));
            let entries = (0..size / 16).map(|n| from + n * 16);
            dynamic = entries.map(|at| (number::<8>(&bytes, at), number::<8>(&bytes, at + 8))).collect();
        }
        headers.push(header);
    }
    let kind = u16::try_from(number::<2>(&bytes, 16)).expect("two bytes");
    Elf { kind, headers, dynamic }
}

impl Elf {
    fn of(&self, kind: u32) -> impl Iterator<Item = &Header> {
        self.headers.iter().filter(move |header| header.kind == kind)
    }

    fn tag(&self, tag: u64) -> Option<u64> {
        self.dynamic.iter().find(|entry| entry.0 == tag).map(|entry| entry.1)
    }

    /// The part of the program that is read-only once it runs, in whole pages.
    fn read_only(&self) -> Range<u64> {
        let relro = self.of(PT_GNU_RELRO).next().expect("a part that becomes read-only");
        relro.address / 4096 * 4096..(relro.address + relro.size) / 4096 * 4096
    }
}

#[test]
fn the_programs_are_linked_as_hard_as_the_linker_can() {
    for name in ["gotd", "gotctl", "gotsh", "gotd-static"] {
        let program = binaries().join(name);
        if name == "gotd-static" && !program.exists() {
            regress::skipped("no gotd-static; `make` builds it");
            continue;
        }
        let elf = read(&program);
        // Position independent: each start has other addresses.
        assert_eq!(elf.kind, 3, "{name}");
        assert_ne!(elf.tag(DT_FLAGS_1).unwrap_or(0) & DF_1_PIE, 0, "{name}");
        // Functions of libraries are found at the start, and their table is read-only then.
        let now = elf.tag(DT_FLAGS).unwrap_or(0) & DF_BIND_NOW != 0
            || elf.tag(DT_FLAGS_1).unwrap_or(0) & DF_1_NOW != 0
            || elf.tag(DT_BIND_NOW).is_some();
        assert!(now, "{name}");
        assert!(!elf.read_only().is_empty(), "{name}");
        // No code is written, no data is run.
        let stack = elf.of(PT_GNU_STACK).next().expect("a word about the stack");
        assert_eq!(stack.flags & EXECUTE, 0, "{name}: stack");
        assert!(elf.of(PT_LOAD).all(|part| part.flags & (WRITE | EXECUTE) != WRITE | EXECUTE), "{name}");
        assert_eq!(elf.tag(DT_TEXTREL), None, "{name}");
        assert_eq!(elf.tag(DT_FLAGS).unwrap_or(0) & DF_TEXTREL, 0, "{name}");
        // No directory of the builder is searched for libraries.
        assert_eq!((elf.tag(DT_RPATH), elf.tag(DT_RUNPATH)), (None, None), "{name}");
        if name == "gotd-static" {
            assert_eq!(elf.of(PT_INTERP).count(), 0, "{name}: needs a loader");
        }
    }
}

/// Fails unless the process has its program's tables read-only.
fn assert_tables_are_read_only(pid: i32, what: &str) {
    let program = fs::read_link(format!("/proc/{pid}/exe")).expect("a program");
    let tables = read(&program).read_only();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let maps: Vec<(Range<u64>, &str, &str)> = maps
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (from, to) = words.next()?.split_once('-')?;
            let range = u64::from_str_radix(from, 16).ok()?..u64::from_str_radix(to, 16).ok()?;
            let mode = words.next()?;
            Some((range, mode, words.nth(3).unwrap_or("")))
        })
        .collect();
    let own = |name: &str| Path::new(name) == program;
    let base = maps.iter().find(|map| own(map.2)).expect("its own program").0.start;
    let (from, to) = (base + tables.start, base + tables.end);
    let mut seen = 0;
    for (range, mode, _) in maps.iter().filter(|(range, ..)| range.start < to && from < range.end) {
        assert!(mode.starts_with("r--"), "{what} ({}): {mode} {range:x?}", program.display());
        seen += range.end.min(to) - range.start.max(from);
    }
    assert_eq!(seen, to - from, "{what}: all of the tables");
}

#[test]
fn the_tables_of_processes_at_work_are_read_only() {
    if !is_root() {
        return regress::skipped("needs root, which may look at processes that let nobody look");
    }
    let site = Site::new();
    site.git(["init", "-q", "--bare", "repositories/r.git"]).good();
    let daemon = site.start();
    let processes = daemon.processes_at_rest();
    for role in ["listen", "auth", "session", "repository"] {
        assert!(processes.iter().any(|process| process.name == role), "{role}: {processes:?}");
    }
    for process in &processes {
        assert_tables_are_read_only(process.pid, &process.name);
    }
    // gotsh waits for a client that says nothing.
    let mut gotsh = site
        .gotsh("git-upload-pack 'r.git'")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let mut first = [0];
    std::io::Read::read_exact(gotsh.stdout.as_mut().expect("a pipe"), &mut first).expect("an advertisement");
    let pid = i32::try_from(gotsh.id()).expect("a number");
    let looked = std::panic::catch_unwind(|| assert_tables_are_read_only(pid, "gotsh"));
    let _ = gotsh.kill();
    let _ = gotsh.wait();
    assert!(looked.is_ok(), "gotsh");
}
