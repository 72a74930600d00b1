//! The cache on disk: modules and their artifacts, bounded in size together. Files in use are never evicted.

pub(crate) mod inventory;
pub(crate) mod modules;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::metrics::gauge::Gauge;
use samovar_runtime::{Artifact, ArtifactCache, CompileError, Compiled, ModuleDigest};

use self::{
    inventory::{BLOCK, Inventory, on_disk},
    modules::Modules,
};

/// The modules and artifacts of an agent.
pub(crate) struct Cache {
    pub(crate) modules: Modules,
    pub(crate) artifacts: ArtifactCache,
    /// The bound on the total size on disk, in bytes.
    size: u64,
    /// The metric of the total size.
    bytes: Gauge,
    /// The number of pins of each module, by desired revisions and by loads.
    uses: Mutex<HashMap<ModuleDigest, usize>>,
    /// Held from the inventory to the end of the write, so that no two writes count on the same free space.
    writing: tokio::sync::Mutex<()>,
}

/// Keeps the files of a module and of its artifact from eviction until it is dropped.
pub(crate) struct Pin {
    cache: Arc<Cache>,
    digest: ModuleDigest,
}

/// The files in use leave no room for a module.
#[derive(Debug, thiserror::Error)]
#[error(
    "the module needs {missing} bytes more than this node's cache on disk has: its size is {size} bytes, of which modules in use take {in_use}; give the agents a larger --cache-size, or this node fewer plugins"
)]
pub(crate) struct CacheFull {
    missing: u64,
    size: u64,
    in_use: u64,
}

/// The reason that an artifact was not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error(transparent)]
    Full(#[from] CacheFull),
    #[error(transparent)]
    Compile(#[from] CompileError),
}

impl Cache {
    pub(crate) fn new(modules: Modules, artifacts: ArtifactCache, size: u64, bytes: Gauge) -> Self {
        let (uses, writing) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { modules, artifacts, size, bytes, uses, writing }
    }

    /// Pins a module: its files, present and future, are not evicted before the pin is dropped.
    pub(crate) fn pin(self: &Arc<Self>, digest: &ModuleDigest) -> Pin {
        *self.uses().entry(*digest).or_default() += 1;
        Pin { cache: Arc::clone(self), digest: *digest }
    }

    /// Writes a module, and the image that contains it. If the disk refuses, a restart pulls it again.
    pub(crate) async fn keep_module(
        &self,
        digest: &ModuleDigest,
        wasm: &[u8],
        image: Option<(&str, Option<&str>)>,
    ) -> Result<(), CacheFull> {
        let _writing = self.writing.lock().await;
        let is_here = self.modules.has(digest, wasm);
        let mut kept = Ok(());
        if !is_here {
            self.make_room(on_disk(wasm.len() as u64) + BLOCK)?;
            kept = self.modules.keep(digest, wasm);
        }
        if let (Ok(()), Some((image, path))) = (&kept, image) {
            kept = self.modules.link(image, path, digest);
        }
        if let Err(error) = kept {
            tracing::warn!(module = %digest, %error, "a module could not be kept");
        }
        Ok(())
    }

    /// Writes an artifact.
    pub(crate) async fn keep_artifact(&self, compiled: Compiled) -> Result<Artifact, KeepError> {
        let _writing = self.writing.lock().await;
        self.make_room(on_disk(compiled.bytes()))?;
        Ok(self.artifacts.keep(compiled).await?)
    }

    /// Evicts files until the total is within the size, which may have been larger before a restart.
    pub(crate) fn shrink(&self) {
        // Whoever holds the lock makes room itself.
        if let Ok(_writing) = self.writing.try_lock() {
            // If the files in use alone exceed the size, there is no load to refuse: revisions serve on.
            let _ = self.make_room(0);
        }
    }

    /// Makes room for `bytes`: evicts files that nothing uses, least recently released first.
    fn make_room(&self, bytes: u64) -> Result<(), CacheFull> {
        let taken = match self.inventory().and_then(|inventory| self.evict(inventory, bytes)) {
            Ok(taken) => taken,
            Err(error) => {
                // Then writes fail too, and revisions serve without files.
                tracing::warn!(%error, "the cache on disk cannot be listed");
                return Ok(());
            }
        };
        let needed = taken.saturating_add(bytes);
        let fits = needed <= self.size;
        self.bytes.set(i64::try_from(if fits { needed } else { taken }).unwrap_or(i64::MAX));
        if fits {
            Ok(())
        } else {
            Err(CacheFull { missing: needed - self.size, size: self.size, in_use: taken })
        }
    }

    fn evict(&self, inventory: Inventory, bytes: u64) -> io::Result<u64> {
        let Inventory { bytes: mut taken, mut unused } = inventory;
        unused.sort_by_key(|unused| unused.last_use);
        let mut evicted = false;
        for unused in unused {
            if taken.saturating_add(bytes) <= self.size {
                break;
            }
            for artifact in &unused.artifacts {
                modules::remove(artifact)?;
            }
            if let Some(module) = &unused.module {
                self.modules.remove(module)?;
            }
            taken = taken.saturating_sub(unused.bytes);
            evicted = true;
        }
        if evicted {
            self.modules.forget_images()?;
        }
        Ok(taken)
    }

    fn inventory(&self) -> io::Result<Inventory> {
        let uses = self.uses();
        Inventory::scan(&self.modules, &self.artifacts, |digest| uses.contains_key(digest))
    }

    fn uses(&self) -> MutexGuard<'_, HashMap<ModuleDigest, usize>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stamps the release time with the last pin: eviction is least recently released first.
impl Drop for Pin {
    fn drop(&mut self) {
        let mut uses = self.cache.uses();
        let Some(count) = uses.get_mut(&self.digest) else { return };
        *count -= 1;
        if *count == 0 {
            uses.remove(&self.digest);
            drop(uses);
            self.cache.modules.released(&self.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        time::{Duration, SystemTime},
    };

    use samovar_runtime::{Compiler, Engine, EngineOptions};
    use tempfile::TempDir;

    use super::*;

    /// A cache with room for some modules of one size, and that size.
    struct Fixture {
        state: TempDir,
        cache: Arc<Cache>,
        each: u64,
    }

    fn cache(state: &Path, size: u64) -> Arc<Cache> {
        let engine = Engine::new(&EngineOptions { instances: 1, ..EngineOptions::default() }).unwrap();
        let artifacts = ArtifactCache::open(state.join("artifacts"), engine, Compiler::InProcess).unwrap();
        Arc::new(Cache::new(Modules::open(state).unwrap(), artifacts, size, Gauge::default()))
    }

    fn wasm(name: &str) -> Vec<u8> {
        wat::parse_str(format!(
            r#"(module (memory 1) (data "{}") (func (export "{name}")))"#,
            "x".repeat(40_000)
        ))
        .unwrap()
    }

    async fn keep(cache: &Arc<Cache>, name: &str) -> Result<Pin, KeepError> {
        let wasm = wasm(name);
        let digest = ModuleDigest::of(&wasm);
        let module = cache.pin(&digest);
        cache.keep_module(&digest, &wasm, Some((name, None))).await?;
        let compiled = cache.artifacts.compile_only(&digest, wasm.into()).await.unwrap();
        cache.keep_artifact(compiled).await?;
        Ok(module)
    }

    impl Fixture {
        async fn of(modules: u64) -> Self {
            let state = tempfile::tempdir().unwrap();
            let scratch = cache(state.path(), u64::MAX);
            drop(keep(&scratch, "a").await.unwrap());
            let each = scratch.inventory().unwrap().bytes;
            drop(scratch);
            let state = tempfile::tempdir().unwrap();
            let cache = cache(state.path(), modules * each);
            Self { state, cache, each }
        }

        async fn keep(&self, name: &str) -> Result<Pin, KeepError> {
            let kept = keep(&self.cache, name).await;
            let taken = self.cache.inventory().unwrap().bytes;
            assert!(taken <= self.cache.size);
            kept
        }

        /// Keeps a module that was released this many hours ago.
        async fn unused(&self, name: &str, hours: u64) {
            drop(self.keep(name).await.unwrap());
            let file = self.state.path().join("modules").join(ModuleDigest::of(&wasm(name)).hex());
            let then = SystemTime::now() - Duration::from_hours(hours);
            fs::File::open(file).unwrap().set_modified(then).unwrap();
        }

        fn has(&self, name: &str) -> bool {
            let digest = ModuleDigest::of(&wasm(name));
            let artifact = self.cache.artifacts.files().unwrap().iter().any(|file| file.digest == digest);
            let kept = [
                self.cache.modules.read(&digest).is_some(),
                self.cache.modules.of_image(name, None).is_some(),
                artifact,
            ];
            assert!(kept == [true; 3] || kept == [false; 3], "{name}: {kept:?}");
            kept[0]
        }
    }

    #[tokio::test]
    async fn eviction_is_least_recently_released_first_with_artifact_and_image() {
        let fixture = Fixture::of(3).await;
        fixture.unused("b", 3).await;
        let _used = fixture.keep("c").await.unwrap();
        fixture.unused("d", 9).await;
        let _new = fixture.keep("e").await.unwrap();
        assert_eq!(["b", "c", "d", "e"].map(|name| fixture.has(name)), [true, true, false, true]);
        let _newer = fixture.keep("f").await.unwrap();
        assert_eq!(["b", "c", "e", "f"].map(|name| fixture.has(name)), [false, true, true, true]);
    }

    #[tokio::test]
    async fn modules_in_use_stay_and_a_new_one_is_refused_until_one_is_released() {
        let fixture = Fixture::of(2).await;
        let first = fixture.keep("b").await.unwrap();
        let again = fixture.cache.pin(&first.digest);
        let _second = fixture.keep("c").await.unwrap();
        drop(first);
        let refused = fixture.keep("d").await.err().unwrap();
        assert!(refused.to_string().contains("give the agents a larger --cache-size"), "{refused}");
        assert!(fixture.has("b") && fixture.has("c") && !fixture.has("d"));
        drop(again);
        let _third = fixture.keep("d").await.unwrap();
        assert_eq!(["b", "c", "d"].map(|name| fixture.has(name)), [false, true, true]);
    }

    #[tokio::test]
    async fn artifacts_of_other_builds_are_evicted_first() {
        let fixture = Fixture::of(2).await;
        fixture.unused("b", 1).await;
        let used = fixture.keep("c").await.unwrap();
        let files = fixture.cache.artifacts.files().unwrap();
        let artifact = &files.iter().find(|file| file.digest == used.digest).unwrap().path;
        let other_builds =
            artifact.with_file_name(format!("{}-0123456789abcdef.artifact", used.digest.hex()));
        fs::copy(artifact, &other_builds).unwrap();
        fixture.cache.shrink();
        assert!(!other_builds.exists());
        assert!(fixture.has("b") && fixture.has("c"));
    }

    #[tokio::test]
    async fn a_smaller_cache_keeps_modules_in_use_and_accepts_them_again() {
        let fixture = Fixture::of(3).await;
        for name in ["b", "c", "d"] {
            fixture.unused(name, 1).await;
        }
        let smaller = cache(fixture.state.path(), fixture.each / 2);
        let digest = ModuleDigest::of(&wasm("c"));
        let _used = smaller.pin(&digest);
        smaller.shrink();
        assert_eq!(["b", "c", "d"].map(|name| fixture.has(name)), [false, true, false]);
        smaller.keep_module(&digest, &wasm("c"), Some(("c", None))).await.unwrap();
        assert!(smaller.artifacts.get(&digest).await.is_some());
        assert!(smaller.bytes.get() > 0);
    }
}
