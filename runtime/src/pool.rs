//! A plugin's idle instances: warm ones, created ahead of calls, and used ones that wait to be reused.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant as Clock},
};

use crate::{
    CallError, Engine, Instances, Reuse,
    abi::Startup,
    engine::link::Linked,
    host::context::PluginContext,
    instance::Instance,
    memory::budget::{Reclaim, Reservation},
};

/// The deadline of creating a warm instance, including its start functions.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The interval at which the refill task checks for missing warm instances.
const REFILL_INTERVAL: Duration = Duration::from_millis(1);
/// The refill task exits after this many consecutive checks that created no instance.
const QUIET_CHECKS: u32 = 50;

/// The idle instances of one plugin, and the means to create more.
pub(crate) struct Pool {
    engine: Engine,
    linked: Linked,
    startup: Startup,
    context: Arc<PluginContext>,
    instances: Instances,
    idle: Mutex<Idle>,
    refilling: AtomicBool,
    sweeping: AtomicBool,
}

#[derive(Default)]
struct Idle {
    warm: Vec<Instance>,
    /// Each with the time of its release, the latest at the back.
    used: VecDeque<(Clock, Instance)>,
    closed: bool,
}

impl Pool {
    pub(crate) fn new(
        engine: Engine,
        linked: Linked,
        startup: Startup,
        context: PluginContext,
        instances: Instances,
    ) -> Self {
        Self {
            engine,
            linked,
            startup,
            context: Arc::new(context),
            instances,
            idle: Mutex::default(),
            refilling: AtomicBool::new(false),
            sweeping: AtomicBool::new(false),
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Creates the warm instances, but at least one, so that a module which cannot start fails to load and not at its
    /// first call. Returns the memory of an instance, in bytes.
    pub(crate) async fn warm_up(&self) -> Result<u64, CallError> {
        let count = self.instances.warm.max(1) as usize;
        let mut bytes = 0;
        for created in 0..count {
            // The first has the same right to memory as a call.
            let memory = self.engine.memory();
            let reservation =
                if created == 0 { memory.mapped_reservation() } else { memory.warm_reservation() };
            match self.create_warm(reservation).await {
                Ok(instance) => {
                    bytes = instance.memory();
                    if self.instances.warm > 0 {
                        self.lock().warm.push(instance);
                    }
                }
                // One is enough: the refill creates the others when there is room.
                Err(CallError::AgentFull | CallError::NodeMemory) if created > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// Acquires an instance for one call: a used one, unless the call needs a `fresh` one or its `memory` limit is too
    /// low for it; else a warm one, or a new one.
    pub(crate) async fn acquire(self: &Arc<Self>, fresh: bool, memory: u64) -> Result<Instance, CallError> {
        let (ready, wants_more) = {
            let mut idle = self.lock();
            if idle.closed {
                return Err(CallError::Closed);
            }
            let fits = |(_, instance): &(Clock, Instance)| !fresh && instance.memory() <= memory;
            let used = idle.used.iter().rposition(fits).and_then(|at| idle.used.remove(at));
            let ready = used.map(|(_, instance)| instance).or_else(|| idle.warm.pop());
            (ready, idle.warm.len() < self.instances.warm as usize)
        };
        if wants_more {
            self.refill();
        }
        match ready {
            Some(instance) => Ok(instance),
            None => self.create(self.engine.memory().mapped_reservation()).await,
        }
    }

    /// Releases an instance after a call that succeeded. Keeps it for reuse, or returns it if it is to end.
    pub(crate) fn release(self: &Arc<Self>, mut instance: Instance) -> Option<Instance> {
        let Some(Reuse { max_calls, idle }) = self.instances.reuse else {
            return Some(instance);
        };
        if instance.calls >= max_calls {
            return Some(instance);
        }
        // The next call starts with empty scratch folders anyway: their memory is free until then.
        instance.host().empty_scratch();
        let mut kept = self.lock();
        if kept.closed {
            return Some(instance);
        }
        kept.used.push_back((Clock::now(), instance));
        drop(kept);
        self.sweep(idle);
        None
    }

    /// Idle instances.
    pub(crate) fn ready(&self) -> u32 {
        let idle = self.lock();
        u32::try_from(idle.warm.len() + idle.used.len()).unwrap_or(u32::MAX)
    }

    /// Drops all idle instances and refuses calls from now on.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.drop_idle();
    }

    async fn create(&self, reservation: Reservation) -> Result<Instance, CallError> {
        let _running = self.engine.ticker().run();
        let mut instance = Instance::new(&self.engine, &self.linked, &self.context, reservation).await?;
        self.startup.run(&mut instance).await?;
        Ok(instance)
    }

    async fn create_warm(&self, reservation: Reservation) -> Result<Instance, CallError> {
        tokio::time::timeout(INIT_TIMEOUT, self.create(reservation)).await.unwrap_or_else(|_| {
            Err(CallError::Init(format!("its start functions ran longer than {} s", INIT_TIMEOUT.as_secs())))
        })
    }

    /// Replaces missing warm instances in the background. One task lives for as long as calls keep coming: spawning
    /// one for each call would cost more than the instance itself.
    fn refill(self: &Arc<Self>) {
        if self.refilling.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            let mut quiet = 0;
            while quiet < QUIET_CHECKS {
                let created = pool.fill().await;
                quiet = if created { 0 } else { quiet + 1 };
                tokio::time::sleep(REFILL_INTERVAL).await;
            }
            pool.refilling.store(false, Ordering::Release);
        });
    }

    /// Creates the missing warm instances, as far as possible. Returns true if it created any.
    async fn fill(&self) -> bool {
        let mut created = false;
        while self.wants_more() {
            match self.create_warm(self.engine.memory().warm_reservation()).await {
                Ok(instance) => self.add(instance),
                // The next call creates its own instance, and reports the error.
                Err(_) => break,
            }
            created = true;
        }
        created
    }

    fn wants_more(&self) -> bool {
        let idle = self.lock();
        !idle.closed && idle.warm.len() < self.instances.warm as usize
    }

    fn add(&self, instance: Instance) {
        let mut idle = self.lock();
        if !idle.closed {
            idle.warm.push(instance);
        }
    }

    /// Drops used instances that were idle for `max_idle`. One task at a time does so, until none is left.
    fn sweep(self: &Arc<Self>, max_idle: Duration) {
        if self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool: Weak<Self> = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(max_idle).await;
                let Some(pool) = pool.upgrade() else { return };
                let (expired, left) = {
                    let mut idle = pool.lock();
                    let stale = idle.used.iter().take_while(|(since, _)| since.elapsed() >= max_idle).count();
                    let expired: Vec<_> = idle.used.drain(..stale).collect();
                    if idle.used.is_empty() {
                        pool.sweeping.store(false, Ordering::Release);
                    }
                    (expired, idle.used.len())
                };
                drop(expired);
                if left == 0 {
                    return;
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Evicts instances without closing the pool: calls that follow make their own.
impl Reclaim for Pool {
    fn drop_idle(&self) {
        let dropped = {
            let mut idle = self.lock();
            (std::mem::take(&mut idle.warm), std::mem::take(&mut idle.used))
        };
        // Outside the lock, since unmapping takes time.
        drop(dropped);
    }
}
