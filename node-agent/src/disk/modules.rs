//! Modules on disk: which module an image holds, and the module's bytes, checked whenever they are read.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use samovar_runtime::ModuleDigest;
use sha2::{Digest, Sha256};

/// The modules that this agent has pulled. An image is immutable, since it is named by digest, so what it holds
/// never needs to be asked again.
pub(crate) struct Modules {
    by_image: PathBuf,
    by_digest: PathBuf,
}

/// What the names of half-written files begin with.
const TEMPORARY: &str = ".half-written-";

impl Modules {
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let (by_image, by_digest) = (state.join("images"), state.join("modules"));
        fs::create_dir_all(&by_image)?;
        fs::create_dir_all(&by_digest)?;
        for folder in [state, &by_image, &by_digest] {
            remove_half_written(folder)?;
        }
        Ok(Self { by_image, by_digest })
    }

    /// The digest of the module in an image, where the image was pulled before.
    pub(crate) fn of_image(&self, image: &str, path: Option<&str>) -> Option<ModuleDigest> {
        fs::read_to_string(self.image_file(image, path)).ok()?.trim().parse().ok()
    }

    /// A module's bytes. A file that is not what its name says is removed.
    pub(crate) fn read(&self, digest: &ModuleDigest) -> Option<Bytes> {
        let file = self.module_file(digest);
        let bytes = fs::read(&file).ok()?;
        if ModuleDigest::of(&bytes) == *digest {
            return Some(bytes.into());
        }
        tracing::warn!(module = %digest, "a module on disk is damaged; it is pulled again");
        let _ = fs::remove_file(file);
        None
    }

    /// Whether a module is here, as long as it should be.
    pub(crate) fn has(&self, digest: &ModuleDigest, wasm: &[u8]) -> bool {
        fs::metadata(self.module_file(digest)).is_ok_and(|metadata| metadata.len() == wasm.len() as u64)
    }

    /// Keeps a module.
    pub(crate) fn keep(&self, digest: &ModuleDigest, wasm: &[u8]) -> io::Result<()> {
        write_whole(&self.module_file(digest), wasm)
    }

    /// Keeps that an image holds a module.
    pub(crate) fn link(&self, image: &str, path: Option<&str>, digest: &ModuleDigest) -> io::Result<()> {
        write_whole(&self.image_file(image, path), digest.to_string().as_bytes())
    }

    /// The modules that are here: when each was last let go, or kept if it never was, and its size.
    pub(crate) fn files(&self) -> io::Result<Vec<(ModuleDigest, SystemTime, u64)>> {
        let files = fs::read_dir(&self.by_digest)?.flatten().filter_map(|entry| {
            let digest = format!("sha256:{}", entry.file_name().to_str()?).parse().ok()?;
            let metadata = entry.metadata().ok()?;
            Some((digest, metadata.modified().ok()?, metadata.len()))
        });
        Ok(files.collect())
    }

    /// How many images are known to hold one of the modules.
    pub(crate) fn images(&self) -> io::Result<usize> {
        Ok(fs::read_dir(&self.by_image)?.count())
    }

    /// Keeps for later that a module was used until now.
    pub(crate) fn released(&self, digest: &ModuleDigest) {
        // One that was never kept, or is gone, has nothing to remember.
        let _ =
            fs::File::open(self.module_file(digest)).and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Removes a module.
    pub(crate) fn remove(&self, digest: &ModuleDigest) -> io::Result<()> {
        remove(&self.module_file(digest))
    }

    /// Forgets the images whose modules are gone.
    pub(crate) fn forget_images(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.by_image)?.flatten().filter(|entry| !is_half_written(entry)) {
            let names = fs::read_to_string(entry.path()).ok().and_then(|digest| digest.trim().parse().ok());
            if names.is_none_or(|digest| !self.module_file(&digest).exists()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    fn image_file(&self, image: &str, path: Option<&str>) -> PathBuf {
        let mut sha = Sha256::new_with_prefix(image);
        sha.update([0]);
        sha.update(path.unwrap_or_default());
        self.by_image.join(samovar_crds::names::hex(&sha.finalize()))
    }

    fn module_file(&self, digest: &ModuleDigest) -> PathBuf {
        self.by_digest.join(digest.hex())
    }
}

/// No write takes so long: a temporary file that has not changed for this time was left by a crash. A younger one
/// may be another agent's, which shares the folder while a DaemonSet replaces its Pods.
const LEFT: Duration = Duration::from_mins(10);

/// Removes the temporary files that a crash left behind.
fn remove_half_written(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if is_half_written(&entry) && was_left(&entry) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether nobody has written to a file for long.
pub(crate) fn was_left(entry: &fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.ok().and_then(|modified| modified.elapsed().ok()).is_some_and(|age| age > LEFT)
}

fn is_half_written(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY))
}

/// Removes a file that another agent on this node may have removed already.
pub(crate) fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Writes a whole file or none: a temporary one, synced, then renamed.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // What it says of an error names the path, which is no one's business.
    let file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder);
    let mut file = file.map_err(|error| error.kind())?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_found_by_its_image_and_never_read_damaged() {
        let state = tempfile::tempdir().unwrap();
        let modules = Modules::open(state.path()).unwrap();
        let digest = ModuleDigest::of(b"module");
        assert_eq!(modules.of_image("r/a@sha256:1", None), None);
        modules.keep(&digest, b"module").unwrap();
        modules.link("r/a@sha256:1", Some("a.wasm"), &digest).unwrap();
        assert_eq!(modules.of_image("r/a@sha256:1", Some("a.wasm")), Some(digest));
        assert_eq!(modules.of_image("r/a@sha256:1", None), None);
        assert_eq!(modules.read(&digest).unwrap(), &b"module"[..]);
        fs::write(modules.module_file(&digest), b"modulo").unwrap();
        assert_eq!(modules.read(&digest), None);
        assert!(!modules.module_file(&digest).exists());
    }

    #[test]
    fn what_a_crash_left_half_written_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let modules = Modules::open(state.path()).unwrap();
        let [left, being_written] =
            ["x", "y"].map(|name| modules.by_digest.join(format!("{TEMPORARY}{name}")));
        for file in [&left, &being_written] {
            fs::write(file, b"mod").unwrap();
        }
        fs::File::open(&left).unwrap().set_modified(SystemTime::now() - LEFT - LEFT).unwrap();
        Modules::open(state.path()).unwrap();
        assert!(!left.exists() && being_written.exists());
    }
}
