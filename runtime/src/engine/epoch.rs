//! Epoch interruption: an OS thread advances the epoch of every engine. A guest can stall tokio's timers, but not a thread.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use wasmtime::EngineWeak;

/// Interval between two epochs: a guest yields at each, so this is the resolution of every timeout.
const TICK: Duration = Duration::from_millis(1);
/// The ticker parks this long after the last guest stopped, so that a steady trickle of calls need not wake it each time.
const LINGER: Duration = Duration::from_millis(100);

/// Advances the epoch of each registered engine while guests run, and parks while none does.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

struct Shared {
    /// An epoch is a counter of one engine: guests of an engine that is missing here are never interrupted.
    engines: Mutex<Vec<EngineWeak>>,
    running: AtomicUsize,
    stop: AtomicBool,
}

impl Ticker {
    /// Starts the thread, without any engine.
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared {
            engines: Mutex::default(),
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let ticking = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("epoch-ticker".to_owned())
            .spawn(move || tick(&ticking))
            .expect("a process that is starting can start one more thread")
            .thread()
            .clone();
        Self { shared, thread }
    }

    /// Registers an engine: its epoch advances from now on, for as long as the engine lives.
    pub(crate) fn register(&self, engine: &wasmtime::Engine) {
        self.shared.engines.lock().unwrap_or_else(PoisonError::into_inner).push(engine.weak());
    }

    /// Keeps the epochs advancing for as long as the guard lives.
    pub(crate) fn run(&self) -> Running<'_> {
        if self.shared.running.fetch_add(1, Ordering::AcqRel) == 0 {
            self.thread.unpark();
        }
        Running { shared: &self.shared }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Keeps the ticker from parking while a guest runs.
pub(crate) struct Running<'a> {
    shared: &'a Shared,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.shared.running.fetch_sub(1, Ordering::AcqRel);
    }
}

fn tick(shared: &Shared) {
    let mut last_seen = Instant::now();
    while !shared.stop.load(Ordering::Acquire) {
        if shared.running.load(Ordering::Acquire) > 0 {
            last_seen = Instant::now();
        } else if last_seen.elapsed() > LINGER {
            // An unpark between the load above and this line makes `park` return at once.
            thread::park();
            last_seen = Instant::now();
        }
        thread::sleep(TICK);
        for engine in shared.engines.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
            }
        }
    }
}
