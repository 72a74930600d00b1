//! Tenants: an editor of plugins in one namespace has no access to another namespace.

use anyhow::{Context as _, Result, ensure};

use crate::stage::{ADD, MULTIPLY, Stage};

const MALLORY: &str = "--as=mallory";

/// The attempts of mallory, with `samovar-edit` in the namespace `OWN`, on the namespace `VICTIM`.
const ATTEMPTS: [(&str, &str); 22] = [
    ("read a plugin", "get wplug/add -n VICTIM"),
    ("list its namespace", "get wplug -n VICTIM"),
    ("list all namespaces", "get wplug -A"),
    ("read assignments", "get pluginassignments -n VICTIM"),
    ("list all assignments", "get pluginassignments -A"),
    ("read the revisions", "get controllerrevisions -n VICTIM"),
    ("read the endpoints", "get endpointslices -n VICTIM"),
    ("make a plugin there", "create -n VICTIM -f PLUGIN"),
    ("change its image", r#"patch wplug/add -n VICTIM --type=merge -p {"spec":{"image":"x"}}"#),
    ("pause it", r#"patch wplug/add -n VICTIM --type=merge -p {"spec":{"paused":true}}"#),
    ("scale it to nothing", "scale wplug/add -n VICTIM --replicas=0"),
    ("delete it", "delete wplug/add -n VICTIM"),
    (
        "say that it failed",
        r#"patch wplug/add -n VICTIM --subresource=status --type=merge -p {"status":{"url":"x"}}"#,
    ),
    ("remove its assignments", "delete pluginassignments --all -n VICTIM"),
    ("make an assignment of one's own, past the operator", "create -n OWN -f ASSIGNMENT"),
    (
        "claim to be ready oneself",
        r#"patch wplug/own -n OWN --subresource=status --type=merge -p {"status":{"url":"x"}}"#,
    ),
    (
        "point its Service elsewhere",
        r#"patch service/add -n VICTIM --type=merge -p {"spec":{"externalName":"x"}}"#,
    ),
    ("read the system's secrets", "get secrets -n samovar-system"),
    ("read the agents' logs", "logs -n samovar-system --selector=app.kubernetes.io/component=agent"),
    ("enter an agent", "exec -n samovar-system daemonset/samovar-agent -- id"),
    ("stop the agents", "delete pods -n samovar-system --all"),
    (
        "change the CRD",
        r#"patch crd/wasmplugins.samovar.dev --type=merge -p {"metadata":{"labels":{"a":"b"}}}"#,
    ),
];

#[tokio::test]
async fn an_editor_of_one_namespace_can_neither_read_nor_change_another() -> Result<()> {
    let (own, victim) = (Stage::new("mallory").await?, Stage::new("victim").await?);
    let bind = ["create", "rolebinding", "mallory", "--clusterrole=samovar-edit", "--user=mallory"];
    own.cluster.kubectl(&bind).await?;
    victim.apply("add", &victim.push("1", ADD).await?, "").await?;
    victim.all_ready("add").await?;
    let image = own.push("1", MULTIPLY).await?;

    let plugin = |name: &str| {
        format!(
            "{{apiVersion: samovar.dev/v1alpha1, kind: WasmPlugin, metadata: {{name: {name}}}, spec: {{image: '{image}'}}}}"
        )
    };
    let node =
        "{nodeName: node1, agent: {podName: a, podUid: b}, plugin: own, revision: own-1, revisionNumber: 1";
    let assignment = format!(
        "{{apiVersion: samovar.dev/v1alpha1, kind: PluginAssignment, metadata: {{name: forged}}, spec: {node}, image: '{image}'}}}}"
    );
    let files = crate::stage::files(&own.cluster.namespace)?;
    std::fs::write(files.join("plugin.yaml"), plugin("intruder"))?;
    std::fs::write(files.join("assignment.yaml"), assignment)?;
    std::fs::write(files.join("own.yaml"), plugin("own"))?;
    let path = |name: &str| files.join(name).display().to_string();

    // Allowed, so that the refusals below are no artefact of the setup.
    own.cluster
        .kubectl(&[MALLORY, "create", "-f", &path("own.yaml")])
        .await
        .context("mallory's own plugin")?;
    own.all_ready("own").await?;

    for (attempt, command) in ATTEMPTS {
        let arguments: Vec<String> = command
            .split(' ')
            .map(|word| match word {
                "VICTIM" => victim.cluster.namespace.clone(),
                "OWN" => own.cluster.namespace.clone(),
                "PLUGIN" => path("plugin.yaml"),
                "ASSIGNMENT" => path("assignment.yaml"),
                word => word.to_owned(),
            })
            .collect();
        let mut arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        arguments.insert(0, MALLORY);
        let outcome = own.cluster.kubectl(&arguments).await;
        let refusal = outcome.err().with_context(|| format!("mallory could {attempt}"))?.to_string();
        ensure!(refusal.contains("orbidden"), "{attempt}: {refusal}");
    }

    // A plugin of the same name, and forged Host fields: each request reaches the plugin that it names.
    own.cluster.kubectl(&["delete", "wplug/own"]).await?;
    own.apply("add", &image, "").await?;
    own.all_ready("add").await?;
    own.client(None).await?;
    let (a, b) = (&own.cluster.namespace, &victim.cluster.namespace);
    for (url, host, answer) in [
        (format!("http://add.{a}.svc/add"), None, "42"),
        (format!("http://add.{b}.svc/add"), None, "13"),
        (format!("http://add.{a}.svc/v1/{b}/add/add"), None, "no function"),
        (format!("http://add.{a}.svc/add"), Some(format!("Host: add.{b}.svc.attacker.example")), "13"),
    ] {
        let mut call = vec!["-H", "content-type: application/json", "-d", "[6,7]"];
        if let Some(host) = &host {
            call.extend(["-H", host]);
        }
        call.push(&url);
        let said = own.curl(&call).await?;
        ensure!(said.contains(answer), "{url} {host:?}: {said}");
    }
    let still = victim.all_ready("add").await?;
    ensure!(still.metadata.generation == Some(1));
    Ok(())
}

#[tokio::test]
async fn kubernetes_roles_view_edit_and_admin_include_rights_on_plugins() -> Result<()> {
    let stage = Stage::new("roles").await?;
    for (role, user) in [("view", "viewer"), ("edit", "editor"), ("admin", "owner")] {
        let (role, user) = (format!("--clusterrole={role}"), user);
        stage.cluster.kubectl(&["create", "rolebinding", user, &role, &format!("--user={user}")]).await?;
    }
    let may = async |user: &str, verb: &str, resource: &str| -> bool {
        let (kind, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (user, subresource) = (format!("--as={user}"), format!("--subresource={subresource}"));
        let kind = format!("{kind}.samovar.dev");
        stage.cluster.kubectl(&[&user, "auth", "can-i", verb, &kind, &subresource]).await.is_ok()
    };
    for (user, verb, resource, wanted) in [
        ("viewer", "list", "wasmplugins", true),
        ("viewer", "get", "pluginassignments", true),
        ("viewer", "create", "wasmplugins", false),
        ("viewer", "update", "wasmplugins/scale", false),
        ("editor", "list", "wasmplugins", true),
        ("editor", "create", "wasmplugins", true),
        ("editor", "update", "wasmplugins/scale", true),
        ("editor", "update", "wasmplugins/status", false),
        ("editor", "create", "pluginassignments", false),
        ("owner", "create", "wasmplugins", true),
        ("owner", "update", "wasmplugins/status", false),
        ("owner", "create", "pluginassignments", false),
    ] {
        ensure!(may(user, verb, resource).await == wanted, "may {user} {verb} {resource}? expected {wanted}");
    }
    Ok(())
}
