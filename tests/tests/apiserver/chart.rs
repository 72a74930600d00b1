//! The chart's objects on a real API server, which knows each kind and refuses misspelt fields.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use samovar_testbed::{Cluster, Helm};

/// Values that together enable every optional object that needs no CRD of other projects.
const SETS: [&[&str]; 4] = [
    &[],
    &[
        "watchNamespaces={default,kube-public}",
        "registry.dockerConfigSecret=registries",
        "imagePullSecrets[0].name=a",
    ],
    &[
        "agent.cache.type=hostPath",
        "metrics.dashboard.create=true",
        "agent.priorityClassName=system-node-critical",
    ],
    &[
        "agent.cache.type=existingClaim",
        "agent.cache.existingClaim=claim",
        "operator.podDisruptionBudget.create=false",
    ],
];

#[tokio::test]
async fn the_api_server_accepts_every_object_of_the_chart() -> Result<()> {
    let cluster = Cluster::new("chart").await?;
    let helm = Helm::new(&cluster.kubeconfig, &cluster.namespace, "registry.example.com");
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/samovar").display().to_string();
    for values in SETS {
        let mut arguments = vec!["template", "samovar", chart.as_str()];
        arguments.extend(values.iter().flat_map(|value| ["--set", value]));
        let rendered = helm.run(&arguments).await.with_context(|| format!("{values:?}"))?;
        let taken = cluster.dry_run(&rendered).await.with_context(|| format!("{values:?}"))?;
        ensure!(taken.lines().count() >= 15, "{values:?}: {taken}");
    }
    Ok(())
}
