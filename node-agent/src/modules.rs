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
    by_image: PathBuf,
    by_digest: PathBuf,
    /// What unused modules may take on disk; past it the oldest go.
    unused_bytes: u64,
}

/// What unused modules may take on disk, in bytes.
const UNUSED_BYTES: u64 = 1 << 30;

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
        Ok(Self { by_image, by_digest, unused_bytes: UNUSED_BYTES })
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

    /// Keeps a module. One that is here already is left as it is.
    pub(crate) fn keep(&self, digest: &ModuleDigest, wasm: &[u8]) -> io::Result<()> {
        let file = self.module_file(digest);
        let is_here = fs::metadata(&file).is_ok_and(|metadata| metadata.len() == wasm.len() as u64);
        if is_here { Ok(()) } else { write_whole(&file, wasm) }
    }

    /// Keeps that an image holds a module.
    pub(crate) fn link(&self, image: &str, path: Option<&str>, digest: &ModuleDigest) -> io::Result<()> {
        write_whole(&self.image_file(image, path), digest.to_string().as_bytes())
    }

    /// Removes the oldest modules that are not in use until the rest is small enough, and with them their
    /// artifacts and what names them.
    pub(crate) fn evict(&self, in_use: &HashSet<ModuleDigest>, artifacts: &ArtifactCache) -> io::Result<()> {
        let mut unused: Vec<(SystemTime, u64, ModuleDigest)> = fs::read_dir(&self.by_digest)?
            .flatten()
            .filter_map(|entry| {
                let digest = format!("sha256:{}", entry.file_name().to_str()?).parse().ok()?;
                let metadata = entry.metadata().ok()?;
                (!in_use.contains(&digest)).then_some((metadata.modified().ok()?, metadata.len(), digest))
            })
            .collect();
        unused.sort_by_key(|(modified, ..)| Reverse(*modified));
        let mut bytes = 0;
        for (_, size, digest) in unused {
            bytes += size;
            if bytes > self.unused_bytes {
                remove(&self.module_file(&digest))?;
            }
        }
        // Asked of the disk again, since a load may have kept its module meanwhile: it does so before the rest.
        let stays = |digest: &ModuleDigest| in_use.contains(digest) || self.module_file(digest).exists();
        for entry in fs::read_dir(&self.by_image)?.flatten().filter(|entry| !is_half_written(entry)) {
            let names = fs::read_to_string(entry.path()).ok().and_then(|digest| digest.trim().parse().ok());
            if names.is_none_or(|digest| !stays(&digest)) {
                remove(&entry.path())?;
            }
        }
        artifacts.retain(stays)
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

/// Removes the temporary files that a crash left behind.
fn remove_half_written(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if is_half_written(&entry) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn is_half_written(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY))
}

/// Removes a file that another agent on this node may have removed already.
fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Writes a whole file or none: a temporary one, synced, then renamed.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use samovar_runtime::{Compiler, Engine, EngineOptions};

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
        let leftover = modules.by_digest.join(format!("{TEMPORARY}x"));
        fs::write(&leftover, b"mod").unwrap();
        Modules::open(state.path()).unwrap();
        assert!(!leftover.exists());
    }

    #[tokio::test]
    async fn of_what_nothing_uses_the_oldest_goes_first_with_its_artifact_and_its_name() {
        let state = tempfile::tempdir().unwrap();
        let engine = Engine::new(&EngineOptions { instances: 1, ..EngineOptions::default() }).unwrap();
        let artifacts =
            ArtifactCache::open(state.path().join("artifacts"), engine, Compiler::InProcess).unwrap();
        let mut modules = Modules::open(state.path()).unwrap();
        let mut digests = Vec::new();
        for (image, age) in [("used", 3), ("old", 2), ("new", 1)] {
            let wasm = wat::parse_str(format!(r#"(module (func (export "{image}")))"#)).unwrap();
            let digest = ModuleDigest::of(&wasm);
            modules.keep(&digest, &wasm).unwrap();
            modules.link(image, None, &digest).unwrap();
            let file = fs::File::open(modules.module_file(&digest)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_hours(age)).unwrap();
            artifacts.compile(&digest, wasm.into()).await.unwrap();
            digests.push(digest);
        }
        let files = |folder: &str| fs::read_dir(state.path().join(folder)).unwrap().count();
        let in_use = HashSet::from([digests[0]]);
        modules.evict(&in_use, &artifacts).unwrap();
        assert_eq!((files("modules"), files("images"), files("artifacts")), (3, 3, 3));
        modules.unused_bytes = fs::metadata(modules.module_file(&digests[2])).unwrap().len();
        modules.evict(&in_use, &artifacts).unwrap();
        assert_eq!((files("modules"), files("images"), files("artifacts")), (2, 2, 2));
        assert_eq!(modules.of_image("old", None), None);
        assert!(["used", "new"].iter().all(|image| modules.of_image(image, None).is_some()));
    }
}
