//! Host names and addresses as guests and policies spell them, parsed into one normalized form.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

/// A requested host, normalized so that two spellings of one host are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum HostName {
    /// A name in lower case and punycode, without the dot of the root.
    Name(Box<str>),
    Address(IpAddr),
}

impl HostName {
    /// Parses a host. Refuses all that a lenient parser could take for an IPv4 address, unless it is in dotted decimal:
    /// `0x7f.1`, `2130706433`, `127.1`, `0177.0.0.1`.
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

    /// Parses the `host[:port]` of a URI, and refuses a user in it.
    pub(super) fn parse_authority(text: &str) -> Option<(Self, Option<u16>)> {
        let end = text.find(']').map_or(0, |end| end + 1);
        let (host, port) = match text[end..].find(':') {
            Some(colon) => (&text[..end + colon], Some(parse_port(&text[end + colon + 1..])?)),
            None => (text, None),
        };
        // In a URI, only an address in brackets may have a colon in it.
        let host = Self::parse(host).filter(|_| end > 0 || !host.contains(':'))?;
        Some((host, port))
    }

    /// An IPv4-mapped IPv6 address becomes the IPv4 address.
    fn v6(address: Ipv6Addr) -> Self {
        Self::Address(IpAddr::V6(address).to_canonical())
    }
}

/// Writes the host as an entry of `allowedHosts`.
impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

pub(super) fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port| digits && port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_an_optional_port() {
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
}
