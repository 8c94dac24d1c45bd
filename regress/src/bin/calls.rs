//! Records which system calls each role of a daemon makes. `calls FILE PROGRAM [ARGUMENT ...]`
//! starts a recorder and becomes the program. When the last process has ended, the recorder writes
//! the file, one line for each call of each row of libsandbox's table (see `libsandbox::Calls`):
//! the row's number, the call's, and the arguments by which the table tells one use from another.
//!
//! With each filter libsandbox tells the row that is in force from then on, in seccomp(2)'s fourth
//! argument, which the kernel ignores. Needs the right to trace a process that is no child: root
//! has it.

use std::process::ExitCode;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() -> ExitCode {
    eprintln!("calls: knows the registers of x86_64 Linux alone");
    ExitCode::FAILURE
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        [word, pid, file] if word == "--attach" => record::attach(pid, file),
        [file, program, rest @ ..] => record::become_traced(file, program, rest),
        _ => Err("usage: calls file program [argument ...]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("calls: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod record {
    use std::collections::{BTreeSet, HashMap};
    use std::fmt::Write;
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use nix::sys::ptrace::{self, Options};
    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    /// The row is the fourth argument of this call.
    const SECCOMP: u64 = libc::SYS_seccomp as u64;
    /// `Traced::inside` of a thread that is in the middle of a call.
    const INSIDE: bool = true;

    /// Starts the recorder, waits until it has attached itself, and becomes the program.
    pub(super) fn become_traced(file: &str, program: &str, arguments: &[String]) -> Result<()> {
        let me = std::env::current_exe()?;
        // By way of a shell that ends: the recorder must not be a child of the program.
        let mut shell = Command::new("/bin/sh")
            .args(["-c", "\"$0\" --attach \"$1\" \"$2\" &"])
            .arg(&me)
            .args([&std::process::id().to_string(), file])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ready = String::new();
        let mut out = shell.stdout.take().ok_or("no pipe")?;
        out.read_to_string(&mut ready)?;
        shell.wait()?;
        if ready != "ready" {
            return Err("cannot trace".into());
        }
        Err(Command::new(program).args(arguments).exec().into())
    }

    /// One thread or process under trace.
    #[derive(Clone, Copy, Default)]
    struct Traced {
        row: u64,
        /// The row that a filter which is being installed is for.
        coming: Option<u64>,
        inside: bool,
    }

    /// Traces a process and all that it starts until the last one ends.
    pub(super) fn attach(pid: &str, file: &str) -> Result<()> {
        let first = Pid::from_raw(pid.parse()?);
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC;
        ptrace::seize(first, options)?;
        ptrace::interrupt(first)?;
        {
            use std::io::Write;
            let mut out = std::io::stdout();
            out.write_all(b"ready")?;
            out.flush()?;
        }
        // The end of standard output tells `become_traced` to go on.
        let null = std::fs::File::options().write(true).open("/dev/null")?;
        nix::unistd::dup2_stdout(null)?;
        let mut known: HashMap<Pid, Traced> = HashMap::new();
        let mut seen: BTreeSet<(u64, u64, Vec<u64>)> = BTreeSet::new();
        loop {
            let status = match waitpid(None::<Pid>, Some(WaitPidFlag::__WALL)) {
                Ok(status) => status,
                Err(nix::Error::EINTR) => continue,
                Err(_) => break,
            };
            let (pid, signal) = match status {
                WaitStatus::PtraceSyscall(pid) => {
                    let traced = known.entry(pid).or_default();
                    // A process that was killed meanwhile has no registers.
                    if let Ok(registers) = ptrace::getregs(pid) {
                        step(traced, &registers, &mut seen);
                    }
                    (pid, None)
                }
                WaitStatus::PtraceEvent(pid, _, event) => {
                    // A stop of the whole process is not kept up: nobody here wants one.
                    started(pid, event, &mut known);
                    (pid, None)
                }
                WaitStatus::Stopped(pid, signal) => (pid, (signal != Signal::SIGSTOP).then_some(signal)),
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    known.remove(&pid);
                    continue;
                }
                _ => continue,
            };
            let _ = ptrace::syscall(pid, signal);
        }
        let mut text = String::new();
        for (row, nr, selectors) in seen {
            let _ = write!(text, "{row} {nr}");
            for selector in selectors {
                let _ = write!(text, " {selector}");
            }
            text.push('\n');
        }
        let whole = format!("{file}.part");
        std::fs::write(&whole, text)?;
        std::fs::rename(whole, file)?;
        Ok(())
    }

    /// A new process or thread begins in the row of its starter; a new program has none.
    fn started(pid: Pid, event: i32, known: &mut HashMap<Pid, Traced>) {
        if event == libc::PTRACE_EVENT_EXEC {
            // It is inside execve(2).
            known.insert(pid, Traced { inside: INSIDE, ..Traced::default() });
        } else if matches!(
            event,
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE
        ) && let Ok(child) = ptrace::getevent(pid)
        {
            let row = known.get(&pid).copied().unwrap_or_default().row;
            known.entry(Pid::from_raw(child as i32)).or_default().row = row;
        }
    }

    /// A call begins or ends.
    fn step(
        traced: &mut Traced,
        registers: &libc::user_regs_struct,
        seen: &mut BTreeSet<(u64, u64, Vec<u64>)>,
    ) {
        traced.inside = !traced.inside;
        let r = registers;
        if traced.inside != INSIDE {
            if let (Some(row), 0) = (traced.coming.take(), r.rax) {
                traced.row = row;
            }
            return;
        }
        let nr = r.orig_rax;
        traced.coming = (nr == SECCOMP && r.rdi == 1).then_some(r.r10);
        let int = |value: u64| value & u64::from(u32::MAX);
        let selectors = match i64::try_from(nr).unwrap_or(-1) {
            libc::SYS_fcntl | libc::SYS_ioctl => vec![int(r.rsi)],
            libc::SYS_prctl | libc::SYS_seccomp | libc::SYS_socket | libc::SYS_socketpair => vec![int(r.rdi)],
            libc::SYS_getsockopt | libc::SYS_setsockopt => vec![int(r.rsi), int(r.rdx)],
            _ => Vec::new(),
        };
        seen.insert((traced.row, nr, selectors));
    }
}
