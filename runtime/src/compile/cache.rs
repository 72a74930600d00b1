//! The artifact cache: compiles each module once, and loads only intact artifacts that this build made.

use std::{
    collections::HashMap,
    fs,
    hash::{Hash, Hasher},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use crate::{
    Artifact, CompileError, Compiler, Engine, Metering, ModuleDigest, atomic_file,
    compile::{ARTIFACT_BYTES, expected_memory, form::Form, kind},
    engine::{artifact::WeakArtifact, build::Build},
    printable::sanitized,
};

/// Compiled artifacts in a directory, one file each. Cheap to clone.
///
/// A file's name consists of the module's digest, a hash of its maker (this build of Samovar and wasmtime's
/// compatibility hash, which covers the CPU's features), and a suffix if the code counts fuel. Its header holds the
/// artifact's form, and a digest of the name, the form and the code. A file that does not match is removed and compiled
/// again.
#[derive(Clone)]
pub struct ArtifactCache {
    inner: Arc<Inner>,
    metering: Metering,
}

struct Inner {
    directory: PathBuf,
    engine: Engine,
    compiler: Compiler,
    maker: String,
    loaded: Mutex<HashMap<(ModuleDigest, Metering), WeakArtifact>>,
}

/// A compiled module that is not in the cache yet.
pub struct Compiled {
    digest: ModuleDigest,
    metering: Metering,
    form: Form,
    serialized: Vec<u8>,
}

impl Compiled {
    /// The size of its file, in bytes.
    pub fn bytes(&self) -> u64 {
        (HEADER + self.serialized.len()) as u64
    }
}

/// One artifact in the cache's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactFile {
    /// The module's digest.
    pub digest: ModuleDigest,
    /// The size of the file.
    pub bytes: u64,
    /// True if this very build made the artifact for this CPU's features: no other is ever loaded.
    pub is_current: bool,
    /// The file's path.
    pub path: PathBuf,
}

/// The cache's directory cannot be created, read or cleaned up.
#[derive(Debug, thiserror::Error)]
#[error("the artifact cache cannot be used: {0}; the state directory must be writable")]
pub struct CacheError(#[from] io::Error);

const MAGIC: &[u8; 8] = b"samovar1";
/// Length of the header: magic, form, and the digest that seals the code, the form and the file's name.
const HEADER: usize = MAGIC.len() + 1 + 32;
/// Largest file that is read, in bytes.
const LARGEST: u64 = HEADER as u64 + ARTIFACT_BYTES;

impl ArtifactCache {
    /// Opens the cache in `directory`: creates it if it is missing, and removes temporary files that a crash left.
    pub fn open(directory: PathBuf, engine: Engine, compiler: Compiler) -> Result<Self, CacheError> {
        fs::create_dir_all(&directory)?;
        atomic_file::remove_stale(&directory)?;
        let maker = maker(&engine);
        let inner = Inner { directory, engine, compiler, maker, loaded: Mutex::default() };
        Ok(Self { inner: Arc::new(inner), metering: Metering::Off })
    }

    /// Returns the same cache for code with this metering.
    #[must_use]
    pub fn metered(&self, metering: Metering) -> Self {
        Self { inner: Arc::clone(&self.inner), metering }
    }

    /// Loads a module's artifact, if the cache holds an intact one of this very build.
    pub async fn get(&self, digest: &ModuleDigest) -> Option<Artifact> {
        if let Some(artifact) = self.loaded(digest) {
            return Some(artifact);
        }
        let (inner, digest, metering) = (Arc::clone(&self.inner), *digest, self.metering);
        let read = tokio::task::spawn_blocking(move || {
            let path = inner.path(&digest, metering);
            match read(&inner.engine, metering, &path) {
                Ok(artifact) => Some(artifact),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => {
                    tracing::warn!(module = %digest, %error, "a cached artifact is not usable; it is compiled again");
                    let _ = fs::remove_file(path);
                    None
                }
            }
        });
        let artifact = read.await.ok()??;
        self.remember(digest, &artifact);
        Some(artifact)
    }

    /// Compiles a module and stores its artifact.
    pub async fn compile(&self, digest: &ModuleDigest, wasm: Bytes) -> Result<Artifact, CompileError> {
        let compiled = self.compile_only(digest, wasm).await?;
        self.keep(compiled).await
    }

    /// Compiles a module without storing it, so that the caller can make room before [`ArtifactCache::keep`].
    pub async fn compile_only(&self, digest: &ModuleDigest, wasm: Bytes) -> Result<Compiled, CompileError> {
        // Refuses other files before it reserves memory and starts a child.
        kind(&wasm)?;
        // The child's memory counts against this process's cgroup. The reservation is at most a quarter of the budget,
        // so that a small node compiles large modules when it is quiet, and more than one at once.
        let memory = self.inner.engine.memory();
        let most = memory.total().map_or(u64::MAX, |total| total / 4);
        let reservation = memory.mapped_reservation();
        reservation.try_grow(expected_memory(wasm.len()).min(most))?;
        let (form, serialized) = self.inner.compiler.compile(self.metering, wasm).await?;
        Ok(Compiled { digest: *digest, metering: self.metering, form, serialized })
    }

    /// Stores a compiled module and loads it. If the write fails, the artifact is loaded all the same.
    pub async fn keep(&self, compiled: Compiled) -> Result<Artifact, CompileError> {
        let inner = Arc::clone(&self.inner);
        let digest = compiled.digest;
        let artifact = tokio::task::spawn_blocking(move || {
            let Compiled { digest, metering, form, serialized } = compiled;
            let path = inner.path(&digest, metering);
            if let Err(error) = write(&path, form, &serialized) {
                tracing::warn!(module = %digest, %error, "an artifact could not be kept; it is compiled again next time");
            }
            deserialize(&inner.engine, metering, form, &serialized)
        })
        .await
        .map_err(|error| CompileError::Failed(error.to_string()))?
        .map_err(|error| CompileError::Failed(sanitized(error)))?;
        self.remember(digest, &artifact);
        Ok(artifact)
    }

    /// Lists the stored artifacts. Loaded artifacts keep working when their files are removed.
    pub fn files(&self) -> io::Result<Vec<ArtifactFile>> {
        let suffixes = [Metering::Off, Metering::Fuel].map(|metering| self.inner.suffix(metering));
        let files = fs::read_dir(&self.inner.directory)?.flatten().filter_map(|entry| {
            let name = entry.file_name();
            let (digest, rest) = name.to_str()?.split_at_checked(64)?;
            Some(ArtifactFile {
                digest: format!("sha256:{digest}").parse().ok()?,
                bytes: entry.metadata().ok()?.len(),
                is_current: suffixes.iter().any(|suffix| rest == suffix),
                path: entry.path(),
            })
        });
        Ok(files.collect())
    }

    fn loaded(&self, digest: &ModuleDigest) -> Option<Artifact> {
        let loaded = self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.get(&(*digest, self.metering))?.upgrade()
    }

    fn remember(&self, digest: ModuleDigest, artifact: &Artifact) {
        let mut loaded = self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|_, artifact| artifact.upgrade().is_some());
        loaded.insert((digest, artifact.build().metering), artifact.downgrade());
    }
}

impl Inner {
    fn path(&self, digest: &ModuleDigest, metering: Metering) -> PathBuf {
        self.directory.join(digest.hex() + &self.suffix(metering))
    }

    /// The part after the digest in the file names of this very build.
    fn suffix(&self, metering: Metering) -> String {
        let metered = if metering == Metering::Fuel { "-fuel" } else { "" };
        format!("-{}{metered}.artifact", self.maker)
    }
}

fn read(engine: &Engine, metering: Metering, path: &Path) -> io::Result<Artifact> {
    let refuse = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    // Does not follow a link, nor wait for the writer of a pipe.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = fs::File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err(refuse("it is too large or not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(metadata.len()).read_to_end(&mut bytes)?;
    let (header, serialized) = bytes.split_at_checked(HEADER).ok_or_else(|| refuse("it is truncated"))?;
    let rest = header.strip_prefix(MAGIC).ok_or_else(|| refuse("it is not a Samovar artifact"))?;
    let form = Form::from_byte(rest[0]).ok_or_else(|| refuse("it has an unknown form"))?;
    if rest[1..] != seal(path, form, serialized) {
        return Err(refuse("its digest does not match"));
    }
    deserialize(engine, metering, form, serialized)
}

#[expect(unsafe_code, reason = "the one place where compiled code is loaded; see Artifact::deserialize")]
fn deserialize(engine: &Engine, metering: Metering, form: Form, serialized: &[u8]) -> io::Result<Artifact> {
    let build = Build { metering, is_concurrent: form.is_concurrent() };
    let invalid = |error: wasmtime::Error| io::Error::new(io::ErrorKind::InvalidData, format!("{error:#}"));
    let variant = engine.variant(build).map_err(|error| invalid(error.into()))?;
    // SAFETY: `serialized` either came out of this program's compiler a moment ago, or was read from a file in
    // the agent's own directory whose name and digest prove that it did. The same buffer is checked and loaded,
    // so that swapping the file in between has no effect.
    unsafe { Artifact::deserialize(&variant.wasmtime, engine.memory(), form.kind(), build, serialized) }
        .map_err(invalid)
}

/// Digests an artifact together with its file's name, so that no artifact passes for another module's.
fn seal(path: &Path, form: Form, serialized: &[u8]) -> [u8; 32] {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let sealed = Sha256::new().chain_update(name).chain_update([form as u8]);
    sealed.chain_update(serialized).finalize().into()
}

fn write(path: &Path, form: Form, serialized: &[u8]) -> io::Result<()> {
    atomic_file::write(path, 0o400, &[MAGIC, &[form as u8], &seal(path, form, serialized), serialized])
}

/// Hashes the maker of artifacts to 16 hexadecimal digits: this version of Samovar, and all that decides in wasmtime
/// whether compiled code fits, such as CPU features.
fn maker(engine: &Engine) -> String {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            // Never called: the whole digest is taken below.
            0
        }
    }
    let mut sha = Sha(Sha256::new_with_prefix(env!("CARGO_PKG_VERSION")));
    engine.plain().precompile_compatibility_hash().hash(&mut sha);
    hex::encode(&sha.0.finalize()[..8])
}
