//! The wasmtime engine of this process: its configuration, its linkers, its epoch ticker.

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

/// The wasmtime engine of this process. Cheap to clone; made once.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    plain: EngineVariant,
    /// Made for the first plugin that needs it: most nodes have none, and need not set its address space aside.
    others: [OnceLock<EngineVariant>; 3],
    making_variant: Mutex<()>,
    ticker: Ticker,
    memory: MemoryBudget,
    network: Arc<Network>,
    result_bytes: u64,
    instances: u32,
    slots_taken: AtomicU32,
}

/// What runs code that is compiled one way.
pub(crate) struct EngineVariant {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) linkers: Linkers,
}

/// The right to have one instance. It goes back when this is dropped.
pub(crate) struct Slot(Engine);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.inner.slots_taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How much room the engine sets aside.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Instances that may exist at once in this process, warm ones included. Each reserves address space,
    /// not memory. A component takes one, however many core modules it is made of.
    pub instances: u32,
    /// The most memory that guests' demand may take in this process, in bytes; `None`: as much as there is.
    pub memory: Option<u64>,
    /// What it knows of the network around it.
    pub network: NetworkOptions,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { instances: 2000, memory: None, network: NetworkOptions::default() }
    }
}

/// The engine could not be made: the machine lacks address space or a CPU feature.
#[derive(Debug, thiserror::Error)]
#[error(
    "the WebAssembly engine could not start: {0:#}; with less address space, lower the number of instances"
)]
pub struct EngineError(wasmtime::Error);

/// Core instances that one component may be made of, counted on average over the pool. A component made
/// from a core module by `wasm-tools component new` is made of four.
const CORE_INSTANCES_EACH: u32 = 4;
/// The same for linear memories: a component's adapter shares its main module's.
const MEMORIES_EACH: u32 = 2;
/// The same for tables: the main module's and the adapter's shim's.
const TABLES_EACH: u32 = 3;
/// The most memories and tables of one core module: WebAssembly 3.0 allows several, and compilers make few.
const MEMORIES_OF_ONE: u32 = 8;
const TABLES_OF_ONE: u32 = 16;
/// The most elements of one table, at least one for each function that is called by its address. It is address space,
/// not memory; what is used of it counts to the plugin's limit.
const TABLE_ELEMENTS: usize = 100_000;
/// Bytes of an idle slot's memory that stay mapped and are cleared by hand: cheaper than giving them back.
const KEPT_RESIDENT: usize = 64 << 10;
/// The same of an idle stack. Most calls need less; what a deeper one took goes back.
const KEPT_STACK: usize = 16 << 10;
/// Slots that keep those bytes while nothing uses them. Bounds what an idle agent holds.
const WARM_SLOTS: u32 = 64;
/// The part of the memory budget that results may take beside it while they are read out of guests, over all threads:
/// nothing tells a result's size before it is there to be drawn for.
const RESULTS: u64 = 8;
/// The stack of one call, in bytes, of which the guest may use half.
const STACK: usize = 1 << 20;
/// What a guest may use of it.
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
            making_variant: Mutex::default(),
            ticker,
            memory,
            network,
            result_bytes,
            instances,
            slots_taken: AtomicU32::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What runs code of most modules.
    pub(crate) fn plain(&self) -> &wasmtime::Engine {
        &self.inner.plain.wasmtime
    }

    /// What runs code compiled so.
    pub(crate) fn variant(&self, build: Build) -> Result<&EngineVariant, EngineError> {
        let inner = &*self.inner;
        let [metered, concurrent, both] = &inner.others;
        let variant = match (build.metering, build.is_concurrent) {
            (Metering::Off, false) => return Ok(&inner.plain),
            (Metering::Fuel, false) => metered,
            (Metering::Off, true) => concurrent,
            (Metering::Fuel, true) => both,
        };
        let _one_at_a_time = inner.making_variant.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(variant) = variant.get() {
            return Ok(variant);
        }
        let made = EngineVariant::new(build, inner.instances, &inner.ticker)?;
        Ok(variant.get_or_init(|| made))
    }

    /// A place for one more instance, of either way of compiling; `None` where as many exist as may.
    pub(crate) fn slot(&self) -> Option<Slot> {
        let Inner { instances, slots_taken, .. } = &*self.inner;
        let one_more = |taken| (taken < *instances).then_some(taken + 1);
        slots_taken.try_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok().map(|_| Slot(self.clone()))
    }

    /// The most that one result may take while it is read out of its guest.
    pub(crate) fn result_bytes(&self) -> u64 {
        self.inner.result_bytes
    }

    /// The budget from which guests' demand draws.
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
    /// Makes the engine and registers it with the ticker: there is none whose guests cannot be interrupted.
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

/// What decides the compiled code. The process that compiles and the one that runs must agree in all of it;
/// the pooling allocator is not part of it.
pub(crate) fn config(Build { metering, is_concurrent }: Build) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(metering == Metering::Fuel)
        .wasm_component_model(true)
        .async_stack_size(STACK)
        // Without it a stack would stay as large as the deepest call has made it.
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
