//! One HTTP exchange with a guest: streams the request in and the response out, within the plugin's limits.

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
        http::{Head, abort_unfinished_bodies},
    },
    engine::GUEST_STACK,
    gate::{Gate, Permit, QueueFull},
    grants::network::CHUNK_BYTES,
    instance::Instance,
    pool::Pool,
};

/// Host memory for the chunks of one exchange: two that the guest has written, one that is read ahead, and one that the
/// guest reads.
const EXCHANGE_BYTES: usize = 4 * CHUNK_BYTES;

/// A permit for one exchange, with its instance, its memory and its deadline.
pub struct Admission {
    function: Arc<Function>,
    pool: Arc<Pool>,
    deadline: Instant,
    // Dropped in this order, so that the next call to get the permit finds the memory free.
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
            let permit = gate.acquire().await.map_err(|QueueFull| CallError::Overloaded)?;
            let held = pool.engine().memory().mapped_reservation();
            held.try_grow((GUEST_STACK + EXCHANGE_BYTES) as u64)?;
            let instance = pool.acquire(false, function.memory()).await?;
            let (function, pool) = (Arc::clone(function), Arc::clone(pool));
            Ok(Self { function, pool, deadline, instance, held, permit })
        };
        timeout_at(deadline, acquired).await.unwrap_or(Err(CallError::Timeout { limit }))
    }

    /// Passes a request to the guest. Dropping the future stops the guest, and so does dropping the response's body
    /// before its end.
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
                    Poll::Ready(Err(CallError::trap("it returned without setting a response")))
                }
                Err(_) => Poll::Pending,
            }
        });
        let (head, ended) = head.await?;
        let guest = (!ended).then_some(guest);
        let code = |code: String| CallError::GuestError(serde_json::Value::String(code).to_string());
        let (head, body) = head.map_err(code)?.into_parts();
        if head.status.is_informational() {
            return Err(CallError::trap("it answered with a status of 1xx, which is not final"));
        }
        let length = head.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let has_body = wants_body && has_body(head.status);
        let body = StartedResponse { body, has_body, limit, length, guest, fault }.read_ahead(held).await?;
        Ok(Response::from_parts(head, body))
    }

    /// Runs the guest to its end, and records a failure in `fault`.
    async fn run<B>(self, request: Request<B>, head: oneshot::Sender<Head>, fault: Fault)
    where
        B: Body<Data = Bytes, Error = Error> + Send + 'static,
    {
        let Self { function, pool, deadline, mut instance, held: _held, permit: _permit } = self;
        let _running = pool.engine().ticker().run();
        let limit = function.timeout();
        let work = async {
            instance.prepare(function.allowance())?;
            match function.target() {
                Ok(Target::Http(target)) => target.run(&mut instance, request, head).await,
                _ => Err(CallError::NotCallable("it does not handle HTTP requests".to_owned())),
            }
        };
        let ended = timeout_at(deadline, work).await.unwrap_or(Err(CallError::Timeout { limit }));
        match ended.and_then(|()| instance.fuel_consumed()) {
            // A stream may still be open, so the instance is dropped.
            Ok(_) if abort_unfinished_bodies(&mut instance) => {}
            Ok(_) => drop(pool.release(instance)),
            // Set before the instance is dropped: that ends the body, which would pass for complete.
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
    // The cause concerns the caller and this host, not the guest.
    let body = body.map_err(|_| Error::ConnectionTerminated);
    let bytes = usize::try_from(limit).unwrap_or(usize::MAX);
    let too_large = move || {
        fault.set(CallError::TooLarge { limit });
        Error::HttpRequestBodySize(Some(limit))
    };
    Limited::new(body, bytes)
        .map_err(move |error| error.downcast().map_or_else(|_| too_large(), |error| *error))
}

/// True if a response of this status has a body: <https://www.rfc-editor.org/rfc/rfc9110#section-6.4.1>.
fn has_body(status: StatusCode) -> bool {
    status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

/// The error that ended an exchange early: of several, the first.
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
