//! Inventory: the disk space of modules and artifacts, and the candidates for eviction.

use std::{collections::HashMap, io, path::PathBuf, time::SystemTime};

use samovar_runtime::{ArtifactCache, ModuleDigest};

use crate::disk::modules::Modules;

/// The size of a disk block. Files take whole ones, and the kubelet counts them so.
pub(crate) const BLOCK: u64 = 4096;

/// The files of the cache.
pub(crate) struct Inventory {
    /// The total size on disk.
    pub(crate) bytes: u64,
    /// The candidates for eviction.
    pub(crate) unused: Vec<Unused>,
}

/// All files of a module that nothing uses, or an artifact of another build.
pub(crate) struct Unused {
    pub(crate) last_use: SystemTime,
    pub(crate) bytes: u64,
    pub(crate) module: Option<ModuleDigest>,
    pub(crate) artifacts: Vec<PathBuf>,
}

impl Inventory {
    pub(crate) fn scan(
        modules: &Modules,
        artifacts: &ArtifactCache,
        in_use: impl Fn(&ModuleDigest) -> bool,
    ) -> io::Result<Self> {
        let mut bytes = modules.images()? as u64 * BLOCK;
        let mut unused: HashMap<ModuleDigest, Unused> = HashMap::new();
        for (digest, last_use, length) in modules.files()? {
            let length = on_disk(length);
            bytes += length;
            if !in_use(&digest) {
                let module = Unused { last_use, bytes: length, module: Some(digest), artifacts: Vec::new() };
                unused.insert(digest, module);
            }
        }
        let mut stale = Vec::new();
        for file in artifacts.files()? {
            let length = on_disk(file.bytes);
            bytes += length;
            if !file.is_current {
                stale.push(Unused { bytes: length, artifacts: vec![file.path], ..Unused::of_unknown_age() });
            } else if !in_use(&file.digest) {
                let module = unused.entry(file.digest).or_insert_with(Unused::of_unknown_age);
                module.bytes += length;
                module.artifacts.push(file.path);
            }
        }
        Ok(Self { bytes, unused: stale.into_iter().chain(unused.into_values()).collect() })
    }
}

impl Unused {
    /// The release time of an artifact that this build cannot load, or that has lost its module, is unknown: it is
    /// evicted first.
    fn of_unknown_age() -> Self {
        Self { last_use: SystemTime::UNIX_EPOCH, bytes: 0, module: None, artifacts: Vec::new() }
    }
}

/// The disk space of a file of this length.
pub(crate) fn on_disk(length: u64) -> u64 {
    length.next_multiple_of(BLOCK)
}
