//! Streams of known size: what is accepted is what zlib accepts, with the same outcome.
#![no_main]
use flate2::{Decompress, FlushDecompress, Status};
use libfuzzer_sys::fuzz_target;
use librepo::inflate::Inflater;

fuzz_target!(|data: &[u8]| {
    let Some((size, stream)) = data.split_first_chunk::<2>() else { return };
    let size = usize::from(u16::from_le_bytes(*size));
    let mut inflater = Inflater::default();
    // With the size that the input names, and with that of whatever zlib makes of it, the checksum
    // put right.
    check(&mut inflater, stream, size);
    let mut z = Decompress::new(true);
    let mut out = Vec::with_capacity(1 << 16);
    let _ = z.decompress_vec(stream, &mut out, FlushDecompress::None);
    let end = (z.total_in() as usize).min(stream.len());
    for end in end.saturating_sub(4)..=end {
        let mut mended = stream[..end].to_vec();
        mended.extend(adler32(&out).to_be_bytes());
        check(&mut inflater, &mended, out.len());
    }
});

fn check(inflater: &mut Inflater, stream: &[u8], size: usize) {
    let mut ours = Vec::new();
    let used = inflater.inflate(stream, size, &mut ours).ok();
    let mut theirs = Vec::with_capacity(size + 1);
    let mut z = Decompress::new(true);
    let status = z.decompress_vec(stream, &mut theirs, FlushDecompress::Finish);
    let good = matches!(status, Ok(Status::StreamEnd)) && theirs.len() == size;
    assert_eq!(used, good.then(|| z.total_in() as usize));
    assert!(!good || ours == theirs);
}

fn adler32(data: &[u8]) -> u32 {
    let (a, b) = data.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    b << 16 | a
}
