//! The disk cache: it stays within its size, and evicts nothing that serves.

use std::{fs, path::Path};

use anyhow::Result;

use crate::server::{Server, folder, plugin};

/// The bytes of data in a module, so that it and its artifact take a little over twice as many.
const DATA: usize = 200_000;

fn add(folder: &Path, name: &str) -> Result<()> {
    let data = name.repeat(DATA / name.len());
    let module = format!(
        r#"(module (memory 4) (data (i32.const 0) "{data}") (func (export "f") (result i32) (i32.const 7)))"#
    );
    fs::write(folder.join(format!("{name}.wat")), module)?;
    fs::write(folder.join(format!("{name}.yaml")), plugin(name, &format!("{name}.wat"), ""))?;
    Ok(())
}

/// The size of a folder's files as the kubelet counts it, in whole blocks.
fn size_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes +=
            if metadata.is_dir() { size_of(&entry.path())? } else { metadata.len().next_multiple_of(4096) };
    }
    Ok(bytes)
}

#[tokio::test]
async fn a_module_that_does_not_fit_beside_pinned_ones_is_refused() -> Result<()> {
    let size: u64 = 1 << 20;
    let folder = folder("cache")?;
    add(&folder, "one")?;
    add(&folder, "two")?;
    let server = Server::start_with(folder.clone(), &["--cache-size=1Mi"]).await?;
    let state = folder.join("state");
    let answers = async |names: &[&str]| -> Result<()> {
        for name in names {
            server.answers(name, "f", "", "7").await?;
        }
        let (taken, reported) = (size_of(&state)?, server.metric("samovar_agent_cache_bytes").await?);
        assert!(taken <= size && reported <= size, "{taken} bytes are taken, and {reported} reported");
        assert!(reported >= names.len() as u64 * 2 * DATA as u64, "{reported} bytes are reported");
        Ok(())
    };
    answers(&["one", "two"]).await?;

    add(&folder, "three")?;
    server.logs("default/three failed: CacheFull: the module needs ").await?;
    answers(&["one", "two"]).await?;
    assert_eq!(server.call("three", "f", "").await?.status, 503);

    // Once unused, the first is evicted for another.
    fs::remove_file(folder.join("one.yaml"))?;
    fs::remove_file(folder.join("three.yaml"))?;
    add(&folder, "four")?;
    answers(&["two", "four"]).await
}
