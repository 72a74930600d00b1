//! A plugin: an artifact, its functions, its limits, and the instances that serve its calls.

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

/// A plugin that can be called. Cheap to clone; the last clone dropped takes its instances with it.
#[derive(Clone)]
pub struct Plugin {
    inner: Arc<Inner>,
}

struct Inner {
    functions: Vec<Arc<Function>>,
    by_name: HashMap<String, usize>,
    gate: Gate,
    pool: Arc<Pool>,
    // The read-only mounts of its instances are there for as long as it is.
    _mounted: Reservation,
    // Whoever loads the same module meanwhile shares it, and its code is counted as long as it is there.
    _artifact: Artifact,
}

impl Plugin {
    /// Links an artifact, finds its functions, and makes its warm instances.
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
        // Start functions have as much as a call.
        let fuel = (artifact.build().metering == Metering::Fuel).then(|| limits.fuel.unwrap_or(u64::MAX));
        let outbound = Arc::new(OutboundAccess::new(engine.network(), grants.network.clone(), log.clone()));
        let context = PluginContext { memory_limit: limits.memory, fuel, log, config, grants, outbound };
        let pool = Pool::new(engine.clone(), linked, Startup::of(artifact), context, instances);
        let memory = pool.warm_up().await.map_err(|error| match error {
            CallError::AgentFull => LoadError::AgentFull,
            CallError::NodeMemory => LoadError::NodeMemory,
            CallError::MemoryLimit { limit } => LoadError::Init(format!(
                "it needs more than its limit of {limit} bytes from the start; raise `limits.memory`"
            )),
            CallError::Init(why) => LoadError::Init(why),
            other => LoadError::Init(other.to_string()),
        })?;
        if let Some(function) = functions.iter().find(|function| function.memory() < memory) {
            let (name, limit) = (function.name(), function.memory());
            return Err(LoadError::Init(format!(
                "it has {memory} bytes of memory from the start, and `{name}` may have {limit}; raise its `limits.memory`"
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

    /// Every function that was found, those that cannot be called included.
    pub fn functions(&self) -> &[Arc<Function>] {
        &self.inner.functions
    }

    /// The function of that endpoint.
    pub fn function(&self, name: &str) -> Option<&Arc<Function>> {
        self.inner.by_name.get(name).map(|&at| &self.inner.functions[at])
    }

    /// Instances that wait for a call.
    pub fn ready_instances(&self) -> u32 {
        self.inner.pool.ready()
    }

    /// Calls that run now.
    pub fn running(&self) -> u32 {
        self.inner.gate.running()
    }

    /// Calls that wait now.
    pub fn waiting(&self) -> u32 {
        let gates = self.inner.functions.iter().filter_map(|function| function.gate());
        gates.map(Gate::waiting).sum::<u32>() + self.inner.gate.waiting()
    }

    /// Drops the idle instances and makes no more. Calls under way go on; new ones are refused.
    pub fn close(&self) {
        self.inner.pool.close();
    }

    /// Admits a request whose body has at least `body_bytes`, when it is its turn. The function is the plugin's only
    /// one, so its gate is the plugin's.
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
        // Until the call has ended, since those that wait in the queue hold their arguments too.
        let held = self.inner.pool.engine().memory().reservation();
        let arguments = target.arguments(call, &held)?;
        let limit = function.timeout();
        let started = Instant::now();
        let work = self.run(function, target, arguments, wanted);
        let ended = tokio::time::timeout(limit, work).await;
        // One instruction may go on past the limit and be the guest's last: what it gives then comes too late.
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
        // The function's own first: whoever waits there takes no place from the other functions' calls.
        let own = match function.gate() {
            Some(gate) => Some(gate.enter().await.map_err(|QueueFull| CallError::Overloaded)?),
            None => None,
        };
        let permit = gate.enter().await.map_err(|QueueFull| CallError::Overloaded)?;
        let queue = own.as_ref().map_or(Duration::ZERO, |own| own.waited) + permit.waited;
        let entered = Instant::now();
        let memory = pool.engine().memory();
        let stack = memory.mapped_reservation();
        stack.try_grow(GUEST_STACK as u64)?;
        let mut instance = pool.take(target.is_single_use(), function.memory()).await?;
        let taken = Instant::now();
        instance.prepare(function.allowance())?;
        let _running = pool.engine().ticker().run();
        let output = target.run(&mut instance, arguments, wanted).await;
        let timing = Timing { queue, instantiate: taken - entered, run: taken.elapsed() };
        match output {
            Ok(output) => {
                let fuel = instance.fuel_taken()?;
                let body = memory.reservation().hold(output.body)?;
                self.give_back(instance, target).await;
                Ok(Answer { body, format: output.format, timing, fuel })
            }
            Err(CallError::GuestError(error)) => {
                instance.fuel_taken()?;
                self.give_back(instance, target).await;
                Err(CallError::GuestError(error))
            }
            Err(trap @ CallError::Trap { .. }) => Err(instance.memory_refusal().unwrap_or(trap)),
            Err(error) => Err(error),
        }
    }

    /// Keeps an instance for another call, or ends it.
    async fn give_back(&self, instance: Instance, target: &Target) {
        if target.is_single_use() {
            return;
        }
        if let Some(mut last) = self.inner.pool.give_back(instance) {
            target.end(&mut last).await;
        }
    }
}
