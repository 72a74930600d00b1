//! The seccomp filter of the compiling child, which allows memory, threads and the pipes that are open already.
//!
//! It refuses files, sockets, programs and other processes, so that a module that takes over the compiler gains
//! nothing. A seccomp filter needs no privilege that a Pod of the `restricted` standard lacks; a network namespace
//! would.

use std::{env::consts::ARCH, io};

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter_all_threads,
};

/// System calls that are allowed with any arguments.
const ALLOWED: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettid,
    libc::SYS_getrandom,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Limits this process irrevocably to the allowed system calls; others fail with `EPERM`.
pub(crate) fn lock_down() -> io::Result<()> {
    install().map_err(|error| match error {
        Error::Prctl(error) | Error::Seccomp(error) => error,
        error => io::Error::other(error),
    })
}

fn install() -> Result<(), Error> {
    // The allowlist must come last, since it refuses `seccomp` itself.
    for filter in [hide_clone3()?, allowlist()?] {
        apply_filter_all_threads(&BpfProgram::try_from(filter)?)?;
    }
    Ok(())
}

/// Answers `clone3` with `ENOSYS`: a filter cannot read its flags, and C libraries then fall back to `clone`.
fn hide_clone3() -> Result<SeccompFilter, BackendError> {
    let rules = [(libc::SYS_clone3, Vec::new())];
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    SeccompFilter::new(rules.into(), SeccompAction::Allow, absent, ARCH.try_into()?)
}

fn allowlist() -> Result<SeccompFilter, BackendError> {
    // Allows threads but no processes.
    let flag = libc::CLONE_THREAD.cast_unsigned().into();
    let is_thread = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(flag), flag)?;
    // The kernel takes the strictest answer of all filters, so the other filter still refuses `clone3`.
    let always = ALLOWED.iter().copied().chain([libc::SYS_clone3]).map(|call| (call, Vec::new()));
    let rules = always.chain([(libc::SYS_clone, vec![SeccompRule::new(vec![is_thread])?])]);
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules.collect(), refused, SeccompAction::Allow, ARCH.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        net::{TcpStream, UdpSocket},
        os::unix::net::UnixStream,
        process::Command,
        thread,
    };

    use super::*;

    /// Set in the process that a test starts, which runs that test again.
    const LOCKED: &str = "SAMOVAR_TEST_LOCKED";

    #[test]
    fn a_locked_process_has_memory_and_threads_and_no_network_files_or_processes() {
        let this = env::current_exe().unwrap();
        if env::var_os(LOCKED).is_none() {
            let test = "compile::seccomp::tests::a_locked_process_has_memory_and_threads_and_no_network_files_or_processes";
            let ran =
                Command::new(this).args(["--exact", test, "--nocapture"]).env(LOCKED, "1").output().unwrap();
            let said = String::from_utf8_lossy(&ran.stdout);
            assert!(ran.status.success() && said.contains("held"), "{ran:?}");
            return;
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        TcpStream::connect(address).unwrap();
        lock_down().unwrap();
        let refused = |what: &str, result: io::Result<()>| {
            let error = result.expect_err(what);
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{what}: {error}");
        };
        refused("TCP", TcpStream::connect(address).map(drop));
        refused("UDP", UdpSocket::bind("127.0.0.1:0").map(drop));
        refused("sockets of its own", UnixStream::pair().map(drop));
        refused("connections that come", listener.accept().map(drop));
        refused("reading", fs::read("/etc/hostname").map(drop));
        refused("writing", fs::write("/tmp/samovar-locked", "").map(drop));
        refused("its own program", fs::File::open(&this).map(drop));
        refused("programs", Command::new("/bin/true").status().map(drop));
        assert_eq!(
            thread::spawn(|| vec![1_u8; 32 << 20].iter().map(|&one| u64::from(one)).sum::<u64>())
                .join()
                .unwrap(),
            32 << 20
        );
        println!("held");
        // The test harness would need calls that the filter refuses.
        std::process::exit(0);
    }

    #[test]
    fn a_refused_call_fails_with_eperm_and_clone3_with_enosys() {
        if env::var_os(LOCKED).is_none() {
            let test = "compile::seccomp::tests::a_refused_call_fails_with_eperm_and_clone3_with_enosys";
            let mut this = Command::new(env::current_exe().unwrap());
            let ran = this.args(["--exact", test, "--nocapture"]).env(LOCKED, "1").output().unwrap();
            let said = String::from_utf8_lossy(&ran.stdout);
            assert!(ran.status.success() && said.contains("held"), "{ran:?}");
            return;
        }
        lock_down().unwrap();
        let refused = [
            (libc::SYS_clone3, 0, libc::ENOSYS),
            (libc::SYS_clone, libc::SIGCHLD, libc::EPERM),
            // Passes the filter; the kernel refuses a thread that does not share memory and signal handlers.
            (libc::SYS_clone, libc::CLONE_THREAD, libc::EINVAL),
            (libc::SYS_execve, 0, libc::EPERM),
            (libc::SYS_io_uring_setup, 0, libc::EPERM),
            (libc::SYS_kill, 0, libc::EPERM),
            (libc::SYS_memfd_create, 0, libc::EPERM),
            (libc::SYS_openat, 0, libc::EPERM),
            (libc::SYS_prctl, 0, libc::EPERM),
            (libc::SYS_process_vm_readv, 0, libc::EPERM),
            (libc::SYS_seccomp, 0, libc::EPERM),
            (libc::SYS_socket, 0, libc::EPERM),
            // Unknown to every kernel, whose own answer would be ENOSYS.
            (1 << 20, 0, libc::EPERM),
            // x32's number for `read`, which is allowed under the number of x86-64.
            (0x4000_0000, 0, libc::EPERM),
        ];
        for (call, argument, errno) in refused {
            let result = refused_call(call, argument);
            assert_eq!(result.unwrap_err().raw_os_error(), Some(errno), "{call} {argument}");
        }
        println!("held");
        // The test harness would need calls that the filter refuses.
        std::process::exit(0);
    }

    #[expect(unsafe_code, reason = "most of these calls have no safe interface")]
    fn refused_call(call: c_long, argument: i32) -> io::Result<()> {
        // SAFETY: the filter or the kernel refuses each of these calls before it takes effect.
        let result = unsafe { libc::syscall(call, argument, 0, 0, 0, 0, 0) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
