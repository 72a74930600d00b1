//! `wasi:filesystem` 0.2 for components, on the granted files.
//!
//! wasmtime's bindings call the functions here in place of wasmtime's own. A handle of the bindings is an index into the
//! instance's table; the entry there is of a type of ours.

mod convert;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, FsError, FsResult,
    bindings::filesystem::{
        preopens,
        types::{
            self, Advice, Descriptor, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry,
            DirectoryEntryStream, ErrorCode, Filesize, HostDescriptor, HostDirectoryEntryStream,
            MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
        },
    },
};

use self::convert::{code, descriptor_stat, descriptor_type, follows, hash, time};
use super::{
    FileError, FileSystem, FilesGrant,
    path::OpenOptions,
    streams::{MAX_IO_BYTES, Reader, Writer},
    tree::{NodeKind, ROOT},
    volumes::Handle,
};

/// The data of one instance for the functions of `wasi:filesystem`.
pub(crate) struct FilesView<'a> {
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) files: Option<&'a FileSystem>,
    pub(crate) grant: &'a FilesGrant,
}

struct HasFiles;

impl HasData for HasFiles {
    type Data<'a> = FilesView<'a>;
}

/// Defines `wasi:filesystem`, and replaces a definition that the linker has already.
pub(crate) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> FilesView<'_>,
) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    types::add_to_linker::<T, HasFiles>(linker, view)?;
    preopens::add_to_linker::<T, HasFiles>(linker, view)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// A descriptor of a guest.
struct Open {
    handle: Handle,
    flags: DescriptorFlags,
}

/// The position in the listing of a directory.
struct Listing {
    handle: Handle,
    cookie: u64,
}

impl FilesView<'_> {
    fn push(&mut self, open: Open) -> FsResult<Resource<Descriptor>> {
        Ok(Resource::new_own(self.table.push(open)?.rep()))
    }

    fn open(&self, fd: &Resource<Descriptor>) -> FsResult<&Open> {
        Ok(self.table.get(&Resource::<Open>::new_borrow(fd.rep()))?)
    }

    fn handle(&self, fd: &Resource<Descriptor>) -> FsResult<&Handle> {
        Ok(&self.open(fd)?.handle)
    }

    /// The handle of a file that is open for writing.
    fn writable(&self, fd: &Resource<Descriptor>) -> FsResult<&Handle> {
        let open = self.open(fd)?;
        open.handle.file_stat()?;
        if open.flags.contains(DescriptorFlags::WRITE) {
            Ok(&open.handle)
        } else {
            Err(ErrorCode::BadDescriptor.into())
        }
    }

    fn writer(
        &mut self,
        fd: &Resource<Descriptor>,
        position: Option<u64>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let handle = self.writable(fd)?.try_clone()?;
        let writer: DynOutputStream = Box::new(Writer { handle, position });
        Ok(self.table.push(writer)?)
    }
}

impl preopens::Host for FilesView<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let Some(files) = self.files else { return Ok(Vec::new()) };
        let mut directories = Vec::new();
        let roots = files.roots().map_err(|error| match error {
            FileError::NodeMemory => wasmtime::Error::from(crate::NoMemory),
            error => error.into(),
        })?;
        for (handle, (path, _)) in roots.into_iter().zip(self.grant.mounts()) {
            let mut flags = DescriptorFlags::READ;
            if !handle.is_read_only() {
                flags |= DescriptorFlags::MUTATE_DIRECTORY;
            }
            let open = self.table.push(Open { handle, flags })?;
            directories.push((Resource::new_own(open.rep()), path.to_owned()));
        }
        Ok(directories)
    }
}

impl types::Host for FilesView<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref::<FileError>().and_then(|&error| code(error)))
    }
}

impl HostDescriptor for FilesView<'_> {
    fn read_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        position: Filesize,
    ) -> FsResult<Resource<DynInputStream>> {
        let open = self.open(&fd)?;
        open.handle.file_stat()?;
        if !open.flags.contains(DescriptorFlags::READ) {
            return Err(ErrorCode::BadDescriptor.into());
        }
        let handle = open.handle.try_clone()?;
        let reader: DynInputStream = Box::new(Reader { handle, position });
        Ok(self.table.push(reader)?)
    }

    fn write_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        position: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        self.writer(&fd, Some(position))
    }

    fn append_via_stream(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        self.writer(&fd, None)
    }

    async fn advise(
        &mut self,
        fd: Resource<Descriptor>,
        _: Filesize,
        _: Filesize,
        _: Advice,
    ) -> FsResult<()> {
        Ok(self.handle(&fd)?.file_stat().map(drop)?)
    }

    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.handle(&fd).map(drop)
    }

    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.handle(&fd).map(drop)
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        Ok(self.open(&fd)?.flags)
    }

    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        Ok(descriptor_type(self.handle(&fd)?.kind()?))
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: Filesize) -> FsResult<()> {
        Ok(self.writable(&fd)?.set_size(size)?)
    }

    async fn set_times(
        &mut self,
        fd: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        Ok(self.handle(&fd)?.set_times(time(accessed)?, time(modified)?)?)
    }

    async fn read(
        &mut self,
        fd: Resource<Descriptor>,
        len: Filesize,
        offset: Filesize,
    ) -> FsResult<(Vec<u8>, bool)> {
        let open = self.open(&fd)?;
        if !open.flags.contains(DescriptorFlags::READ) {
            return Err(ErrorCode::BadDescriptor.into());
        }
        let left = open.handle.file_stat()?.size.saturating_sub(offset).min(len);
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(MAX_IO_BYTES).min(MAX_IO_BYTES)];
        let count = open.handle.read(offset, &mut bytes)?;
        Ok((bytes, count == 0))
    }

    async fn write(
        &mut self,
        fd: Resource<Descriptor>,
        bytes: Vec<u8>,
        offset: Filesize,
    ) -> FsResult<Filesize> {
        Ok(self.writable(&fd)?.write(Some(offset), &bytes)?.0 as u64)
    }

    async fn read_directory(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DirectoryEntryStream>> {
        let handle = self.handle(&fd)?;
        if handle.kind()? != NodeKind::Directory {
            return Err(ErrorCode::NotDirectory.into());
        }
        // WASI 0.2 lists neither `.` nor `..`.
        let listing = Listing { handle: handle.try_clone()?, cookie: ROOT };
        Ok(Resource::new_own(self.table.push(listing)?.rep()))
    }

    async fn create_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        Ok(self.handle(&fd)?.create_directory_at(&path)?)
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        Ok(descriptor_stat(&self.handle(&fd)?.stat()?))
    }

    async fn stat_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        Ok(descriptor_stat(&self.handle(&fd)?.stat_at(&path, follows(flags))?))
    }

    async fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let (accessed, modified) = (time(accessed)?, time(modified)?);
        Ok(self.handle(&fd)?.set_times_at(&path, follows(flags), accessed, modified)?)
    }

    async fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        _: PathFlags,
        _: String,
        _: Resource<Descriptor>,
        _: String,
    ) -> FsResult<()> {
        // No hard links: each file has one name.
        self.handle(&fd).and(Err(ErrorCode::NotPermitted.into()))
    }

    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let options = OpenOptions {
            follow: follows(path_flags),
            create: open_flags.contains(OpenFlags::CREATE),
            exclusive: open_flags.contains(OpenFlags::EXCLUSIVE),
            directory: open_flags.contains(OpenFlags::DIRECTORY),
            truncate: open_flags.contains(OpenFlags::TRUNCATE),
            write: flags.contains(DescriptorFlags::WRITE),
        };
        let handle = self.handle(&fd)?.open_at(&path, options)?;
        if flags.contains(DescriptorFlags::MUTATE_DIRECTORY) && handle.is_read_only() {
            return Err(ErrorCode::ReadOnly.into());
        }
        self.push(Open { handle, flags })
    }

    async fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        Ok(self.handle(&fd)?.read_link_at(&path)?)
    }

    async fn remove_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        Ok(self.handle(&fd)?.remove_directory_at(&path)?)
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
        to: Resource<Descriptor>,
        to_path: String,
    ) -> FsResult<()> {
        Ok(self.handle(&fd)?.rename_at(&path, self.handle(&to)?, &to_path)?)
    }

    async fn symlink_at(&mut self, fd: Resource<Descriptor>, target: String, path: String) -> FsResult<()> {
        Ok(self.handle(&fd)?.symlink_at(&target, &path)?)
    }

    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        Ok(self.handle(&fd)?.unlink_file_at(&path)?)
    }

    async fn is_same_object(
        &mut self,
        one: Resource<Descriptor>,
        other: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        let table = |fd: &Resource<Descriptor>| Resource::<Open>::new_borrow(fd.rep());
        Ok(self.table.get(&table(&one))?.handle.is_same(&self.table.get(&table(&other))?.handle))
    }

    async fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        let handle = self.handle(&fd)?;
        Ok(hash(&handle.stat()?, handle))
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        let handle = self.handle(&fd)?;
        Ok(hash(&handle.stat_at(&path, follows(flags))?, handle))
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Open>::new_own(fd.rep()))?;
        Ok(())
    }
}

impl HostDirectoryEntryStream for FilesView<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        let listing = self.table.get_mut(&Resource::<Listing>::new_borrow(stream.rep()))?;
        Ok(listing.handle.entry(listing.cookie)?.map(|entry| {
            listing.cookie = entry.cookie;
            DirectoryEntry { type_: descriptor_type(entry.kind), name: (*entry.name).to_owned() }
        }))
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Listing>::new_own(stream.rep()))?;
        Ok(())
    }
}
