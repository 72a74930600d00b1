//! The CRDs on a real API server: validation, explanations, columns, and coexistence with Istio's.

use anyhow::Result;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use samovar_crds::{PluginAssignment, names};
use samovar_testbed::Cluster;
use serde_json::json;

use crate::stage::eventually;

const ISTIO: &str = include_str!("istio-wasmplugin-crd.yaml");

#[tokio::test]
async fn istios_wasmplugin_crd_coexists_with_ours() -> Result<()> {
    let cluster = Cluster::new("istio").await?;
    cluster.apply(ISTIO).await?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/wasmplugins.extensions.istio.io"]).await?;
    cluster
        .apply("{apiVersion: extensions.istio.io/v1alpha1, kind: WasmPlugin, metadata: {name: theirs}, spec: {url: 'oci://a'}}")
        .await?;
    cluster.apply(&plugin("ours", "{image: a}")).await?;

    let ours = cluster.kubectl(&["get", "wplug", "-o", "name"]).await?;
    assert_eq!(ours.trim(), "wasmplugin.samovar.dev/ours");
    let theirs = cluster.kubectl(&["get", "wasmplugins.extensions.istio.io", "-o", "name"]).await?;
    assert_eq!(theirs.trim(), "wasmplugin.extensions.istio.io/theirs");
    Ok(())
}

#[tokio::test]
async fn the_api_server_refuses_each_invalid_spec() -> Result<()> {
    let cluster = Cluster::new("rules").await?;
    for (spec, sentence) in [
        ("{image: a, replicas: -1}", "replicas must be 0 or more"),
        ("{image: a, modulePath: ../x.wasm}", "without `..`"),
        ("{image: a, functions: [{name: Upper}]}", "DNS label"),
        ("{image: 'a:1', imagePullPolicy: Never}", "by digest"),
        ("{image: a, securityPolicy: {files: [{path: /a}]}}", "exactly one of configMap, secret and scratch"),
        ("{image: a, securityPolicy: {files: [{path: /../a, scratch: {sizeLimit: 1Mi}}]}}", "absolute path"),
        (
            "{image: a, securityPolicy: {files: [{path: /a/b, scratch: {sizeLimit: 1Mi}}, {path: /a, secret: {name: b}}]}}",
            "inside another",
        ),
        (
            "{image: a, securityPolicy: {env: [{name: A, value: b, valueFrom: {secretKeyRef: {name: a, key: b}}}]}}",
            "mutually exclusive",
        ),
        ("{image: a, securityPolicy: {env: [{name: A, valueFrom: {}}]}}", "exactly one of configMapKeyRef"),
        ("{image: a, securityPolicy: {env: [{name: SAMOVAR_CONFIG, value: b}]}}", "spec.config"),
        (
            "{image: a, securityPolicy: {network: {allowedHosts: ['https://example.com']}}}",
            "a host is a name",
        ),
    ] {
        let refusal = cluster.apply(&plugin("wrong", spec)).await.expect_err(spec).to_string();
        assert!(refusal.contains(sentence), "{spec}: {refusal}");
    }
    let hosts = "{image: a, securityPolicy: {network: {allowedHosts: ['*.example.com:443', '[2001:db8::1]:80', 10.0.0.0/8]}}}";
    cluster.apply(&plugin("right", hosts)).await?;
    Ok(())
}

#[tokio::test]
async fn kubectl_explains_fields_and_scales_plugins() -> Result<()> {
    let cluster = Cluster::new("explained").await?;
    // An API server publishes a CRD's OpenAPI schema a moment after it serves its objects.
    let explained = async || cluster.kubectl(&["explain", "wplug.spec.limits"]).await;
    let limits = eventually(explained).await?;
    for field in ["memory", "timeout", "concurrency", "queue", "requestBytes", "responseBytes"] {
        assert!(limits.contains(field), "{limits}");
    }

    cluster.apply(&plugin("text", "{image: a}")).await?;
    cluster.kubectl(&["scale", "wplug/text", "--replicas=2"]).await?;
    let replicas = cluster.kubectl(&["get", "wplug/text", "-o", "jsonpath={.spec.replicas}"]).await?;
    assert_eq!(replicas, "2");
    let columns = cluster.kubectl(&["get", "wplug", "-o", "wide"]).await?;
    let columns: Vec<_> = columns.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "READY", "REASON", "REVISION", "URL", "IMAGE", "AGE"]);
    Ok(())
}

/// An agent of the previous release writes `figures` by server-side apply, which knows the schema's fields alone.
#[tokio::test]
async fn the_status_of_an_older_agent_is_accepted() -> Result<()> {
    let cluster = Cluster::new("older-agent").await?;
    cluster
        .apply("{apiVersion: samovar.dev/v1alpha1, kind: PluginAssignment, metadata: {name: text-1}, spec: {nodeName: node, agent: {podName: agent, podUid: uid}, plugin: text, revision: text-1, revisionNumber: 1, image: 'r/text@sha256:1'}}")
        .await?;
    let assignments: Api<PluginAssignment> = cluster.api();
    let status = json!({
        "apiVersion": samovar_crds::API_VERSION, "kind": "PluginAssignment",
        "status": { "state": "Ready", "figures": { "codeBytes": 7 } }
    });
    let params = PatchParams::apply(names::AGENT).force();
    let applied = assignments.patch_status("text-1", &params, &Patch::Apply(status)).await?;
    let figures = applied.status.and_then(|status| status.figures);
    assert_eq!(figures.map(|figures| figures.code_bytes), Some(7));
    Ok(())
}

fn plugin(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: samovar.dev/v1alpha1, kind: WasmPlugin, metadata: {{name: {name}}}, spec: {spec}}}"
    )
}
