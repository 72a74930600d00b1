//! Names that the operator, the agents and callers agree on: labels, ports, paths, hosts.

/// The label with the plugin's name, on all objects that the operator creates for the plugin.
pub const PLUGIN_LABEL: &str = "samovar.dev/plugin";
/// The label with the name of the ControllerRevision, on assignments.
pub const REVISION_LABEL: &str = "samovar.dev/revision";
/// The value of `app.kubernetes.io/managed-by` on the operator's objects, its field manager, and the audience of the
/// tokens that agents send it.
pub const OPERATOR: &str = "samovar-operator";
/// The field manager of an agent's status writes.
pub const AGENT: &str = "samovar-agent";
/// The default label selector of the agents' Pods.
pub const AGENT_SELECTOR: &str = "app.kubernetes.io/name=samovar,app.kubernetes.io/component=agent";
/// The name of the agents' container port that takes calls.
pub const HTTP_PORT: &str = "http";

/// The path at which the operator serves the contents of an assignment.
pub fn contents_path(namespace: &str, assignment: &str) -> String {
    format!("/v1/contents/{namespace}/{assignment}")
}

/// The URL of a plugin inside the cluster: `http://<plugin>.<namespace>.svc`.
pub fn url(namespace: &str, plugin: &str) -> String {
    format!("http://{plugin}.{namespace}.svc")
}

/// Parses a `Host` header into a plugin's name and namespace; `None` if it names no plugin.
///
/// Accepts `plugin.namespace`, `plugin.namespace.svc` and the latter followed by any cluster domain, each
/// with or without a port and a trailing dot.
pub fn plugin_of_host(host: &str) -> Option<(&str, &str)> {
    let host = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host });
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut labels = host.split('.');
    let (plugin, namespace) = (labels.next()?, labels.next()?);
    if !is_dns_label(plugin) || !is_dns_label(namespace) {
        return None;
    }
    match labels.next() {
        None | Some("svc") => Some((plugin, namespace)),
        Some(_) => None,
    }
}

/// Returns true for a DNS label as in RFC 1123: lower-case letters, digits and `-`, at most 63.
pub fn is_dns_label(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&b| plain(b) || b == b'-')
        && plain(bytes[0])
        && plain(bytes[bytes.len() - 1])
}

/// Returns true for a DNS subdomain as in RFC 1123: labels with dots between them, at most 253 characters.
pub fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_names_its_plugin_in_every_form_of_cluster_dns() {
        for host in [
            "text.demo",
            "text.demo:8080",
            "text.demo.svc",
            "text.demo.svc:80",
            "text.demo.svc.cluster.local",
            "text.demo.svc.example.org.",
        ] {
            assert_eq!(plugin_of_host(host), Some(("text", "demo")), "{host}");
        }
    }

    #[test]
    fn other_hosts_name_no_plugin() {
        for host in [
            "",
            "text",
            "127.0.0.1.nip.io",
            "text.demo.pod",
            "Text.demo",
            "-a.demo",
            "a..svc",
            "[::1]:8080",
            "a_b.demo",
        ] {
            assert_eq!(plugin_of_host(host), None, "{host}");
        }
    }
}
