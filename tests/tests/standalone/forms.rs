//! The OCI forms in which modules are published, pulled from a real registry.

use std::io::Write as _;

use anyhow::Result;
use samovar_testbed::Registry;

use crate::{commands::printed, server::folder};

fn tar(entries: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *bytes)?;
    }
    Ok(builder.into_inner()?)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

#[tokio::test]
async fn a_module_is_pulled_from_every_published_form() -> Result<()> {
    let registry = Registry::start().await?;
    let wasm = wat::parse_str(r#"(module (func (export "f")))"#)?;
    let image = tar(&[("plugin.wasm", &wasm), ("etc/readme", b"read me")])?;
    let docker = "application/vnd.docker.container.image.v1+json";
    let oci = "application/vnd.oci.image.config.v1+json";
    let forms: [(&str, &str, &str, Vec<u8>); 8] = [
        ("cncf", "application/vnd.wasm.config.v0+json", "application/wasm", wasm.clone()),
        (
            "wasm-to-oci",
            "application/vnd.wasm.config.v1+json",
            "application/vnd.wasm.content.layer.v1+wasm",
            wasm.clone(),
        ),
        ("module", oci, "application/vnd.module.wasm.content.layer.v1+wasm", wasm.clone()),
        (
            "oras",
            "application/vnd.unknown.config.v1+json",
            "application/vnd.oci.image.layer.v1.tar",
            wasm.clone(),
        ),
        ("tar", oci, "application/vnd.oci.image.layer.v1.tar", image.clone()),
        ("docker", docker, "application/vnd.docker.image.rootfs.diff.tar.gzip", gzip(&image)?),
        ("oci-gzip", oci, "application/vnd.oci.image.layer.v1.tar+gzip", gzip(&image)?),
        ("oci-zstd", oci, "application/vnd.oci.image.layer.v1.tar+zstd", zstd::encode_all(&image[..], 0)?),
    ];
    let out = folder("forms")?.join("out.wasm");
    for (form, config, layer, bytes) in forms {
        let config = registry.push_blob("demo/forms", config, b"{}").await?;
        let layer = registry.push_blob("demo/forms", layer, &bytes).await?;
        registry.push_manifest("demo/forms", form, &config, &[layer]).await?;
        let reference = format!("{}/demo/forms:{form}", registry.address());
        let (code, text) = printed(&["pull", &reference, "--file", &out.display().to_string()])?;
        assert_eq!(code, 0, "{form}: {text}");
        assert_eq!(std::fs::read(&out)?, wasm, "{form}");
    }
    Ok(())
}

#[tokio::test]
async fn the_module_path_selects_one_of_several_modules() -> Result<()> {
    let registry = Registry::start().await?;
    let (one, two) = (
        wat::parse_str(r#"(module (func (export "one")))"#)?,
        wat::parse_str(r#"(module (func (export "two")))"#)?,
    );
    let image = tar(&[("one.wasm", &one), ("lib/two.wasm", &two)])?;
    let config =
        registry.push_blob("demo/several", "application/vnd.oci.image.config.v1+json", b"{}").await?;
    let layer = registry
        .push_blob("demo/several", "application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&image)?)
        .await?;
    registry.push_manifest("demo/several", "1", &config, &[layer]).await?;
    let reference = format!("{}/demo/several:1", registry.address());
    let out = folder("several")?.join("out.wasm");
    let (code, text) = printed(&["pull", &reference, "--file", &out.display().to_string()])?;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("modulePath") && text.contains("lib/two.wasm"), "{text}");
    let pick = ["pull", &reference, "--module-path", "lib/two.wasm", "--file", &out.display().to_string()];
    assert_eq!(printed(&pick)?.0, 0);
    assert_eq!(std::fs::read(&out)?, two);
    Ok(())
}
