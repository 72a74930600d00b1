//! Requests of guests (`wasi:http`): each goes through the outbound access, on a connection of its own that ends with it.
//!
//! A guest follows redirects itself: each is another request, and is checked as the first was.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header, uri::Scheme};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, timeout},
};
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::{
    host::HostName,
    outbound::{OutboundAccess, Refusal},
    policy::Purpose,
    resolver::Unresolved,
    tls,
};
use crate::memory::budget::Reservation;

/// The most bytes that a guest writes to a body at once.
pub(crate) const CHUNK_BYTES: usize = 32 << 10;
/// The most concurrent requests of one instance.
const REQUESTS: usize = 16;
/// The most bytes of a response's head, and of its body that are read ahead.
const HEAD_BYTES: usize = 32 << 10;
/// The most header fields of a response.
const HEADERS: usize = 100;
/// The most bytes of a response's body.
const BODY_BYTES: u64 = 64 << 20;
/// The bytes that are reserved for a request: the buffers of its connection, and TLS.
const REQUEST_BYTES: u64 = 192 << 10;
/// The timeouts to connect, to the first byte of a response, and between two reads of its body. A guest may set less.
const CONNECT: Duration = Duration::from_secs(10);
const FIRST_BYTE: Duration = Duration::from_mins(1);
const BETWEEN_BYTES: Duration = Duration::from_mins(1);

/// Sends the requests of one instance.
pub(crate) struct Outgoing {
    outbound: Arc<OutboundAccess>,
    requests: Arc<Semaphore>,
}

impl Outgoing {
    pub(super) fn new(outbound: Arc<OutboundAccess>) -> Self {
        Self { outbound, requests: Arc::new(Semaphore::new(REQUESTS)) }
    }
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type SendResult = Result<(Response<WasiBody>, Io), Error>;

impl WasiHttpHooks for Outgoing {
    // The default does the same, with an allocation for each header.
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    // The last argument is the result of processing the response, which is of no use here.
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Io,
    ) -> Box<dyn Future<Output = SendResult> + Send> {
        let (outbound, instance_permit) =
            (Arc::clone(&self.outbound), Arc::clone(&self.requests).try_acquire_owned());
        Box::new(async move {
            let instance_permit = instance_permit.map_err(|_| Error::ConnectionLimitReached)?;
            let plugin_permit = outbound.acquire_request().ok_or(Error::ConnectionLimitReached)?;
            let memory = outbound.network().reservation();
            memory.try_grow(REQUEST_BYTES).map_err(|_| Error::ConnectionLimitReached)?;
            let resources =
                Arc::new(RequestResources { _permits: [instance_permit, plugin_permit], _memory: memory });
            send(&outbound, request, Timeouts::new(options), resources).await
        })
    }
}

/// The permits and the reservation of a request, until its connection and its response's body are dropped.
struct RequestResources {
    _permits: [OwnedSemaphorePermit; 2],
    _memory: Reservation,
}

/// The timeouts of one request.
struct Timeouts {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl Timeouts {
    fn new(options: Option<RequestOptions>) -> Self {
        let RequestOptions { connect_timeout, first_byte_timeout, between_bytes_timeout } =
            options.unwrap_or_default();
        let shorter = |asked: Option<Duration>, most: Duration| asked.map_or(most, |asked| asked.min(most));
        Self {
            connect: shorter(connect_timeout, CONNECT),
            first_byte: shorter(first_byte_timeout, FIRST_BYTE),
            between_bytes: shorter(between_bytes_timeout, BETWEEN_BYTES),
        }
    }
}

/// The destination of a request.
struct Target {
    host: HostName,
    port: u16,
    default_port: u16,
}

impl Target {
    fn from_uri(uri: &Uri) -> Option<Self> {
        let default_port = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
        let (host, port) = HostName::parse_authority(uri.authority()?.as_str())?;
        Some(Self { host, port: port.unwrap_or(default_port), default_port })
    }

    fn is_tls(&self) -> bool {
        self.default_port == 443
    }

    /// The `Host` field: the host as it was checked, and no other spelling of it.
    fn host_field(&self) -> Result<HeaderValue, Error> {
        let Self { host, port, default_port } = self;
        let text = if port == default_port { host.to_string() } else { format!("{host}:{port}") };
        text.parse().map_err(|_| Error::HttpRequestUriInvalid)
    }
}

async fn send(
    outbound: &OutboundAccess,
    mut request: Request<WasiBody>,
    timeouts: Timeouts,
    resources: Arc<RequestResources>,
) -> SendResult {
    // CONNECT would turn the connection into a tunnel to hosts that are not checked.
    if request.method() == Method::CONNECT {
        return Err(Error::HttpRequestMethodInvalid);
    }
    let target = Target::from_uri(request.uri()).ok_or(Error::HttpRequestUriInvalid)?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;
    request.headers_mut().insert(header::HOST, target.host_field()?);

    let opening = timeout(timeouts.connect, open(outbound, &target)).await;
    let stream = TokioIo::new(opening.map_err(|_| Error::ConnectionTimeout)??);
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .handshake(stream)
        .await
        .map_err(|error| error_code(&error))?;

    let mut connection = Box::pin(connection);
    let mut ended = false;
    let response = {
        let mut response = pin!(sender.send_request(request));
        // The connection makes progress only while it is polled. If it ends first, the response that it received is ready.
        let exchange = async {
            tokio::select! {
                response = &mut response => response,
                _ = &mut connection => {
                    ended = true;
                    response.await
                }
            }
        };
        timeout(timeouts.first_byte, exchange).await.map_err(|_| Error::ConnectionReadTimeout)?
    };
    let response = response.map_err(|error| error_code(&error))?;
    if response.body().size_hint().lower() > BODY_BYTES {
        return Err(Error::HttpResponseBodySize(Some(BODY_BYTES)));
    }
    let response = response
        .map(|body| LimitedBody::new(body, timeouts.between_bytes, Arc::clone(&resources)).boxed_unsync());
    let io = async move {
        let _resources = resources;
        if !ended {
            // Its error reaches the guest through the body.
            let _ = connection.await;
        }
        Ok(())
    };
    Ok((response, Box::new(io)))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens a connection to a host, with TLS for `https`.
async fn open(outbound: &OutboundAccess, target: &Target) -> Result<Box<dyn Stream>, Error> {
    let stream = connect(outbound, target).await?;
    if !target.is_tls() {
        return Ok(Box::new(stream));
    }
    let connector = outbound.network().tls().map_err(|error| {
        tracing::error!(%error, "guests cannot use HTTPS, as this machine has no CA certificates: install them");
        Error::TlsCertificateError
    })?;
    let stream = tls::connect(connector, &target.host, stream).await;
    Ok(Box::new(stream.inspect_err(|error| outbound.log_line(&format!("{}: {error}", target.host)))?))
}

/// Connects to the first of the checked addresses that accepts.
async fn connect(outbound: &OutboundAccess, target: &Target) -> Result<TcpStream, Error> {
    let Target { host, port, default_port } = target;
    let purpose = Purpose::Http { port: *port, default_port: *default_port };
    let addresses = outbound.addresses(host, purpose).await.map_err(|refusal| match refusal {
        Refusal::NotAllowed => Error::HttpRequestDenied,
        Refusal::Closed => Error::DestinationIpProhibited,
        Refusal::Unresolved(Unresolved::NoSuchName) => {
            Error::DnsError { rcode: Some("NXDOMAIN".to_owned()), info_code: None }
        }
        Refusal::Unresolved(Unresolved::TimedOut) => Error::DnsTimeout,
        Refusal::Unresolved(Unresolved::Failed) => {
            Error::DnsError { rcode: Some("SERVFAIL".to_owned()), info_code: None }
        }
    })?;
    let mut last = Error::DestinationUnavailable;
    // A share of the timeout for each, so that one that does not answer leaves time for the next.
    let per_address = CONNECT / u32::try_from(addresses.len().clamp(1, 4)).unwrap_or(4);
    for address in addresses {
        match timeout(per_address, TcpStream::connect(SocketAddr::new(address, *port))).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                last = Error::ConnectionRefused;
            }
            Ok(Err(_)) => last = Error::DestinationUnavailable,
            Err(_) => last = Error::ConnectionTimeout,
        }
    }
    Err(last)
}

/// The error of a connection, as the guest sees it.
fn error_code(error: &hyper::Error) -> Error {
    if error.is_parse_too_large() {
        Error::HttpResponseHeaderSectionSize(u32::try_from(HEAD_BYTES).ok())
    } else if error.is_incomplete_message() {
        Error::HttpResponseIncomplete
    } else if error.is_parse() || error.is_user() {
        Error::HttpProtocolError
    } else {
        Error::ConnectionTerminated
    }
}

/// The body of a response, with a limit of bytes and a timeout between two frames.
struct LimitedBody {
    body: Incoming,
    remaining: u64,
    between_bytes: Duration,
    idle: Pin<Box<Sleep>>,
    _resources: Arc<RequestResources>,
}

impl LimitedBody {
    fn new(body: Incoming, between_bytes: Duration, resources: Arc<RequestResources>) -> Self {
        let idle = Box::pin(tokio::time::sleep(between_bytes));
        Self { body, remaining: BODY_BYTES, between_bytes, idle, _resources: resources }
    }
}

impl Body for LimitedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            ready!(this.idle.as_mut().poll(cx));
            return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
        };
        this.idle.as_mut().reset(Instant::now() + this.between_bytes);
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(|error| error_code(&error))?;
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            this.remaining =
                this.remaining.checked_sub(bytes).ok_or(Error::HttpResponseBodySize(Some(BODY_BYTES)))?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
