//! Http: the whole request goes to the guest, and the whole response comes from it.

use tokio::sync::oneshot;
use wasmtime::component::{ComponentExportIndex, Resource};
use wasmtime_wasi_http::{
    WasiBody, WasiHttpView as _,
    p2::bindings::http::types::{IncomingRequest, ResponseOutparam, Scheme},
};

use crate::{CallError, http::RequestBody, instance::Instance};

/// A component's handler of requests.
pub(crate) struct Target {
    export: ComponentExportIndex,
}

/// What the guest answered: a head with a body that it may still be writing, or its own word for what went wrong.
pub(crate) type Head = Result<http::Response<WasiBody>, String>;

/// The interface and the function of WASI 0.2, whatever the patch level.
const INCOMING_HANDLER: (&str, &str) = ("wasi:http/incoming-handler@0.2.", "handle");

/// How a handler is described: its parameters are the request and where its answer goes, not what JSON could carry.
pub(crate) const SIGNATURE: &str = "func(request) -> response";

impl Target {
    pub(crate) fn new(export: ComponentExportIndex) -> Self {
        Self { export }
    }

    /// Whether an export is such a handler.
    pub(crate) fn is(interface: &str, name: &str) -> bool {
        interface.starts_with(INCOMING_HANDLER.0) && name == INCOMING_HANDLER.1
    }

    /// Hands a request to the guest, which hands its answer to `head` and may go on. Ends when the guest does.
    pub(crate) async fn run(
        &self,
        instance: &mut Instance,
        request: http::Request<RequestBody>,
        head: oneshot::Sender<Head>,
    ) -> Result<(), CallError> {
        let guest = |error: wasmtime::Error| CallError::of_guest(&error);
        let (component, store) = instance.component()?;
        let handle = component
            .get_typed_func::<(Resource<IncomingRequest>, Resource<ResponseOutparam>), ()>(
                &mut *store,
                self.export,
            )
            .map_err(guest)?;
        let mut http = store.data_mut().http();
        let request = http.new_incoming_request(Scheme::Http, request).map_err(guest)?;
        let answer = http
            .new_response_outparam_from_callback(move |answer| {
                // A caller that is gone wants no answer.
                let _ = head.send(answer.map_err(|code| format!("{code:?}")));
            })
            .map_err(guest)?;
        handle.call_async(store, (request, answer)).await.map_err(guest)
    }
}
