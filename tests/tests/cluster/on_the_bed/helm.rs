//! The life cycle of the release: installed, upgraded, rolled back, uninstalled, installed again.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use kube::ResourceExt as _;
use samovar_crds::WasmPlugin;
use samovar_testbed::{Cluster, Helm, TestBed, push_images};

use crate::stage::{ADD, SOON, SYSTEM, condition, eventually, files, project};

const CRD: &str = "wasmplugins.samovar.dev";

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, to) = (entry?, to);
        let path = entry.path();
        if path.is_dir() {
            copy(&path, &to.join(entry.file_name()))?;
        } else {
            fs::copy(&path, to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

async fn all_ready(cluster: &Cluster, name: &str) -> Result<WasmPlugin> {
    let is_ready =
        |plugin: &WasmPlugin| condition(plugin, "Ready").is_some_and(|ready| ready.status == "True");
    cluster.wait_for(name, SOON, is_ready).await
}

/// In a bed of its own, beside the one that the other tests share.
#[tokio::test]
async fn upgrades_change_the_crds_and_uninstalling_keeps_them_and_the_plugins() -> Result<()> {
    let mut bed = TestBed::start(1).await?;
    push_images(bed.registry()).await?;
    let helm = Helm::new(&bed.kubeconfig(), SYSTEM, bed.registry_address());
    let cluster = Cluster::at(bed.kubeconfig(), "people").await?;
    // The restricted Pod Security Standard, without an exemption.
    cluster.kubectl(&["create", "namespace", SYSTEM]).await?;
    let restricted = "pod-security.kubernetes.io/enforce=restricted";
    cluster.kubectl(&["label", "namespace", SYSTEM, restricted]).await?;

    let began = std::time::Instant::now();
    let notes = helm.install(&[]).await?;
    println!("figure: helm install to ready on one node: {:.1} s", began.elapsed().as_secs_f32());
    ensure!(notes.contains("kubectl get wplug -A"), "{notes}");
    let image = bed.registry().push("people/add", "1", &wat::parse_str(ADD)?).await?;
    let plugin = format!(
        "{{apiVersion: samovar.dev/v1alpha1, kind: WasmPlugin, metadata: {{name: add}}, spec: {{image: '{image}'}}}}"
    );
    cluster.apply(&plugin).await?;
    let uid = all_ready(&cluster, "add").await?.uid();

    // A newer chart, with a newer CRD.
    let newer = files("newer-chart")?;
    copy(&project("charts/samovar"), &newer)?;
    let crd = newer.join("files/crds/wasmplugins.yaml");
    let text = fs::read_to_string(&crd)?;
    fs::write(
        &crd,
        text.replacen("categories:\n    - samovar\n", "categories:\n    - samovar\n    - newer\n", 1),
    )?;
    ensure!(fs::read_to_string(&crd)? != text, "the CRD's category was not replaced");
    helm.with_chart_at(&newer, &["upgrade"], &["operator.replicas=1"]).await?;
    let categories = ["get", "crd", CRD, "-o", "jsonpath={.spec.names.categories}"];
    ensure!(cluster.kubectl(&categories).await?.contains("newer"));
    let replicas = ["get", "deployment", "-n", SYSTEM, "samovar-operator", "-o", "jsonpath={.spec.replicas}"];
    ensure!(cluster.kubectl(&replicas).await? == "1");
    ensure!(all_ready(&cluster, "add").await?.uid() == uid);

    helm.run(&["rollback", "samovar", "1", "--wait", "--timeout=90s"]).await?;
    ensure!(!cluster.kubectl(&categories).await?.contains("newer"));
    ensure!(cluster.kubectl(&replicas).await? == "2");

    helm.run(&["uninstall", "samovar", "--wait", "--timeout=90s"]).await?;
    let left = [
        "get",
        "all,role,rolebinding,serviceaccount,poddisruptionbudget,networkpolicy",
        "-n",
        SYSTEM,
        "-l",
        "app.kubernetes.io/name=samovar",
        "-o",
        "name",
    ];
    let nothing = async || {
        let left = cluster.kubectl(&left).await?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    };
    eventually(nothing).await?;
    let left = [
        "get",
        "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding",
        "-l",
        "app.kubernetes.io/name=samovar",
        "-o",
        "name",
    ];
    let left = cluster.kubectl(&left).await?;
    ensure!(left.is_empty(), "{left}");
    cluster.kubectl(&["get", "crd", CRD, "pluginassignments.samovar.dev"]).await?;
    let (name, id) = ("jsonpath={.metadata.uid}", uid.clone().unwrap_or_default());
    ensure!(cluster.kubectl(&["get", "wplug", "add", "-o", name]).await? == id);

    // A new release adopts the plugins; one that watches a single namespace has no rights in others.
    helm.install(&[&format!("watchNamespaces={{{}}}", cluster.namespace)]).await?;
    let plugin = all_ready(&cluster, "add").await?;
    ensure!(plugin.uid() == uid);
    let operator = format!("--as=system:serviceaccount:{SYSTEM}:samovar-operator");
    let may = async |namespace: &str| {
        let asked = ["auth", "can-i", "list", "wasmplugins.samovar.dev", &operator, "--namespace", namespace];
        cluster.kubectl(&asked).await.is_ok()
    };
    ensure!(may(&cluster.namespace).await && !may("default").await);
    let edited = format!(
        "{{apiVersion: samovar.dev/v1alpha1, kind: WasmPlugin, metadata: {{name: add}}, spec: {{image: '{image}', limits: {{timeout: 2s}}}}}}"
    );
    cluster.apply(&edited).await?;
    let served = |plugin: &WasmPlugin| {
        let observed = plugin.status.as_ref().and_then(|status| status.observed_generation);
        observed == Some(2) && condition(plugin, "Ready").is_some_and(|ready| ready.status == "True")
    };
    cluster.wait_for("add", SOON, served).await.map(drop)
}

#[tokio::test]
async fn misspelt_values_are_refused() -> Result<()> {
    let helm = Helm::new(Path::new("/dev/null"), SYSTEM, "registry.example.com");
    let chart = project("charts/samovar").display().to_string();
    let refusal =
        helm.run(&["template", "x", &chart, "--set", "agent.cach.size=1Gi"]).await.expect_err("misspelt");
    ensure!(refusal.to_string().contains("cach"), "{refusal}");
    Ok(())
}
