//! The wasmtime engines of this process, one for each variant, with their linkers and their epoch ticker.

pub(crate) mod artifact;
pub(crate) mod build;
pub(crate) mod epoch;
pub(crate) mod link;

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

use self::{
    build::{Build, Metering},
    epoch::Ticker,
    link::Linkers,
};
use crate::{NetworkOptions, grants::network::Network, memory::budget::MemoryBudget};

/// The wasmtime engines of this process, and the limits that they share. Cheap to clone; created once.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    plain: EngineVariant,
    /// Each is created for the first plugin that needs it: most nodes have none, and need not reserve its address space.
    others: [OnceLock<EngineVariant>; 3],
    creating_variant: Mutex<()>,
    ticker: Ticker,
    memory: MemoryBudget,
    network: Arc<Network>,
    result_bytes: u64,
    instances: u32,
    slots_taken: AtomicU32,
}

/// The wasmtime engine for one build, with its linkers.
pub(crate) struct EngineVariant {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) linkers: Linkers,
}

/// The permit for one instance, released on drop.
pub(crate) struct Slot(Engine);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.inner.slots_taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The limits of the whole process.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The most instances at once in this process, warm ones included. Each reserves address space, not memory. A
    /// component counts as one, however many core modules it consists of.
    pub instances: u32,
    /// The memory budget, in bytes, for all that guests use in this process; `None`: unbounded.
    pub memory: Option<u64>,
    /// The network around the process.
    pub network: NetworkOptions,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { instances: 2000, memory: None, network: NetworkOptions::default() }
    }
}

/// A wasmtime engine could not be created: the machine lacks address space or a CPU feature.
#[derive(Debug, thiserror::Error)]
#[error(
    "the WebAssembly engine could not start: {0:#}; with less address space, lower the number of instances"
)]
pub struct EngineError(wasmtime::Error);

/// Core instances per component, on average over the pool. A component that `wasm-tools component new` makes of a core
/// module has four.
const CORE_INSTANCES_EACH: u32 = 4;
/// Linear memories per component, on average: its adapter shares the main module's.
const MEMORIES_EACH: u32 = 2;
/// Tables per component, on average: the main module's and the adapter's shim's.
const TABLES_EACH: u32 = 3;
/// The most memories and tables of one core module: WebAssembly 3.0 allows several, and compilers emit few.
const MEMORIES_OF_ONE: u32 = 8;
const TABLES_OF_ONE: u32 = 16;
/// The most elements of one table: each function that is called by its address needs one. The table reserves address
/// space, not memory; the used part counts towards the plugin's limit.
const TABLE_ELEMENTS: usize = 100_000;
/// Bytes of an idle slot's memory that stay resident and are zeroed: cheaper than to decommit them.
const KEPT_RESIDENT: usize = 64 << 10;
/// Bytes of an idle fiber stack that stay resident. Most calls need less; the rest of a deeper one is decommitted.
const KEPT_STACK: usize = 16 << 10;
/// Unused slots that keep those bytes resident. Bounds the memory of an idle agent.
const WARM_SLOTS: u32 = 64;
/// The fraction of the memory budget that results may take in addition to it while all threads read them out of guests: a
/// result's size is unknown until it is read, and only then can it be reserved.
const RESULTS: u64 = 8;
/// The fiber stack of one call, in bytes. The other half is for host calls.
const STACK: usize = 1 << 20;
/// The part of it that the guest may use.
pub(crate) const GUEST_STACK: usize = STACK / 2;

impl Engine {
    /// Starts the engine and its ticker.
    pub fn new(options: &EngineOptions) -> Result<Self, EngineError> {
        let instances = options.instances.max(1);
        let ticker = Ticker::start();
        let plain = EngineVariant::new(Build::PLAIN, instances, &ticker)?;
        let memory = MemoryBudget::new(options.memory);
        let network = Arc::new(Network::new(&options.network, memory.clone()));
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
        let result_bytes = options.memory.map_or(u64::MAX, |budget| budget / RESULTS / threads);
        let inner = Inner {
            plain,
            others: [const { OnceLock::new() }; 3],
            creating_variant: Mutex::default(),
            ticker,
            memory,
            network,
            result_bytes,
            instances,
            slots_taken: AtomicU32::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The engine that runs the code of most modules.
    pub(crate) fn plain(&self) -> &wasmtime::Engine {
        &self.inner.plain.wasmtime
    }

    /// The variant that runs the code of `build`, created if this is the first.
    pub(crate) fn variant(&self, build: Build) -> Result<&EngineVariant, EngineError> {
        let inner = &*self.inner;
        let [metered, concurrent, both] = &inner.others;
        let variant = match (build.metering, build.is_concurrent) {
            (Metering::Off, false) => return Ok(&inner.plain),
            (Metering::Fuel, false) => metered,
            (Metering::Off, true) => concurrent,
            (Metering::Fuel, true) => both,
        };
        let _one_at_a_time = inner.creating_variant.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(variant) = variant.get() {
            return Ok(variant);
        }
        let created = EngineVariant::new(build, inner.instances, &inner.ticker)?;
        Ok(variant.get_or_init(|| created))
    }

    /// Acquires the permit for one more instance, of any variant; `None` if the process has its maximum.
    pub(crate) fn slot(&self) -> Option<Slot> {
        let Inner { instances, slots_taken, .. } = &*self.inner;
        let one_more = |taken| (taken < *instances).then_some(taken + 1);
        slots_taken.try_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok().map(|_| Slot(self.clone()))
    }

    /// The most host memory, in bytes, that one result may take while it is read out of its guest.
    pub(crate) fn result_bytes(&self) -> u64 {
        self.inner.result_bytes
    }

    /// The memory budget of all guests.
    pub fn memory(&self) -> &MemoryBudget {
        &self.inner.memory
    }

    pub(crate) fn network(&self) -> Arc<Network> {
        Arc::clone(&self.inner.network)
    }

    pub(crate) fn ticker(&self) -> &Ticker {
        &self.inner.ticker
    }
}

impl EngineVariant {
    /// Creates an engine and registers it with the ticker, so that none has guests which cannot be interrupted.
    fn new(build: Build, instances: u32, ticker: &Ticker) -> Result<Self, EngineError> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(instances)
            .total_core_instances(instances.saturating_mul(CORE_INSTANCES_EACH))
            .total_memories(instances.saturating_mul(MEMORIES_EACH))
            .total_tables(instances.saturating_mul(TABLES_EACH))
            .max_memories_per_module(MEMORIES_OF_ONE)
            .max_tables_per_module(TABLES_OF_ONE)
            .table_elements(TABLE_ELEMENTS)
            .total_stacks(instances)
            .total_gc_heaps(instances)
            .max_unused_warm_slots(WARM_SLOTS)
            .linear_memory_keep_resident(KEPT_RESIDENT)
            .table_keep_resident(KEPT_RESIDENT)
            .async_stack_keep_resident(KEPT_STACK)
            .pagemap_scan(wasmtime::Enabled::Auto);
        let mut config = config(build);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let wasmtime = wasmtime::Engine::new(&config).map_err(EngineError)?;
        ticker.register(&wasmtime);
        let linkers = Linkers::new(&wasmtime, build).map_err(EngineError)?;
        Ok(Self { wasmtime, linkers })
    }
}

/// The settings that affect compiled code. The process that compiles and the one that runs must agree in all of them;
/// the pooling allocator is not one of them.
pub(crate) fn config(Build { metering, is_concurrent }: Build) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(metering == Metering::Fuel)
        .wasm_component_model(true)
        .async_stack_size(STACK)
        // Decommits stacks after each call: without it they stay as large as the deepest call made them.
        .async_stack_zeroing(true)
        .max_wasm_stack(GUEST_STACK)
        .memory_init_cow(true);
    if is_concurrent {
        config.wasm_component_model_async(true);
    } else {
        config.concurrency_support(false);
    }
    config
}
