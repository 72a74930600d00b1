//! WASI preview 1 for core modules: the file functions on the granted files, everything else as wasmtime has it.

mod convert;

use wasmtime_wasi::p1::{
    WasiP1Ctx,
    types::{self, Errno, Error, Fd, Fdflags, Fstflags, Lookupflags, Oflags, Rights},
    wasi_snapshot_preview1::WasiSnapshotPreview1,
};
use wiggle::{GuestMemory, GuestPtr};

use self::convert::{fdstat, filestat, filetype, follows, read_into, text, times, write_from};
use super::{
    FileError, FileSystem, FilesGrant,
    descriptors::{Descriptors, FIRST, From as Whence, Open},
    path::OpenOptions,
};

/// The most buffers of one read or write, as Linux has it.
const BUFFERS: u32 = 1024;

/// The WASI of one instance of a core module.
pub(crate) struct Preview1 {
    wasi: WasiP1Ctx,
    /// Where files are granted: all that is open but stdin, stdout and stderr.
    files: Option<Descriptors>,
}

type Answer<T = ()> = Result<T, Error>;

impl Preview1 {
    /// With these files, if there are any.
    pub(crate) fn new(wasi: WasiP1Ctx, files: Option<(&FileSystem, &FilesGrant)>) -> Self {
        // A core module that has nothing open yet is not refused a handle on each mount.
        let files = files.and_then(|(files, grant)| Descriptors::new(files, grant).ok());
        Self { wasi, files }
    }

    /// The descriptors, where this is one of ours.
    fn ours(&mut self, fd: Fd) -> Option<&mut Descriptors> {
        self.files.as_mut().filter(|_| u32::from(fd) >= FIRST)
    }
}

/// Those of its functions that have nothing to do with files.
macro_rules! as_wasmtime_has_it {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&mut self, memory: &mut GuestMemory<'_>, $($arg: $ty),*) -> $answer {
            self.wasi.$name(memory, $($arg),*)
        })*
    };
}

impl WasiSnapshotPreview1 for Preview1 {
    fn set_hostcall_fuel(&mut self, fuel: usize) {
        self.wasi.set_hostcall_fuel(fuel);
    }

    as_wasmtime_has_it! {
        args_get(argv: GuestPtr<GuestPtr<u8>>, buf: GuestPtr<u8>) -> Answer;
        args_sizes_get() -> Answer<(types::Size, types::Size)>;
        environ_get(environ: GuestPtr<GuestPtr<u8>>, buf: GuestPtr<u8>) -> Answer;
        environ_sizes_get() -> Answer<(types::Size, types::Size)>;
        clock_res_get(id: types::Clockid) -> Answer<types::Timestamp>;
        clock_time_get(id: types::Clockid, precision: types::Timestamp) -> Answer<types::Timestamp>;
        proc_exit(status: types::Exitcode) -> wasmtime::Error;
        proc_raise(signal: types::Signal) -> Answer;
        sched_yield() -> Answer;
        random_get(buf: GuestPtr<u8>, len: types::Size) -> Answer;
        sock_accept(fd: Fd, flags: Fdflags) -> Answer<Fd>;
        sock_recv(fd: Fd, data: types::IovecArray, flags: types::Riflags) -> Answer<(types::Size, types::Roflags)>;
        sock_send(fd: Fd, data: types::CiovecArray, flags: types::Siflags) -> Answer<types::Size>;
        sock_shutdown(fd: Fd, how: types::Sdflags) -> Answer;
    }

    async fn fd_advise(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        offset: types::Filesize,
        len: types::Filesize,
        advice: types::Advice,
    ) -> Answer {
        match self.ours(fd) {
            Some(ours) => Ok(ours.handle(fd.into())?.file().map(drop)?),
            None => self.wasi.fd_advise(memory, fd, offset, len, advice).await,
        }
    }

    fn fd_allocate(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        offset: types::Filesize,
        len: types::Filesize,
    ) -> Answer {
        match self.ours(fd) {
            Some(ours) => Ok(ours.get(fd.into())?.allocate(offset, len)?),
            None => self.wasi.fd_allocate(memory, fd, offset, len),
        }
    }

    async fn fd_close(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Answer {
        match self.ours(fd) {
            Some(ours) => Ok(ours.close(fd.into())?),
            None => self.wasi.fd_close(memory, fd).await,
        }
    }

    async fn fd_datasync(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Answer {
        match self.ours(fd) {
            Some(ours) => Ok(ours.get(fd.into()).map(drop)?),
            None => self.wasi.fd_datasync(memory, fd).await,
        }
    }

    async fn fd_sync(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Answer {
        match self.ours(fd) {
            Some(ours) => Ok(ours.get(fd.into()).map(drop)?),
            None => self.wasi.fd_sync(memory, fd).await,
        }
    }

    async fn fd_fdstat_get(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Answer<types::Fdstat> {
        match self.ours(fd) {
            Some(ours) => Ok(fdstat(ours.get(fd.into())?)?),
            None => self.wasi.fd_fdstat_get(memory, fd).await,
        }
    }

    fn fd_fdstat_set_flags(&mut self, memory: &mut GuestMemory<'_>, fd: Fd, flags: Fdflags) -> Answer {
        let Some(ours) = self.ours(fd) else { return self.wasi.fd_fdstat_set_flags(memory, fd, flags) };
        let open = ours.get(fd.into())?;
        open.append = flags.contains(Fdflags::APPEND);
        open.nonblock = flags.contains(Fdflags::NONBLOCK);
        Ok(())
    }

    fn fd_fdstat_set_rights(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        base: Rights,
        inheriting: Rights,
    ) -> Answer {
        self.wasi.fd_fdstat_set_rights(memory, fd, base, inheriting)
    }

    async fn fd_filestat_get(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Answer<types::Filestat> {
        let Some(ours) = self.ours(fd) else { return self.wasi.fd_filestat_get(memory, fd).await };
        let handle = ours.handle(fd.into())?;
        Ok(filestat(&handle.stat()?, handle.volume()))
    }

    async fn fd_filestat_set_size(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        size: types::Filesize,
    ) -> Answer {
        match self.ours(fd) {
            Some(ours) => Ok(ours.get(fd.into())?.set_size(size)?),
            None => self.wasi.fd_filestat_set_size(memory, fd, size).await,
        }
    }

    async fn fd_filestat_set_times(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        atim: types::Timestamp,
        mtim: types::Timestamp,
        flags: Fstflags,
    ) -> Answer {
        let Some(ours) = self.ours(fd) else {
            return self.wasi.fd_filestat_set_times(memory, fd, atim, mtim, flags).await;
        };
        let (accessed, modified) = times(atim, mtim, flags)?;
        Ok(ours.handle(fd.into())?.set_times(accessed, modified)?)
    }

    async fn fd_read(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        iovs: types::IovecArray,
    ) -> Answer<types::Size> {
        let Some(ours) = self.ours(fd) else { return self.wasi.fd_read(memory, fd, iovs).await };
        let open = ours.get(fd.into())?;
        read_into(memory, iovs, |buffer| open.read(buffer))
    }

    async fn fd_pread(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        iovs: types::IovecArray,
        offset: types::Filesize,
    ) -> Answer<types::Size> {
        let Some(ours) = self.ours(fd) else { return self.wasi.fd_pread(memory, fd, iovs, offset).await };
        let open = ours.get(fd.into())?;
        read_into(memory, iovs, |buffer| open.read_at(offset, buffer))
    }

    async fn fd_write(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        ciovs: types::CiovecArray,
    ) -> Answer<types::Size> {
        let Some(ours) = self.ours(fd) else { return self.wasi.fd_write(memory, fd, ciovs).await };
        let open = ours.get(fd.into())?;
        write_from(memory, ciovs, |bytes| open.write(bytes))
    }

    async fn fd_pwrite(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        ciovs: types::CiovecArray,
        offset: types::Filesize,
    ) -> Answer<types::Size> {
        let Some(ours) = self.ours(fd) else { return self.wasi.fd_pwrite(memory, fd, ciovs, offset).await };
        let open = ours.get(fd.into())?;
        write_from(memory, ciovs, |bytes| open.write_at(offset, bytes))
    }

    fn fd_prestat_get(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Answer<types::Prestat> {
        let Some(ours) = self.ours(fd) else { return self.wasi.fd_prestat_get(memory, fd) };
        let path = ours.get(fd.into())?.preopen.as_ref().ok_or(Errno::Badf)?;
        Ok(types::Prestat::Dir(types::PrestatDir { pr_name_len: u32::try_from(path.len())? }))
    }

    fn fd_prestat_dir_name(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        into: GuestPtr<u8>,
        len: types::Size,
    ) -> Answer {
        let Some(ours) = self.ours(fd) else { return self.wasi.fd_prestat_dir_name(memory, fd, into, len) };
        let path = ours.get(fd.into())?.preopen.as_ref().ok_or(Errno::Notdir)?;
        let needed =
            u32::try_from(path.len()).ok().filter(|&needed| needed <= len).ok_or(Errno::Nametoolong)?;
        Ok(memory.copy_from_slice(path.as_bytes(), into.as_array(needed))?)
    }

    async fn fd_renumber(&mut self, memory: &mut GuestMemory<'_>, from: Fd, to: Fd) -> Answer {
        match &mut self.files {
            Some(ours) if u32::from(from) >= FIRST && u32::from(to) >= FIRST => {
                Ok(ours.renumber(from.into(), to.into())?)
            }
            // What a program prints goes to its caller and its log, and nowhere else.
            Some(_) => Err(Errno::Notsup.into()),
            None => self.wasi.fd_renumber(memory, from, to).await,
        }
    }

    async fn fd_seek(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        offset: types::Filedelta,
        whence: types::Whence,
    ) -> Answer<types::Filesize> {
        let Some(ours) = self.ours(fd) else { return self.wasi.fd_seek(memory, fd, offset, whence).await };
        let from = match whence {
            types::Whence::Set => Whence::Start,
            types::Whence::Cur => Whence::Here,
            types::Whence::End => Whence::End,
        };
        Ok(ours.get(fd.into())?.seek(offset, &from)?)
    }

    fn fd_tell(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Answer<types::Filesize> {
        match self.ours(fd) {
            Some(ours) => Ok(ours.get(fd.into())?.seek(0, &Whence::Here)?),
            None => self.wasi.fd_tell(memory, fd),
        }
    }

    async fn fd_readdir(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buf: GuestPtr<u8>,
        len: types::Size,
        mut cookie: types::Dircookie,
    ) -> Answer<types::Size> {
        let Some(ours) = self.ours(fd) else {
            return self.wasi.fd_readdir(memory, fd, buf, len, cookie).await;
        };
        let open = ours.get(fd.into())?;
        let mut filled = 0;
        // An entry that does not fit is cut: the guest sees a full buffer, and asks for it again.
        while filled < len
            && let Some(entry) = open.handle.entry(cookie)?
        {
            cookie = entry.cookie;
            let mut bytes = Vec::with_capacity(24 + entry.name.len());
            bytes.extend_from_slice(&cookie.to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_le_bytes());
            bytes.extend_from_slice(&u32::try_from(entry.name.len())?.to_le_bytes());
            bytes.extend_from_slice(&u32::from(filetype(entry.kind) as u8).to_le_bytes());
            bytes.extend_from_slice(entry.name.as_bytes());
            bytes.truncate(usize::try_from(len - filled)?);
            let count = u32::try_from(bytes.len())?;
            memory.copy_from_slice(&bytes, buf.add(filled)?.as_array(count))?;
            filled += count;
        }
        Ok(filled)
    }

    async fn path_create_directory(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<str>,
    ) -> Answer {
        let Some(ours) = self.ours(fd) else {
            return self.wasi.path_create_directory(memory, fd, path).await;
        };
        Ok(ours.handle(fd.into())?.create_directory_at(&text(memory, path)?)?)
    }

    async fn path_filestat_get(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        flags: Lookupflags,
        path: GuestPtr<str>,
    ) -> Answer<types::Filestat> {
        let Some(ours) = self.ours(fd) else {
            return self.wasi.path_filestat_get(memory, fd, flags, path).await;
        };
        let handle = ours.handle(fd.into())?;
        Ok(filestat(&handle.stat_at(&text(memory, path)?, follows(flags))?, handle.volume()))
    }

    async fn path_filestat_set_times(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        flags: Lookupflags,
        path: GuestPtr<str>,
        atim: types::Timestamp,
        mtim: types::Timestamp,
        which: Fstflags,
    ) -> Answer {
        let Some(ours) = self.ours(fd) else {
            return self.wasi.path_filestat_set_times(memory, fd, flags, path, atim, mtim, which).await;
        };
        let (accessed, modified) = times(atim, mtim, which)?;
        let path = text(memory, path)?;
        Ok(ours.handle(fd.into())?.set_times_at(&path, follows(flags), accessed, modified)?)
    }

    async fn path_link(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        flags: Lookupflags,
        path: GuestPtr<str>,
        to: Fd,
        to_path: GuestPtr<str>,
    ) -> Answer {
        match self.ours(fd) {
            // A file has one name here.
            Some(ours) => Err(ours.handle(fd.into()).err().unwrap_or(FileError::NotPermitted).into()),
            None => self.wasi.path_link(memory, fd, flags, path, to, to_path).await,
        }
    }

    async fn path_open(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        flags: Lookupflags,
        path: GuestPtr<str>,
        oflags: Oflags,
        base: Rights,
        inheriting: Rights,
        fdflags: Fdflags,
    ) -> Answer<Fd> {
        let Some(ours) = self.ours(fd) else {
            return self.wasi.path_open(memory, fd, flags, path, oflags, base, inheriting, fdflags).await;
        };
        let (reads, writes) = (base.contains(Rights::FD_READ), base.contains(Rights::FD_WRITE));
        let options = OpenOptions {
            follow: follows(flags),
            create: oflags.contains(Oflags::CREAT),
            exclusive: oflags.contains(Oflags::EXCL),
            directory: oflags.contains(Oflags::DIRECTORY),
            truncate: oflags.contains(Oflags::TRUNC),
            write: writes,
        };
        let handle = ours.handle(fd.into())?.open_at(&text(memory, path)?, options)?;
        let mut open = Open::new(handle, reads, writes, fdflags.contains(Fdflags::APPEND));
        open.nonblock = fdflags.contains(Fdflags::NONBLOCK);
        Ok(ours.add(open).into())
    }

    async fn path_readlink(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<str>,
        buf: GuestPtr<u8>,
        len: types::Size,
    ) -> Answer<types::Size> {
        let Some(ours) = self.ours(fd) else {
            return self.wasi.path_readlink(memory, fd, path, buf, len).await;
        };
        let target = ours.handle(fd.into())?.read_link_at(&text(memory, path)?)?;
        let count = u32::try_from(target.len())?.min(len);
        memory.copy_from_slice(&target.as_bytes()[..count as usize], buf.as_array(count))?;
        Ok(count)
    }

    async fn path_remove_directory(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<str>,
    ) -> Answer {
        let Some(ours) = self.ours(fd) else {
            return self.wasi.path_remove_directory(memory, fd, path).await;
        };
        Ok(ours.handle(fd.into())?.remove_directory_at(&text(memory, path)?)?)
    }

    async fn path_rename(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<str>,
        to: Fd,
        to_path: GuestPtr<str>,
    ) -> Answer {
        let Some(ours) = self.ours(fd) else {
            return self.wasi.path_rename(memory, fd, path, to, to_path).await;
        };
        let (from, to) = (ours.handle(fd.into())?, ours.handle(to.into())?);
        Ok(from.rename_at(&text(memory, path)?, to, &text(memory, to_path)?)?)
    }

    async fn path_symlink(
        &mut self,
        memory: &mut GuestMemory<'_>,
        target: GuestPtr<str>,
        fd: Fd,
        path: GuestPtr<str>,
    ) -> Answer {
        let Some(ours) = self.ours(fd) else { return self.wasi.path_symlink(memory, target, fd, path).await };
        Ok(ours.handle(fd.into())?.symlink_at(&text(memory, target)?, &text(memory, path)?)?)
    }

    async fn path_unlink_file(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<str>,
    ) -> Answer {
        let Some(ours) = self.ours(fd) else { return self.wasi.path_unlink_file(memory, fd, path).await };
        Ok(ours.handle(fd.into())?.unlink_file_at(&text(memory, path)?)?)
    }

    async fn poll_oneoff(
        &mut self,
        memory: &mut GuestMemory<'_>,
        subscriptions: GuestPtr<types::Subscription>,
        events: GuestPtr<types::Event>,
        count: types::Size,
    ) -> Answer<types::Size> {
        let ready = match &mut self.files {
            Some(ours) if count <= BUFFERS => ready(memory, subscriptions, events, count, ours)?,
            _ => 0,
        };
        if ready > 0 {
            return Ok(ready);
        }
        self.wasi.poll_oneoff(memory, subscriptions, events, count).await
    }
}

/// Files are always ready: where any is waited for, there is nothing to wait for.
fn ready(
    memory: &mut GuestMemory<'_>,
    subscriptions: GuestPtr<types::Subscription>,
    events: GuestPtr<types::Event>,
    count: u32,
    ours: &mut Descriptors,
) -> Answer<u32> {
    let mut ready = 0;
    for subscription in subscriptions.as_array(count).iter() {
        let types::Subscription { userdata, u } = memory.read(subscription?)?;
        let (type_, fd) = match u {
            types::SubscriptionU::FdRead(on) => (types::Eventtype::FdRead, on.file_descriptor),
            types::SubscriptionU::FdWrite(on) => (types::Eventtype::FdWrite, on.file_descriptor),
            types::SubscriptionU::Clock(_) => continue,
        };
        if u32::from(fd) < FIRST {
            continue;
        }
        let error = ours.get(fd.into()).map_or(Errno::Badf, |_| Errno::Success);
        let fd_readwrite = types::EventFdReadwrite { nbytes: 1, flags: types::Eventrwflags::empty() };
        memory.write(events.add(ready)?, types::Event { userdata, error, type_, fd_readwrite })?;
        ready += 1;
    }
    Ok(ready)
}
