//! The bed after a test that failed midway: the next test has all of it again.

use anyhow::{Result, ensure};
use samovar_testbed::Server;

use crate::stage::{ADD, Alone, SOON};

#[tokio::test]
async fn a_bed_that_a_test_left_broken_is_restored_for_the_next() -> Result<()> {
    let mut stage = Alone::new_alone("left").await?;
    stage.cluster.kubectl(&["cordon", "node1"]).await?;
    let bed = stage.world.bed()?;
    bed.power_off("node2").await?;
    bed.set_connected("node3", false)?;
    bed.node("node1")?.stop_kubelet();
    bed.server(Server::Scheduler).pause()?;
    bed.server(Server::Dns).kill();
    bed.registry().stop();
    drop(stage);

    let mut stage = Alone::new_alone("restored").await?;
    ensure!(stage.world.bed()?.is_whole().await?);
    stage.apply("add", &stage.push("1", ADD).await?, "").await?;
    stage.all_ready("add").await?;
    stage.on_nodes("add", 3, 3, SOON).await.map(drop)
}
