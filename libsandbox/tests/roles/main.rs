//! Both halves for every role: it does its job in its sandbox, and it cannot do what its promises
//! do not name. Each job and each attempt is made in a process of its own, which is this binary
//! again. `--nocapture` shows the table.
#![cfg(target_os = "linux")]

#[cfg(feature = "escapes")]
use libsandbox::escape;

// As part of this binary, so that the attempts are made against the sandbox and trap that are
// shipped, not against those of a build with the feature.
#[cfg(not(feature = "escapes"))]
#[path = "../../src/escape.rs"]
#[expect(dead_code, reason = "the feature's users need more of it than this test")]
mod escape;
mod jobs;
mod table;

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Output, Stdio};

#[cfg(not(feature = "escapes"))]
use libsandbox::FORBIDDEN_STATUS;
use libsandbox::{Enforcement, Error, Promise, Promises, ResourceLimits, Stage};

const TESTS: &[(&str, fn())] = &[
    ("each_role_does_its_job", table::each_role_does_its_job),
    ("no_role_does_what_its_promises_do_not_name", table::no_role_does_what_its_promises_do_not_name),
    #[cfg(feature = "escapes")]
    ("one_process_makes_every_attempt", table::one_process_makes_every_attempt),
    #[cfg(not(feature = "escapes"))]
    ("a_forbidden_call_is_named_and_ends_the_process", a_forbidden_call_is_named_and_ends_the_process),
    ("blocking_the_signal_does_not_help", blocking_the_signal_does_not_help),
    ("another_architectures_call_kills", another_architectures_call_kills),
    ("a_stage_is_not_entered_once_threads_run", a_stage_is_not_entered_once_threads_run),
    ("limits_hold_and_are_never_raised", limits_hold_and_are_never_raised),
    ("the_report_says_what_is_in_force", the_report_says_what_is_in_force),
    ("an_unfit_kernel_is_refused_unless_best_effort", an_unfit_kernel_is_refused_unless_best_effort),
];

type Child = fn(&[String]) -> ExitCode;

/// What the processes of this test can be asked to do.
const CHILDREN: &[(&str, Child)] = &[
    ("job", jobs::child),
    ("attempt", table::attempt_child),
    #[cfg(feature = "escapes")]
    ("all", table::all_child),
    ("forbidden", |_| {
        in_stdio();
        // SAFETY: the path is a C string; the call is the one refused.
        unsafe { libc::chroot(c"/".as_ptr()) };
        ExitCode::SUCCESS
    }),
    ("blocked", |_| {
        in_stdio();
        // SAFETY: both structures are valid; a set of all signals is blocked, and the last call is
        // the one refused.
        unsafe {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
            libc::syscall(libc::SYS_chroot, c"/".as_ptr());
        }
        ExitCode::SUCCESS
    }),
    ("int80", |_| {
        in_stdio();
        #[cfg(target_arch = "x86_64")]
        // SAFETY: getpid of the 32-bit table; a filter kills the process for it.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("rax") 20_i64 => _, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        ExitCode::SUCCESS
    }),
    ("threads", |_| {
        let (stay, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        let refused = matches!(libsandbox::enter(&stdio()), Err(Error::Threads));
        drop(stay);
        let _ = thread.join();
        if refused { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }),
    ("limits", |_| jobs::limits()),
    ("report", |_| jobs::report()),
    ("unfit", |_| jobs::unfit()),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && let Some((_, child)) = CHILDREN.iter().find(|(name, _)| first == name)
    {
        return child(rest);
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        if !has("--ignored") {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    for (name, test) in TESTS {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            test();
            println!("{name}: ok");
        }
    }
    ExitCode::SUCCESS
}

fn stdio() -> Stage<'static> {
    Stage {
        promises: Promises::of(&[Promise::Stdio]),
        paths: Some(&[]),
        limits: ResourceLimits::UNCHANGED,
        enforcement: Enforcement::Required,
    }
}

fn in_stdio() {
    libsandbox::harden_process("probe").expect("hardened");
    libsandbox::enter(&stdio()).expect("the stage is entered");
}

/// Runs this binary as one of [`CHILDREN`].
pub(crate) fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    let binary = std::env::current_exe().expect("own name");
    Command::new(binary)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::inherit())
        .output()
        .expect("this binary runs once more")
}

#[cfg(not(feature = "escapes"))]
fn a_forbidden_call_is_named_and_ends_the_process() {
    let output = run(&["forbidden"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(FORBIDDEN_STATUS), "{error}");
    let call =
        error.strip_prefix("probe: forbidden system call ").and_then(|rest| rest.trim().parse::<i64>().ok());
    assert!(call.is_some_and(|call| call > 0), "{error}");
}

fn blocking_the_signal_does_not_help() {
    let status = run(&["blocked"]).status;
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
}

fn another_architectures_call_kills() {
    if cfg!(target_arch = "x86_64") {
        let status = run(&["int80"]).status;
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
    }
}

fn a_stage_is_not_entered_once_threads_run() {
    assert!(run(&["threads"]).status.success());
}

fn limits_hold_and_are_never_raised() {
    let output = run(&["limits"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn the_report_says_what_is_in_force() {
    let output = run(&["report"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", String::from_utf8_lossy(&output.stdout).trim_end());
}

fn an_unfit_kernel_is_refused_unless_best_effort() {
    let output = run(&["unfit"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
