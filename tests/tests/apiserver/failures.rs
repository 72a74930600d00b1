//! Each failure has a reason of its own, and the revision that served keeps serving.

use anyhow::Result;
use kube::{Api, api::DynamicObject, core::ApiResource};
use samovar_crds::WasmPlugin;
use serde_json::json;

use crate::stage::{ADD, SOON, Stage, message};

/// Applies a good plugin, then one with `image` and `more` in its place: Ready must become False with this reason and
/// `hint` in its message, and the good revision must keep serving.
async fn breaks(name: &str, image: &str, more: &str, reason: &str, hint: &str, stage: &Stage) -> Result<()> {
    stage.apply(name, &stage.push("good", ADD).await?, "").await?;
    stage.all_ready(name).await?;
    stage.apply(name, image, more).await?;
    let plugin = stage.ready(name, "False", reason).await?;
    assert!(message(&plugin).contains(hint), "{}", message(&plugin));
    assert!(message(&plugin).contains("on serving"), "{}", message(&plugin));
    assert_eq!(stage.answers(name).await?, vec!["13"; stage.agents.len()], "{reason}");
    Ok(())
}

#[tokio::test]
async fn a_missing_image_is_image_not_found() -> Result<()> {
    let stage = Stage::new("missing", 1).await?;
    breaks("math", &stage.image("nowhere"), "", "ImageNotFound", "push it, or correct", &stage).await
}

#[tokio::test]
async fn a_missing_export_is_export_not_found() -> Result<()> {
    let stage = Stage::new("export", 1).await?;
    let image = stage.push("good", ADD).await?;
    let functions = "functions: [{name: subtract}]";
    breaks("math", &image, functions, "ExportNotFound", "no export `subtract`; it exports add", &stage).await
}

#[tokio::test]
async fn invalid_bytes_are_module_invalid() -> Result<()> {
    let stage = Stage::new("invalid", 1).await?;
    let image = stage.push_wasm("broken", b"\0asm\x01\0\0\0 and then nonsense").await?;
    breaks("math", &image, "", "ModuleInvalid", "not a valid WebAssembly module", &stage).await
}

#[tokio::test]
async fn an_image_without_a_module_is_artifact_unsupported() -> Result<()> {
    let stage = Stage::new("unsupported", 1).await?;
    let image = stage.push_wasm("text", b"just text").await?;
    breaks("math", &image, "", "ArtifactUnsupported", "", &stage).await
}

#[tokio::test]
async fn an_unknown_import_is_import_not_granted() -> Result<()> {
    let stage = Stage::new("import", 1).await?;
    let image =
        stage.push("import", r#"(module (import "env" "secret" (func)) (func (export "add")))"#).await?;
    breaks("math", &image, "", "ImportNotGranted", "env::secret", &stage).await
}

#[tokio::test]
async fn a_failing_start_function_is_init_failed() -> Result<()> {
    let stage = Stage::new("init", 1).await?;
    let image =
        stage.push("init", r#"(module (func $s unreachable) (start $s) (func (export "add")))"#).await?;
    breaks("math", &image, "", "InitFailed", "does not start", &stage).await
}

#[tokio::test]
async fn a_corrupt_blob_is_digest_mismatch() -> Result<()> {
    let stage = Stage::new("digest", 1).await?;
    let wasm = wat::parse_str(r#"(module (func (export "add")))"#)?;
    let image = stage.push_wasm("corrupt", &wasm).await?;
    // A registry stores a blob once for all repositories.
    let blob = stage.registry.push_blob("demo/corrupt", "application/wasm", &wasm).await?;
    stage.registry.corrupt(&blob.digest)?;
    breaks("math", &image, "", "DigestMismatch", "other bytes", &stage).await
}

#[tokio::test]
async fn pulls_are_retried_until_the_registry_is_up() -> Result<()> {
    let mut stage = Stage::new("down", 1).await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("math").await?;
    let next = stage.push("2", crate::stage::MULTIPLY).await?;
    stage.registry.stop();
    stage.apply("math", &next, "").await?;
    let plugin = stage.ready("math", "False", "RegistryUnavailable").await?;
    assert!(message(&plugin).contains("is unavailable"), "{}", message(&plugin));
    assert_eq!(stage.answers("math").await?, ["13"]);
    stage.registry.start_again().await?;
    stage.all_ready("math").await?;
    assert_eq!(stage.answers("math").await?, ["42"]);
    Ok(())
}

#[tokio::test]
async fn an_invalid_spec_is_refused_or_reported() -> Result<()> {
    let stage = Stage::new("spec", 0).await?;
    let refusal = stage.apply("math", "a:1", "replicas: -1").await.unwrap_err().to_string();
    assert!(refusal.contains("replicas must be 0 or more"), "{refusal}");
    stage.apply("math", "Not An Image", "").await?;
    let plugin = stage.ready("math", "False", "InvalidSpec").await?;
    assert!(message(&plugin).contains("is not an image reference"), "{}", message(&plugin));
    Ok(())
}

#[tokio::test]
async fn a_service_of_another_owner_is_left_alone() -> Result<()> {
    let stage = Stage::new("foreign", 1).await?;
    stage
        .cluster
        .apply("{apiVersion: v1, kind: Service, metadata: {name: math}, spec: {ports: [{port: 5432}]}}")
        .await?;
    stage.apply("math", &stage.push("1", ADD).await?, "").await?;
    stage.ready("math", "False", "NameConflict").await?;
    let service =
        stage.cluster.kubectl(&["get", "service", "math", "-o=jsonpath={.spec.ports[*].port}"]).await?;
    assert_eq!(service, "5432");
    Ok(())
}

#[tokio::test]
async fn two_plugins_that_do_not_parse_block_no_third() -> Result<()> {
    let stage = Stage::new("unreadable", 1).await?;
    let resource = ApiResource::erase::<WasmPlugin>(&());
    let api: Api<DynamicObject> =
        Api::namespaced_with(stage.cluster.client.clone(), &stage.cluster.namespace, &resource);
    for name in ["first", "second"] {
        // The CRD's rules accept it; 64 bits do not hold it.
        let spec = json!({ "spec": { "image": "a:1", "limits": { "memory": "99999999999Ei" } } });
        api.create(&kube::api::PostParams::default(), &DynamicObject::new(name, &resource).data(spec))
            .await?;
    }
    stage.apply("third", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("third").await?;
    assert_eq!(stage.answers("third").await?, ["13"]);
    let first = tokio::time::timeout(SOON, api.get("first")).await??;
    assert!(first.data.get("status").is_none(), "{:?}", first.data);
    Ok(())
}
