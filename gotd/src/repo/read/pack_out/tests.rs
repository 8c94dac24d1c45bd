//! What a client gets, and what its place costs others.

use libproto::limits::Limit;
use libproto::refusal::Refusal;

use super::*;
use libproto::channel::Channel;
use libproto::message::parent::{ParentToRepo, RepoToParent};
use std::io::{Read, Write};
use std::os::fd::AsFd;

fn sent(side_band: SideBand, write: impl FnOnce(PackOut<'_>) + Send + 'static) -> Vec<u8> {
    let (r, w) = nix::unistd::pipe().unwrap();
    let writer = std::thread::spawn(move || {
        let mut output = Output::new(w);
        write(PackOut::new(&mut output, side_band, true, None));
    });
    let mut all = Vec::new();
    std::fs::File::from(r).read_to_end(&mut all).unwrap();
    writer.join().unwrap();
    all
}

#[test]
fn data_is_cut_into_packets() {
    let all = sent(SideBand::Large, |mut out| {
        out.pack(&[7; 65510]).unwrap();
        out.pack(&[8; 10]).unwrap();
        out.progress("x\r").unwrap();
        out.finish().unwrap();
    });
    assert_eq!(&all[..6], b"fff0\x01\x07");
    assert_eq!(
        &all[65520..],
        b"0006\x02x\r000a\x01\x08\x08\x08\x08\x080000".as_slice().replace_first(b"0006", b"0007")
    );
    let small = sent(SideBand::Small, |mut out| {
        out.pack(&[7; 996]).unwrap();
        out.finish().unwrap();
    });
    assert_eq!((&small[..5], &small[1000..]), (&b"03e8\x01"[..], &b"0006\x01\x070000"[..]));
}

trait ReplaceFirst {
    fn replace_first(&self, from: &[u8], to: &[u8]) -> Vec<u8>;
}
impl ReplaceFirst for [u8] {
    fn replace_first(&self, from: &[u8], to: &[u8]) -> Vec<u8> {
        let at = self.windows(from.len()).position(|w| w == from).unwrap();
        [&self[..at], to, &self[at + from.len()..]].concat()
    }
}

#[test]
fn without_side_band_there_is_nothing_but_the_pack() {
    let all = sent(SideBand::None, |mut out| {
        out.progress("Counting\r").unwrap();
        out.pack(b"PACK").unwrap();
        out.tick().unwrap();
        out.finish().unwrap();
    });
    assert_eq!(all, b"PACK");
    assert_eq!(sent(SideBand::None, |out| out.fail("broken")), b"");
}

#[test]
fn a_failure_is_told_on_band_three_and_nothing_follows() {
    let all = sent(SideBand::Large, |mut out| {
        out.pack(b"PA").unwrap();
        out.fail("object x: missing\x1b");
    });
    assert_eq!(all, b"001a\x03object x: missing\\x1b");
}

fn file_of(content: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

/// The data of packets on band 1, up to a flush.
fn data_of(mut packets: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some((length, rest)) = packets.split_at_checked(4) {
        let length = usize::from_str_radix(std::str::from_utf8(length).unwrap(), 16).unwrap();
        if length == 0 {
            assert!(rest.is_empty());
            return all;
        }
        assert_eq!(rest[0], 1);
        all.extend_from_slice(&rest[1..length - 4]);
        packets = &rest[length - 4..];
    }
    panic!("no flush");
}

#[test]
fn parts_of_a_file_go_out_as_they_lie() {
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = [b"first", &content[10..2_500_010], b"between", &content[3..4], b"last"].concat();
    for direct in [None, Some(false)] {
        for side_band in [SideBand::None, SideBand::Small, SideBand::Large] {
            let file = file_of(&content);
            let all = sent(side_band, move |mut out| {
                out.direct = direct;
                out.pack(b"first").unwrap();
                out.splice(file.as_fd(), 10, 2_500_000).unwrap();
                out.pack(b"between").unwrap();
                out.splice(file.as_fd(), 3, 1).unwrap();
                out.pack(b"last").unwrap();
                assert_eq!(out.direct, direct.or(Some(true)));
                out.finish().unwrap();
            });
            let data = if side_band == SideBand::None { all } else { data_of(&all) };
            assert!(data == expected, "{direct:?} {side_band:?}");
        }
    }
}

#[test]
fn a_file_that_the_kernel_does_not_send_is_read() {
    // It can be read and not sent.
    let file = std::fs::File::open("/proc/self/auxv").unwrap();
    let content = std::fs::read("/proc/self/auxv").unwrap();
    let length = content.len();
    let all = sent(SideBand::Large, move |mut out| {
        out.direct = Some(true);
        assert_eq!(out.send_packet(file.as_fd(), 0, length).unwrap(), length);
        assert_eq!(out.direct, Some(false));
        out.splice(file.as_fd(), 0, length as u64).unwrap();
        out.finish().unwrap();
    });
    assert_eq!(data_of(&all), content.repeat(2));
}

#[test]
fn a_file_that_ends_early_cuts_the_packet_and_nothing_follows() {
    let file = file_of(b"0123456789");
    let all = sent(SideBand::Large, move |mut out| {
        out.direct = Some(true);
        out.send_packet(file.as_fd(), 0, 5).unwrap();
        let e = out.send_packet(file.as_fd(), 5, 6).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
        out.fail("too short");
    });
    assert_eq!(all, b"000a\x0101234000b\x0156789");
}

#[test]
fn a_connection_gets_what_a_pipe_gets() {
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let file = file_of(&content);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap().0;
    let writer = std::thread::spawn(move || {
        let mut output = Output::new(server.into());
        let mut out = PackOut::new(&mut output, SideBand::Large, true, None);
        out.splice(file.as_fd(), 0, 3_000_000).unwrap();
        assert_eq!(out.direct, Some(true));
        out.finish().unwrap();
    });
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    writer.join().unwrap();
    assert!(data_of(&all) == content);
}

#[test]
fn a_client_that_switches_blocking_off_and_on_gets_the_same_pack() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let (r, w) = nix::unistd::pipe().unwrap();
    // The client's own descriptor of the same open file description.
    let theirs = w.try_clone().unwrap();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = std::sync::Arc::clone(&done);
    let toggler = std::thread::spawn(move || {
        let mut flags = OFlag::O_NONBLOCK;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            fcntl(&theirs, FcntlArg::F_SETFL(flags)).unwrap();
            flags ^= OFlag::O_NONBLOCK;
        }
    });
    let content: Vec<u8> = (0..2_000_000_u32).map(|n| n as u8).collect();
    let expected = content.repeat(2);
    let writer = std::thread::spawn(move || {
        let file = file_of(&content);
        let mut output = Output::new(w);
        let mut out = PackOut::new(&mut output, SideBand::None, false, None);
        out.pack(&content).unwrap();
        out.splice(file.as_fd(), 0, 2_000_000).unwrap();
        out.finish().unwrap();
    });
    let mut all = vec![0; expected.len()];
    std::fs::File::from(r).read_exact(&mut all).unwrap();
    writer.join().unwrap();
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    toggler.join().unwrap();
    assert!(all == expected);
}

#[test]
fn a_client_that_is_gone_is_an_error_and_no_signal() {
    let (r, w) = nix::unistd::pipe().unwrap();
    drop(r);
    let mut output = Output::new(w);
    let mut out = PackOut::new(&mut output, SideBand::Large, true, None);
    assert!(out.progress("x\r").is_err());
    out.fail("nobody hears this");
}

type Parent = Channel<ParentToRepo, RepoToParent>;

/// A thread that writes a pack: its parent, its client's end, and itself.
fn writing(
    write: impl FnOnce(PackOut<'_>) + Send + 'static,
) -> (Parent, std::fs::File, std::thread::JoinHandle<()>) {
    let (theirs, ours) = crate::os::spawn::pair().unwrap();
    let ours = ours.into();
    let (r, w) = nix::unistd::pipe().unwrap();
    let writer = std::thread::spawn(move || {
        let mut output = Output::new(w);
        let queue = PackQueue { parent: &ours };
        write(PackOut::new(&mut output, SideBand::Large, true, Some(queue)));
    });
    (theirs.into(), r.into(), writer)
}

/// Sends a pack of noise by turns of this parent, to a client who reads when his pack has been
/// stalled; what he got, and how often that was.
fn by_turns(
    write: impl FnOnce(PackOut<'_>) + Send + 'static,
    mut parent: impl FnMut(RepoToParent) -> Option<ParentToRepo>,
) -> (Vec<u8>, usize) {
    let (theirs, mut r, writer) = writing(write);
    let (mut all, mut stalls, mut copy) = (Vec::new(), 0, None);
    while let Ok(received) = theirs.recv() {
        match received.message {
            // Nothing more is said until all of it was taken.
            RepoToParent::PackCopied(COPIED) if copy.is_none() => {
                let mut r = r.try_clone().unwrap();
                copy = Some(std::thread::spawn(move || {
                    let mut all = Vec::new();
                    r.read_to_end(&mut all).unwrap();
                    all
                }));
            }
            RepoToParent::PackStalled(_) => {
                stalls += 1;
                let mut buffer = vec![0; 150_000];
                let n = r.read(&mut buffer).unwrap();
                all.extend_from_slice(&buffer[..n]);
            }
            _ => {}
        }
        let over = matches!(received.message, RepoToParent::PackDone(()));
        if let Some(answer) = parent(received.message) {
            theirs.send(0, &answer).unwrap();
        }
        if over {
            break;
        }
    }
    match copy {
        Some(copy) => all.extend(copy.join().unwrap()),
        None => drop(r.read_to_end(&mut all).unwrap()),
    }
    writer.join().unwrap();
    (all, stalls)
}

fn noise(len: u32) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn a_client_that_takes_nothing_loses_its_place_and_gets_every_byte() {
    let mut asked = 0;
    let (all, stalls) = by_turns(
        |mut out| {
            out.turn(50 << 20).unwrap();
            for part in noise(2_000_000).chunks(10_000) {
                out.pack(part).unwrap();
            }
            out.finish().unwrap();
        },
        |message| match message {
            RepoToParent::NeedPack(memory) => {
                assert_eq!(memory, 50 << 20);
                asked += 1;
                Some(ParentToRepo::Pack(()))
            }
            RepoToParent::PackStalled(memory) => {
                assert_eq!(memory, 50 << 20);
                None
            }
            _ => None,
        },
    );
    assert!(data_of(&all) == noise(2_000_000));
    assert!(stalls > 3 && (asked == stalls || asked == stalls + 1), "{stalls} {asked}");
}

/// The place would be his for ever if only a whole tenth of a second without a byte counted.
#[test]
fn a_client_that_takes_a_little_at_a_time_loses_its_place_too() {
    let (theirs, mut r, writer) = writing(|mut out| {
        out.turn(1 << 20).unwrap();
        while out.pack(&[0; 60_000]).is_ok() {}
    });
    std::thread::spawn(move || {
        let mut page = [0; 4096];
        for _ in 0..1000 {
            r.read_exact(&mut page).unwrap();
            std::thread::sleep(Duration::from_millis(25));
        }
    });
    assert!(matches!(theirs.recv().unwrap().message, RepoToParent::NeedPack(_)));
    theirs.send(0, &ParentToRepo::Pack(())).unwrap();
    let begun = Instant::now();
    assert!(matches!(theirs.recv().unwrap().message, RepoToParent::PackStalled(_)));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // Without a place it ends like one that is refused.
    theirs.send(0, &ParentToRepo::NoPack(Refusal::Internal("over".into()))).unwrap();
    writer.join().unwrap();
}

#[test]
fn a_copy_keeps_no_place_and_little_memory() {
    let mut said = Vec::new();
    let (all, _) = by_turns(
        |mut out| {
            let file = file_of(&noise(3_000_000));
            out.turn(50 << 20).unwrap();
            out.copies().unwrap();
            out.splice(file.as_fd(), 0, 3_000_000).unwrap();
            out.finish().unwrap();
        },
        |message| {
            said.push(format!("{message:?}"));
            matches!(message, RepoToParent::NeedPack(_)).then_some(ParentToRepo::Pack(()))
        },
    );
    assert!(data_of(&all) == noise(3_000_000));
    assert_eq!(said, ["NeedPack(52428800)", "PackCopied(4194304)", "PackDone(())"]);
}

/// Who takes a copied pack steadily is not said to stall, who takes nothing is, and who goes on
/// no more.
#[test]
fn a_copy_that_is_not_taken_stalls_and_goes_on() {
    let (theirs, mut r, writer) = writing(|mut out| {
        out.turn(50 << 20).unwrap();
        out.copies().unwrap();
        out.splice(file_of(&noise(3_000_000)).as_fd(), 0, 3_000_000).unwrap();
        out.finish().unwrap();
    });
    let next = || theirs.recv().unwrap().message;
    assert!(matches!(next(), RepoToParent::NeedPack(_)));
    theirs.send(0, &ParentToRepo::Pack(())).unwrap();
    assert!(matches!(next(), RepoToParent::PackCopied(COPIED)));
    assert!(matches!(next(), RepoToParent::PackStalled(COPIED)));
    let mut all = vec![0; 300_000];
    r.read_exact(&mut all).unwrap();
    assert!(matches!(next(), RepoToParent::PackCopied(COPIED)));
    r.read_to_end(&mut all).unwrap();
    assert!(matches!(next(), RepoToParent::PackDone(())));
    writer.join().unwrap();
    assert!(data_of(&all) == noise(3_000_000));
}

#[test]
fn who_is_refused_in_the_middle_is_told_if_no_packet_is_cut() {
    let (all, _) = by_turns(
        |mut out| {
            out.turn(1).unwrap();
            out.pack(&noise(100)).unwrap();
            let refused = out.turn(1 << 30).unwrap_err();
            let refusal = Refusal::carried_by(&refused).unwrap();
            out.fail(&refusal.to_string());
        },
        |message| match message {
            RepoToParent::NeedPack(1) => Some(ParentToRepo::Pack(())),
            RepoToParent::NeedPack(_) => {
                Some(ParentToRepo::NoPack(Refusal::Limit(Limit::MemoryTotal, "no".into())))
            }
            _ => None,
        },
    );
    assert_eq!(String::from_utf8_lossy(&all), "001c\u{3}no (limit memory total)");
}
