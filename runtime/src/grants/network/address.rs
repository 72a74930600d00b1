//! Closed addresses, which a guest reaches only if its policy names them: all that are not the public Internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A closed range, and its description.
struct ClosedRange<N>(N, &'static str);

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, what: &'static str) -> ClosedRange<Ipv4Net> {
    ClosedRange(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix), what)
}

const fn v6(segments: [u16; 8], prefix: u8, what: &'static str) -> ClosedRange<Ipv6Net> {
    ClosedRange(Ipv6Net::new_assert(Ipv6Addr::from_segments(segments), prefix), what)
}

const METADATA: &str = "the cloud's metadata service";

/// IANA's special-purpose registry, and the metadata services of clouds. Narrower ranges come first, since their
/// descriptions say more.
const V4: [ClosedRange<Ipv4Net>; 21] = [
    v4(169, 254, 169, 254, 32, METADATA),
    v4(169, 254, 170, 2, 32, METADATA),
    v4(169, 254, 170, 23, 32, METADATA),
    v4(100, 100, 100, 200, 32, METADATA),
    v4(168, 63, 129, 16, 32, METADATA),
    v4(192, 0, 0, 192, 32, METADATA),
    v4(0, 0, 0, 0, 8, "this machine"),
    v4(10, 0, 0, 0, 8, "private"),
    v4(100, 64, 0, 0, 10, "shared by carriers"),
    v4(127, 0, 0, 0, 8, "loopback"),
    v4(169, 254, 0, 0, 16, "link-local"),
    v4(172, 16, 0, 0, 12, "private"),
    v4(192, 0, 0, 0, 24, "reserved for protocols"),
    v4(192, 0, 2, 0, 24, "for documentation"),
    v4(192, 88, 99, 0, 24, "a relay into 6to4"),
    v4(192, 168, 0, 0, 16, "private"),
    v4(198, 18, 0, 0, 15, "for benchmarks"),
    v4(198, 51, 100, 0, 24, "for documentation"),
    v4(203, 0, 113, 0, 24, "for documentation"),
    v4(224, 0, 0, 0, 4, "multicast"),
    v4(240, 0, 0, 0, 4, "reserved or broadcast"),
];

/// The closed ranges of IPv6, where nothing outside `2000::/3` is public.
const V6: [ClosedRange<Ipv6Net>; 16] = [
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, METADATA),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128, METADATA),
    v6([0; 8], 128, "this machine"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    v6([0; 8], 96, "an IPv4 address in IPv6's form"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "private"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "reserved for protocols, Teredo among them"),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "for documentation"),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4"),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "for documentation"),
    v6([0; 8], 3, "not public"),
    v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 2, "not public"),
    v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 1, "not public"),
];

/// The prefix of NAT64: such an address is as public as the IPv4 address inside it.
const NAT64: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// The closed ranges in which an address lies, none for a public one, and the description of the first.
pub(super) fn closed(address: IpAddr, more: &[IpNet]) -> (Vec<IpNet>, &'static str) {
    let address = address.to_canonical();
    let mut ranges: Vec<(IpNet, &str)> = match address {
        IpAddr::V4(address) => {
            let ranges = V4.iter().filter(|ClosedRange(net, _)| net.contains(&address));
            ranges.map(|&ClosedRange(net, what)| (net.into(), what)).collect()
        }
        IpAddr::V6(address) if NAT64.contains(&address) => {
            let [.., a, b, c, d] = address.octets();
            let (inner, what) = closed(Ipv4Addr::new(a, b, c, d).into(), more);
            // Beyond the translator the inner address is another machine's, so only a pattern of this form opens it.
            inner.first().map(|_| (NAT64.into(), what)).into_iter().collect()
        }
        IpAddr::V6(address) => {
            let ranges = V6.iter().filter(|ClosedRange(net, _)| net.contains(&address));
            ranges.map(|&ClosedRange(net, what)| (net.into(), what)).collect()
        }
    };
    let more = more.iter().filter(|net| net.contains(&address));
    ranges.extend(more.map(|net| (*net, "closed by this node's settings")));
    let what = ranges.first().map_or("public", |(_, what)| what);
    (ranges.into_iter().map(|(net, _)| net).collect(), what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_lie_in_no_closed_range() {
        for (address, what) in [
            ("1.1.1.1", "public"),
            ("8.8.8.8", "public"),
            ("172.32.0.1", "public"),
            ("100.128.0.1", "public"),
            ("198.20.0.1", "public"),
            ("223.255.255.255", "public"),
            ("2606:4700::1111", "public"),
            ("64:ff9b::808:808", "public"),
            ("::ffff:8.8.8.8", "public"),
            ("0.0.0.0", "this machine"),
            ("0.1.2.3", "this machine"),
            ("10.255.255.255", "private"),
            ("100.64.0.1", "shared by carriers"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("169.254.169.254", METADATA),
            ("169.254.0.1", "link-local"),
            ("172.31.255.255", "private"),
            ("192.168.0.1", "private"),
            ("192.0.2.1", "for documentation"),
            ("198.19.0.1", "for benchmarks"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "reserved or broadcast"),
            ("::", "this machine"),
            ("::1", "loopback"),
            ("::127.0.0.1", "an IPv4 address in IPv6's form"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:0:127.0.0.1", "not public"),
            ("64:ff9b::7f00:1", "loopback"),
            ("64:ff9b::a9fe:a9fe", METADATA),
            ("64:ff9b:1::7f00:1", "not public"),
            ("2002:7f00:1::", "6to4"),
            ("2001:0:7f00:1::", "reserved for protocols, Teredo among them"),
            ("2001:db8::1", "for documentation"),
            ("3fff::1", "for documentation"),
            ("fd00:ec2::254", METADATA),
            ("fd12::1", "private"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("5f00::1", "not public"),
            ("100::1", "not public"),
        ] {
            let (ranges, found) = closed(address.parse().unwrap(), &[]);
            assert_eq!(found, what, "{address}");
            assert_eq!(ranges.is_empty(), what == "public", "{address}");
        }
    }

    #[test]
    fn a_node_closes_further_ranges() {
        let more = ["8.8.0.0/16".parse().unwrap()];
        assert_eq!(closed("8.8.8.8".parse().unwrap(), &more).0, more);
        assert_eq!(closed("8.9.8.8".parse().unwrap(), &more).0, []);
    }
}
