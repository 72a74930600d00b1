//! A reverse proxy in front of the kube-apiserver, for one process under test: counts its writes, stops it
//! between two of them, and breaks its connection.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use anyhow::{Context as _, Result};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use kube::client::Body;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::{control_plane::client, pki::write_kubeconfig, scratch};

/// No object in etcd is larger.
const LARGEST_BODY: usize = 4 << 20;

/// The connections of the process under test to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Requests and responses pass.
    Open,
    /// Connections stay open and are accepted, and nothing is answered, as on a dead network.
    Hung,
    /// Connections are closed and refused, as without an API server.
    Refused,
}

/// A request that writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Write {
    /// `create`, `update`, `patch` (server-side apply too) or `delete`.
    pub verb: &'static str,
    /// The resource's plural, with `/status` or another subresource where it is one.
    pub resource: String,
}

/// The proxy; it stops when it is dropped.
pub struct ApiProxy {
    kubeconfig: PathBuf,
    link: watch::Sender<Link>,
    writes: watch::Sender<Writes>,
    _connections: JoinSet<()>,
}

/// The writes so far, and the number that may pass.
struct Writes {
    begun: Vec<Write>,
    answered: usize,
    allowed: usize,
}

impl ApiProxy {
    /// Starts a proxy in front of the API server of `kubeconfig`. Whoever connects acts as its user.
    pub async fn start(kubeconfig: &Path) -> Result<Self> {
        let upstream = client(kubeconfig).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let kubeconfig = scratch::folder("api-proxy")?.join("kubeconfig");
        let server = json!({ "server": format!("http://{}", listener.local_addr()?) });
        write_kubeconfig(&kubeconfig, &server, &json!({}))?;

        let (link, _) = watch::channel(Link::Open);
        let (writes, _) = watch::channel(Writes { begun: Vec::new(), answered: 0, allowed: usize::MAX });
        let mut connections = JoinSet::new();
        connections.spawn(accept(
            listener,
            Upstream { client: upstream, writes: writes.clone() },
            link.subscribe(),
        ));
        Ok(Self { kubeconfig, link, writes, _connections: connections })
    }

    /// The kubeconfig for the process under test.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client that goes through the proxy.
    pub async fn client(&self) -> Result<kube::Client> {
        client(&self.kubeconfig).await
    }

    /// Breaks or restores the connections, the open ones included.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// Every write so far, in order of arrival.
    pub fn writes(&self) -> Vec<Write> {
        self.writes.borrow().begun.clone()
    }

    /// Waits until there are more than `count` writes. `false` if none comes within this time.
    pub async fn writes_past(&self, count: usize, within: Duration) -> bool {
        let mut writes = self.writes.subscribe();
        timeout(within, writes.wait_for(|writes| writes.begun.len() > count)).await.is_ok()
    }

    /// Lets `more` writes pass, and holds later ones back until [`release`](Self::release).
    pub fn hold_after(&self, more: usize) {
        self.writes.send_modify(|writes| writes.allowed = writes.begun.len() + more);
    }

    /// Waits until all writes that passed are answered. `false` if `within` elapses first, because the process has
    /// nothing more to write.
    pub async fn held(&self, within: Duration) -> bool {
        let mut writes = self.writes.subscribe();
        timeout(within, writes.wait_for(|writes| writes.answered >= writes.allowed)).await.is_ok()
    }

    /// Lets all later writes pass. Those held back are lost, as is right for a process that was killed
    /// meanwhile.
    pub fn release(&self) {
        self.writes.send_modify(|writes| writes.allowed = usize::MAX);
    }
}

/// Counts a write as answered when it is dropped.
struct Answered<'a>(&'a watch::Sender<Writes>);

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|writes| writes.answered += 1);
    }
}

#[derive(Clone)]
struct Upstream {
    client: kube::Client,
    writes: watch::Sender<Writes>,
}

async fn accept(listener: TcpListener, upstream: Upstream, mut link: watch::Receiver<Link>) {
    let address = listener.local_addr().expect("a bound listener has an address");
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    // Ends with the proxy, which drops its side of the link.
    loop {
        let state = *link.borrow_and_update();
        if state == Link::Refused {
            listener = None;
            connections.shutdown().await;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.expect("the port is still the proxy's"));
        }
        tokio::select! {
            changed = link.changed() => if changed.is_err() { return },
            // Removes finished connections, or the set would grow.
            Some(_) = connections.join_next() => {}
            accepted = async { listener.as_ref().expect("guarded below").accept().await }, if listener.is_some() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, upstream.clone(), link.clone()));
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, upstream: Upstream, mut link: watch::Receiver<Link>) {
    let service = service_fn(move |request| {
        let upstream = upstream.clone();
        async move { Ok::<_, Infallible>(upstream.answer(request).await) }
    });
    let server = Builder::new(TokioExecutor::new());
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    loop {
        // While the link hangs, the connection is not polled: neither read nor written.
        if link.wait_for(|link| *link != Link::Hung).await.is_err() {
            return;
        }
        tokio::select! {
            _ = &mut connection => return,
            _ = link.changed() => {}
        }
    }
}

impl Upstream {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let write = write(request.method(), request.uri().path());
        let is_write = write.is_some();
        if let Some(write) = write
            && !self.let_through(write)
        {
            // Hangs until the client disconnects.
            std::future::pending::<()>().await;
        }
        // Also if the client disconnects before the answer: the write was made, or never will be.
        let _answered = is_write.then(|| Answered(&self.writes));
        self.forward(request).await.unwrap_or_else(|error| {
            let mut answer = Response::new(Body::from(format!("{error:?}").into_bytes()));
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            answer
        })
    }

    fn let_through(&self, write: Write) -> bool {
        self.writes.send_if_modified(|writes| {
            let allowed = writes.begun.len() < writes.allowed;
            if allowed {
                writes.begun.push(write);
            }
            allowed
        })
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>> {
        let (mut head, body) = request.into_parts();
        // These two belong to the connection to the proxy.
        head.headers.remove(header::HOST);
        head.headers.remove(header::CONNECTION);
        let body = Limited::new(body, LARGEST_BODY).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed).context("the request's body cannot be read")?;
        let mut answer =
            self.client.send(Request::from_parts(head, Body::from(body.to_bytes().to_vec()))).await?;
        answer.headers_mut().remove(header::TRANSFER_ENCODING);
        answer.headers_mut().insert("via", HeaderValue::from_static("1.1 samovar-testbed"));
        Ok(answer)
    }
}

/// The write that a request makes, if it makes one.
fn write(method: &Method, path: &str) -> Option<Write> {
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => return None,
    };
    let path = path.trim_matches('/').split('/').collect::<Vec<_>>();
    let path = match path.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        other => other,
    };
    let path = match path {
        // A namespace's own subresources.
        ["namespaces", _, "status" | "finalize"] => path,
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        _ => path,
    };
    let resource = match path {
        [resource, _, subresource, ..] => format!("{resource}/{subresource}"),
        [resource, ..] => (*resource).to_owned(),
        [] => String::new(),
    };
    Some(Write { verb, resource })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_identified_by_verb_and_resource() {
        for (method, path, expected) in [
            (Method::GET, "/api/v1/pods", None),
            (Method::POST, "/api/v1/namespaces", Some(("create", "namespaces"))),
            (Method::DELETE, "/api/v1/namespaces/demo", Some(("delete", "namespaces"))),
            (Method::PUT, "/api/v1/namespaces/demo/finalize", Some(("update", "namespaces/finalize"))),
            (Method::PATCH, "/api/v1/namespaces/demo/services/text", Some(("patch", "services"))),
            (Method::PATCH, "/api/v1/nodes/a/status", Some(("patch", "nodes/status"))),
            (
                Method::PATCH,
                "/apis/samovar.dev/v1alpha1/namespaces/demo/wasmplugins/text/status",
                Some(("patch", "wasmplugins/status")),
            ),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/demo/events", Some(("create", "events"))),
        ] {
            let found = write(&method, path);
            let found = found.as_ref().map(|write| (write.verb, write.resource.as_str()));
            assert_eq!(found, expected, "{method} {path}");
        }
    }
}
