//! Guests of all four engine variants on one node: each is interrupted, in whatever order the variants were created.

use std::time::{Duration, Instant};

use samovar_runtime::{CallError, Limits, Plugin, PluginSpec};

use crate::{
    get,
    support::{self, Node},
};

/// Long enough for a neighbour's call on a busy machine, beside a guest that spins.
const TIMEOUT: Duration = Duration::from_millis(300);
/// A guest that is not interrupted ends later than this, however busy the machine.
const TOO_LATE: Duration = Duration::from_mins(1);
/// More fuel than a guest uses within its timeout.
const FUEL: Option<u64> = Some(u64::MAX / 2);

/// An engine variant, by what makes a plugin need it: fuel, the concurrency of WASI 0.3, or both.
#[derive(Clone, Copy, Debug)]
struct Variant {
    fuel: Option<u64>,
    is_concurrent: bool,
}

const PLAIN: Variant = Variant { fuel: None, is_concurrent: false };
const METERED: Variant = Variant { fuel: FUEL, is_concurrent: false };
const CONCURRENT: Variant = Variant { fuel: None, is_concurrent: true };
const BOTH: Variant = Variant { fuel: FUEL, is_concurrent: true };

/// Every order of creating the three variants after the plain one, which is always the first.
const ORDERS: [[Variant; 3]; 6] = [
    [METERED, CONCURRENT, BOTH],
    [METERED, BOTH, CONCURRENT],
    [CONCURRENT, METERED, BOTH],
    [CONCURRENT, BOTH, METERED],
    [BOTH, METERED, CONCURRENT],
    [BOTH, CONCURRENT, METERED],
];

const CORE: &str = r#"(module (func (export "spin") (loop (br 0))) (func (export "text")))"#;

struct Guest {
    variant: Variant,
    plugin: Plugin,
}

impl Guest {
    async fn load(node: &Node, variant: Variant) -> Self {
        let Variant { fuel, is_concurrent } = variant;
        let module =
            if is_concurrent { support::guest("tests/guests/http3/http3.wasm") } else { CORE.into() };
        let limits = Limits { timeout: TIMEOUT, fuel, ..Limits::default() };
        let spec = PluginSpec { limits, http: is_concurrent, ..PluginSpec::default() };
        Self { variant, plugin: node.load(module, spec).await.unwrap() }
    }

    async fn call(&self, function: &str) -> Result<(), CallError> {
        if self.variant.is_concurrent {
            return get(&self.plugin, function).await.map(drop);
        }
        support::call(&self.plugin, function, "").await.map(drop)
    }
}

/// Spins in each guest while a neighbour is called.
async fn each_guest_is_interrupted_beside_its_neighbours(order: [Variant; 3], node: Node) {
    let mut guests = vec![Guest::load(&node, PLAIN).await];
    for variant in order {
        guests.push(Guest::load(&node, variant).await);
    }
    for (number, spinning) in guests.iter().enumerate() {
        let neighbour = &guests[(number + 1) % guests.len()];
        let started = Instant::now();
        let spins = async {
            let ended = spinning.call("spin").await;
            let what = spinning.variant;
            assert!(matches!(ended, Err(CallError::Timeout { .. })), "{what:?} in {order:?}: {ended:?}");
            assert!(started.elapsed() >= TIMEOUT, "{what:?} in {order:?}: {:?}", started.elapsed());
        };
        let answers = async {
            while started.elapsed() < TIMEOUT {
                let answered = neighbour.call("text").await;
                assert!(
                    answered.is_ok(),
                    "{:?} beside {:?}: {answered:?}",
                    neighbour.variant,
                    spinning.variant
                );
            }
        };
        futures::join!(spins, answers);
    }
}

#[test]
fn every_engine_variant_interrupts_its_guests_in_any_order_of_creation() {
    // A guest that is not interrupted never returns its thread, and a dropped runtime would wait for that.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (done, ended) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let node = Node::with_instances(20);
        for order in ORDERS {
            // Another engine, which finds the compiled modules on disk.
            let spins =
                tokio::spawn(each_guest_is_interrupted_beside_its_neighbours(order, node.restarted()));
            if done.send((order, spins.await.map_err(|panic| panic.to_string()))).is_err() {
                return;
            }
        }
    });
    let mut failed = Vec::new();
    for order in ORDERS {
        match ended.recv_timeout(TOO_LATE) {
            Ok((_, Ok(()))) => {}
            Ok((order, Err(panic))) => failed.push(format!("{order:?}: {panic}")),
            Err(_) => {
                failed.push(format!("{order:?}: a guest spins on after {TOO_LATE:?}"));
                break;
            }
        }
    }
    runtime.shutdown_background();
    assert!(failed.is_empty(), "{failed:#?}");
}
