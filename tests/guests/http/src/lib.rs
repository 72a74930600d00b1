//! Serves HTTP with WASI 0.2: the last part of the request's path selects its behaviour.

use wasip2::{
    clocks::monotonic_clock::subscribe_duration,
    exports::http::incoming_handler::Guest,
    http::types::{
        ErrorCode, Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse,
        ResponseOutparam,
    },
    io::streams::{OutputStream, StreamError},
};

struct Http;

wasip2::http::proxy::export!(Http);

/// The number of requests that this instance has served.
static mut SERVED: u32 = 0;

impl Guest for Http {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let number = query.parse::<u64>().unwrap_or_default();
        // SAFETY: a component has one thread.
        let served = unsafe {
            SERVED += 1;
            SERVED
        };
        match path.rsplit('/').next().unwrap_or_default() {
            "" => text(out, 200, b""),
            "text" => text(out, 200, b"hello"),
            "head" => describe(&request, out),
            "echo" => echo(request, out),
            "served" => text(out, 200, served.to_string().as_bytes()),
            "status" => text(out, number as u16, b"so"),
            // The number of bytes in the query, as fast as they are read.
            "stream" => {
                let body = respond(out, Fields::new());
                let _ = write_many(&body, number);
                let _ = OutgoingBody::finish(body, None);
            }
            // A line now, and another after the milliseconds in the query.
            "slowly" => {
                let body = respond(out, Fields::new());
                write(&body, b"first\n");
                sleep(number);
                write(&body, b"second\n");
                let _ = OutgoingBody::finish(body, None);
            }
            // Finishes the body, and runs for the milliseconds in the query.
            "linger" => {
                text(out, 200, b"done");
                sleep(number);
                println("it lingered to its end");
            }
            // Its content-length says ten bytes.
            "short" => {
                let headers = Fields::from_list(&[("content-length".to_owned(), b"10".to_vec())]).unwrap();
                let body = respond(out, headers);
                write(&body, b"short");
            }
            // Half a body, which is never finished.
            "leave" => {
                let body = respond(out, Fields::new());
                write(&body, b"half");
                std::mem::forget(body);
            }
            "half" => {
                let body = respond(out, Fields::new());
                write(&body, b"half");
                sleep(number);
                panic!("half way");
            }
            "count" => {
                let read = read_all(request);
                text(out, 200, read.to_string().as_bytes());
            }
            // Responds without reading the body.
            "ignore" => {
                sleep(number);
                text(out, 200, b"ignored");
            }
            "trailers" => {
                let trailers = read_to_trailers(request);
                let body = respond(out, Fields::new());
                write(&body, b"body");
                let fields = Fields::from_list(&trailers).unwrap();
                fields.append("x-from", b"guest").unwrap();
                let _ = OutgoingBody::finish(body, Some(fields));
            }
            // The number of headers in the query, a kilobyte each.
            "headers" => {
                let fields = Fields::new();
                for at in 0..number {
                    fields.append(&format!("x-{at}"), &[b'x'; 1000]).unwrap();
                }
                let _ = OutgoingBody::finish(respond(out, fields), None);
            }
            "handles" => {
                let handles: Vec<_> = (0..number).map(|_| Fields::new()).collect();
                text(out, 200, handles.len().to_string().as_bytes());
            }
            "silent" => {}
            "trap" => panic!("as it was asked to"),
            "refuse" => ResponseOutparam::set(out, Err(ErrorCode::LoopDetected)),
            "spin" => loop {
                std::hint::black_box(());
            },
            "hang" => loop {
                sleep(60_000);
            },
            "grow" => {
                let bytes = vec![1; number as usize];
                text(out, 200, bytes.len().to_string().as_bytes());
            }
            _ => text(out, 404, b"no such thing"),
        }
    }
}

fn println(line: &str) {
    let _ = wasip2::cli::stdout::get_stdout().blocking_write_and_flush(format!("{line}\n").as_bytes());
}

fn sleep(milliseconds: u64) {
    if milliseconds > 0 {
        subscribe_duration(milliseconds * 1_000_000).block();
    }
}

fn respond(out: ResponseOutparam, headers: Fields) -> OutgoingBody {
    let response = OutgoingResponse::new(headers);
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    body
}

fn text(out: ResponseOutparam, status: u16, text: &[u8]) {
    let response = OutgoingResponse::new(Fields::new());
    if response.set_status_code(status).is_err() {
        response.set_status_code(400).unwrap();
    }
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    write(&body, text);
    let _ = OutgoingBody::finish(body, None);
}

fn write(body: &OutgoingBody, bytes: &[u8]) {
    if !bytes.is_empty() {
        let _ = body.write().unwrap().blocking_write_and_flush(bytes);
    }
}

fn write_many(body: &OutgoingBody, bytes: u64) -> Result<(), StreamError> {
    let stream = body.write().unwrap();
    let chunk = [b'x'; 16 << 10];
    let mut left = bytes;
    while left > 0 {
        let some = chunk.len().min(left as usize);
        write_some(&stream, &chunk[..some])?;
        left -= some as u64;
    }
    Ok(())
}

fn write_some(stream: &OutputStream, mut bytes: &[u8]) -> Result<(), StreamError> {
    while !bytes.is_empty() {
        let room = stream.check_write()? as usize;
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let (now, rest) = bytes.split_at(room.min(bytes.len()));
        stream.write(now)?;
        bytes = rest;
    }
    Ok(())
}

/// The request as the guest sees it: its request line, then a line for each field.
fn describe(request: &IncomingRequest, out: ResponseOutparam) {
    let method = match request.method() {
        Method::Other(name) => name,
        known => format!("{known:?}"),
    };
    let mut lines = format!(
        "{method} {} {:?} {}\n",
        request.path_with_query().unwrap_or_default(),
        request.scheme(),
        request.authority().unwrap_or_default()
    );
    for (name, value) in request.headers().entries() {
        lines += &format!("{name}: {}\n", String::from_utf8_lossy(&value));
    }
    text(out, 200, lines.as_bytes());
}

fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let copied = request.headers().get("content-type").into_iter();
    let headers: Vec<_> = copied.map(|value| ("content-type".to_owned(), value)).collect();
    let body = respond(out, Fields::from_list(&headers).unwrap());
    let incoming = request.consume().unwrap();
    {
        let (input, output) = (incoming.stream().unwrap(), body.write().unwrap());
        loop {
            match input.blocking_read(64 << 10) {
                Ok(bytes) if write_some(&output, &bytes).is_ok() => {}
                _ => break,
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
}

fn read_all(request: IncomingRequest) -> u64 {
    let incoming = request.consume().unwrap();
    let stream = incoming.stream().unwrap();
    let mut read = 0;
    while let Ok(bytes) = stream.blocking_read(64 << 10) {
        read += bytes.len() as u64;
    }
    read
}

fn read_to_trailers(request: IncomingRequest) -> Vec<(String, Vec<u8>)> {
    let incoming = request.consume().unwrap();
    {
        let stream = incoming.stream().unwrap();
        while stream.blocking_read(64 << 10).is_ok() {}
    }
    let trailers = IncomingBody::finish(incoming);
    trailers.subscribe().block();
    match trailers.get() {
        Some(Ok(Ok(Some(trailers)))) => trailers.entries(),
        _ => Vec::new(),
    }
}
