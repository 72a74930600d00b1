//! Serves HTTP with WASI 0.3: the last part of the request's path selects its behaviour.

use wasip3::{
    clocks::monotonic_clock,
    exports::http::handler::Guest,
    http::types::{ErrorCode, Fields, Request, Response, Trailers},
    wit_bindgen::{self, FutureWriter, StreamWriter},
    wit_future, wit_stream,
};

struct Http;

wasip3::http::service::export!(Http);

impl Guest for Http {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let number = query.parse::<u64>().unwrap_or_default();
        match path.rsplit('/').next().unwrap_or_default() {
            "" => Ok(respond(async |_| None)),
            "text" => Ok(respond(async |mut body| {
                body.write_all(b"hello".to_vec()).await;
                None
            })),
            // Its trailers are those of the request, and one more.
            "echo" => {
                let (_, taken) = wit_future::new(|| Ok(()));
                let (mut incoming, trailers) = Request::consume_body(request, taken);
                Ok(respond(async move |mut body| {
                    loop {
                        let (state, bytes) = incoming.read(Vec::with_capacity(16 << 10)).await;
                        if bytes.is_empty() && !matches!(state, wit_bindgen::StreamResult::Complete(_)) {
                            break;
                        }
                        if !body.write_all(bytes).await.is_empty() {
                            break;
                        }
                    }
                    drop(body);
                    let trailers = match trailers.await {
                        Ok(Some(trailers)) => trailers.copy_all(),
                        _ => Vec::new(),
                    };
                    let trailers = Fields::from_list(&trailers).unwrap();
                    trailers.append("x-from", b"guest").unwrap();
                    Some(trailers)
                }))
            }
            // The number of bytes in the query, as fast as they are read.
            "stream" => Ok(respond(async move |mut body| {
                let mut left = number as usize;
                while left > 0 {
                    let some = left.min(16 << 10);
                    if !body.write_all(vec![b'x'; some]).await.is_empty() {
                        break;
                    }
                    left -= some;
                }
                None
            })),
            // A line now, and another after the milliseconds in the query.
            "slowly" => Ok(respond(async move |mut body| {
                body.write_all(b"first\n".to_vec()).await;
                sleep(number).await;
                body.write_all(b"second\n".to_vec()).await;
                None
            })),
            "half" => Ok(respond(async move |mut body| {
                body.write_all(b"half".to_vec()).await;
                sleep(number).await;
                panic!("half way");
            })),
            // It returns, and its body is never finished.
            "leave" => Ok(respond(async |mut body| {
                body.write_all(b"half".to_vec()).await;
                std::mem::forget(body);
                None
            })),
            "refuse" => Err(ErrorCode::LoopDetected),
            "trap" => panic!("as it was asked to"),
            "spin" => loop {
                std::hint::black_box(());
            },
            "hang" => loop {
                sleep(60_000).await;
            },
            _ => Err(ErrorCode::InternalError(Some("no such thing".to_owned()))),
        }
    }
}

/// A response whose body and then its trailers `write` produces after the head is sent.
fn respond<F>(write: F) -> Response
where
    F: AsyncFnOnce(StreamWriter<u8>) -> Option<Trailers> + 'static,
{
    let (body, contents) = wit_stream::new();
    let (end, trailers): (FutureWriter<Result<Option<Trailers>, ErrorCode>>, _) =
        wit_future::new(|| Err(ErrorCode::HttpResponseIncomplete));
    let (response, _) = Response::new(Fields::new(), Some(contents), trailers);
    wit_bindgen::spawn_local(async move {
        let trailers = write(body).await;
        let _ = end.write(Ok(trailers)).await;
    });
    response
}

async fn sleep(milliseconds: u64) {
    monotonic_clock::wait_for(milliseconds * 1_000_000).await;
}
