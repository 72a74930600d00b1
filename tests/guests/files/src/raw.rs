//! The functions of WASI preview 1, without std.

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn fd_advise(fd: u32, offset: u64, len: u64, advice: u32) -> u32;
    fn fd_allocate(fd: u32, offset: u64, len: u64) -> u32;
    fn fd_close(fd: u32) -> u32;
    fn fd_filestat_set_size(fd: u32, size: u64) -> u32;
    fn fd_filestat_set_times(fd: u32, atim: u64, mtim: u64, flags: u32) -> u32;
    fn fd_prestat_dir_name(fd: u32, path: *mut u8, len: usize) -> u32;
    fn fd_prestat_get(fd: u32, prestat: *mut u32) -> u32;
    fn fd_read(fd: u32, iovs: *const [usize; 2], count: usize, read: *mut u32) -> u32;
    fn fd_readdir(fd: u32, buf: *mut u8, len: usize, cookie: u64, used: *mut u32) -> u32;
    fn fd_renumber(from: u32, to: u32) -> u32;
    fn fd_write(fd: u32, iovs: *const [usize; 2], count: usize, written: *mut u32) -> u32;
    fn path_create_directory(fd: u32, path: *const u8, len: usize) -> u32;
    fn path_filestat_get(fd: u32, flags: u32, path: *const u8, len: usize, stat: *mut u64) -> u32;
    fn path_filestat_set_times(
        fd: u32,
        flags: u32,
        path: *const u8,
        len: usize,
        atim: u64,
        mtim: u64,
        which: u32,
    ) -> u32;
    fn path_link(
        fd: u32,
        flags: u32,
        path: *const u8,
        len: usize,
        to: u32,
        to_path: *const u8,
        to_len: usize,
    ) -> u32;
    fn path_open(
        fd: u32,
        dirflags: u32,
        path: *const u8,
        len: usize,
        oflags: u32,
        base: u64,
        inheriting: u64,
        fdflags: u32,
        opened: *mut u32,
    ) -> u32;
    fn path_readlink(fd: u32, path: *const u8, len: usize, buf: *mut u8, size: usize, used: *mut u32) -> u32;
    fn path_remove_directory(fd: u32, path: *const u8, len: usize) -> u32;
    fn path_rename(fd: u32, path: *const u8, len: usize, to: u32, to_path: *const u8, to_len: usize) -> u32;
    fn path_symlink(target: *const u8, target_len: usize, fd: u32, path: *const u8, len: usize) -> u32;
    fn path_unlink_file(fd: u32, path: *const u8, len: usize) -> u32;
}

/// The rights to read and to write a file.
const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 6;

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

fn checked(errno: u32) -> Result<String, String> {
    if errno == 0 { Ok(String::new()) } else { Err(format!("errno {errno}")) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_default().to_string()
}

/// Calls a function by its name.
pub fn call(words: &[&str]) -> Result<String, String> {
    let mut count = 0;
    let mut buffer = [0; 4096];
    match *words {
        // The flags: `r` and `w` are rights, the others POSIX flags by their first letters.
        ["open", fd, flags, path] => {
            let has = |letter: char, bit: u32| if flags.contains(letter) { bit } else { 0 };
            let rights =
                if flags.contains('r') { READ } else { 0 } | if flags.contains('w') { WRITE } else { 0 };
            let oflags = has('c', 1) | has('d', 2) | has('e', 4) | has('t', 8);
            let (follow, append) = (has('f', 1), has('a', 1));
            let errno = unsafe {
                path_open(
                    number(fd),
                    follow,
                    path.as_ptr(),
                    path.len(),
                    oflags,
                    rights,
                    rights,
                    append,
                    &mut count,
                )
            };
            checked(errno).map(|_| count.to_string())
        }
        ["close", fd] => checked(unsafe { fd_close(number(fd)) }),
        ["read", fd] => {
            let iov = [buffer.as_mut_ptr() as usize, buffer.len()];
            let errno = unsafe { fd_read(number(fd), &iov, 1, &mut count) };
            checked(errno).map(|_| text(&buffer[..count as usize]))
        }
        ["write", fd, bytes] => {
            let iov = [bytes.as_ptr() as usize, bytes.len()];
            checked(unsafe { fd_write(number(fd), &iov, 1, &mut count) })
        }
        ["readdir", fd] => {
            let errno = unsafe { fd_readdir(number(fd), buffer.as_mut_ptr(), buffer.len(), 0, &mut count) };
            checked(errno).map(|_| text(&buffer[..count as usize]))
        }
        ["prestat", fd] => {
            let mut prestat = [0_u32; 2];
            checked(unsafe { fd_prestat_get(number(fd), prestat.as_mut_ptr()) })?;
            let len = prestat[1] as usize;
            let errno = unsafe { fd_prestat_dir_name(number(fd), buffer.as_mut_ptr(), len) };
            checked(errno).map(|_| text(&buffer[..len]))
        }
        ["renumber", from, to] => checked(unsafe { fd_renumber(number(from), number(to)) }),
        ["advise", fd] => checked(unsafe { fd_advise(number(fd), 0, 1, 0) }),
        ["allocate", fd, size] => checked(unsafe { fd_allocate(number(fd), 0, number(size)) }),
        ["set-size", fd, size] => checked(unsafe { fd_filestat_set_size(number(fd), number(size)) }),
        ["set-times", fd] => checked(unsafe { fd_filestat_set_times(number(fd), 0, 0, 0b101) }),
        ["set-times-at", fd, path] => {
            checked(unsafe { path_filestat_set_times(number(fd), 1, path.as_ptr(), path.len(), 0, 0, 0b101) })
        }
        ["stat-at", fd, path] => {
            let mut stat = [0_u64; 8];
            let errno =
                unsafe { path_filestat_get(number(fd), 1, path.as_ptr(), path.len(), stat.as_mut_ptr()) };
            checked(errno)
        }
        ["mkdir", fd, path] => {
            checked(unsafe { path_create_directory(number(fd), path.as_ptr(), path.len()) })
        }
        ["rmdir", fd, path] => {
            checked(unsafe { path_remove_directory(number(fd), path.as_ptr(), path.len()) })
        }
        ["unlink", fd, path] => checked(unsafe { path_unlink_file(number(fd), path.as_ptr(), path.len()) }),
        ["symlink", target, fd, path] => checked(unsafe {
            path_symlink(target.as_ptr(), target.len(), number(fd), path.as_ptr(), path.len())
        }),
        ["readlink", fd, path] => {
            let errno = unsafe {
                path_readlink(
                    number(fd),
                    path.as_ptr(),
                    path.len(),
                    buffer.as_mut_ptr(),
                    buffer.len(),
                    &mut count,
                )
            };
            checked(errno).map(|_| text(&buffer[..count as usize]))
        }
        ["link", fd, path, to, to_path] => checked(unsafe {
            path_link(number(fd), 1, path.as_ptr(), path.len(), number(to), to_path.as_ptr(), to_path.len())
        }),
        ["rename", fd, path, to, to_path] => checked(unsafe {
            path_rename(number(fd), path.as_ptr(), path.len(), number(to), to_path.as_ptr(), to_path.len())
        }),
        ref other => panic!("{other:?} is nothing to call"),
    }
}
