//! One exchange with a guest that serves HTTP: a request in, a response out, both streamed, within the plugin's limits.

mod response;

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt as _, Limited};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use wasmtime_wasi_http::Error;

use self::response::StartedResponse;
pub use self::response::{BrokenOff, ResponseBody};
use crate::{
    CallError, Function, Reservation,
    abi::{
        Target,
        http::{Head, break_off_bodies},
    },
    engine::GUEST_STACK,
    gate::{Gate, Permit, QueueFull},
    instance::Instance,
    pool::Pool,
};

/// The most bytes that a guest writes to a body at once.
pub(crate) const CHUNK_BYTES: usize = 32 << 10;
/// What one exchange may take in the host for what is on its way: two chunks that the guest has written, one that is read
/// ahead, and one that the guest reads.
const EXCHANGE_BYTES: usize = 4 * CHUNK_BYTES;

/// A place for one exchange: an instance, and the right to run it until the deadline.
pub struct Admission {
    function: Arc<Function>,
    pool: Arc<Pool>,
    deadline: Instant,
    // Dropped in this order: whoever comes next finds the memory free.
    instance: Instance,
    held: Reservation,
    permit: Permit,
}

impl Admission {
    /// Waits for a permit and an instance, until the function's deadline.
    pub(crate) async fn acquire(
        function: &Arc<Function>,
        gate: &Gate,
        pool: &Arc<Pool>,
        body_bytes: u64,
    ) -> Result<Self, CallError> {
        let (limit, most) = (function.timeout(), function.request_bytes());
        if body_bytes > most {
            return Err(CallError::TooLarge { limit: most });
        }
        let deadline = Instant::now() + limit;
        let acquired = async {
            let permit = gate.enter().await.map_err(|QueueFull| CallError::Overloaded)?;
            let held = pool.engine().memory().mapped_reservation();
            held.try_grow((GUEST_STACK + EXCHANGE_BYTES) as u64)?;
            let instance = pool.take(false, function.memory()).await?;
            let (function, pool) = (Arc::clone(function), Arc::clone(pool));
            Ok(Self { function, pool, deadline, instance, held, permit })
        };
        timeout_at(deadline, acquired).await.unwrap_or(Err(CallError::Timeout { limit }))
    }

    /// Hands a request to the guest. Dropping the future stops the guest, and so does dropping a response's body before
    /// its end.
    pub async fn serve<B>(self, request: Request<B>) -> Result<Response<ResponseBody>, CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let wants_body = request.method() != Method::HEAD;
        let (limit, fault) = (self.function.response_bytes(), Fault::default());
        let held = self.pool.engine().memory().reservation();
        let request_bytes = self.function.request_bytes();
        let request = request.map(|body| limited(body, request_bytes, fault.clone()));
        let (answer, mut head) = oneshot::channel();
        let mut guest = Box::pin(self.run(request, answer, fault.clone()));
        let head = poll_fn(|context| {
            let ended = guest.as_mut().poll(context).is_ready();
            if let Some(error) = fault.take() {
                return Poll::Ready(Err(error));
            }
            match head.try_recv() {
                Ok(head) => Poll::Ready(Ok((head, ended))),
                Err(_) if ended => {
                    Poll::Ready(Err(CallError::trap("it returned without having set a response")))
                }
                Err(_) => Poll::Pending,
            }
        });
        let (head, ended) = head.await?;
        let guest = (!ended).then_some(guest);
        let code = |code: String| CallError::GuestError(serde_json::Value::String(code).to_string());
        let (head, body) = head.map_err(code)?.into_parts();
        if head.status.is_informational() {
            return Err(CallError::trap("it answered with a status of 1xx, which is no answer"));
        }
        let length = head.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let has_body = wants_body && has_body(head.status);
        let body = StartedResponse { body, has_body, limit, length, guest, fault }.read_ahead(held).await?;
        Ok(Response::from_parts(head, body))
    }

    /// The guest's part, to the end of its instance.
    async fn run<B>(self, request: Request<B>, head: oneshot::Sender<Head>, fault: Fault)
    where
        B: Body<Data = Bytes, Error = Error> + Send + 'static,
    {
        let Self { function, pool, deadline, mut instance, held: _held, permit: _pass } = self;
        let _running = pool.engine().ticker().run();
        let limit = function.timeout();
        let work = async {
            instance.prepare(function.allowance())?;
            match function.target() {
                Ok(Target::Http(target)) => target.run(&mut instance, request, head).await,
                _ => Err(CallError::NotCallable("it takes no whole requests".to_owned())),
            }
        };
        let ended = timeout_at(deadline, work).await.unwrap_or(Err(CallError::Timeout { limit }));
        match ended.and_then(|()| instance.fuel_taken()) {
            // Its stream may be open still: it ends with the instance.
            Ok(_) if break_off_bodies(&mut instance) => {}
            Ok(_) => drop(pool.give_back(instance)),
            // Before the instance is gone: its end is the end of the body, and would pass for a good one.
            Err(trap @ CallError::Trap { .. }) => fault.set(instance.memory_refusal().unwrap_or(trap)),
            Err(error) => fault.set(error),
        }
    }
}

/// A caller's body as its guest reads it: nothing is read before the guest asks, and past `limit` the exchange fails.
fn limited<B>(body: B, limit: u64, fault: Fault) -> impl Body<Data = Bytes, Error = Error> + Send + 'static
where
    B: Body<Data = Bytes> + Send + 'static,
{
    // The cause is between the caller and this host.
    let body = body.map_err(|_| Error::ConnectionTerminated);
    let bytes = usize::try_from(limit).unwrap_or(usize::MAX);
    Limited::new(body, bytes).map_err(move |error| match error.downcast() {
        Ok(error) => *error,
        Err(_) => {
            fault.set(CallError::TooLarge { limit });
            Error::HttpRequestBodySize(Some(limit))
        }
    })
}

/// Whether a response of this status has a body at all: <https://www.rfc-editor.org/rfc/rfc9110#section-6.4.1>.
fn has_body(status: StatusCode) -> bool {
    status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

/// Why an exchange ended early; the first reason is the one that is told.
#[derive(Clone, Default)]
pub(crate) struct Fault(Arc<Mutex<Option<CallError>>>);

impl Fault {
    pub(crate) fn set(&self, error: CallError) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn take(&self) -> Option<CallError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
