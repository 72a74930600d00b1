//! What a policy's `allowedHosts` mean: patterns of hosts and ports, and which of them allows what. Only data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use ipnet::{IpNet, Ipv6Net};

/// A host as it was asked for, in the one spelling in which hosts are compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum HostName {
    /// In lower case, in punycode, without the root's dot.
    Name(Box<str>),
    Address(IpAddr),
}

/// What is to be done at a host.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// A request to this port, and the port that its scheme has where none is named.
    Http { port: u16, default_port: u16 },
    /// A socket to this port.
    Socket { port: u16 },
    /// Its addresses are looked up for a socket to come.
    Lookup,
}

/// One of the `allowedHosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    host: HostPattern,
    port: PortPattern,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    Name(Box<str>),
    /// What has one label or more before this name.
    Subdomains(Box<str>),
    Net(IpNet),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PortPattern {
    SchemeDefault,
    Any,
    Number(u16),
}

impl HostName {
    /// Reads a host. Whatever a careless reader could take for an address and is not spelled as one is none: `0x7f.1`,
    /// `2130706433`, `127.1`, `0177.0.0.1`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let unbracketed = text.strip_prefix('[').map(|text| text.strip_suffix(']'));
        if let Some(inner) = unbracketed {
            return inner?.parse::<Ipv6Addr>().ok().map(Self::v6);
        }
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Some(Self::v6(address));
        }
        let (deny, length) = (AsciiDenyList::URL, DnsLength::VerifyAllowRootDot);
        let ascii = Uts46::new().to_ascii(text.as_bytes(), deny, Hyphens::Allow, length).ok()?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Some(Self::Address(address.into()));
        }
        let last = name.rsplit('.').next().unwrap_or(name);
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_number = digits(last) || last.strip_prefix("0x").is_some_and(hex);
        (!is_number).then(|| Self::Name(name.into()))
    }

    /// Reads `host[:port]` as it stands in a URI. There is no user in it.
    pub(super) fn parse_authority(text: &str) -> Option<(Self, Option<u16>)> {
        let end = text.find(']').map_or(0, |end| end + 1);
        let (host, port) = match text[end..].find(':') {
            Some(colon) => (&text[..end + colon], Some(parse_port(&text[end + colon + 1..])?)),
            None => (text, None),
        };
        // What is no address in brackets is nothing that a URI has.
        let host = Self::parse(host).filter(|_| end > 0 || !host.contains(':'))?;
        Some((host, port))
    }

    /// An IPv4 address in IPv6's clothes is that address.
    fn v6(address: Ipv6Addr) -> Self {
        Self::Address(IpAddr::V6(address).to_canonical())
    }
}

/// As `allowedHosts` would have it.
impl std::fmt::Display for HostName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port| digits && port > 0)
}

impl Pattern {
    /// Reads `host[:port]`; the host may be a name, `*.` and a name, an address or a CIDR.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.contains("://") {
            return Err("it is a host and not a URL: leave out the scheme and the path");
        }
        if text.contains('@') {
            return Err("a user has no place in it");
        }
        // Without brackets every colon is the address's.
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
                        .ok_or("its port is `*` or a number from 1 to 65535")?,
                };
                (&text[..end + colon], port)
            }
        };
        Ok(Self { host: HostPattern::parse(host)?, port })
    }

    /// Whether it allows a host of that name, or of that address where no range forbids it.
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

    /// Whether it names that address so closely that these forbidden ranges do not hold it back.
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
                _ => Err("what follows `*.` is no domain"),
            };
        }
        if text.contains('*') {
            return Err("a wildcard stands for whole labels, and only at the start: `*.example.com`");
        }
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if inner.contains('/') {
            return inner
                .parse::<IpNet>()
                .map_err(|_| "it is no CIDR such as `10.0.0.0/8`")
                .and_then(Self::net);
        }
        match HostName::parse(text).ok_or("it is no name and no address")? {
            HostName::Name(name) => Ok(Self::Name(name)),
            HostName::Address(address) => Ok(Self::Net(address.into())),
        }
    }

    fn net(net: IpNet) -> Result<Self, &'static str> {
        const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
        if net.trunc() != net {
            return Err("its address has bits beyond its prefix: the range begins at a lower address");
        }
        match net {
            IpNet::V6(range) if MAPPED.contains(&range) => {
                Err("it is an IPv4 range in IPv6's form: write the IPv4 range")
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

/// Whether one of the patterns allows what was asked for by name; what it resolves to is judged apart.
pub(super) fn allow_name(patterns: &[Pattern], host: &HostName, purpose: Purpose) -> bool {
    matches!(host, HostName::Name(_)) && patterns.iter().any(|pattern| pattern.allows(host, purpose))
}

/// Whether one of the patterns names an address, which lies in these forbidden ranges. One that reaches beyond any of
/// them does not: `0.0.0.0/0` means every public address, and not this machine's own.
pub(super) fn name_address(
    patterns: &[Pattern],
    address: IpAddr,
    purpose: Purpose,
    closed: &[IpNet],
) -> bool {
    patterns.iter().any(|pattern| pattern.names(address, purpose, closed))
}

/// Whether any of them is for sockets too.
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
    fn a_host_is_compared_in_one_spelling() {
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
    fn a_port_is_the_schemes_or_the_one_that_is_named() {
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
    fn what_is_no_host_is_refused() {
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
    fn an_authority_has_a_host_and_perhaps_a_port() {
        let name = |name: &str| HostName::Name(name.into());
        for (text, authority) in [
            ("example.com", Some((name("example.com"), None))),
            ("example.com:8080", Some((name("example.com"), Some(8080)))),
            ("[::1]:80", Some((HostName::Address("::1".parse().unwrap()), Some(80)))),
            ("[::ffff:127.0.0.1]", Some((HostName::Address("127.0.0.1".parse().unwrap()), None))),
            ("127.0.0.1.", Some((HostName::Address("127.0.0.1".parse().unwrap()), None))),
            ("::1", None),
            ("[::1]x:80", None),
            ("[::1]80", None),
            ("user@example.com", None),
            ("example.com:", None),
            ("example.com:80:80", None),
            ("[fe80::1%25lo]", None),
            ("", None),
        ] {
            assert_eq!(HostName::parse_authority(text), authority, "{text}");
        }
    }

    #[test]
    fn a_forbidden_range_is_opened_only_by_what_lies_within_it() {
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
