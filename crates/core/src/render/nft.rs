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
//! - A VM with a [`Sidecar`] reaches that on the bridge's address. With [`Egress::Allow`] its questions for names and
//!   its connections to the named ports are turned there, and nothing else but the `direct` ranges leaves.
//!
//! Packets that another table drops stay dropped: nftables has no verdict that overrides one. A host whose forward
//! chains drop by default (Docker, ufw, firewalld) needs an accept rule over there. `output` is not filtered: the host
//! reaches its VMs, and the answers come in as replies.
//!
//! What a VM sends beyond its rate is dropped in the bridge table, before anything else looks at it. What goes to it is held by its
//! tap, which is not the firewall's.
//!
//! The text loads with nft 0.9.8 and later, and needs none of `meta ibrname`, `reject` in the bridge family and
//! conntrack on bridges, which kernels may lack. It holds with and without `br_netfilter`.

use std::{
    collections::BTreeSet,
    fmt::{Display, Write},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

pub use crate::spec::EgressMode as Egress;
use crate::{
    egress::{
        EgressPolicy,
        address::{METADATA, NEVER, PRIVATE},
    },
    id::{MacAddr, TapName},
    spec::NetworkSpec,
};

/// The name of both tables, in the families `inet` and `bridge`.
pub const TABLE: &str = "fireclaw";

/// The set of `inet fireclaw` that holds what was refused: VM, destination, protocol, port, and how often.
pub const REFUSED: &str = "refused";

/// Bounds of what a VM may send at once beyond its rate, in bytes.
const LEAST_BURST: u64 = 128 << 10;
const MOST_BURST: u64 = 1 << 30;

/// Remembers a packet that is going to be refused. ICMP and the like are only counted by their rule.
const NOTE: &str =
    "meta l4proto { tcp, udp } update @refused { ip saddr . ip daddr . meta l4proto . th dport counter }";

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
    /// The sidecar that it may talk to, where there is one.
    pub sidecar: Option<Sidecar>,
    /// The bytes a second that it may send, where its VMM does not keep to that itself.
    pub rate: Option<u64>,
}

/// A VM's sidecar on the host: the key broker at its own address, and the other end of what is turned to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// The port on the bridge's address, TCP and UDP.
    pub port: u16,
    /// The TCP ports that are turned to it, with every question to port 53. Only in [`Egress::Allow`].
    pub redirected: BTreeSet<u16>,
    /// Addresses and ports that are open past it. Only in [`Egress::Allow`].
    pub direct: Vec<(Ipv4Net, u16)>,
}

impl Sidecar {
    /// What a policy asks of the firewall.
    pub fn of(port: u16, policy: &EgressPolicy) -> Self {
        Self { port, redirected: policy.redirected_ports(), direct: policy.networks() }
    }
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
    let vms: Vec<&VmRules> = networks.iter().flat_map(|(_, vms)| vms).collect();
    let mut text = String::new();
    inet_table(&mut text, networks, &vms, options);
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

fn inet_table(
    text: &mut String,
    networks: &[(NetworkSpec, Vec<VmRules>)],
    vms: &[&VmRules],
    options: &Options,
) {
    open_table(text, "inet");
    set(text, "bridges", "ifname", networks.iter().map(|(network, _)| quoted(&network.bridge)));
    set(text, "taps", "ifname", vms.iter().map(|vm| quoted(&vm.tap)));
    set(text, "vms", "ipv4_addr", vms.iter().map(|vm| vm.ip));
    set(text, "public_egress", "ipv4_addr", with_egress(vms, Egress::Public));
    set(text, "open_egress", "ipv4_addr", with_egress(vms, Egress::Open));
    let resolvers = vms
        .iter()
        .filter(|vm| matches!(vm.egress, Egress::Public | Egress::Open))
        .flat_map(|vm| vm.resolvers.iter().map(move |server| format!("{} . {server}", vm.ip)));
    set(text, "resolvers", "ipv4_addr . ipv4_addr", resolvers);
    let services = options.host_services.iter().map(|(address, port)| format!("{address} . {port}"));
    set(text, "host_services", "ipv4_addr . inet_service", services);
    sidecar_sets(text, networks, vms);
    set(text, "never", "ipv4_addr; flags interval", NEVER);
    set(text, "metadata", "ipv4_addr", METADATA);
    set(text, "private", "ipv4_addr; flags interval", PRIVATE);

    // Who was refused what, with a counter each. It begins anew with each ruleset and does not outgrow its size.
    let _ = writeln!(
        text,
        "\tset {REFUSED} {{\n\t\ttype ipv4_addr . ipv4_addr . inet_proto . inet_service\n\t\tsize 4096\n\
         \t\tflags dynamic,timeout\n\t\ttimeout 1h\n\t}}"
    );

    ways_in(text);
    ways_through(text);
    text.push_str("}\n");
}

/// What a VM may send to the host, and what is turned to its sidecar.
fn ways_in(text: &mut String) {
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
            // Turned to the sidecar below, whatever resolver it was meant for.
            "ip saddr @named_egress meta l4proto { tcp, udp } th dport 53 accept",
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
            "meta l4proto { tcp, udp } ip saddr . ip daddr . th dport @sidecars accept",
            "goto note_and_drop",
        ],
    );
    chain(text, "note_and_drop", None, &[NOTE, "counter drop"]);
    // Before anybody else's translation: a connection has one. The port is the sidecar's, the address the bridge's first;
    // `to_host` takes it only when that is the sidecar's.
    chain(
        text,
        "to_sidecar",
        Some("nat hook prerouting priority dstnat - 1"),
        &[
            "iifname != @bridges return",
            "ip saddr != @named_egress return",
            "ip daddr @never return",
            "ip daddr @metadata return",
            "meta l4proto { tcp, udp } ip saddr . ip daddr . th dport @direct return",
            "meta l4proto { tcp, udp } th dport 53 redirect to :ip saddr map @sidecar_of",
            "ip saddr . tcp dport @redirected redirect to :ip saddr map @sidecar_of",
        ],
    );
}

/// What a VM may send through the host, and what may come to it.
fn ways_through(text: &mut String) {
    chain(
        text,
        "forward",
        Some("filter hook forward priority filter - 1"),
        &["iifname @bridges goto from_vm", "oifname @bridges goto to_vm"],
    );
    // A refusal and not silence: programs in the guest then fail at once instead of after minutes.
    chain(text, "refuse", None, &[NOTE, "counter reject with icmp type admin-prohibited"]);
    let refuse = "goto refuse";
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
            "meta l4proto { tcp, udp } ip saddr . ip daddr . th dport @direct accept",
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
}

/// A mapping is a set with a value; a VM has one sidecar, so no key comes twice.
fn sidecar_sets(text: &mut String, networks: &[(NetworkSpec, Vec<VmRules>)], vms: &[&VmRules]) {
    let sidecars = networks.iter().flat_map(|(network, vms)| {
        let gateway = network.gateway_ip();
        vms.iter()
            .filter_map(move |vm| Some(format!("{} . {gateway} . {}", vm.ip, vm.sidecar.as_ref()?.port)))
    });
    set(text, "sidecars", "ipv4_addr . ipv4_addr . inet_service", sidecars);
    let named: Vec<(Ipv4Addr, &Sidecar)> = vms
        .iter()
        .filter(|vm| vm.egress == Egress::Allow)
        .filter_map(|vm| Some((vm.ip, vm.sidecar.as_ref()?)))
        .collect();
    set(text, "named_egress", "ipv4_addr", named.iter().map(|(ip, _)| *ip));
    let ports = named.iter().map(|(ip, sidecar)| format!("{ip} : {}", sidecar.port));
    collection(text, "map", "sidecar_of", "ipv4_addr : inet_service", ports);
    let redirected = named
        .iter()
        .flat_map(|(ip, sidecar)| sidecar.redirected.iter().map(move |port| format!("{ip} . {port}")));
    set(text, "redirected", "ipv4_addr . inet_service", redirected);
    let direct = named.iter().flat_map(|(ip, sidecar)| {
        widest(&sidecar.direct).into_iter().map(move |(net, port)| format!("{ip} . {net} . {port}"))
    });
    set(text, "direct", "ipv4_addr . ipv4_addr . inet_service; flags interval", direct);
}

/// Without the ranges that lie in another of the same port: the kernel takes no element that overlaps one.
fn widest(all: &[(Ipv4Net, u16)]) -> Vec<(Ipv4Net, u16)> {
    let inside = |one: &(Ipv4Net, u16)| {
        all.iter().any(|other| other.1 == one.1 && other.0 != one.0 && other.0.contains(&one.0))
    };
    all.iter().filter(|one| !inside(one)).copied().collect()
}

fn bridge_table(text: &mut String, vms: &[&VmRules]) {
    open_table(text, "bridge");
    set(text, "taps", "ifname", vms.iter().map(|vm| quoted(&vm.tap)));
    let cards = vms.iter().map(|vm| format!("{} . {} . {}", quoted(&vm.tap), vm.mac, vm.ip));
    set(text, "cards", "ifname . ether_addr . ipv4_addr", cards);

    // What a VM sends beyond its rate is lost, as on a slow line. A burst of a quarter of a second passes, and never less than
    // two of the largest packets that the kernel has not cut yet.
    let limits: Vec<String> = vms
        .iter()
        .filter_map(|vm| Some((vm, vm.rate?)))
        .map(|(vm, rate)| {
            let burst = (rate / 4).clamp(LEAST_BURST, MOST_BURST);
            format!(
                "iifname {} limit rate over {rate} bytes/second burst {burst} bytes counter drop",
                quoted(&vm.tap)
            )
        })
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let guarded = ["iifname @taps goto from_tap"];
    chain(text, "prerouting", Some("filter hook prerouting priority filter"), &guarded);
    chain(text, "input", Some("filter hook input priority filter"), &guarded);
    chain(
        text,
        "forward",
        Some("filter hook forward priority filter"),
        &["iifname @taps counter drop", "oifname @taps counter drop"],
    );
    chain(text, "rates", None, &limits.iter().map(String::as_str).collect::<Vec<_>>());
    chain(
        text,
        "from_tap",
        None,
        &[
            "jump rates",
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
    collection(text, "set", name, kind, elements);
}

fn collection(
    text: &mut String,
    what: &str,
    name: &str,
    kind: &str,
    elements: impl IntoIterator<Item = impl Display>,
) {
    let elements: BTreeSet<String> = elements.into_iter().map(|element| element.to_string()).collect();
    let _ = writeln!(text, "\t{what} {name} {{\n\t\ttype {kind}");
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
            sidecar: None,
            rate: None,
        }
    }

    fn named(tap: &str, ip: [u8; 4], port: u16, rules: &[&str]) -> VmRules {
        let rules: Vec<String> = rules.iter().map(|&rule| rule.to_owned()).collect();
        let policy = EgressPolicy::default().changed(None, &rules).unwrap();
        VmRules { sidecar: Some(Sidecar::of(port, &policy)), ..vm(tap, ip, policy.mode) }
    }

    #[test]
    fn vms_with_sidecars() {
        let broker = Sidecar { port: 18893, redirected: BTreeSet::new(), direct: Vec::new() };
        let vms = vec![
            named(
                "ta2",
                [172, 16, 0, 2],
                18891,
                &["anthropic", "db.example:5432", "10.1.0.0/16:22", "10.1.2.0/24:22"],
            ),
            named("tb3", [172, 16, 0, 3], 18892, &["*.example.com"]),
            VmRules {
                sidecar: Some(broker),
                rate: Some(12_500_000),
                ..vm("tc4", [172, 16, 0, 4], Egress::Public)
            },
        ];
        insta::assert_snapshot!(ruleset(&[(NetworkSpec::default(), vms)], &Options::default()));
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
