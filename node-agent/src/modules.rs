//! Modules on disk: which module an image holds, and the module's bytes, checked whenever they are read.

use std::{
    cmp::Reverse,
    collections::HashSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;
use samovar_runtime::{ArtifactCache, ModuleDigest};
use sha2::{Digest, Sha256};

/// The modules that this agent has pulled. An image is immutable, since it is named by digest, so what it holds
/// never needs to be asked again.
pub(crate) struct Modules {
    images: PathBuf,
    modules: PathBuf,
}

/// What unused modules may take on disk, in bytes; past it the oldest go.
const UNUSED_BYTES: u64 = 1 << 30;

impl Modules {
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let (images, modules) = (state.join("images"), state.join("modules"));
        fs::create_dir_all(&images)?;
        fs::create_dir_all(&modules)?;
        Ok(Self { images, modules })
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

    /// Keeps a module, and that an image holds it.
    pub(crate) fn keep(
        &self,
        image: &str,
        path: Option<&str>,
        digest: &ModuleDigest,
        wasm: &[u8],
    ) -> io::Result<()> {
        write_whole(&self.module_file(digest), wasm)?;
        write_whole(&self.image_file(image, path), digest.to_string().as_bytes())
    }

    /// Removes the oldest modules that are not in use, and their artifacts, until the rest is small enough.
    pub(crate) fn evict(&self, in_use: &HashSet<ModuleDigest>, artifacts: &ArtifactCache) -> io::Result<()> {
        let mut unused: Vec<(SystemTime, u64, ModuleDigest)> = fs::read_dir(&self.modules)?
            .flatten()
            .filter_map(|entry| {
                let digest = format!("sha256:{}", entry.file_name().to_str()?).parse().ok()?;
                let metadata = entry.metadata().ok()?;
                (!in_use.contains(&digest)).then_some((metadata.modified().ok()?, metadata.len(), digest))
            })
            .collect();
        unused.sort_by_key(|(modified, ..)| Reverse(*modified));
        let mut kept = 0;
        let gone: HashSet<_> = unused
            .into_iter()
            .filter(|(_, size, _)| {
                kept += size;
                kept > UNUSED_BYTES
            })
            .map(|(_, _, digest)| digest)
            .collect();
        for digest in &gone {
            fs::remove_file(self.module_file(digest))?;
        }
        if gone.is_empty() { Ok(()) } else { artifacts.retain(|digest| !gone.contains(digest)) }
    }

    fn image_file(&self, image: &str, path: Option<&str>) -> PathBuf {
        let mut sha = Sha256::new_with_prefix(image);
        sha.update([0]);
        sha.update(path.unwrap_or_default());
        self.images.join(samovar_crds::names::hex(&sha.finalize()))
    }

    fn module_file(&self, digest: &ModuleDigest) -> PathBuf {
        self.modules.join(digest.hex())
    }
}

/// Writes a whole file or none: a temporary one, synced, then renamed.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
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
        modules.keep("r/a@sha256:1", Some("a.wasm"), &digest, b"module").unwrap();
        assert_eq!(modules.of_image("r/a@sha256:1", Some("a.wasm")), Some(digest));
        assert_eq!(modules.of_image("r/a@sha256:1", None), None);
        assert_eq!(modules.read(&digest).unwrap(), &b"module"[..]);
        fs::write(modules.module_file(&digest), b"modulo").unwrap();
        assert_eq!(modules.read(&digest), None);
        assert!(!modules.module_file(&digest).exists());
    }
}
