//! A comparison with wasmtime: stdin, stdout and stderr are its descriptors, and most file functions refuse them.

use wasmtime_wasi::WasiCtxBuilder;

use super::*;

fn errno<T>(answer: Answer<T>) -> Errno {
    answer.err().and_then(|error| error.downcast().ok()).unwrap_or(Errno::Success)
}

/// The errors of the functions that are never delegated.
async fn errors(wasi: &mut impl WasiSnapshotPreview1, fd: Fd) -> Vec<Errno> {
    let memory = &mut Memory::Unshared(&mut [b'x'; 64]);
    let (path, buf, len) = (Ptr::<str>::new((0, 1)), Ptr::<u8>::new(0), 8);
    let (lookup, oflags, fdflags) = (Lookupflags::empty(), Oflags::empty(), Fdflags::empty());
    let (rights, times, both) = (Rights::all(), Fstflags::ATIM, Fstflags::ATIM | Fstflags::ATIM_NOW);
    wasi.set_hostcall_fuel(1 << 10);
    vec![
        errno(wasi.fd_advise(memory, fd, 0, 0, Advice::Normal).await),
        errno(wasi.fd_allocate(memory, fd, 0, 1)),
        errno(wasi.fd_datasync(memory, fd).await),
        errno(wasi.fd_sync(memory, fd).await),
        errno(wasi.fd_fdstat_set_flags(memory, fd, fdflags)),
        errno(wasi.fd_filestat_set_size(memory, fd, 0).await),
        errno(wasi.fd_filestat_set_times(memory, fd, 0, 0, times).await),
        errno(wasi.fd_filestat_set_times(memory, fd, 0, 0, both).await),
        errno(wasi.fd_prestat_get(memory, fd)),
        errno(wasi.fd_readdir(memory, fd, buf, len, 0).await),
        errno(wasi.path_create_directory(memory, fd, path).await),
        errno(wasi.path_filestat_get(memory, fd, lookup, path).await),
        errno(wasi.path_filestat_set_times(memory, fd, lookup, path, 0, 0, times).await),
        errno(wasi.path_filestat_set_times(memory, fd, lookup, path, 0, 0, both).await),
        errno(wasi.path_link(memory, fd, lookup, path, fd, path).await),
        errno(wasi.path_open(memory, fd, lookup, path, oflags, rights, rights, fdflags).await),
        errno(wasi.path_readlink(memory, fd, path, buf, len).await),
        errno(wasi.path_remove_directory(memory, fd, path).await),
        errno(wasi.path_rename(memory, fd, path, fd, path).await),
        errno(wasi.path_symlink(memory, path, fd, path).await),
        errno(wasi.path_unlink_file(memory, fd, path).await),
    ]
}

#[tokio::test]
async fn descriptors_that_are_no_files_fail_as_in_wasmtime() {
    let mut wasmtime = WasiCtxBuilder::new().build_p1();
    let mut ours = Preview1::new(WasiCtxBuilder::new().build_p1(), None);
    for fd in 0..=FIRST {
        let refused = errors(&mut wasmtime, fd.into()).await;
        assert!(!refused.contains(&Errno::Success));
        assert_eq!(errors(&mut ours, fd.into()).await, refused, "{fd}");
        let memory = &mut Memory::Unshared(&mut []);
        assert_eq!(
            errno(ours.fd_close(memory, fd.into()).await),
            errno(wasmtime.fd_close(memory, fd.into()).await)
        );
        assert_eq!(errors(&mut ours, fd.into()).await, errors(&mut wasmtime, fd.into()).await, "{fd} closed");
    }
}
