//! Requests over wasi:http.

use wasip2::{
    http::{
        outgoing_handler,
        types::{
            FutureIncomingResponse, Headers, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions,
            Scheme,
        },
    },
    io::streams::StreamError,
};

use crate::exports::test::outgoing::network::Response;

/// The bytes that are kept of a body.
const KEPT: usize = 1024;
const REDIRECTS: usize = 5;

fn request(scheme: &str, authority: &str, path: &str) -> Result<OutgoingRequest, String> {
    let request = OutgoingRequest::new(Headers::new());
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    request.set_scheme(Some(&scheme)).map_err(|()| "no scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "no authority")?;
    request.set_path_with_query(Some(path)).map_err(|()| "no path")?;
    Ok(request)
}

fn start(request: OutgoingRequest, options: Option<RequestOptions>) -> Result<FutureIncomingResponse, String> {
    outgoing_handler::handle(request, options).map_err(|error| format!("{error:?}"))
}

fn wait(future: &FutureIncomingResponse) -> Result<IncomingResponse, String> {
    future.subscribe().block();
    let response = future.get().ok_or("not there")?.map_err(|()| "taken")?;
    response.map_err(|error| format!("{error:?}"))
}

fn read(response: &IncomingResponse) -> Result<Response, String> {
    let body = response.consume().map_err(|()| "no body")?;
    let stream = body.stream().map_err(|()| "no stream")?;
    let mut read = Response { status: response.status(), bytes: 0, body: Vec::new() };
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(bytes) => {
                read.bytes += bytes.len() as u64;
                let room = KEPT - read.body.len();
                read.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Err(StreamError::Closed) => return Ok(read),
            Err(StreamError::LastOperationFailed(error)) => {
                let code = wasip2::http::types::http_error_code(&error);
                return Err(code.map_or_else(|| error.to_debug_string(), |code| format!("{code:?}")));
            }
        }
    }
}

pub fn following(scheme: &str, authority: &str, path: &str) -> Result<Response, String> {
    let (mut scheme, mut authority, mut path) = (scheme.to_owned(), authority.to_owned(), path.to_owned());
    for _ in 0..REDIRECTS {
        let response = wait(&start(request(&scheme, &authority, &path)?, None)?)?;
        let location = response.headers().get("location").into_iter().next();
        let Some(location) = location.filter(|_| (300..400).contains(&response.status())) else {
            return read(&response);
        };
        let location = String::from_utf8(location).map_err(|_| "no UTF-8")?;
        let (new_scheme, rest) = location.split_once("://").ok_or("no scheme")?;
        let (new_authority, new_path) = rest.split_once('/').unwrap_or((rest, ""));
        (scheme, authority, path) = (new_scheme.to_owned(), new_authority.to_owned(), format!("/{new_path}"));
    }
    Err("too many redirects".to_owned())
}

pub fn send(method: &str, authority: &str, bytes: &[u8]) -> Result<Response, String> {
    let request = request("http", authority, "/")?;
    let method = match method {
        "POST" => Method::Post,
        "CONNECT" => Method::Connect,
        other => Method::Other(other.to_owned()),
    };
    request.set_method(&method).map_err(|()| "no method")?;
    let body = request.body().map_err(|()| "no body")?;
    let future = start(request, None)?;
    let stream = body.write().map_err(|()| "no stream")?;
    for part in bytes.chunks(4096) {
        if stream.blocking_write_and_flush(part).is_err() {
            break;
        }
    }
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
    read(&wait(&future)?)
}

pub fn within(authority: &str, milliseconds: u32) -> Result<Response, String> {
    let options = RequestOptions::new();
    let timeout = Some(u64::from(milliseconds) * 1_000_000);
    options.set_connect_timeout(timeout).map_err(|()| "no connect timeout")?;
    options.set_first_byte_timeout(timeout).map_err(|()| "no first byte timeout")?;
    options.set_between_bytes_timeout(timeout).map_err(|()| "no between bytes timeout")?;
    read(&wait(&start(request("http", authority, "/")?, Some(options))?)?)
}

pub fn storm(authority: &str, count: u32) -> (u32, Vec<String>) {
    let started: Vec<_> =
        (0..count).map(|_| request("http", authority, "/").and_then(|request| start(request, None))).collect();
    let answers: Vec<_> = started
        .into_iter()
        .map(|started| started.and_then(|future| wait(&future).map(|response| (response, future))))
        .collect();
    let answered = answers.iter().filter(|answer| answer.is_ok()).count();
    (answered as u32, answers.into_iter().filter_map(Result::err).collect())
}
