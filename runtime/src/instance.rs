//! One instance: a store with one instantiation of a plugin's artifact.

use std::sync::Arc;

use wasmtime::{ModuleExport, Store, UpdateDeadline, component};

use crate::{
    CallError, Engine,
    engine::{Slot, link::Linked},
    host::{Host, context::PluginContext},
    memory::budget::Reservation,
    printable::sanitized,
};

/// An instance, and the store that is its alone.
pub(crate) struct Instance {
    store: Store<Host>,
    handle: Handle,
    /// Calls that it has served.
    pub(crate) calls: u32,
    /// The most that a result may take while it is read.
    pub(crate) result_bytes: u64,
    /// The fuel that it was given for this call, where its code counts it.
    fuel: Option<u64>,
    // After the store: memory is given back to the budget when it is free, not before.
    reservation: Arc<Reservation>,
    _slot: Slot,
}

/// The resources that an instance may use for one call.
#[derive(Clone, Debug)]
pub(crate) struct Allowance {
    /// The bytes of its memories and tables.
    pub(crate) memory: u64,
    /// `None`: unlimited.
    pub(crate) fuel: Option<u64>,
}

/// What an instance takes in the host beside its memories and tables: its store, its WASI, its handles.
const INSTANCE_BYTES: u64 = 32 << 10;

/// What an export that was found in the module and not in its instance is refused with.
pub(crate) const MISSING: &str = "its instance lacks an export that its module has";

#[derive(Clone, Copy)]
enum Handle {
    Core(wasmtime::Instance),
    Component(component::Instance),
}

impl Instance {
    /// Instantiates the artifact within `reservation`, and runs its start and `_initialize` functions. The caller
    /// keeps the epoch ticker running meanwhile.
    pub(crate) async fn new(
        engine: &Engine,
        linked: &Linked,
        context: &Arc<PluginContext>,
        reservation: Reservation,
    ) -> Result<Self, CallError> {
        let slot = engine.slot().ok_or(CallError::AgentFull)?;
        reservation.try_grow(INSTANCE_BYTES + context.grants.env.bytes())?;
        let reservation = Arc::new(reservation);
        let host = Host::new(Arc::clone(context), Arc::clone(&reservation));
        let mut store = Store::new(linked.engine(), host);
        // Of their own: what a call takes does not depend on whether its instance was there.
        if let Some(fuel) = context.fuel {
            store.set_fuel(fuel).map_err(|error| CallError::Init(failure(CallError::of_guest(&error))))?;
        }
        store.limiter(|host| &mut host.memory);
        store.set_epoch_deadline(1);
        // At each tick the guest steps back, through the runtime's own clock and I/O, so that whoever waits
        // for it can end it, and others get their turn.
        store.epoch_deadline_callback(|_| {
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        let made = match linked {
            Linked::Core { pre, initialize } => {
                initialized(pre, initialize.as_ref(), &mut store).await.map(Handle::Core)
            }
            Linked::Component(pre) => pre.instantiate_async(&mut store).await.map(Handle::Component),
        };
        match made {
            Ok(handle) => Ok(Self {
                store,
                handle,
                calls: 0,
                result_bytes: engine.result_bytes(),
                fuel: context.fuel,
                reservation,
                _slot: slot,
            }),
            Err(error) => Err(init_error(&store, CallError::of_guest(&error))),
        }
    }

    /// The error of a function that ran before the first call.
    pub(crate) fn init_error(&self, error: CallError) -> CallError {
        init_error(&self.store, error)
    }

    /// Why it was refused memory, if it ever was.
    pub(crate) fn memory_refusal(&self) -> Option<CallError> {
        self.store.data().memory.refusal().map(CallError::from)
    }

    /// The bytes of its memories and tables.
    pub(crate) fn memory(&self) -> u64 {
        self.store.data().memory.used()
    }

    /// Readies the instance for its next call, whenever it was made.
    pub(crate) fn prepare(&mut self, allowance: &Allowance) -> Result<(), CallError> {
        self.store.set_epoch_deadline(1);
        self.reservation.promote_to_call();
        self.host().empty_scratch();
        self.calls += 1;
        if let Some(fuel) = &mut self.fuel {
            // One more, since code looks at its fuel now and then only, and may end with less than none: that one is
            // left if and only if the call kept within its limit.
            *fuel = allowance.fuel.map_or(u64::MAX, |fuel| fuel.saturating_add(1));
            self.store.set_fuel(*fuel).map_err(|error| CallError::of_guest(&error))?;
        }
        Ok(self.store.data_mut().memory.serves(allowance.memory)?)
    }

    /// The fuel that this call has taken, where its code counts it.
    pub(crate) fn fuel_taken(&self) -> Result<Option<u64>, CallError> {
        let Some(fuel) = self.fuel else { return Ok(None) };
        match self.store.get_fuel() {
            Ok(0) => Err(CallError::FuelExhausted),
            left => Ok(Some(fuel - left.unwrap_or(fuel))),
        }
    }

    pub(crate) fn host(&mut self) -> &mut Host {
        self.store.data_mut()
    }

    pub(crate) fn core(&mut self) -> Result<(wasmtime::Instance, &mut Store<Host>), CallError> {
        match self.handle {
            Handle::Core(instance) => Ok((instance, &mut self.store)),
            Handle::Component(_) => Err(CallError::NotCallable("a component has no core exports".to_owned())),
        }
    }

    pub(crate) fn core_func(
        &mut self,
        export: &ModuleExport,
    ) -> Result<(wasmtime::Func, &mut Store<Host>), CallError> {
        let (instance, store) = self.core()?;
        let func = instance.get_module_export(&mut *store, export).and_then(wasmtime::Extern::into_func);
        let missing = || CallError::NotCallable(MISSING.to_owned());
        Ok((func.ok_or_else(missing)?, store))
    }

    pub(crate) fn component(&mut self) -> Result<(component::Instance, &mut Store<Host>), CallError> {
        match self.handle {
            Handle::Component(instance) => Ok((instance, &mut self.store)),
            Handle::Core(_) => {
                Err(CallError::NotCallable("a core module has no component exports".to_owned()))
            }
        }
    }
}

async fn initialized(
    pre: &wasmtime::InstancePre<Host>,
    initialize: Option<&ModuleExport>,
    store: &mut Store<Host>,
) -> wasmtime::Result<wasmtime::Instance> {
    let instance = pre.instantiate_async(&mut *store).await?;
    let initialize =
        initialize.and_then(|export| instance.get_module_export(&mut *store, export)?.into_func());
    if let Some(initialize) = initialize {
        initialize.typed::<(), ()>(&mut *store)?.call_async(&mut *store, ()).await?;
    }
    Ok(instance)
}

/// A start function's error: a refusal of memory, where there was one, is the cause of what failed after it.
fn init_error(store: &Store<Host>, error: CallError) -> CallError {
    match error {
        CallError::AgentFull => error,
        error => {
            store.data().memory.refusal().map_or_else(|| CallError::Init(failure(error)), CallError::from)
        }
    }
}

/// What happened, and where in the guest.
fn failure(error: CallError) -> String {
    match error {
        CallError::Trap { message, backtrace } if backtrace.is_empty() => message,
        CallError::Trap { message, backtrace } => {
            sanitized(format_args!("{message}, in {}", backtrace.join(" < ")))
        }
        other => other.to_string(),
    }
}
