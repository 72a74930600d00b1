//! The target of a request: by its host if that names a plugin, else by its path.

use hyper::{header, http::request::Parts};
use samovar_crds::names;

use crate::server::{
    problem::Problem,
    routes::{Route, RouteTable},
};

/// The target of a request.
pub(crate) struct Target<'a> {
    /// The route of the plugin.
    pub(super) route: &'a Route,
    /// The function's name, as the caller wrote it; `None`: the plugin itself.
    pub(crate) name: Option<&'a str>,
    /// The start of the plugin's own part of the path: after its name, or 0.
    pub(super) start: usize,
}

/// The host that a request names: `:authority` in HTTP/2, else the `Host` header.
pub(super) fn host(head: &Parts) -> Option<&str> {
    head.uri.host().or_else(|| head.headers.get(header::HOST)?.to_str().ok())
}

/// Finds the target of a request to `host` and `path`.
///
/// A host that names an unknown plugin may be the node's own name: the path then decides.
pub(crate) fn target<'a>(
    host: Option<&str>,
    path: &'a str,
    routes: &'a RouteTable,
) -> Result<Target<'a>, Problem> {
    let named = host.and_then(names::plugin_of_host);
    let by_host = named.and_then(|(plugin, namespace)| routes.get(namespace, plugin));
    let (route, name) = match (by_host, path.strip_prefix("/v1/"), named) {
        (Some(route), ..) => (route, path.strip_prefix('/').unwrap_or(path)),
        (None, Some(rest), _) => {
            let mut parts = rest.splitn(3, '/');
            let (Some(namespace), Some(plugin)) = (parts.next(), parts.next()) else {
                return Err(Problem::no_such_path());
            };
            let route =
                routes.get(namespace, plugin).ok_or_else(|| Problem::no_such_plugin(namespace, plugin))?;
            (route, parts.next().unwrap_or_default())
        }
        (None, None, Some((plugin, namespace))) => return Err(Problem::no_such_plugin(namespace, plugin)),
        (None, None, None) => return Err(Problem::no_such_path()),
    };
    let before = path.len() - name.len();
    let start = match by_host {
        Some(_) => 0,
        // Includes the slash before it, which a plugin's bare name lacks.
        None => before - usize::from(path[..before].ends_with('/')),
    };
    Ok(Target { route, name: Some(name).filter(|name| !name.is_empty()), start })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The target, with the plugins `text` and `other` of `demo`: `plugin function`, or the problem's type and detail.
    fn target_of(host: Option<&str>, path: &str) -> String {
        let not_ready = ["text", "other"].map(|plugin| ("demo", plugin, plugin.to_owned()));
        let routes = RouteTable::new(std::iter::empty(), not_ready.into_iter());
        let name = |route: &Route| match route {
            Route::NotReady(why) => why.to_string(),
            Route::Serving(serving) => serving.key.plugin.clone(),
        };
        match target(host, path, &routes) {
            Ok(Target { route, name: None, .. }) => name(route),
            Ok(Target { route, name: Some(function), .. }) => format!("{} {function}", name(route)),
            Err(problem) => format!("{} {}", problem.kind.as_str(), problem.detail()),
        }
    }

    #[test]
    fn a_host_that_names_a_plugin_decides_else_the_path() {
        for (host, path, expected) in [
            (Some("text.demo"), "/upper", "text upper"),
            (Some("text.demo.svc.cluster.local:8080"), "/", "text"),
            (Some("text.demo.svc"), "/v1/demo/other/upper", "text v1/demo/other/upper"),
            (Some("127.0.0.1:8080"), "/v1/demo/text/upper", "text upper"),
            (Some("localhost"), "/v1/demo/text", "text"),
            (Some("node.example"), "/v1/demo/other/", "other"),
            (None, "/v1/demo/other/a.b", "other a.b"),
            (None, "*", "not-found"),
        ] {
            assert!(
                target_of(host, path).starts_with(expected),
                "{host:?} {path}: {}",
                target_of(host, path)
            );
        }
    }

    #[test]
    fn problems_name_the_plugin_that_is_missing() {
        for (host, path, expected) in [
            (None, "/", "not-found \"call POST /v1/NAMESPACE/PLUGIN/FUNCTION"),
            (None, "/v1/demo", "not-found \"call POST /v1/"),
            (Some("gone.demo"), "/upper", "not-found \"there is no plugin `gone` in namespace `demo`"),
            (None, "/v1/demo/gone/upper", "not-found \"there is no plugin `gone` in namespace `demo`"),
        ] {
            assert!(
                target_of(host, path).starts_with(expected),
                "{host:?} {path}: {}",
                target_of(host, path)
            );
        }
    }

    #[test]
    fn authority_and_host_header_name_the_same_host() {
        let request = |uri: &str, header: Option<&str>| {
            let builder = hyper::Request::builder().uri(uri);
            let builder = header.into_iter().fold(builder, |builder, host| builder.header("host", host));
            host(&builder.body(()).unwrap().into_parts().0).map(str::to_owned)
        };
        assert_eq!(request("http://text.demo/upper", None).as_deref(), Some("text.demo"));
        assert_eq!(request("/upper", Some("text.demo:80")).as_deref(), Some("text.demo:80"));
        assert_eq!(request("/upper", None), None);
    }
}
