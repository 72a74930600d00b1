//! A loaded plugin: its functions, and the calls of them on pooled instances, within its limits.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Admission, Answer, Artifact, Call, CallError, Engine, Format, Function, LoadError, Metering, PluginSpec,
    Reservation, Timing,
    abi::{Arguments, Startup, Target, Wanted},
    config::Config,
    engine::GUEST_STACK,
    functions,
    gate::{Gate, QueueFull},
    grants::network::OutboundAccess,
    host::context::PluginContext,
    instance::Instance,
    output::log::GuestLog,
    pool::Pool,
};

/// A plugin that can be called. Cheap to clone; dropping the last clone drops its instances.
#[derive(Clone)]
pub struct Plugin {
    inner: Arc<Inner>,
}

struct Inner {
    functions: Vec<Arc<Function>>,
    by_name: HashMap<String, usize>,
    gate: Gate,
    pool: Arc<Pool>,
    // The read-only mounts, which all of its instances share, are in memory for as long as it is loaded.
    _mounted: Reservation,
    // Keeps the artifact in memory, for other plugins of the same module to share, and its code accounted.
    _artifact: Artifact,
}

impl Plugin {
    /// Links an artifact, finds its functions, and creates its warm instances.
    pub async fn load(engine: &Engine, artifact: &Artifact, spec: PluginSpec) -> Result<Self, LoadError> {
        let PluginSpec { name, functions, limits, instances, config, grants, http } = spec;
        let linkers = &engine.variant(artifact.build())?.linkers;
        let linked = linkers
            .link(artifact, &grants)
            .map_err(|error| LoadError::ImportNotGranted(error.to_string()))?;
        let functions = if http {
            vec![Arc::new(functions::handler(artifact, &limits)?)]
        } else {
            functions::find(artifact, &functions, &limits)?
        };
        let mounted = engine.memory().account(grants.files.bytes());
        let (log, config) = (GuestLog::new(&name, limits.log_lines), Config::new(config));
        // Start functions have the fuel of a call.
        let fuel = (artifact.build().metering == Metering::Fuel).then(|| limits.fuel.unwrap_or(u64::MAX));
        let outbound = Arc::new(OutboundAccess::new(engine.network(), grants.network.clone(), log.clone()));
        let context = PluginContext { memory_limit: limits.memory, fuel, log, config, grants, outbound };
        let pool = Pool::new(engine.clone(), linked, Startup::of(artifact), context, instances);
        let memory = pool.warm_up().await.map_err(|error| match error {
            CallError::AgentFull => LoadError::AgentFull,
            CallError::NodeMemory => LoadError::NodeMemory,
            CallError::MemoryLimit { limit } => LoadError::Init(format!(
                "it needs more than its limit of {limit} bytes to start; raise `limits.memory`"
            )),
            CallError::Init(why) => LoadError::Init(why),
            other => LoadError::Init(other.to_string()),
        })?;
        if let Some(function) = functions.iter().find(|function| function.memory() < memory) {
            let (name, limit) = (function.name(), function.memory());
            return Err(LoadError::Init(format!(
                "it has {memory} bytes of memory once started, and the limit of `{name}` is {limit} bytes; raise that function's `limits.memory`"
            )));
        }
        let by_name =
            functions.iter().enumerate().map(|(at, function)| (function.name().to_owned(), at)).collect();
        let gate = Gate::new(limits.concurrency, limits.queue);
        let pool = Arc::new(pool);
        engine.memory().register(&pool);
        let inner = Inner { functions, by_name, gate, pool, _mounted: mounted, _artifact: artifact.clone() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// All functions, including those that cannot be called.
    pub fn functions(&self) -> &[Arc<Function>] {
        &self.inner.functions
    }

    /// The function with this endpoint name.
    pub fn function(&self, name: &str) -> Option<&Arc<Function>> {
        self.inner.by_name.get(name).map(|&at| &self.inner.functions[at])
    }

    /// Idle instances.
    pub fn ready_instances(&self) -> u32 {
        self.inner.pool.ready()
    }

    /// Running calls.
    pub fn running(&self) -> u32 {
        self.inner.gate.running()
    }

    /// Queued calls.
    pub fn waiting(&self) -> u32 {
        let gates = self.inner.functions.iter().filter_map(|function| function.gate());
        gates.map(Gate::waiting).sum::<u32>() + self.inner.gate.waiting()
    }

    /// Drops the idle instances and refuses new calls. Running calls finish.
    pub fn close(&self) {
        self.inner.pool.close();
    }

    /// Acquires what a request with a body of at least `body_bytes` needs: a permit, memory and an instance.
    pub async fn admit(&self, function: &Arc<Function>, body_bytes: u64) -> Result<Admission, CallError> {
        Admission::acquire(function, &self.inner.gate, &self.inner.pool, body_bytes).await
    }

    /// Calls a function of this plugin, within its limits. Dropping the future stops the guest.
    pub async fn call(&self, function: &Function, call: Call) -> Result<Answer, CallError> {
        if call.body.len() as u64 > function.request_bytes() {
            return Err(CallError::TooLarge { limit: function.request_bytes() });
        }
        let bytes = call.answer_bytes || call.format == Format::Bytes;
        let wanted = Wanted { bytes, limit: function.response_bytes() };
        let target = function.target()?;
        // Held until the call ends: queued calls hold their arguments too.
        let held = self.inner.pool.engine().memory().reservation();
        let arguments = target.arguments(call, &held)?;
        let limit = function.timeout();
        let started = Instant::now();
        let work = self.run(function, target, arguments, wanted);
        let ended = tokio::time::timeout(limit, work).await;
        // The guest's last instruction may pass the deadline before the timer is polled: its answer is too late.
        ended.ok().filter(|_| started.elapsed() <= limit).unwrap_or(Err(CallError::Timeout { limit }))
    }

    async fn run(
        &self,
        function: &Function,
        target: &Target,
        arguments: Arguments,
        wanted: Wanted,
    ) -> Result<Answer, CallError> {
        let Inner { gate, pool, .. } = &*self.inner;
        // The function's own gate first: a call that waits there takes no permit from other functions' calls.
        let own = match function.gate() {
            Some(gate) => Some(gate.acquire().await.map_err(|QueueFull| CallError::Overloaded)?),
            None => None,
        };
        let permit = gate.acquire().await.map_err(|QueueFull| CallError::Overloaded)?;
        let queue = own.as_ref().map_or(Duration::ZERO, |own| own.waited) + permit.waited;
        let entered = Instant::now();
        let memory = pool.engine().memory();
        let stack = memory.mapped_reservation();
        stack.try_grow(GUEST_STACK as u64)?;
        let mut instance = pool.acquire(target.is_single_use(), function.memory()).await?;
        let instantiated = Instant::now();
        instance.prepare(function.allowance())?;
        let _running = pool.engine().ticker().run();
        let output = target.run(&mut instance, arguments, wanted).await;
        let timing = Timing { queue, instantiate: instantiated - entered, run: instantiated.elapsed() };
        match output {
            Ok(output) => {
                let fuel = instance.fuel_consumed()?;
                let body = memory.reservation().hold(output.body)?;
                self.release(instance, target).await;
                Ok(Answer { body, format: output.format, timing, fuel })
            }
            Err(CallError::GuestError(error)) => {
                instance.fuel_consumed()?;
                self.release(instance, target).await;
                Err(CallError::GuestError(error))
            }
            Err(trap @ CallError::Trap { .. }) => Err(instance.memory_refusal().unwrap_or(trap)),
            Err(error) => Err(error),
        }
    }

    /// Returns an instance to the pool, or ends it.
    async fn release(&self, instance: Instance, target: &Target) {
        if target.is_single_use() {
            return;
        }
        if let Some(mut expired) = self.inner.pool.release(instance) {
            target.end(&mut expired).await;
        }
    }
}
