//! Least privilege: Samovar has exactly the rights that it uses.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Node, Pod, Secret},
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, Subject},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use samovar_crds::{PluginAssignment, WasmPlugin};
use serde_json::{Value, json};

use crate::stage::{ADD, Alone, SOON, SYSTEM, eventually};

/// A verb on a resource, as audit logs and roles both have them: `patch samovar.dev/wasmplugins/status`.
type Act = String;
/// Acts by ServiceAccount.
type Acts = BTreeMap<String, BTreeSet<Act>>;

/// The acts that RBAC grants to each ServiceAccount.
async fn granted(stage: &Alone) -> Result<Acts> {
    let (client, all) = (stage.cluster.client.clone(), ListParams::default());
    let mut granted = Acts::new();
    let mut grant = |subjects: Option<Vec<Subject>>, rules: Option<Vec<PolicyRule>>| {
        let ours = |subject: &Subject| {
            subject.kind == "ServiceAccount" && subject.namespace.as_deref() == Some(SYSTEM)
        };
        for account in subjects.unwrap_or_default().into_iter().filter(ours) {
            let acts = rules.iter().flatten().flat_map(acts);
            granted.entry(account.name).or_default().extend(acts);
        }
    };
    let (cluster_roles, roles) =
        (Api::<ClusterRole>::all(client.clone()), Api::<Role>::namespaced(client.clone(), SYSTEM));
    for binding in Api::<ClusterRoleBinding>::all(client.clone()).list(&all).await? {
        if binding.subjects.iter().flatten().any(|subject| subject.namespace.as_deref() == Some(SYSTEM)) {
            grant(binding.subjects, cluster_roles.get(&binding.role_ref.name).await?.rules);
        }
    }
    for binding in Api::<RoleBinding>::namespaced(client, SYSTEM).list(&all).await? {
        ensure!(binding.role_ref.kind == "Role", "{} binds a ClusterRole", binding.name_any());
        grant(binding.subjects, roles.get(&binding.role_ref.name).await?.rules);
    }
    Ok(granted)
}

fn acts(rule: &PolicyRule) -> Vec<Act> {
    let groups = rule.api_groups.as_deref().unwrap_or_default();
    let resources = rule.resources.as_deref().unwrap_or_default();
    let of_group = |group: &String| {
        resources.iter().map(move |resource| format!("{group}/{resource}")).collect::<Vec<_>>()
    };
    let resources: Vec<_> = groups.iter().flat_map(of_group).collect();
    rule.verbs
        .iter()
        .flat_map(|verb| resources.iter().map(move |resource| format!("{verb} {resource}")))
        .collect()
}

/// The acts of each ServiceAccount in the audit log, and the events of forbidden requests.
fn done(audit_log: &str) -> Result<(Acts, Vec<String>)> {
    let (mut done, mut refused) = (Acts::new(), Vec::new());
    for line in audit_log.lines() {
        let event: Value = serde_json::from_str(line).context("the audit log is JSON")?;
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let Some(account) = text("/user/username").strip_prefix(&format!("system:serviceaccount:{SYSTEM}:"))
        else {
            continue;
        };
        // Requests of these tests with an agent's token come from outside the Pods' network.
        if !text("/sourceIPs/0").starts_with("10.78.") {
            continue;
        }
        let resource = match text("/objectRef/subresource") {
            "" => text("/objectRef/resource").to_owned(),
            subresource => format!("{}/{subresource}", text("/objectRef/resource")),
        };
        if resource.is_empty() {
            continue;
        }
        let act = format!("{} {}/{resource}", text("/verb"), text("/objectRef/apiGroup"));
        let code = event.pointer("/responseStatus/code").and_then(Value::as_u64);
        if code == Some(403) {
            refused.push(line.to_owned());
        }
        let acts = done.entry(account.to_owned()).or_default();
        // An apply that created the object needed the verb create too.
        if text("/verb") == "patch" && code == Some(201) {
            acts.insert(act.replacen("patch", "create", 1));
        }
        acts.insert(act);
    }
    Ok((done, refused))
}

/// Makes Samovar do all that it ever does: every change of a plugin and of its objects.
async fn live(stage: &Alone) -> Result<()> {
    // More revisions than are kept.
    let image = stage.push("1", ADD).await?;
    for milliseconds in 1..15 {
        stage.apply("add", &image, &format!("limits: {{timeout: {milliseconds}ms}}")).await?;
        stage.all_ready("add").await?;
    }
    // The contents that a policy names are read, and requested by agents with a token.
    for object in [
        "{kind: ConfigMap, metadata: {name: words}, data: {locale: en}}",
        "{kind: Secret, metadata: {name: api}, stringData: {token: hush}}",
    ] {
        stage.cluster.apply(&object.replacen('{', "{apiVersion: v1, ", 1)).await?;
    }
    let policy = "securityPolicy: {env: [
        {name: LOCALE, valueFrom: {configMapKeyRef: {name: words, key: locale}}},
        {name: TOKEN, valueFrom: {secretKeyRef: {name: api, key: token}}}]}";
    stage.apply("add", &image, policy).await?;
    stage.all_ready("add").await?;
    // Twice the same, so that an Event is patched rather than created.
    for _ in 0..2 {
        for (replicas, count) in [("--replicas=0", 0), ("--replicas=3", 3)] {
            stage.cluster.kubectl(&["scale", "wplug/add", replicas]).await?;
            stage.on_nodes("add", count, count, SOON).await?;
        }
    }
    // Deleted EndpointSlices are created again.
    let another = ["delete", "endpointslices", "--all"];
    stage.cluster.kubectl(&another).await?;
    eventually(async || {
        let slices = stage.cluster.kubectl(&["get", "endpointslices", "-o", "name"]).await?;
        ensure!(!slices.is_empty(), "no EndpointSlice is created again");
        Ok(())
    })
    .await?;
    stage.cluster.kubectl(&["delete", "wplug/add"]).await.map(drop)
}

#[tokio::test]
async fn every_granted_right_is_used_and_no_request_is_forbidden() -> Result<()> {
    let mut stage = Alone::new_alone("privileges").await?;
    // Both ways of a Lease: one leader releases it, the next acquires it.
    let restart = ["rollout", "restart", "--namespace", SYSTEM, "deployment/samovar-operator"];
    stage.cluster.kubectl(&restart).await?;
    let status = ["rollout", "status", "--namespace", SYSTEM, "deployment/samovar-operator", "--timeout=90s"];
    stage.cluster.kubectl(&status).await?;
    live(&stage).await?;

    let granted = granted(&stage).await?;
    let (mut done, refused) = done(&stage.world.bed()?.audit_log()?)?;
    ensure!(refused.is_empty(), "requests of Samovar were forbidden:\n{}", refused.join("\n"));
    // Admission checks this right if an object blocks its owner's deletion; the audit log does not show it.
    let operator = done.get_mut("samovar-operator").context("the operator did something")?;
    operator.insert("update samovar.dev/wasmplugins/finalizers".to_owned());
    for account in ["samovar-operator", "samovar-agent"] {
        let (granted, done) = (&granted[account], &done[account]);
        let unused: Vec<_> = granted.difference(done).collect();
        ensure!(unused.is_empty(), "{account} has rights that it never uses: {unused:#?}\nit uses {done:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_agents_token_writes_only_the_status_of_its_own_assignments() -> Result<()> {
    let stage = Alone::new_alone("tokens").await?;
    stage.apply("add", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("add").await?;
    let agent = stage.agent_on("node1").await?;
    let (name, uid) = (agent.name_any(), agent.uid().unwrap_or_default());
    let bound = [
        "create",
        "token",
        "samovar-agent",
        "--namespace",
        SYSTEM,
        "--bound-object-kind=Pod",
        "--bound-object-name",
        &name,
        "--bound-object-uid",
        &uid,
    ];
    let token = stage.cluster.client_of(stage.cluster.kubectl(&bound).await?.trim()).await?;
    let unbound = ["create", "token", "samovar-agent", "--namespace", SYSTEM];
    let unbound = stage.cluster.client_of(stage.cluster.kubectl(&unbound).await?.trim()).await?;

    // A second Pod of the agents' ServiceAccount on the same node, as during a rolling update of the DaemonSet.
    let twin = stage.pod_as("samovar-agent", "node1").await?;
    let bound = [
        "create",
        "token",
        "samovar-agent",
        "--namespace",
        SYSTEM,
        "--bound-object-kind=Pod",
        "--bound-object-name",
        &twin,
    ];
    let twin_token = stage.cluster.client_of(stage.cluster.kubectl(&bound).await?.trim()).await?;

    let assignments = stage.cluster.api::<PluginAssignment>().list(&ListParams::default()).await?;
    let of = |own: bool| {
        let found = assignments.iter().find(|assignment| (assignment.spec.agent.pod_uid == uid) == own);
        found.map(ResourceExt::name_any).context("each agent has an assignment")
    };
    let (own, others) = (of(true)?, of(false)?);
    let namespace = &stage.cluster.namespace;
    let of_client = |client: &Client| Api::<PluginAssignment>::namespaced(client.clone(), namespace);
    let status = Patch::Merge(json!({ "status": { "state": "Failed" } }));
    let label = Patch::Merge(json!({ "metadata": { "labels": { "a": "b" } } }));
    let parameters = PatchParams::default();
    of_client(&token).patch_status(&own, &parameters, &status).await.context("its own status")?;
    of_client(&token).list(&ListParams::default()).await.context("reading assignments")?;

    let every = ListParams::default();
    for (attempt, outcome) in [
        (
            "write another's status",
            of_client(&token).patch_status(&others, &parameters, &status).await.map(drop),
        ),
        (
            "write as another Pod of the node",
            of_client(&twin_token).patch_status(&own, &parameters, &status).await.map(drop),
        ),
        ("write without a Pod", of_client(&unbound).patch_status(&own, &parameters, &status).await.map(drop)),
        ("write a spec", of_client(&token).patch(&own, &parameters, &label).await.map(drop)),
        ("delete", of_client(&token).delete(&own, &DeleteParams::default()).await.map(drop)),
        ("read plugins", Api::<WasmPlugin>::all(token.clone()).list(&every).await.map(drop)),
        ("read Secrets", Api::<Secret>::all(token.clone()).list(&every).await.map(drop)),
        (
            "read its own namespace's Secrets",
            Api::<Secret>::namespaced(token.clone(), SYSTEM).list(&every).await.map(drop),
        ),
        ("read ConfigMaps", Api::<ConfigMap>::all(token.clone()).list(&every).await.map(drop)),
        ("read Pods", Api::<Pod>::namespaced(token.clone(), SYSTEM).list(&every).await.map(drop)),
        ("read nodes", Api::<Node>::all(token.clone()).list(&every).await.map(drop)),
        ("read the Lease", Api::<Lease>::namespaced(token.clone(), SYSTEM).list(&every).await.map(drop)),
    ] {
        let refusal = outcome.err().with_context(|| format!("an agent may {attempt}"))?;
        let is_forbidden = matches!(&refusal, kube::Error::Api(status) if status.code == 403);
        ensure!(is_forbidden, "{attempt}: {refusal}");
    }
    stage.cluster.kubectl(&["delete", "pod", "--namespace", SYSTEM, &twin]).await.map(drop)
}
