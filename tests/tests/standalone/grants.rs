//! `samovar run` with a policy: it reads ConfigMaps and Secrets from manifests beside the plugins.

use std::fs;

use anyhow::{Result, ensure};

use crate::{
    commands::printed,
    server::{Server, file, folder, plugin},
};

const POLICY: &str = "securityPolicy: {env: [
    {name: PLAIN, value: here},
    {name: LOCALE, valueFrom: {configMapKeyRef: {name: words, key: locale}}},
    {name: TOKEN, valueFrom: {secretKeyRef: {name: api, key: token}}}]}";
const WORDS: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: words}, data: {locale: en}}";

fn secret(data: &str) -> String {
    format!("{{apiVersion: v1, kind: Secret, metadata: {{name: api}}, {data}}}")
}

fn environment(token: &str) -> String {
    format!(r#"[["PLAIN","here"],["LOCALE","en"],["TOKEN","{token}"]]"#)
}

#[tokio::test]
async fn an_edit_of_a_configmap_or_secret_manifest_is_a_new_revision() -> Result<()> {
    let folder = folder("grants")?;
    fs::copy(file("tests/guests/wasi/wasi.wasm"), folder.join("wasi.wasm"))?;
    let api = folder.join("api.yaml");
    fs::write(&api, secret("stringData: {token: one}"))?;
    fs::write(folder.join("wasi.yaml"), format!("{}\n---\n{WORDS}\n", plugin("wasi", "wasi.wasm", POLICY)))?;
    let server = Server::start(folder.clone()).await?;
    server.answers("wasi", "environment", "[]", &environment("one")).await?;
    // In base64, as the API server returns it.
    fs::write(&api, secret("data: {token: dHdv}"))?;
    server.answers("wasi", "environment", "[]", &environment("two")).await?;

    for (broken, says) in [
        (secret("data: {other: dHdv}"), "Secret `api` has no key `token`"),
        (secret("data: {token: hush!}"), "Secret/api is invalid"),
        ("{apiVersion: v1, kind: Namespace, metadata: {name: a}}".to_owned(), "Secret `api` does not exist"),
    ] {
        fs::write(&api, broken)?;
        server.logs(says).await?;
        ensure!(server.call("wasi", "environment", "[]").await?.body == environment("two"));
    }
    ensure!(!server.process.log().contains("hush"), "{}", server.process.log());
    fs::write(&api, secret("stringData: {token: three}"))?;
    server.answers("wasi", "environment", "[]", &environment("three")).await
}

#[test]
fn validate_checks_the_references_of_a_policy() -> Result<()> {
    let manifest = folder("grants-checked")?.join("plugin.yaml");
    let validate = |documents: &[&str]| {
        fs::write(&manifest, documents.join("\n---\n"))?;
        printed(&["validate", &manifest.display().to_string()])
    };
    let wasi = plugin("wasi", "wasi.wasm", POLICY);
    ensure!(validate(&[&wasi])?.0 == 0, "objects without a manifest may be in the cluster");
    ensure!(validate(&[&wasi, WORDS, &secret("stringData: {token: one}")])?.0 == 0);
    let (code, said) = validate(&[&wasi, WORDS, &secret("stringData: {other: one}")])?;
    ensure!(code != 0 && said.contains("no key `token`"), "{said}");
    let both = "securityPolicy: {files: [{path: /a, configMap: {name: words}, scratch: {sizeLimit: 1Mi}}]}";
    let (code, said) = validate(&[&plugin("wasi", "wasi.wasm", both)])?;
    ensure!(code != 0 && said.contains("exactly one of configMap, secret and scratch"), "{said}");
    Ok(())
}
