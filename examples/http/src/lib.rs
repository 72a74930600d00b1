//! Greets the callers of `GET /hello` and echoes `POST /echo`: the component exports `wasi:http/incoming-handler`.

use std::io::{Read, copy};

use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam},
};

struct Http;

wasip2::http::proxy::export!(Http);

impl Guest for Http {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let key = request.headers().get("x-api-key").pop();
        match (request.method(), path.as_str(), key) {
            (Method::Get, "/hello", Some(key)) => respond(out, 200, &*[b"Hello, ", &*key, b"\n"].concat()),
            (Method::Get, "/hello", None) => respond(out, 401, &b"send the header x-api-key\n"[..]),
            (Method::Post, "/echo", _) => {
                let body = request.consume().expect("the body is consumed once");
                respond(out, 200, body.stream().expect("the stream is taken once"));
            }
            _ => respond(out, 404, &b"try GET /hello or POST /echo\n"[..]),
        }
    }
}

fn respond(out: ResponseOutparam, status: u16, mut text: impl Read) {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).expect("each status above is valid");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    // A body that is not finished is cut: no caller takes half of it for the whole.
    if copy(&mut text, &mut body.write().expect("the stream is taken once")).is_ok() {
        let _ = OutgoingBody::finish(body, None);
    }
}
