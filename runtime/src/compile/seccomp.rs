//! What a process that compiles may ask of the kernel: memory, threads, and the pipes that it has.
//!
//! Nothing else: no file, no socket, no program, no other process. A module that takes the compiler over gains
//! nothing by it. A seccomp filter does this, since it needs no right that a Pod of the `restricted` standard lacks;
//! a network namespace would.

use std::io;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS, c_long, sock_filter, sock_fprog,
};

/// What is allowed whatever its arguments.
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

/// The kernel's name for this CPU's system calls.
const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") {
    0xC000_003E
} else if cfg!(target_arch = "aarch64") {
    0xC000_00B7
} else {
    panic!("the filter below does not know this CPU")
};

/// Where the filter finds the call's number, its architecture and the low half of its first argument.
const NUMBER: u32 = 0;
const CALLS_ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// From now on, and for good, this process has only what is allowed here; the rest fails with `EPERM`.
#[expect(unsafe_code, reason = "no safe interface sets a filter")]
pub(crate) fn lock_down() -> io::Result<()> {
    let mut filter = filter();
    let program = sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: it takes four numbers.
    let kept = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if kept != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `program` and the filter that it points to live until the call ends; the kernel copies and checks them.
    let set = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn filter() -> Vec<sock_filter> {
    let refused = SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let mut filter = vec![
        load(CALLS_ARCHITECTURE),
        unless(BPF_JEQ, ARCHITECTURE),
        answer(SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    // Its flags are out of a filter's sight. C libraries that are told that there is none use `clone`.
    filter.extend([
        when(BPF_JEQ, number(libc::SYS_clone3)),
        answer(SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
    ]);
    for &call in ALLOWED {
        filter.extend([when(BPF_JEQ, number(call)), answer(SECCOMP_RET_ALLOW)]);
    }
    // Threads, and no processes.
    filter.extend([
        unless(BPF_JEQ, number(libc::SYS_clone)),
        answer(refused),
        load(FIRST_ARGUMENT),
        when(BPF_JSET, libc::CLONE_THREAD.cast_unsigned()),
        answer(SECCOMP_RET_ALLOW),
        answer(refused),
    ]);
    filter
}

fn number(call: c_long) -> u32 {
    u32::try_from(call).expect("the kernel's system calls have small numbers")
}

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
}

fn answer(action: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, action, 0, 0)
}

/// Goes on with the next instruction where the comparison holds, and with the one after it where it does not.
fn when(comparison: u32, value: u32) -> sock_filter {
    instruction(BPF_JMP | comparison | BPF_K, value, 0, 1)
}

/// The same the other way round.
fn unless(comparison: u32, value: u32) -> sock_filter {
    instruction(BPF_JMP | comparison | BPF_K, value, 1, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: u16::try_from(code).expect("BPF's codes have 16 bits"), jt, jf, k }
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

    /// Set for the process that this test starts, which is itself.
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
        // The test harness would ask for more than a locked process has.
        std::process::exit(0);
    }
}
