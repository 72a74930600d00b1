//! Modules on disk: the module of each image, and the module's bytes, verified on each read.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;
use samovar_runtime::{ModuleDigest, atomic_file};
use sha2::{Digest, Sha256};

/// The modules that this agent has pulled. An image is named by digest, so it is immutable, and its module is known
/// once and for all.
pub(crate) struct Modules {
    by_image: PathBuf,
    by_digest: PathBuf,
}

/// Only the agent reads and replaces its files.
const MODE: u32 = 0o600;

impl Modules {
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let (by_image, by_digest) = (state.join("images"), state.join("modules"));
        fs::create_dir_all(&by_image)?;
        fs::create_dir_all(&by_digest)?;
        for folder in [state, &by_image, &by_digest] {
            atomic_file::remove_stale(folder)?;
        }
        Ok(Self { by_image, by_digest })
    }

    /// The digest of the module in an image, if the image was pulled before.
    pub(crate) fn of_image(&self, image: &str, path: Option<&str>) -> Option<ModuleDigest> {
        fs::read_to_string(self.image_file(image, path)).ok()?.trim().parse().ok()
    }

    /// A module's bytes. A file whose digest is not its name is removed.
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

    /// True if a module's file exists, with the right length.
    pub(crate) fn has(&self, digest: &ModuleDigest, wasm: &[u8]) -> bool {
        fs::metadata(self.module_file(digest)).is_ok_and(|metadata| metadata.len() == wasm.len() as u64)
    }

    /// Writes a module.
    pub(crate) fn keep(&self, digest: &ModuleDigest, wasm: &[u8]) -> io::Result<()> {
        atomic_file::write(&self.module_file(digest), MODE, &[wasm])
    }

    /// Records that an image contains a module.
    pub(crate) fn link(&self, image: &str, path: Option<&str>, digest: &ModuleDigest) -> io::Result<()> {
        atomic_file::write(&self.image_file(image, path), MODE, &[digest.to_string().as_bytes()])
    }

    /// The modules on disk: the digest, the time of the last release, or of the write if there was none, and the size.
    pub(crate) fn files(&self) -> io::Result<Vec<(ModuleDigest, SystemTime, u64)>> {
        let files = fs::read_dir(&self.by_digest)?.flatten().filter_map(|entry| {
            let digest = format!("sha256:{}", entry.file_name().to_str()?).parse().ok()?;
            let metadata = entry.metadata().ok()?;
            Some((digest, metadata.modified().ok()?, metadata.len()))
        });
        Ok(files.collect())
    }

    /// The number of images whose module is recorded.
    pub(crate) fn images(&self) -> io::Result<usize> {
        Ok(fs::read_dir(&self.by_image)?.count())
    }

    /// Stamps a module's release time.
    pub(crate) fn released(&self, digest: &ModuleDigest) {
        // A module without a file has no release time to keep.
        let _ =
            fs::File::open(self.module_file(digest)).and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Removes a module.
    pub(crate) fn remove(&self, digest: &ModuleDigest) -> io::Result<()> {
        remove(&self.module_file(digest))
    }

    /// Removes the records of images whose modules are gone.
    pub(crate) fn forget_images(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.by_image)?.flatten().filter(|entry| !atomic_file::is_temporary(entry))
        {
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
        self.by_image.join(hex::encode(sha.finalize()))
    }

    fn module_file(&self, digest: &ModuleDigest) -> PathBuf {
        self.by_digest.join(digest.hex())
    }
}

/// Removes a file that another agent on this node may have removed already.
pub(crate) fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
    fn temporary_files_of_a_crash_are_removed() {
        let state = tempfile::tempdir().unwrap();
        let modules = Modules::open(state.path()).unwrap();
        let [left, being_written] =
            ["x", "y"].map(|name| modules.by_digest.join(format!(".half-written-{name}")));
        for file in [&left, &being_written] {
            fs::write(file, b"mod").unwrap();
        }
        fs::File::open(&left).unwrap().set_modified(SystemTime::now() - Duration::from_hours(1)).unwrap();
        Modules::open(state.path()).unwrap();
        assert!(!left.exists() && being_written.exists());
    }
}
