//! Ranges of addresses: what no VM reaches, and what is not the public internet. Touches nothing.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Destinations that no VM reaches, whatever its policy: this network, loopback, link-local with the metadata service
/// of most clouds, multicast, reserved and broadcast.
pub const NEVER: [&str; 5] = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"];

/// Metadata services outside 169.254.0.0/16: Alibaba Cloud, Azure (also its resolver), Oracle Cloud. Never reached,
/// but for the resolver's port.
pub const METADATA: [&str; 3] = ["100.100.100.200", "168.63.129.16", "192.0.0.192"];

/// Ranges that are not the public internet (RFC 1918, RFC 6598, RFC 6890, RFC 2544).
pub const PRIVATE: [&str; 6] =
    ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15"];

fn nets(texts: &'static [&'static str]) -> impl Iterator<Item = Ipv4Net> {
    texts.iter().map(|text| {
        let (address, length) = text.split_once('/').unwrap_or((text, "32"));
        let parsed = address.parse().ok().zip(length.parse().ok());
        parsed.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).expect("a range of this file")
    })
}

/// Whether an address belongs to no VM, whatever its policy.
pub fn is_never(ip: Ipv4Addr) -> bool {
    nets(&NEVER).chain(nets(&METADATA)).any(|net| net.contains(&ip))
}

/// Whether an address is of the public internet.
pub fn is_public(ip: Ipv4Addr) -> bool {
    !is_never(ip) && !nets(&PRIVATE).any(|net| net.contains(&ip))
}

/// Whether two ranges share an address, and one of them is forbidden to all.
pub fn touches_never(net: Ipv4Net) -> bool {
    nets(&NEVER).chain(nets(&METADATA)).any(|never| never.contains(&net.network()) || net.contains(&never))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for private in [
            "10.0.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "168.63.129.16",
            "100.64.0.1",
            "172.31.255.255",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.19.0.1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "172.32.0.1", "11.0.0.1", "168.63.129.17"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        assert!(
            touches_never("168.63.0.0/16".parse().unwrap())
                && touches_never("169.254.1.0/24".parse().unwrap())
        );
        assert!(!touches_never("10.0.0.0/8".parse().unwrap()));
    }
}
