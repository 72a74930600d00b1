//! Http: a component that handles whole HTTP requests, by WASI 0.2 or 0.3.

use std::{
    convert::Infallible,
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use wasmtime::component::{Accessor, ComponentExportIndex, Resource};
use wasmtime_wasi_http::{
    Error, WasiBody, WasiHttpCtxView, WasiHttpView as _,
    p2::{
        bindings::http::types::{IncomingRequest, ResponseOutparam, Scheme},
        body::{HostOutgoingBody, StreamContext},
    },
    p3,
};

use crate::{CallError, host::Host, instance::Instance};

/// A component's handler of HTTP requests.
pub(crate) struct Target {
    export: ComponentExportIndex,
    version: Version,
}

/// The guest's response, whose body it may still be writing, or its error code.
pub(crate) type Head = Result<http::Response<WasiBody>, String>;

/// The WASI version of a handler, at any patch level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// 0.2: `wasi:http/incoming-handler`.
    Two,
    /// 0.3: `wasi:http/handler`.
    Three,
}

/// The signature shown for a handler, whose parameters are resources.
pub(crate) const SIGNATURE: &str = "func(request) -> response";

impl Version {
    /// The version of an exported handler; `None` if the export is none.
    pub(crate) fn of(interface: &str, name: &str) -> Option<Self> {
        match interface {
            _ if name != "handle" => None,
            _ if interface.starts_with("wasi:http/incoming-handler@0.2.") => Some(Self::Two),
            _ if interface.starts_with("wasi:http/handler@0.3.") => Some(Self::Three),
            _ => None,
        }
    }
}

impl Target {
    pub(crate) fn new(export: ComponentExportIndex, version: Version) -> Self {
        Self { export, version }
    }

    /// Passes a request to the guest, which sends its response to `head`. Returns when the guest has ended, which may be
    /// long after.
    pub(crate) async fn run<B>(
        &self,
        instance: &mut Instance,
        request: http::Request<B>,
        head: oneshot::Sender<Head>,
    ) -> Result<(), CallError>
    where
        B: Body<Data = Bytes, Error = Error> + Send + 'static,
    {
        let ended = match self.version {
            Version::Two => self.run_two(instance, request, head).await?,
            Version::Three => self.run_three(instance, request, head).await?,
        };
        ended.map_err(|error| CallError::of_guest(&error))
    }

    async fn run_two<B>(
        &self,
        instance: &mut Instance,
        request: http::Request<B>,
        head: oneshot::Sender<Head>,
    ) -> Result<wasmtime::Result<()>, CallError>
    where
        B: Body<Data = Bytes, Error = Error> + Send + 'static,
    {
        type Parameters = (Resource<IncomingRequest>, Resource<ResponseOutparam>);
        let (component, store) = instance.component()?;
        Ok(async {
            let handle = component.get_typed_func::<Parameters, ()>(&mut *store, self.export)?;
            let mut http = store.data_mut().http();
            let request = http.new_incoming_request(Scheme::Http, request)?;
            let answer = http.new_response_outparam_from_callback(move |answer| {
                // Fails if the caller is gone.
                let _ = head.send(answer.map_err(|code| format!("{code:?}")));
            })?;
            handle.call_async(store, (request, answer)).await
        }
        .await)
    }

    async fn run_three<B>(
        &self,
        instance: &mut Instance,
        request: http::Request<B>,
        head: oneshot::Sender<Head>,
    ) -> Result<wasmtime::Result<()>, CallError>
    where
        B: Body<Data = Bytes, Error = Error> + Send + 'static,
    {
        type Answer = Result<Resource<p3::Response>, p3::bindings::http::types::ErrorCode>;
        let (component, store) = instance.component()?;
        Ok(async {
            let handle =
                component.get_typed_func::<(Resource<p3::Request>,), (Answer,)>(&mut *store, self.export)?;
            let WasiHttpCtxView { hooks, table, .. } = store.data_mut().http();
            let (request, taken) = p3::Request::from_http(hooks, request);
            let request = table.push(request)?;
            let served = async |guest: &Accessor<Host>| {
                let (answer,) = handle.call_concurrent(guest, (request,)).await?;
                let (reading, read) = oneshot::channel();
                let answer = match answer {
                    Ok(response) => Ok(guest.with(|mut store| {
                        let response = store.data_mut().http().table.delete(response)?;
                        response.into_http(store, taken)
                    })?),
                    Err(code) => Err(format!("{code:?}")),
                };
                let observed = |body| ObservedBody { body, reading: Some(reading) }.boxed_unsync();
                let _ = head.send(answer.map(|answer| answer.map(observed)));
                // Tasks of the guest may still write the body.
                poll_fn(|context| guest.poll_no_interesting_tasks(context)).await;
                // They may have left the body without an end, which cannot be detected here: its reader then waits until
                // the deadline.
                let _ = read.await;
                Ok(())
            };
            store.run_concurrent(served).await?
        }
        .await)
    }
}

/// A body that reports its end: `reading` is dropped when all is read, or the reader is gone.
struct ObservedBody {
    body: WasiBody,
    reading: Option<oneshot::Sender<Infallible>>,
}

impl Body for ObservedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() {
            self.reading = None;
        }
        Poll::Ready(frame)
    }
}

/// Aborts the bodies that a guest of WASI 0.2 has left without an end, so that no reader takes a part for the whole, or
/// waits for more. Returns true if there was one.
pub(crate) fn abort_unfinished_bodies(instance: &mut Instance) -> bool {
    let Ok((_, store)) = instance.component() else { return false };
    let mut any = false;
    for entry in store.data_mut().http().table.iter_mut() {
        if let Some(body) = entry.downcast_mut::<HostOutgoingBody>() {
            let (another, _) = HostOutgoingBody::new(StreamContext::Response, None, 1, 1);
            mem::replace(body, another).abort();
            any = true;
        }
    }
    any
}
