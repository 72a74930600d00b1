//! Attacks on the artifact cache: it never loads a damaged or foreign file, never crashes, and compiles anew.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use samovar_runtime::{
    ArtifactCache, Compiler, Engine, EngineOptions, Metering, ModuleDigest, Plugin, PluginSpec,
};
use samovar_testbed::scratch;

/// The magic number of an artifact's file; the next byte is its form.
const MAGIC: &[u8] = b"samovar1";

struct Setup {
    directory: PathBuf,
    engine: Engine,
}

/// A module, its artifact's file, and the intact content of that.
struct Kept {
    wasm: Bytes,
    digest: ModuleDigest,
    file: PathBuf,
    whole: Vec<u8>,
}

impl Setup {
    fn new(name: &str) -> Self {
        let engine = Engine::new(&EngineOptions { instances: 4, ..EngineOptions::default() }).unwrap();
        Self { directory: scratch().join(format!("hostile-artifacts-{name}")), engine }
    }

    /// The cache as a restarted process opens it: nothing is loaded yet.
    fn open(&self) -> ArtifactCache {
        ArtifactCache::open(self.directory.clone(), self.engine.clone(), Compiler::InProcess).unwrap()
    }

    async fn keep(&self, text: &str) -> Kept {
        let wasm = Bytes::from(wat::parse_str(text).unwrap());
        let digest = ModuleDigest::of(&wasm);
        let cache = self.open();
        cache.compile(&digest, wasm.clone()).await.unwrap();
        let file = cache.files().unwrap().into_iter().find(|file| file.digest == digest).unwrap().path;
        let whole = fs::read(&file).unwrap();
        Kept { wasm, digest, file, whole }
    }

    /// Checks that the file as it is now is not loaded, and that a compile replaces it.
    async fn refused_and_replaced(&self, kept: &Kept, attack: &str) {
        let found = tokio::time::timeout(Duration::from_secs(10), self.open().get(&kept.digest)).await;
        assert!(
            found.unwrap_or_else(|_| panic!("{attack}: the cache hangs")).is_none(),
            "{attack}: the file is loaded"
        );
        let artifact = self.open().compile(&kept.digest, kept.wasm.clone()).await.unwrap();
        Plugin::load(&self.engine, &artifact, PluginSpec::default()).await.unwrap();
        drop(artifact);
        assert!(self.open().get(&kept.digest).await.is_some(), "{attack}: the file is not replaced");
    }
}

/// Replaces a file, which is read-only.
fn put(file: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(file);
    fs::write(file, bytes).unwrap();
}

const SEVEN: &str =
    r#"(module (memory 1) (data (i32.const 0) "seven") (func (export "f") (result i32) (i32.const 7)))"#;
const EIGHT: &str =
    r#"(module (memory 1) (data (i32.const 0) "eight") (func (export "f") (result i32) (i32.const 8)))"#;
const COMPONENT: &str = r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
    (func (export "f") (canon lift (core func $i "f"))))"#;

#[tokio::test]
async fn an_artifact_with_a_flipped_bit_is_never_loaded() {
    let setup = Setup::new("flips");
    for text in [SEVEN, COMPONENT] {
        let kept = setup.keep(text).await;
        let header = 0..64;
        let rest = (64..kept.whole.len()).step_by(kept.whole.len() / 300);
        for at in header.chain(rest) {
            let mut bytes = kept.whole.clone();
            bytes[at] ^= 1 << (at % 8);
            put(&kept.file, &bytes);
            assert!(setup.open().get(&kept.digest).await.is_none(), "the bit at {at} is not noticed");
            assert!(!kept.file.exists(), "the file with its bit at {at} flipped is still there");
        }
        for length in [0, 1, 40, 41, 42, kept.whole.len() / 2, kept.whole.len() - 1] {
            put(&kept.file, &kept.whole[..length]);
            assert!(setup.open().get(&kept.digest).await.is_none(), "{length} bytes of it are loaded");
        }
        put(&kept.file, &[&kept.whole[..], b"more"].concat());
        setup.refused_and_replaced(&kept, "bytes after its end").await;
    }
}

#[tokio::test]
async fn an_artifact_in_the_place_of_another_is_never_loaded() {
    let setup = Setup::new("swapped");
    let (seven, eight, component) =
        (setup.keep(SEVEN).await, setup.keep(EIGHT).await, setup.keep(COMPONENT).await);
    for (attack, bytes) in [("another module's", &eight.whole), ("a component's", &component.whole)] {
        put(&seven.file, bytes);
        setup.refused_and_replaced(&seven, attack).await;
    }
    // An artifact of another build or CPU is intact, but has another name.
    let other = seven.file.with_file_name(format!("{}-0123456789abcdef.artifact", seven.digest.hex()));
    put(&other, &seven.whole);
    put(&seven.file, &fs::read(&other).unwrap()[..seven.whole.len() / 2]);
    setup.refused_and_replaced(&seven, "a truncated file beside an intact one of another build").await;
    fs::remove_file(&seven.file).unwrap();
    assert!(setup.open().get(&seven.digest).await.is_none(), "the artifact of another build is loaded");
}

#[tokio::test]
async fn metered_and_unmetered_code_never_replace_each_other() {
    let setup = Setup::new("configurations");
    let plain = setup.keep(SEVEN).await;
    let metered = || setup.open().metered(Metering::Fuel);
    metered().compile(&plain.digest, plain.wasm.clone()).await.unwrap();
    let file = setup.open().files().unwrap().into_iter().find(|file| file.path != plain.file).unwrap().path;
    let counts = fs::read(&file).unwrap();
    put(&plain.file, &counts);
    setup.refused_and_replaced(&plain, "metered code").await;
    put(&file, &plain.whole);
    assert!(metered().get(&plain.digest).await.is_none(), "unmetered code is loaded");

    // The form of a component, which says whether it may be called concurrently, is part of the sealed file.
    let component = setup.keep(COMPONENT).await;
    let mut concurrent = component.whole.clone();
    concurrent[MAGIC.len()] = 2;
    put(&component.file, &concurrent);
    setup.refused_and_replaced(&component, "another form").await;
}

#[tokio::test]
async fn links_pipes_and_directories_are_neither_followed_nor_waited_for() {
    let setup = Setup::new("no-file");
    let kept = setup.keep(SEVEN).await;
    let elsewhere = setup.directory.with_extension("elsewhere");
    fs::write(&elsewhere, &kept.whole).unwrap();
    for target in [&*elsewhere, Path::new("/dev/zero"), Path::new("/nowhere"), &*kept.file] {
        fs::remove_file(&kept.file).unwrap();
        symlink(target, &kept.file).unwrap();
        setup.refused_and_replaced(&kept, &format!("a link to {}", target.display())).await;
    }
    assert!(fs::read(&elsewhere).unwrap() == kept.whole, "the target of a link was written to");

    fs::remove_file(&kept.file).unwrap();
    assert!(Command::new("mkfifo").arg(&kept.file).status().unwrap().success());
    setup.refused_and_replaced(&kept, "a pipe").await;

    fs::remove_file(&kept.file).unwrap();
    fs::File::create(&kept.file).unwrap().set_len(1 << 40).unwrap();
    setup.refused_and_replaced(&kept, "a sparse file of 1 TiB").await;

    // A directory is not removed: its module is compiled each time, and runs.
    fs::remove_file(&kept.file).unwrap();
    fs::create_dir(&kept.file).unwrap();
    fs::write(kept.file.join("something"), "of somebody's").unwrap();
    assert!(setup.open().get(&kept.digest).await.is_none());
    assert!(setup.open().compile(&kept.digest, kept.wasm.clone()).await.is_ok());
    assert!(kept.file.join("something").exists());
}

#[tokio::test]
async fn swapping_a_file_while_it_is_read_and_used_changes_nothing() {
    let setup = Setup::new("in-use");
    let (kept, other) = (setup.keep(SEVEN).await, setup.keep(EIGHT).await);
    let cache = setup.open();
    let artifact = cache.get(&kept.digest).await.unwrap();
    let plugin = Plugin::load(&setup.engine, &artifact, PluginSpec::default()).await.unwrap();
    let file = kept.file.clone();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swaps = {
        let stop = std::sync::Arc::clone(&stop);
        std::thread::spawn(move || {
            let half = &kept.whole[..kept.whole.len() / 2];
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for bytes in [&other.whole[..], half, b"", &kept.whole[..]] {
                    put(&file, bytes);
                }
            }
        })
    };
    for _ in 0..200 {
        // Another process with the same directory loads seven or nothing.
        if let Some(found) = setup.open().get(&kept.digest).await {
            let found = Plugin::load(&setup.engine, &found, PluginSpec::default()).await.unwrap();
            assert_eq!(answer(&found).await, "7");
        }
        assert_eq!(answer(&plugin).await, "7");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swaps.join().unwrap();
}

async fn answer(plugin: &Plugin) -> Bytes {
    let call = samovar_runtime::Call {
        body: Bytes::new(),
        format: samovar_runtime::Format::Json,
        answer_bytes: false,
    };
    plugin.call(plugin.function("f").unwrap(), call).await.unwrap().body
}
