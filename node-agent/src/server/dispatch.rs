//! Dispatch: from a request's head to the function, the guest or the problem that answers it.

use std::sync::Arc;

use hyper::{Method, Request, StatusCode, body::Incoming, http::request::Parts};

use crate::server::{
    Server, batch,
    body::{Answer, discard},
    describe::describe,
    http::exchange,
    invoke::invoke,
    problem::Problem,
    routes::{Endpoint, Route, RouteTable, Serving},
    target::{host, target},
};

/// Answers one request.
pub(super) async fn answer(server: &Arc<Server>, request: Request<Incoming>) -> Answer {
    let (head, mut body) = request.into_parts();
    // A statement of its own, so that the route table is not held while the call runs.
    let dispatched = dispatch(&server.routes.load(), &head);
    let answer = match dispatched {
        Dispatch::Function(serving, endpoint) if batch::is_batch(&head.headers) => {
            return batch::answer(Arc::clone(server), serving, endpoint, body);
        }
        Dispatch::Function(serving, endpoint) => {
            invoke(server, &serving, &endpoint, &head.headers, &mut body).await
        }
        Dispatch::Guest(serving, endpoint, start) => {
            return exchange(server, &serving, endpoint, head, start, body).await;
        }
        Dispatch::Nothing(answer) => *answer,
    };
    if !answer.status().is_success() && answer.status() != StatusCode::GATEWAY_TIMEOUT {
        discard(&head, body).await;
    }
    answer
}

/// Finds the target of a request, or the answer to a request without one.
fn dispatch(routes: &RouteTable, head: &Parts) -> Dispatch {
    let problem = |problem: Problem| Dispatch::Nothing(Box::new(problem.answer()));
    let target = match target(host(head), head.uri.path(), routes) {
        Ok(target) => target,
        Err(why) => return problem(why),
    };
    let serving = match target.route {
        Route::Serving(serving) => serving,
        Route::NotReady(why) => return problem(Problem::not_ready(why)),
    };
    if let Some(endpoint) = serving.handler() {
        return Dispatch::Guest(Arc::clone(serving), Arc::clone(endpoint), target.start);
    }
    match (target.name, &head.method) {
        (None, &Method::GET | &Method::HEAD) => Dispatch::Nothing(Box::new(describe(serving))),
        (None, _) => problem(Problem::method_not_allowed("GET")),
        (Some(name), method) => {
            let Some(endpoint) = serving.endpoint(name) else {
                return problem(Problem::no_such_function(&serving.key, name));
            };
            if method != Method::POST {
                return problem(Problem::method_not_allowed("POST"));
            }
            Dispatch::Function(Arc::clone(serving), Arc::clone(endpoint))
        }
    }
}

/// The target of a request.
enum Dispatch {
    /// A function.
    Function(Arc<Serving>, Arc<Endpoint>),
    /// A guest of `type: Http`, and the start of its own part of the path.
    Guest(Arc<Serving>, Arc<Endpoint>, usize),
    /// None, and this is the answer.
    Nothing(Box<Answer>),
}
