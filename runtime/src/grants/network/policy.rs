//! The entries of `allowedHosts`: patterns of hosts and ports, and the checks against them. Pure, without I/O.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use super::host::{HostName, parse_port};

/// The purpose for which a guest reaches a host.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// A request to this port, with the default port of its scheme.
    Http { port: u16, default_port: u16 },
    /// A socket to this port.
    Socket { port: u16 },
    /// A lookup of its addresses for a later socket.
    Lookup,
}

/// One entry of `allowedHosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    host: HostPattern,
    port: PortPattern,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    Name(Box<str>),
    /// The names with one label or more before this name.
    Subdomains(Box<str>),
    Net(IpNet),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PortPattern {
    SchemeDefault,
    Any,
    Number(u16),
}

impl Pattern {
    /// Parses `host[:port]`; the host is a name, `*.` and a name, an address or a CIDR.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.contains("://") {
            return Err("it is a URL; remove the scheme and the path");
        }
        if text.contains('@') {
            return Err("it has a user in it; remove all up to the `@`");
        }
        // Without brackets every colon is part of an IPv6 address.
        if let Some(net) =
            text.parse::<Ipv6Addr>().ok().map(net_of).or_else(|| text.parse().ok().map(IpNet::V6))
        {
            return Ok(Self { host: HostPattern::net(net)?, port: PortPattern::SchemeDefault });
        }
        let end = text.find(']').map_or(0, |end| end + 1);
        let (host, port) = match text[end..].find(':') {
            None => (text, PortPattern::SchemeDefault),
            Some(colon) => {
                let port = match &text[end + colon + 1..] {
                    "*" => PortPattern::Any,
                    number => parse_port(number)
                        .map(PortPattern::Number)
                        .ok_or("its port must be `*` or a number from 1 to 65535")?,
                };
                (&text[..end + colon], port)
            }
        };
        Ok(Self { host: HostPattern::parse(host)?, port })
    }

    /// Returns `true` if it allows a host of this name, or of this address if no closed range contains it.
    fn allows(&self, host: &HostName, purpose: Purpose) -> bool {
        let by_host = match (&self.host, host) {
            (HostPattern::Name(allowed), HostName::Name(name)) => allowed == name,
            (HostPattern::Subdomains(domain), HostName::Name(name)) => {
                name.strip_suffix(&**domain).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
            }
            (HostPattern::Net(net), HostName::Address(address)) => net.contains(address),
            _ => false,
        };
        by_host && self.port.allows(purpose)
    }

    /// Returns `true` if it allows this address and lies within all of these closed ranges, and so opens them for it.
    fn names(&self, address: IpAddr, purpose: Purpose, closed: &[IpNet]) -> bool {
        let HostPattern::Net(allowed) = &self.host else { return false };
        self.allows(&HostName::Address(address), purpose)
            && closed.iter().all(|range| range.contains(allowed))
    }
}

impl HostPattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(domain) = text.strip_prefix("*.") {
            return match HostName::parse(domain) {
                Some(HostName::Name(name)) if !domain.contains('*') => Ok(Self::Subdomains(name)),
                _ => Err("`*.` must precede a DNS name, as in `*.example.com`"),
            };
        }
        if text.contains('*') {
            return Err("`*` must stand for whole labels at the start, as in `*.example.com`");
        }
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if inner.contains('/') {
            return inner
                .parse::<IpNet>()
                .map_err(|_| "it is not a CIDR such as `10.0.0.0/8`")
                .and_then(Self::net);
        }
        match HostName::parse(text).ok_or("it is neither a DNS name nor an IP address")? {
            HostName::Name(name) => Ok(Self::Name(name)),
            HostName::Address(address) => Ok(Self::Net(address.into())),
        }
    }

    fn net(net: IpNet) -> Result<Self, &'static str> {
        const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
        if net.trunc() != net {
            return Err("its address has bits set beyond the prefix; use the first address of the range");
        }
        match net {
            IpNet::V6(range) if MAPPED.contains(&range) => {
                Err("it is an IPv4 range in IPv6 notation; use the IPv4 range")
            }
            net => Ok(Self::Net(net)),
        }
    }
}

fn net_of(address: Ipv6Addr) -> IpNet {
    IpAddr::V6(address).to_canonical().into()
}

impl PortPattern {
    fn allows(self, purpose: Purpose) -> bool {
        match (self, purpose) {
            (Self::Any, _) | (Self::Number(_), Purpose::Lookup) => true,
            (Self::Number(allowed), Purpose::Http { port, .. } | Purpose::Socket { port }) => allowed == port,
            (Self::SchemeDefault, Purpose::Http { port, default_port }) => port == default_port,
            (Self::SchemeDefault, Purpose::Socket { .. } | Purpose::Lookup) => false,
        }
    }
}

/// Returns `true` if one of the patterns allows a name. The addresses of the name are checked apart.
pub(super) fn allow_name(patterns: &[Pattern], host: &HostName, purpose: Purpose) -> bool {
    matches!(host, HostName::Name(_)) && patterns.iter().any(|pattern| pattern.allows(host, purpose))
}

/// Returns `true` if one of the patterns names an address that lies in these closed ranges. A pattern that reaches
/// beyond one of them does not: `0.0.0.0/0` is every public address, and none of this machine's own.
pub(super) fn name_address(
    patterns: &[Pattern],
    address: IpAddr,
    purpose: Purpose,
    closed: &[IpNet],
) -> bool {
    patterns.iter().any(|pattern| pattern.names(address, purpose, closed))
}

/// Returns `true` if one of the patterns allows anything to sockets.
pub(super) fn allow_sockets(patterns: &[Pattern]) -> bool {
    patterns.iter().any(|pattern| pattern.port.allows(Purpose::Lookup))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTPS: Purpose = Purpose::Http { port: 443, default_port: 443 };

    fn allowed(pattern: &str, host: &str, purpose: Purpose) -> bool {
        let patterns = [Pattern::parse(pattern).unwrap()];
        match HostName::parse(host) {
            Some(HostName::Address(address)) => name_address(&patterns, address, purpose, &[]),
            Some(name) => allow_name(&patterns, &name, purpose),
            None => false,
        }
    }

    #[test]
    fn hosts_are_compared_in_normalized_spelling() {
        for (pattern, host, is) in [
            ("example.com", "EXAMPLE.com.", true),
            ("Example.COM.", "example.com", true),
            ("example.com", "www.example.com", false),
            ("example.com", "example.com.evil.org", false),
            ("bücher.example", "xn--bcher-kva.example", true),
            ("xn--bcher-kva.example", "BÜCHER.example", true),
            ("example.com", "ｅｘａｍｐｌｅ.com", true),
            ("example.com", "еxample.com", false), // a Cyrillic е
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "badexample.com", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("192.0.2.0/24", "192.0.2.200", true),
            ("192.0.2.0/24", "192.0.3.1", false),
            ("[2001:db8::1]", "2001:DB8:0:0::1", true),
            ("2001:db8::1", "[2001:db8::1]", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("192.0.2.0/24", "example.com", false),
        ] {
            assert_eq!(allowed(pattern, host, HTTPS), is, "{pattern} {host}");
        }
    }

    #[test]
    fn a_pattern_allows_the_default_port_or_its_own() {
        let (plain, other) =
            (Purpose::Http { port: 80, default_port: 80 }, Purpose::Http { port: 80, default_port: 443 });
        let (socket, lookup) = (Purpose::Socket { port: 443 }, Purpose::Lookup);
        for (port, allows) in [
            ("", [true, true, false, false, false]),
            (":443", [true, false, false, true, true]),
            (":80", [false, true, true, false, true]),
            (":*", [true, true, true, true, true]),
        ] {
            for host in
                ["example.com", "*.com", "192.0.2.1", "192.0.2.0/24", "[2001:db8::1]", "[2001:db8::/32]"]
            {
                let pattern = format!("{host}{port}");
                let asked = host.replace("*.", "example.").replace("/24", "").replace("/32", "");
                let asked = asked.replace("db8::]", "db8::1]");
                let purposes = [HTTPS, plain, other, socket, lookup];
                assert_eq!(purposes.map(|purpose| allowed(&pattern, &asked, purpose)), allows, "{pattern}");
            }
        }
    }

    #[test]
    fn invalid_patterns_are_refused() {
        for pattern in [
            "",
            "*",
            "*:443",
            "*.",
            "*.*.com",
            "a.*.com",
            "a*.com",
            "*com",
            "https://example.com",
            "example.com/",
            "example.com:",
            "example.com:0",
            "example.com:65536",
            "example.com:+1",
            "example.com:http",
            "u@example.com",
            "a b.com",
            "a..com",
            "*.2.1",
            "[::1",
            "::1]",
            "[192.0.2.1]",
            "fe80::1%eth0",
            "[fe80::1%25eth0]",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "::ffff:0:0/96",
            "::ffff:10.0.0.0/104",
            "0x7f.0.0.1",
            "2130706433",
            "127.1",
            "0177.0.0.1",
            "1.2.3.4.5",
            "xn--a",
            "a_b.com:80:80",
            "%65xample.com",
            "example.com#",
            "example.com?",
        ] {
            let parsed = Pattern::parse(pattern);
            assert!(parsed.is_err(), "{pattern}: {parsed:?}");
        }
    }

    #[test]
    fn only_patterns_within_a_closed_range_open_it() {
        let range: IpNet = "10.0.0.0/8".parse().unwrap();
        let narrow: IpNet = "10.96.0.0/12".parse().unwrap();
        let address = "10.96.0.1".parse().unwrap();
        for (pattern, closed, named) in [
            ("0.0.0.0/0", vec![], true),
            ("0.0.0.0/0", vec![range], false),
            ("10.0.0.0/8", vec![range], true),
            ("10.0.0.0/8", vec![range, narrow], false),
            ("10.96.0.0/16", vec![range, narrow], true),
            ("10.96.0.1", vec![range, narrow], true),
            ("10.96.0.2", vec![range], false),
        ] {
            let patterns = [Pattern::parse(pattern).unwrap()];
            assert_eq!(name_address(&patterns, address, HTTPS, &closed), named, "{pattern} {closed:?}");
        }
    }
}
