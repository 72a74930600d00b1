//! WASI preview 1 for core modules: the granted files through our own functions, everything else through wasmtime's.

mod convert;
#[cfg(test)]
mod tests;

use wasmtime_wasi::p1::{
    WasiP1Ctx,
    types::{
        self, Advice, CiovecArray, Errno, Error, Fd, Fdflags, Fdstat, Filedelta, Filesize, Filestat,
        Fstflags, IovecArray, Lookupflags, Oflags, Prestat, Rights, Size, Timestamp, Whence,
    },
    wasi_snapshot_preview1::WasiSnapshotPreview1,
};
use wiggle::{GuestMemory as Memory, GuestPtr as Ptr};

use self::convert::{dirent, fdstat, filestat, follows, read_into, text, times, write_from};
use super::{
    FileError, FileSystem, FilesGrant,
    descriptors::{Descriptors, FIRST, Open},
    path::OpenOptions,
    volumes::Handle,
};

/// The most buffers of one read or write, as on Linux.
const BUFFERS: u32 = 1024;

/// The WASI of one instance of a core module.
///
/// stdin, stdout and stderr are wasmtime's descriptors. On these three, most file functions fail with `BADF` in wasmtime
/// too, so only the functions that do something else there are delegated; a test compares the rest.
pub(crate) struct Preview1 {
    wasi: WasiP1Ctx,
    /// All descriptors but stdin, stdout and stderr; `None` without a grant of files.
    files: Option<Descriptors>,
}

type Answer<T = ()> = Result<T, Error>;

impl Preview1 {
    /// Opens the mounts of the grant, if there is one.
    pub(crate) fn new(wasi: WasiP1Ctx, files: Option<(&FileSystem, &FilesGrant)>) -> Self {
        // An instance has no handles yet, so one on each mount stays within the limit.
        let files = files.and_then(|(files, grant)| Descriptors::new(files, grant).ok());
        Self { wasi, files }
    }

    fn open(&mut self, fd: Fd) -> Result<&mut Open, FileError> {
        self.files.as_mut().ok_or(FileError::BadDescriptor)?.get(fd.into())
    }

    fn handle(&self, fd: Fd) -> Result<&Handle, FileError> {
        self.files.as_ref().ok_or(FileError::BadDescriptor)?.handle(fd.into())
    }
}

fn is_stdio(fd: Fd) -> bool {
    u32::from(fd) < FIRST
}

/// Delegates functions to wasmtime, whatever their arguments.
macro_rules! delegate {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&mut self, memory: &mut Memory<'_>, $($arg: $ty),*) -> $answer {
            self.wasi.$name(memory, $($arg),*)
        })*
    };
}

impl WasiSnapshotPreview1 for Preview1 {
    fn set_hostcall_fuel(&mut self, fuel: usize) {
        self.wasi.set_hostcall_fuel(fuel);
    }

    delegate! {
        args_get(argv: Ptr<Ptr<u8>>, buf: Ptr<u8>) -> Answer;
        args_sizes_get() -> Answer<(Size, Size)>;
        environ_get(environ: Ptr<Ptr<u8>>, buf: Ptr<u8>) -> Answer;
        environ_sizes_get() -> Answer<(Size, Size)>;
        clock_res_get(id: types::Clockid) -> Answer<Timestamp>;
        clock_time_get(id: types::Clockid, precision: Timestamp) -> Answer<Timestamp>;
        fd_fdstat_set_rights(fd: Fd, base: Rights, inheriting: Rights) -> Answer;
        proc_exit(status: types::Exitcode) -> wasmtime::Error;
        proc_raise(signal: types::Signal) -> Answer;
        sched_yield() -> Answer;
        random_get(buf: Ptr<u8>, len: Size) -> Answer;
        sock_accept(fd: Fd, flags: Fdflags) -> Answer<Fd>;
        sock_recv(fd: Fd, data: IovecArray, flags: types::Riflags) -> Answer<(Size, types::Roflags)>;
        sock_send(fd: Fd, data: CiovecArray, flags: types::Siflags) -> Answer<Size>;
        sock_shutdown(fd: Fd, how: types::Sdflags) -> Answer;
    }

    async fn fd_advise(&mut self, _: &mut Memory<'_>, fd: Fd, _: Filesize, _: Filesize, _: Advice) -> Answer {
        Ok(self.handle(fd)?.file_stat().map(drop)?)
    }

    fn fd_allocate(&mut self, _: &mut Memory<'_>, fd: Fd, offset: Filesize, len: Filesize) -> Answer {
        Ok(self.open(fd)?.allocate(offset, len)?)
    }

    async fn fd_close(&mut self, memory: &mut Memory<'_>, fd: Fd) -> Answer {
        if is_stdio(fd) {
            return self.wasi.fd_close(memory, fd).await;
        }
        Ok(self.files.as_mut().ok_or(Errno::Badf)?.close(fd.into())?)
    }

    async fn fd_datasync(&mut self, _: &mut Memory<'_>, fd: Fd) -> Answer {
        Ok(self.handle(fd).map(drop)?)
    }

    async fn fd_sync(&mut self, _: &mut Memory<'_>, fd: Fd) -> Answer {
        Ok(self.handle(fd).map(drop)?)
    }

    async fn fd_fdstat_get(&mut self, memory: &mut Memory<'_>, fd: Fd) -> Answer<Fdstat> {
        if is_stdio(fd) {
            return self.wasi.fd_fdstat_get(memory, fd).await;
        }
        Ok(fdstat(self.open(fd)?)?)
    }

    fn fd_fdstat_set_flags(&mut self, _: &mut Memory<'_>, fd: Fd, flags: Fdflags) -> Answer {
        let open = self.open(fd)?;
        open.append = flags.contains(Fdflags::APPEND);
        open.nonblock = flags.contains(Fdflags::NONBLOCK);
        Ok(())
    }

    async fn fd_filestat_get(&mut self, memory: &mut Memory<'_>, fd: Fd) -> Answer<Filestat> {
        if is_stdio(fd) {
            return self.wasi.fd_filestat_get(memory, fd).await;
        }
        let handle = self.handle(fd)?;
        Ok(filestat(&handle.stat()?, handle.volume()))
    }

    async fn fd_filestat_set_size(&mut self, _: &mut Memory<'_>, fd: Fd, size: Filesize) -> Answer {
        Ok(self.open(fd)?.set_size(size)?)
    }

    async fn fd_filestat_set_times(
        &mut self,
        _: &mut Memory<'_>,
        fd: Fd,
        atim: Timestamp,
        mtim: Timestamp,
        flags: Fstflags,
    ) -> Answer {
        let (accessed, modified) = times(atim, mtim, flags)?;
        Ok(self.handle(fd)?.set_times(accessed, modified)?)
    }

    async fn fd_read(&mut self, memory: &mut Memory<'_>, fd: Fd, iovs: IovecArray) -> Answer<Size> {
        if is_stdio(fd) {
            return self.wasi.fd_read(memory, fd, iovs).await;
        }
        let open = self.open(fd)?;
        read_into(memory, iovs, |buffer| open.read(buffer))
    }

    async fn fd_pread(
        &mut self,
        memory: &mut Memory<'_>,
        fd: Fd,
        iovs: IovecArray,
        offset: Filesize,
    ) -> Answer<Size> {
        if is_stdio(fd) {
            return self.wasi.fd_pread(memory, fd, iovs, offset).await;
        }
        let open = self.open(fd)?;
        read_into(memory, iovs, |buffer| open.read_at(offset, buffer))
    }

    async fn fd_write(&mut self, memory: &mut Memory<'_>, fd: Fd, ciovs: CiovecArray) -> Answer<Size> {
        if is_stdio(fd) {
            return self.wasi.fd_write(memory, fd, ciovs).await;
        }
        let open = self.open(fd)?;
        write_from(memory, ciovs, |bytes| open.write(bytes))
    }

    async fn fd_pwrite(
        &mut self,
        memory: &mut Memory<'_>,
        fd: Fd,
        ciovs: CiovecArray,
        offset: Filesize,
    ) -> Answer<Size> {
        if is_stdio(fd) {
            return self.wasi.fd_pwrite(memory, fd, ciovs, offset).await;
        }
        let open = self.open(fd)?;
        write_from(memory, ciovs, |bytes| open.write_at(offset, bytes))
    }

    fn fd_prestat_get(&mut self, _: &mut Memory<'_>, fd: Fd) -> Answer<Prestat> {
        let path = self.open(fd)?.preopen.as_ref().ok_or(Errno::Badf)?;
        Ok(Prestat::Dir(types::PrestatDir { pr_name_len: u32::try_from(path.len())? }))
    }

    fn fd_prestat_dir_name(&mut self, memory: &mut Memory<'_>, fd: Fd, into: Ptr<u8>, len: Size) -> Answer {
        if is_stdio(fd) {
            return self.wasi.fd_prestat_dir_name(memory, fd, into, len);
        }
        let path = self.open(fd)?.preopen.as_ref().ok_or(Errno::Notdir)?;
        let needed =
            u32::try_from(path.len()).ok().filter(|&needed| needed <= len).ok_or(Errno::Nametoolong)?;
        Ok(memory.copy_from_slice(path.as_bytes(), into.as_array(needed))?)
    }

    async fn fd_renumber(&mut self, memory: &mut Memory<'_>, from: Fd, to: Fd) -> Answer {
        match &mut self.files {
            Some(_) if is_stdio(from) || is_stdio(to) => {
                // stdout and stderr go to the caller and the plugin's log, and no file can take their place.
                Err(Errno::Notsup.into())
            }
            Some(files) => Ok(files.renumber(from.into(), to.into())?),
            None => self.wasi.fd_renumber(memory, from, to).await,
        }
    }

    async fn fd_seek(
        &mut self,
        memory: &mut Memory<'_>,
        fd: Fd,
        offset: Filedelta,
        whence: Whence,
    ) -> Answer<Filesize> {
        if is_stdio(fd) {
            return self.wasi.fd_seek(memory, fd, offset, whence).await;
        }
        Ok(self.open(fd)?.seek(offset, whence)?)
    }

    fn fd_tell(&mut self, memory: &mut Memory<'_>, fd: Fd) -> Answer<Filesize> {
        if is_stdio(fd) {
            return self.wasi.fd_tell(memory, fd);
        }
        Ok(self.open(fd)?.seek(0, Whence::Cur)?)
    }

    async fn fd_readdir(
        &mut self,
        memory: &mut Memory<'_>,
        fd: Fd,
        buf: Ptr<u8>,
        len: Size,
        mut cookie: types::Dircookie,
    ) -> Answer<Size> {
        let handle = self.handle(fd)?;
        let mut filled = 0;
        // An entry that does not fit is truncated: the guest sees a full buffer, and reads that entry again.
        while filled < len
            && let Some(entry) = handle.entry(cookie)?
        {
            cookie = entry.cookie;
            let mut bytes = dirent(&entry)?;
            bytes.truncate(usize::try_from(len - filled)?);
            let count = u32::try_from(bytes.len())?;
            memory.copy_from_slice(&bytes, buf.add(filled)?.as_array(count))?;
            filled += count;
        }
        Ok(filled)
    }

    async fn path_create_directory(&mut self, memory: &mut Memory<'_>, fd: Fd, path: Ptr<str>) -> Answer {
        Ok(self.handle(fd)?.create_directory_at(&text(memory, path)?)?)
    }

    async fn path_filestat_get(
        &mut self,
        memory: &mut Memory<'_>,
        fd: Fd,
        flags: Lookupflags,
        path: Ptr<str>,
    ) -> Answer<Filestat> {
        let handle = self.handle(fd)?;
        Ok(filestat(&handle.stat_at(&text(memory, path)?, follows(flags))?, handle.volume()))
    }

    async fn path_filestat_set_times(
        &mut self,
        memory: &mut Memory<'_>,
        fd: Fd,
        flags: Lookupflags,
        path: Ptr<str>,
        atim: Timestamp,
        mtim: Timestamp,
        which: Fstflags,
    ) -> Answer {
        let (accessed, modified) = times(atim, mtim, which)?;
        let handle = self.handle(fd)?;
        Ok(handle.set_times_at(&text(memory, path)?, follows(flags), accessed, modified)?)
    }

    async fn path_link(
        &mut self,
        _: &mut Memory<'_>,
        fd: Fd,
        _: Lookupflags,
        _: Ptr<str>,
        _: Fd,
        _: Ptr<str>,
    ) -> Answer {
        // No hard links: each file has one name.
        Err(self.handle(fd).err().unwrap_or(FileError::NotPermitted).into())
    }

    async fn path_open(
        &mut self,
        memory: &mut Memory<'_>,
        fd: Fd,
        flags: Lookupflags,
        path: Ptr<str>,
        oflags: Oflags,
        base: Rights,
        _: Rights,
        fdflags: Fdflags,
    ) -> Answer<Fd> {
        let files = self.files.as_mut().ok_or(Errno::Badf)?;
        let (reads, writes) = (base.contains(Rights::FD_READ), base.contains(Rights::FD_WRITE));
        let options = OpenOptions {
            follow: follows(flags),
            create: oflags.contains(Oflags::CREAT),
            exclusive: oflags.contains(Oflags::EXCL),
            directory: oflags.contains(Oflags::DIRECTORY),
            truncate: oflags.contains(Oflags::TRUNC),
            write: writes,
        };
        let handle = files.handle(fd.into())?.open_at(&text(memory, path)?, options)?;
        let mut open = Open::new(handle, reads, writes, fdflags.contains(Fdflags::APPEND));
        open.nonblock = fdflags.contains(Fdflags::NONBLOCK);
        Ok(files.add(open).into())
    }

    async fn path_readlink(
        &mut self,
        memory: &mut Memory<'_>,
        fd: Fd,
        path: Ptr<str>,
        buf: Ptr<u8>,
        len: Size,
    ) -> Answer<Size> {
        let target = self.handle(fd)?.read_link_at(&text(memory, path)?)?;
        let count = u32::try_from(target.len())?.min(len);
        memory.copy_from_slice(&target.as_bytes()[..count as usize], buf.as_array(count))?;
        Ok(count)
    }

    async fn path_remove_directory(&mut self, memory: &mut Memory<'_>, fd: Fd, path: Ptr<str>) -> Answer {
        Ok(self.handle(fd)?.remove_directory_at(&text(memory, path)?)?)
    }

    async fn path_rename(
        &mut self,
        memory: &mut Memory<'_>,
        fd: Fd,
        path: Ptr<str>,
        to: Fd,
        to_path: Ptr<str>,
    ) -> Answer {
        let (from, to) = (self.handle(fd)?, self.handle(to)?);
        Ok(from.rename_at(&text(memory, path)?, to, &text(memory, to_path)?)?)
    }

    async fn path_symlink(
        &mut self,
        memory: &mut Memory<'_>,
        target: Ptr<str>,
        fd: Fd,
        path: Ptr<str>,
    ) -> Answer {
        Ok(self.handle(fd)?.symlink_at(&text(memory, target)?, &text(memory, path)?)?)
    }

    async fn path_unlink_file(&mut self, memory: &mut Memory<'_>, fd: Fd, path: Ptr<str>) -> Answer {
        Ok(self.handle(fd)?.unlink_file_at(&text(memory, path)?)?)
    }

    async fn poll_oneoff(
        &mut self,
        memory: &mut Memory<'_>,
        subscriptions: Ptr<types::Subscription>,
        events: Ptr<types::Event>,
        count: Size,
    ) -> Answer<Size> {
        let ready = match &mut self.files {
            Some(files) if count <= BUFFERS => ready(memory, subscriptions, events, count, files)?,
            _ => 0,
        };
        if ready > 0 {
            return Ok(ready);
        }
        self.wasi.poll_oneoff(memory, subscriptions, events, count).await
    }
}

/// Writes an event for each subscription to a file. Files are in memory and always ready, so a poll of any returns at once.
fn ready(
    memory: &mut Memory<'_>,
    subscriptions: Ptr<types::Subscription>,
    events: Ptr<types::Event>,
    count: u32,
    files: &Descriptors,
) -> Answer<u32> {
    let mut ready = 0;
    for subscription in subscriptions.as_array(count).iter() {
        let types::Subscription { userdata, u } = memory.read(subscription?)?;
        let (type_, fd) = match u {
            types::SubscriptionU::FdRead(on) => (types::Eventtype::FdRead, on.file_descriptor),
            types::SubscriptionU::FdWrite(on) => (types::Eventtype::FdWrite, on.file_descriptor),
            types::SubscriptionU::Clock(_) => continue,
        };
        if is_stdio(fd) {
            continue;
        }
        let error = files.handle(fd.into()).map_or(Errno::Badf, |_| Errno::Success);
        let fd_readwrite = types::EventFdReadwrite { nbytes: 1, flags: types::Eventrwflags::empty() };
        memory.write(events.add(ready)?, types::Event { userdata, error, type_, fd_readwrite })?;
        ready += 1;
    }
    Ok(ready)
}
