//! A plugin's instances: warm ones made ahead of the calls, and used ones that may serve again.

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

/// How long making an instance ahead of the calls may take, its start functions included.
pub(crate) const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether warm instances are missing, while calls come.
const LOOK: Duration = Duration::from_millis(1);
/// Looks that find nothing missing after which no more are taken.
const QUIET_LOOKS: u32 = 50;

/// The instances of one plugin that no call uses.
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
    /// Never used.
    warm: Vec<Instance>,
    /// Used, and may serve again: the most recent at the back.
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

    /// Makes the warm instances, at least one: what cannot start should be known before the first call. Tells how much
    /// memory one has.
    pub(crate) async fn warm_up(&self) -> Result<u64, CallError> {
        let count = self.instances.warm.max(1) as usize;
        let mut bytes = 0;
        for made in 0..count {
            // The first may take what it needs, as a call may.
            let memory = self.engine.memory();
            let reservation = if made == 0 { memory.mapped_reservation() } else { memory.warm_reservation() };
            match self.make_ahead(reservation).await {
                Ok(instance) => {
                    bytes = instance.memory();
                    if self.instances.warm > 0 {
                        self.lock().warm.push(instance);
                    }
                }
                // One will do: those that are missing are made when there is room again.
                Err(CallError::AgentFull | CallError::NodeMemory) if made > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// An instance for one call: one that may serve again, unless it must be `fresh` or has more memory than the call
    /// may; a warm one, or a new one.
    pub(crate) async fn take(self: &Arc<Self>, fresh: bool, memory: u64) -> Result<Instance, CallError> {
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
            None => self.make(self.engine.memory().mapped_reservation()).await,
        }
    }

    /// Takes an instance back after a call that ended well; it serves again where the plugin wants that, and
    /// else comes back, to end.
    pub(crate) fn give_back(self: &Arc<Self>, mut instance: Instance) -> Option<Instance> {
        let Some(Reuse { max_calls, idle }) = self.instances.reuse else {
            return Some(instance);
        };
        if instance.calls >= max_calls {
            return Some(instance);
        }
        // What it wrote would only wait with it: the next call starts with none of it.
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

    /// Instances that wait for a call.
    pub(crate) fn ready(&self) -> u32 {
        let idle = self.lock();
        u32::try_from(idle.warm.len() + idle.used.len()).unwrap_or(u32::MAX)
    }

    /// Drops every idle instance, and makes no more ahead.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.drop_idle();
    }

    async fn make(&self, reservation: Reservation) -> Result<Instance, CallError> {
        let _running = self.engine.ticker().run();
        let mut instance = Instance::new(&self.engine, &self.linked, &self.context, reservation).await?;
        self.startup.run(&mut instance).await?;
        Ok(instance)
    }

    async fn make_ahead(&self, reservation: Reservation) -> Result<Instance, CallError> {
        tokio::time::timeout(INIT_TIMEOUT, self.make(reservation)).await.unwrap_or_else(|_| {
            Err(CallError::Init(format!("its start functions ran longer than {} s", INIT_TIMEOUT.as_secs())))
        })
    }

    /// Makes the warm instances that are missing, behind the callers' backs, in one task that stays for as long as
    /// calls come: to wake another for each call would cost more than the instance itself.
    fn refill(self: &Arc<Self>) {
        if self.refilling.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            let mut quiet = 0;
            while quiet < QUIET_LOOKS {
                let made = pool.fill().await;
                quiet = if made { 0 } else { quiet + 1 };
                tokio::time::sleep(LOOK).await;
            }
            pool.refilling.store(false, Ordering::Release);
        });
    }

    /// Whether any instance was missing and could be made.
    async fn fill(&self) -> bool {
        let mut made = false;
        while self.wants_more() {
            match self.make_ahead(self.engine.memory().warm_reservation()).await {
                Ok(instance) => self.add(instance),
                // The call that needs one makes it, and says why it cannot.
                Err(_) => break,
            }
            made = true;
        }
        made
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

    /// Drops used instances that waited too long, one such task at a time, until none is left.
    fn sweep(self: &Arc<Self>, longest: Duration) {
        if self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool: Weak<Self> = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(longest).await;
                let Some(pool) = pool.upgrade() else { return };
                let (expired, left) = {
                    let mut idle = pool.lock();
                    let stale = idle.used.iter().take_while(|(since, _)| since.elapsed() >= longest).count();
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
