//! Plays the corpora of the fuzz targets (`regress/fuzz/corpora`) through them, as ordinary tests:
//! no fuzzer and no special compiler is needed, so each build has its decoders checked by the
//! inputs that are known to reach deep.
//!
//! Each input is also cut short and changed byte by byte, in the same way each time. A new finding
//! of a fuzzer belongs into the directory of its target.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    /// Changes to each byte string, beside its being cut short.
    const CHANGES: usize = 48;
    /// Places at which it is cut.
    const CUTS: usize = 24;

    fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpora").join(target);
        let entries = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        files.into_iter().map(|path| (path.clone(), fs::read(path).expect("reads"))).collect()
    }

    /// Runs a target on each input and on what becomes of it.
    fn play(target: &str, run: fn(&[u8])) {
        let corpus = corpus(target);
        assert!(!corpus.is_empty(), "{target}: nothing to play");
        for (path, input) in corpus {
            let once = |input: &[u8]| {
                let ran = std::panic::catch_unwind(|| run(input));
                assert!(ran.is_ok(), "{}: {}", path.display(), input.escape_ascii());
            };
            once(&input);
            if input.is_empty() {
                continue;
            }
            for cut in 0..CUTS.min(input.len()) {
                once(&input[..input.len() * cut / CUTS]);
            }
            let mut state = 0x2545_f491_u32;
            let mut random = |below: usize| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as usize % below
            };
            for n in 0..CHANGES {
                let mut changed = input.clone();
                let at = random(changed.len());
                match n % 4 {
                    0 => changed[at] ^= 1 << random(8),
                    1 => changed[at] = [0, 0xff, 0x7f, 0x80][random(4)],
                    2 => drop(changed.remove(at)),
                    _ => changed.insert(at, u8::try_from(random(256)).expect("below 256")),
                }
                once(&changed);
            }
        }
    }

    /// Each target is a module of the file that the fuzzer compiles, and a test.
    macro_rules! targets {
        ($($name:ident)*) => {
            $(
                #[test]
                fn $name() {
                    play(stringify!($name), crate::$name::play);
                }
            )*

            #[test]
            fn every_target_is_played_and_nothing_else_is_there() {
                let played = [$(stringify!($name)),*];
                let names = |directory: &str| {
                    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(directory);
                    let mut names: Vec<String> = fs::read_dir(directory)
                        .expect("lists")
                        .map(|entry| entry.expect("an entry").path())
                        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
                        .collect();
                    names.sort();
                    names
                };
                assert_eq!(names("fuzz_targets"), played);
                assert_eq!(names("corpora"), played);
            }
        };
    }

    targets! {
        bitmap command commit_graph daemon_line delta entry filter gotd_conf idx index_pack inflate midx names objects pack
        packed_refs pktline push repo_config rev self_service sockets v0 v2
    }
}

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/bitmap.rs"]
mod bitmap;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/command.rs"]
mod command;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/commit_graph.rs"]
mod commit_graph;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/daemon_line.rs"]
mod daemon_line;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/delta.rs"]
mod delta;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/entry.rs"]
mod entry;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/filter.rs"]
mod filter;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/gotd_conf.rs"]
mod gotd_conf;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/idx.rs"]
mod idx;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/index_pack.rs"]
mod index_pack;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/inflate.rs"]
mod inflate;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/midx.rs"]
mod midx;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/names.rs"]
mod names;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/objects.rs"]
mod objects;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/pack.rs"]
mod pack;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/packed_refs.rs"]
mod packed_refs;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/pktline.rs"]
mod pktline;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/push.rs"]
mod push;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/repo_config.rs"]
mod repo_config;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/rev.rs"]
mod rev;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/self_service.rs"]
mod self_service;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/sockets.rs"]
mod sockets;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/v0.rs"]
mod v0;

#[cfg(test)]
#[allow(unused_attributes, clippy::unwrap_used, reason = "written for a program of its own")]
#[path = "../../fuzz/fuzz_targets/v2.rs"]
mod v2;

// The targets name the fuzzer's crate. Here that is this one, and what it makes of a target is a
// function.
#[cfg(test)]
extern crate self as libfuzzer_sys;

#[cfg(test)]
#[doc(hidden)]
#[macro_export]
macro_rules! fuzz_target {
    (|$data:ident: &[u8]| $body:block) => {
        pub(crate) fn play($data: &[u8]) $body
    };
}
