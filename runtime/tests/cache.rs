//! The artifact cache: artifacts are found by content, and damaged or foreign files are never loaded.

#![allow(clippy::unwrap_used, reason = "a failed setup may panic in a test")]

mod support;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use samovar_runtime::{ArtifactCache, CompileError, ModuleDigest};
use support::Node;

struct Setup {
    node: Node,
    wasm: Bytes,
    digest: ModuleDigest,
}

impl Setup {
    fn new() -> Self {
        let wasm = wat::parse_str(r#"(module (func (export "f")))"#).unwrap();
        let digest = ModuleDigest::of(&wasm);
        Self { node: Node::with_instances(4), wasm: wasm.into(), digest }
    }

    fn open(&self) -> ArtifactCache {
        self.node.reopened()
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.node.directory()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

#[tokio::test]
async fn a_compiled_artifact_is_found_again_and_is_read_only() {
    let setup = Setup::new();
    assert!(setup.open().get(&setup.digest).await.is_none());
    setup.open().compile(&setup.digest, setup.wasm.clone()).await.unwrap();
    assert!(setup.open().get(&setup.digest).await.is_some());
    let [file] = &setup.files()[..] else { panic!("one artifact is one file") };
    assert!(fs::metadata(file).unwrap().permissions().readonly());
}

#[tokio::test]
async fn a_damaged_truncated_or_foreign_file_is_removed_and_never_loaded() {
    type Harm = fn(&mut Vec<u8>);
    let harms: [(&str, Harm); 6] = [
        ("a flipped bit in the code", |bytes| {
            let last = bytes.len() / 2;
            bytes[last] ^= 1;
        }),
        ("a flipped bit in the digest", |bytes| bytes[20] ^= 1),
        ("another kind", |bytes| bytes[8] ^= 1),
        ("truncated", |bytes| bytes.truncate(30)),
        ("empty", Vec::clear),
        ("foreign", |bytes| {
            *bytes = b"\x7fELF and more bytes of a foreign file, of some length".to_vec();
        }),
    ];
    for (name, harm) in harms {
        let setup = Setup::new();
        setup.open().compile(&setup.digest, setup.wasm.clone()).await.unwrap();
        let file = setup.files().remove(0);
        let mut bytes = fs::read(&file).unwrap();
        harm(&mut bytes);
        fs::remove_file(&file).unwrap();
        fs::write(&file, bytes).unwrap();
        assert!(setup.open().get(&setup.digest).await.is_none(), "{name}");
        assert!(!file.exists(), "{name}");
        assert!(setup.open().compile(&setup.digest, setup.wasm.clone()).await.is_ok(), "{name}");
    }
}

#[tokio::test]
async fn stale_temporary_files_are_removed() {
    let setup = Setup::new();
    let [left, being_written] =
        ["a", "b"].map(|name| setup.node.directory().join(format!(".half-written-{name}")));
    for file in [&left, &being_written] {
        fs::write(file, b"half").unwrap();
    }
    let an_hour_ago = SystemTime::now() - Duration::from_hours(1);
    fs::File::open(&left).unwrap().set_modified(an_hour_ago).unwrap();
    setup.open();
    // Another agent with the same directory may be writing the new one.
    assert!(!left.exists() && being_written.exists());
}

#[tokio::test]
async fn invalid_bytes_are_refused() {
    let setup = Setup::new();
    for bytes in [&b"not wasm"[..], b"\0asm\x01\0\0\0 and then nonsense", b"\0asm\x0d\0\x01\0\xff"] {
        let refused = setup.open().compile(&setup.digest, Bytes::copy_from_slice(bytes)).await;
        assert!(matches!(refused, Err(CompileError::Invalid(_))), "{bytes:?}");
    }
}
