//! The firewall as text: what a hostile root in a guest can send, and whom it can reach. Touches nothing.
//!
//! Two tables of ours are rendered whole and replaced in one transaction. No other table is read or changed.
//!
//! - `bridge fireclaw` pins each tap to the MAC and the address of its VM. It is a list of what may pass: anything that
//!   is not IPv4 or ARP (IPv6, VLAN tags, 802.3 frames, cut-off headers) falls through to the `drop` at its end. The
//!   hook `input` is filtered like `prerouting`, because the kernel hands frames for most group addresses
//!   (01:80:c2:00:00:0x) to the host without the latter. LLDP's would pass neither: `host::link` sets the port so that
//!   it is a frame like others. No frame goes from one port to another, with or without isolated ports.
//! - `inet fireclaw` decides where a VM's packets go. The host itself answers on nothing but `host_services`, and
//!   replies to what the host began; both are judged before a foreign `dnat` (a published port of a container) can
//!   rewrite the address. What leaves by another link is masqueraded and must be allowed by the VM's [`Egress`]. Every
//!   packet is judged, not only the first of a connection, so a stricter ruleset also ends what was open.
//!
//! Packets that another table drops stay dropped: nftables has no verdict that overrides one. A host whose forward
//! chains drop by default (Docker, ufw, firewalld) needs an accept rule over there. `output` is not filtered: the host
//! reaches its VMs, and the answers come in as replies.
//!
//! The text loads with nft 0.9.8 and later, and needs none of `meta ibrname`, `reject` in the bridge family and
//! conntrack on bridges, which kernels may lack. It holds with and without `br_netfilter`.

use std::{
    collections::BTreeSet,
    fmt::{Display, Write},
    net::Ipv4Addr,
};

use serde::{Deserialize, Serialize};

use crate::{
    id::{MacAddr, TapName},
    spec::NetworkSpec,
};

/// The name of both tables, in the families `inet` and `bridge`.
pub const TABLE: &str = "fireclaw";

/// Destinations that no VM reaches, whatever its policy: this network, loopback, link-local with the metadata service
/// of most clouds, multicast, reserved and broadcast.
const NEVER: [&str; 5] = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"];

/// Metadata services outside 169.254.0.0/16: Alibaba Cloud, Azure (also its resolver), Oracle Cloud. Never reached,
/// but for the resolver's port.
const METADATA: [&str; 3] = ["100.100.100.200", "168.63.129.16", "192.0.0.192"];

/// Ranges that are not the public internet (RFC 1918, RFC 6598, RFC 6890, RFC 2544).
const PRIVATE: [&str; 6] =
    ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15"];

/// Where a VM may connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// Nowhere but to `host_services`; not even to its resolvers, which carry data as well.
    None,
    /// The public internet and its own resolvers.
    #[default]
    Public,
    /// Private ranges too.
    Open,
}

/// One VM as the firewall sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRules {
    /// The link that its frames come in by.
    pub tap: TapName,
    /// The only MAC that it may use.
    pub mac: MacAddr,
    /// The only address that it may use.
    pub ip: Ipv4Addr,
    /// The DNS servers that its guest was told. Port 53 of them is open even in a private range, not in 169.254.0.0/16.
    pub resolvers: Vec<Ipv4Addr>,
    /// Where it may connect to.
    pub egress: Egress,
}

/// What holds for all VMs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// What the host offers to its VMs over TCP: an address of the host (the bridge's) and a port. Nothing else of the
    /// host is reachable for them.
    pub host_services: Vec<(Ipv4Addr, u16)>,
}

/// Whether [`ruleset`] lets a VM ask this DNS server, as far as the address tells. A server that is on the host itself
/// is not reachable either, and only the host knows which those are.
pub fn may_resolve_at(server: Ipv4Addr) -> bool {
    let [first, ..] = server.octets();
    first != 0 && !server.is_loopback() && !server.is_link_local() && first < 224
}

/// The text for `nft -f -` that puts exactly these networks and their VMs under guard. No network reaches another.
pub fn ruleset(networks: &[(NetworkSpec, Vec<VmRules>)], options: &Options) -> String {
    let bridges = networks.iter().map(|(network, _)| quoted(&network.bridge));
    let vms: Vec<&VmRules> = networks.iter().flat_map(|(_, vms)| vms).collect();
    let mut text = String::new();
    inet_table(&mut text, bridges, &vms, options);
    text.push('\n');
    bridge_table(&mut text, &vms);
    text
}

/// The text for `nft -f -` that removes both tables, be they there or not.
pub fn removal() -> String {
    format!(
        "table inet {TABLE}\ndelete table inet {TABLE}\ntable bridge {TABLE}\ndelete table bridge {TABLE}\n"
    )
}

fn inet_table(text: &mut String, bridges: impl Iterator<Item = String>, vms: &[&VmRules], options: &Options) {
    open_table(text, "inet");
    set(text, "bridges", "ifname", bridges);
    set(text, "taps", "ifname", vms.iter().map(|vm| quoted(&vm.tap)));
    set(text, "vms", "ipv4_addr", vms.iter().map(|vm| vm.ip));
    set(text, "public_egress", "ipv4_addr", with_egress(vms, Egress::Public));
    set(text, "open_egress", "ipv4_addr", with_egress(vms, Egress::Open));
    let resolvers = vms
        .iter()
        .filter(|vm| vm.egress != Egress::None)
        .flat_map(|vm| vm.resolvers.iter().map(move |server| format!("{} . {server}", vm.ip)));
    set(text, "resolvers", "ipv4_addr . ipv4_addr", resolvers);
    let services = options.host_services.iter().map(|(address, port)| format!("{address} . {port}"));
    set(text, "host_services", "ipv4_addr . inet_service", services);
    set(text, "never", "ipv4_addr; flags interval", NEVER);
    set(text, "metadata", "ipv4_addr", METADATA);
    set(text, "private", "ipv4_addr; flags interval", PRIVATE);

    // Before `dstnat`: the address is still the one that the guest wrote.
    chain(
        text,
        "prerouting",
        Some("filter hook prerouting priority mangle"),
        &[
            // A tap that is not (or no longer) a port of the bridge, and frames that the bridge passes over.
            "iifname @taps counter drop",
            "iifname @bridges jump from_bridge",
        ],
    );
    chain(
        text,
        "from_bridge",
        None,
        &[
            "meta nfproto != ipv4 counter drop",
            "fib daddr type { local, broadcast, anycast, multicast } goto to_host",
        ],
    );
    chain(
        text,
        "input",
        Some("filter hook input priority filter"),
        // Once more, for what a foreign `redirect` has turned towards the host since.
        &["iifname @bridges goto to_host"],
    );
    chain(
        text,
        "to_host",
        None,
        &[
            "ct state established ct direction reply accept",
            "ct state related icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
            "ip saddr @vms ip daddr . tcp dport @host_services accept",
            "counter drop",
        ],
    );
    chain(
        text,
        "forward",
        Some("filter hook forward priority filter - 1"),
        &["iifname @bridges goto from_vm", "oifname @bridges goto to_vm"],
    );
    // A refusal and not silence: programs in the guest then fail at once instead of after minutes.
    let refuse = "counter reject with icmp type admin-prohibited";
    chain(
        text,
        "from_vm",
        None,
        &[
            "oifname @bridges counter drop",
            // What conntrack does not know leaves without masquerade, with the VM's own address.
            "ct state invalid counter drop",
            &format!("ip daddr @never {refuse}"),
            "ip saddr . ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 accept",
            &format!("ip daddr @metadata {refuse}"),
            "ip saddr @open_egress accept",
            "ip saddr @public_egress ip daddr != @private accept",
            refuse,
        ],
    );
    chain(
        text,
        "to_vm",
        None,
        &[
            "ct state established ct direction reply accept",
            "ct state related meta l4proto icmp accept",
            "counter drop",
        ],
    );
    chain(
        text,
        "postrouting",
        Some("nat hook postrouting priority srcnat"),
        &["ip saddr @vms oifname != @bridges masquerade"],
    );
    text.push_str("}\n");
}

fn bridge_table(text: &mut String, vms: &[&VmRules]) {
    open_table(text, "bridge");
    set(text, "taps", "ifname", vms.iter().map(|vm| quoted(&vm.tap)));
    let cards = vms.iter().map(|vm| format!("{} . {} . {}", quoted(&vm.tap), vm.mac, vm.ip));
    set(text, "cards", "ifname . ether_addr . ipv4_addr", cards);

    let guarded = ["iifname @taps goto from_tap"];
    chain(text, "prerouting", Some("filter hook prerouting priority filter"), &guarded);
    chain(text, "input", Some("filter hook input priority filter"), &guarded);
    chain(
        text,
        "forward",
        Some("filter hook forward priority filter"),
        &["iifname @taps counter drop", "oifname @taps counter drop"],
    );
    chain(
        text,
        "from_tap",
        None,
        &[
            "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter drop",
            // The kernel takes a VLAN tag out of the frame before this hook, and a match on the protocol alone would
            // see the packet inside; the type in the frame's own header is the tag's.
            "ether type { 0x8100, 0x88a8 } counter drop",
            "ether type ip iifname . ether saddr . ip saddr @cards accept",
            "ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 \
             iifname . ether saddr . arp saddr ip @cards \
             iifname . arp saddr ether . arp saddr ip @cards accept",
            "counter drop",
        ],
    );
    text.push_str("}\n");
}

fn with_egress(vms: &[&VmRules], egress: Egress) -> impl Iterator<Item = Ipv4Addr> {
    vms.iter().filter(move |vm| vm.egress == egress).map(|vm| vm.ip)
}

/// Link names hold no character that ends a quoted string; their types see to that.
fn quoted(link: &impl Display) -> String {
    format!("\"{link}\"")
}

/// Naming the table first makes the deletion succeed on a host that has none.
fn open_table(text: &mut String, family: &str) {
    let _ = writeln!(
        text,
        "table {family} {TABLE}\ndelete table {family} {TABLE}\ntable {family} {TABLE} {{\n\
         \tcomment \"made by fireclaw, replaced as a whole\""
    );
}

fn set(text: &mut String, name: &str, kind: &str, elements: impl IntoIterator<Item = impl Display>) {
    let elements: BTreeSet<String> = elements.into_iter().map(|element| element.to_string()).collect();
    let _ = writeln!(text, "\tset {name} {{\n\t\ttype {kind}");
    if !elements.is_empty() {
        let elements: Vec<String> = elements.into_iter().collect();
        let _ = writeln!(text, "\t\telements = {{\n\t\t\t{}\n\t\t}}", elements.join(",\n\t\t\t"));
    }
    text.push_str("\t}\n");
}

fn chain(text: &mut String, name: &str, hook: Option<&str>, rules: &[&str]) {
    let _ = writeln!(text, "\n\tchain {name} {{");
    if let Some(hook) = hook {
        let _ = writeln!(text, "\t\ttype {hook}; policy accept;");
    }
    for rule in rules {
        let _ = writeln!(text, "\t\t{rule}");
    }
    text.push_str("\t}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(tap: &str, ip: [u8; 4], egress: Egress) -> VmRules {
        let ip = Ipv4Addr::from(ip);
        VmRules {
            tap: tap.parse().unwrap(),
            mac: MacAddr::for_ip(ip),
            ip,
            resolvers: vec![Ipv4Addr::new(10, 0, 0, 53), Ipv4Addr::new(1, 1, 1, 1)],
            egress,
        }
    }

    #[test]
    fn vms_of_two_networks() {
        let vms = [
            vm("tmybot10", [172, 16, 0, 10], Egress::Public),
            vm("tmybot2", [172, 16, 0, 2], Egress::Public),
            vm("tlab3", [172, 16, 0, 3], Egress::Open),
            vm("tjail4", [172, 16, 0, 4], Egress::None),
        ];
        let options = Options { host_services: vec![(Ipv4Addr::new(172, 16, 0, 1), 8080)] };
        let lab = NetworkSpec::new("lab-br0", "10.213.0.1/24", "10.213.0.0/24").unwrap();
        let far = vm("tfar2", [10, 213, 0, 2], Egress::Public);
        let networks = [(NetworkSpec::default(), vms.to_vec()), (lab, vec![far])];
        insta::assert_snapshot!(ruleset(&networks, &options));
    }

    #[test]
    fn no_vm() {
        insta::assert_snapshot!(ruleset(&[(NetworkSpec::default(), Vec::new())], &Options::default()));
    }

    #[test]
    fn the_order_of_vms_does_not_matter() {
        let (a, b) = (vm("ta2", [172, 16, 0, 2], Egress::Public), vm("tb3", [172, 16, 0, 3], Egress::Open));
        let text = |vms: &[&VmRules]| {
            let vms = vms.iter().copied().cloned().collect();
            ruleset(&[(NetworkSpec::default(), vms)], &Options::default())
        };
        assert_eq!(text(&[&a, &b]), text(&[&b, &a, &a]));
    }

    #[test]
    fn resolvers_that_a_vm_cannot_ask() {
        for server in
            [[127, 0, 0, 53], [169, 254, 169, 254], [0, 0, 0, 0], [224, 0, 0, 251], [255, 255, 255, 255]]
        {
            assert!(!may_resolve_at(server.into()), "{server:?}");
        }
        for server in [[1, 1, 1, 1], [192, 168, 1, 1], [168, 63, 129, 16], [10, 0, 2, 3]] {
            assert!(may_resolve_at(server.into()), "{server:?}");
        }
    }
}
