//! The epoch ticker: an OS thread, so that no guest can stall the clock that stops it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// How long a guest runs before it lets others run, and so the grain of every timeout.
const TICK: Duration = Duration::from_millis(1);
/// How long the ticker goes on after the last guest stopped, so that a steady trickle of calls never wakes it.
const LINGER: Duration = Duration::from_millis(100);

/// Advances the engines' epochs while guests run, and sleeps while none does.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

struct Shared {
    engine: wasmtime::Engine,
    another: OnceLock<wasmtime::Engine>,
    running: AtomicUsize,
    stop: AtomicBool,
}

impl Ticker {
    pub(crate) fn start(engine: wasmtime::Engine) -> Self {
        let shared = Arc::new(Shared {
            engine,
            another: OnceLock::new(),
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

    /// Advances the epoch of another engine too; of one, as there are no more.
    pub(crate) fn ticks_also(&self, engine: wasmtime::Engine) {
        let _ = self.shared.another.set(engine);
    }

    /// Keeps the epoch advancing for as long as the guard lives.
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

/// A guest may run while this lives.
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
            // An unpark between the load above and this line is remembered, and ends the park at once.
            thread::park();
            last_seen = Instant::now();
        }
        thread::sleep(TICK);
        shared.engine.increment_epoch();
        if let Some(another) = shared.another.get() {
            another.increment_epoch();
        }
    }
}
