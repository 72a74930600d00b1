//! One instance of an artifact, with a store of its own.

use std::sync::Arc;

use wasmtime::{ModuleExport, Store, UpdateDeadline, component};

use crate::{
    CallError, Engine,
    engine::{Slot, link::Linked},
    host::{Host, context::PluginContext},
    memory::budget::Reservation,
    printable::sanitized,
};

/// An instance and its store.
pub(crate) struct Instance {
    store: Store<Host>,
    handle: Handle,
    /// Calls served.
    pub(crate) calls: u32,
    /// The most host memory, in bytes, that a result may take while it is read.
    pub(crate) result_bytes: u64,
    /// The fuel at the start of this call, if its code counts fuel.
    fuel: Option<u64>,
    // Dropped after the store: memory is released to the budget once it is free, not before.
    reservation: Arc<Reservation>,
    _slot: Slot,
}

/// The limits of an instance while it serves one call.
#[derive(Clone, Debug)]
pub(crate) struct Allowance {
    /// Bytes of linear memories and tables together.
    pub(crate) memory: u64,
    /// `None`: unlimited.
    pub(crate) fuel: Option<u64>,
}

/// Host memory of an instance beside its memories and tables: its store, its WASI contexts, its handles.
const INSTANCE_BYTES: u64 = 32 << 10;

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
        // Start functions have a fuel allowance of their own, so that a call takes the same fuel on a warm and on a
        // new instance.
        if let Some(fuel) = context.fuel {
            store.set_fuel(fuel).map_err(|error| CallError::Init(message(CallError::of_guest(&error))))?;
        }
        store.limiter(|host| &mut host.memory);
        store.set_epoch_deadline(1);
        // The guest yields to the scheduler at each epoch: timers and I/O are polled, so that a deadline can end the
        // guest, and other tasks run.
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

    /// Converts the error of a function that ran before the first call.
    pub(crate) fn init_error(&self, error: CallError) -> CallError {
        init_error(&self.store, error)
    }

    /// The error of a refused growth, if growth was refused in this call.
    pub(crate) fn memory_refusal(&self) -> Option<CallError> {
        self.store.data().memory.refusal().map(CallError::from)
    }

    /// The bytes of its memories and tables together.
    pub(crate) fn memory(&self) -> u64 {
        self.store.data().memory.used()
    }

    /// Resets epoch, scratch folders, fuel and memory limit for the next call.
    pub(crate) fn prepare(&mut self, allowance: &Allowance) -> Result<(), CallError> {
        self.store.set_epoch_deadline(1);
        self.reservation.promote_to_call();
        self.host().empty_scratch();
        self.calls += 1;
        if let Some(fuel) = &mut self.fuel {
            // Code checks its fuel only now and then, and may end with less than none. With one extra unit, at least
            // one is left if and only if the call stayed within its limit.
            *fuel = allowance.fuel.map_or(u64::MAX, |fuel| fuel.saturating_add(1));
            self.store.set_fuel(*fuel).map_err(|error| CallError::of_guest(&error))?;
        }
        Ok(self.store.data_mut().memory.serves(allowance.memory)?)
    }

    /// The fuel that this call consumed; `None` if its code counts none.
    pub(crate) fn fuel_consumed(&self) -> Result<Option<u64>, CallError> {
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
        Ok((func.ok_or_else(missing_export)?, store))
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

/// The error for an export that an instance lacks although its module has it.
pub(crate) fn missing_export() -> CallError {
    CallError::NotCallable("its instance lacks an export that its module has".to_owned())
}

/// Converts the error of a start function. If growth was refused before, that refusal is the cause.
fn init_error(store: &Store<Host>, error: CallError) -> CallError {
    match error {
        CallError::AgentFull => error,
        error => {
            store.data().memory.refusal().map_or_else(|| CallError::Init(message(error)), CallError::from)
        }
    }
}

/// The message of an error, with the guest's backtrace.
fn message(error: CallError) -> String {
    match error {
        CallError::Trap { message, backtrace } if backtrace.is_empty() => message,
        CallError::Trap { message, backtrace } => {
            sanitized(format_args!("{message}, in {}", backtrace.join(" < ")))
        }
        other => other.to_string(),
    }
}
