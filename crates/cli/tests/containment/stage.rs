//! A host with two guests, an internet with an honest and a hostile half, and what was heard there.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use fireclaw::{
    proxy::{self, ProxySpec},
    sidecar::{self, Upstreams, client},
};
use fireclaw_core::{
    egress::EgressPolicy,
    id::{InstanceId, MacAddr},
    render::nft::{Egress, Options, Sidecar, VmRules, ruleset},
    sidecar::{BrokerOrders, Orders, Report},
    spec::NetworkSpec,
};
use fireclaw_host::{
    interrupt::Interrupt,
    link::Netlink,
    network::{Network, Port},
    wait::{Probed, Requirement, until},
};
use fireclaw_testkit::dns::Dns;

use crate::lab::{Lab, METADATA, Namespace, OWNER, SERVER, dotted, ip, json, load, network, sysctl};

/// The addresses of the stage.
pub const GATEWAY: [u8; 4] = [172, 16, 0, 1];
pub const A: [u8; 4] = [172, 16, 0, 2];
pub const B: [u8; 4] = [172, 16, 0, 3];
/// The honest half of the internet.
pub const GOOD: [u8; 4] = SERVER;
pub const RESOLVER: [u8; 4] = [203, 0, 113, 53];
/// The hostile one; it also runs a resolver.
pub const EVIL: [u8; 4] = [203, 0, 113, 66];
/// The ports of the guests' sidecars.
pub const PORT_A: u16 = 18891;
pub const PORT_B: u16 = 18892;
/// The ports that the internet listens on.
const PORTS: [u16; 8] = [22, 80, 443, 853, 5432, 8443, 9000, 18789];

/// Whoever says this to the internet gets so many bytes as the answer.
pub const STREAM: &[u8] = b"stream-please";
pub const STREAMED: usize = 512 << 20;

/// No test waits longer for what must come.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How long a thing that must not come is waited for, after the attacker gave up.
const GRACE: Duration = Duration::from_millis(60);

/// Everything that anybody heard: at which address, and what.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<Said>>>);

type Said = (SocketAddr, Vec<u8>);

impl Heard {
    pub fn has(&self, marker: &str) -> bool {
        self.all(marker) > 0
    }

    pub fn at(&self, place: [u8; 4], marker: &str) -> bool {
        self.find(marker).iter().any(|at| at.ip() == Ipv4Addr::from(place))
    }

    fn all(&self, marker: &str) -> usize {
        self.find(marker).len()
    }

    fn find(&self, marker: &str) -> Vec<SocketAddr> {
        let all = self.0.lock().unwrap();
        let holds = |data: &[u8]| data.windows(marker.len()).any(|window| window == marker.as_bytes());
        all.iter().filter(|(_, data)| holds(data)).map(|(at, _)| *at).collect()
    }

    /// Takes in what comes at these ports of every address of the calling thread's network.
    pub fn listen(&self, ports: &[u16]) {
        for port in ports {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).unwrap();
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, *port)).unwrap();
            let heard = self.clone();
            thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let heard = heard.clone();
                    thread::spawn(move || {
                        let at = stream.local_addr().unwrap();
                        let (mut buffer, mut said) = ([0; 4096], Vec::new());
                        while let Ok(length @ 1..) = stream.read(&mut buffer) {
                            said.extend_from_slice(&buffer[..length]);
                            heard.0.lock().unwrap().push((at, said.clone()));
                            let streamed = said.windows(STREAM.len()).any(|it| it == STREAM);
                            let (length, text) = if streamed { (STREAMED, "") } else { (2, "ok") };
                            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}");
                            if stream.write_all(answer.as_bytes()).is_err() {
                                break;
                            }
                            if streamed {
                                let piece = vec![0; 1 << 20];
                                (0..STREAMED >> 20).for_each(|_| drop(stream.write_all(&piece)));
                                break;
                            }
                        }
                    });
                }
            });
            let heard = self.clone();
            let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length) = socket.recv(&mut buffer) {
                    heard.0.lock().unwrap().push((at, buffer[..length].to_vec()));
                }
            });
        }
    }
}

impl Heard {
    /// The same by IPv6, UDP.
    pub fn listen_six(&self, port: u16) {
        let socket = UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, port)).unwrap();
        let (heard, at) = (self.clone(), socket.local_addr().unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                heard.0.lock().unwrap().push((at, buffer[..length].to_vec()));
            }
        });
    }
}

/// Waits for something that must come.
pub fn comes(what: impl Fn() -> bool) -> bool {
    let wanted = Requirement { description: "it".into(), deadline: PATIENCE, hint: String::new() };
    let probe = || if what() { Probed::Ready(()) } else { Probed::NotYet(String::new()) };
    until(&wanted, &Interrupt::default(), probe).is_ok()
}

/// Waits a little for something that must not come.
pub fn stays_away(what: impl Fn() -> bool) -> bool {
    let wanted = Requirement { description: "it".into(), deadline: GRACE, hint: String::new() };
    let probe = || if what() { Probed::Ready(()) } else { Probed::NotYet(String::new()) };
    until(&wanted, &Interrupt::default(), probe).is_err()
}

pub struct Stage {
    pub lab: Lab,
    pub a: Namespace,
    pub b: Namespace,
    pub heard: Heard,
    pub dns: Dns,
    pub evil_dns: Dns,
    pub metadata_dns: Dns,
    pub guarded: bool,
    ports: [Port; 2],
    dir: tempfile::TempDir,
}

/// The policy of guest A in most tests.
pub const RULES: [&str; 6] = [
    "good.example",
    "*.wild.example",
    "rebind.example",
    "db.example:5432",
    "10.99.0.0/16:9000",
    "cdn.example:8443",
];

pub fn policy(rules: &[&str]) -> EgressPolicy {
    let rules: Vec<String> = rules.iter().map(|&rule| rule.to_owned()).collect();
    EgressPolicy::default().changed(None, &rules).unwrap()
}

impl Stage {
    /// Without our rules and without a sidecar: everything that a plain NAT lets through.
    pub fn open() -> Self {
        Self::make(false)
    }

    /// With a sidecar of guest A that has these orders, and one of guest B with a policy that allows nothing.
    pub fn guarded(orders: Orders, upstreams: &Upstreams) -> Self {
        let this = Self::make(true);
        this.install(&orders.policy);
        this.start_sidecar(
            "b",
            B,
            PORT_B,
            Orders { policy: policy(&["nothing.example"]), broker: None },
            upstreams,
        );
        this.start_sidecar("a", A, PORT_A, orders, upstreams);
        this
    }

    pub fn by_list(rules: &[&str]) -> Self {
        Self::guarded(Orders { policy: policy(rules), broker: None }, &Upstreams::default())
    }

    /// The stage alone, for a sidecar that a test starts itself.
    pub fn unserved() -> Self {
        Self::make(true)
    }

    /// The rules of an instance of before.
    pub fn install_public(&self) {
        let port = &self.ports[0];
        let rules = crate::lab::rules_of(port, Egress::Public);
        let text = ruleset(&[(NetworkSpec::default(), vec![rules])], &Options::default());
        self.lab.host.run(|| network().install_firewall(&text).unwrap());
    }

    fn make(guarded: bool) -> Self {
        let lab = Lab::make();
        lab.internet.run(|| {
            for address in [RESOLVER, EVIL] {
                ip(&format!("address add {}/32 dev lo", dotted(address)));
            }
        });
        // The masquerade of another program: it is there in both worlds, for without it nothing would come back.
        lab.host.run(|| {
            load(
                "table ip other {
                    chain postrouting {
                        type nat hook postrouting priority srcnat;
                        ip saddr 172.16.0.0/24 oifname \"up0\" masquerade
                    }
                }",
            );
            sysctl("ipv4/ip_forward", "1");
        });
        nothing_leads_out(&lab);
        let heard = Heard::default();
        let zone: &[(&str, &[[u8; 4]])] = &[
            ("good.example", &[GOOD]),
            ("www.wild.example", &[GOOD]),
            ("db.example", &[GOOD]),
            ("cdn.example", &[GOOD]),
            ("evil.example", &[EVIL]),
            ("rebind.example", &[GOOD]),
        ];
        let (dns, evil_dns, metadata_dns) = lab.internet.run(|| {
            heard.listen(&PORTS);
            let at = |ip: [u8; 4]| Dns::start(SocketAddr::from((ip, 53)), zone).unwrap();
            (at(RESOLVER), at(EVIL), at(METADATA))
        });
        let ((a, port_a), (b, port_b)) = lab.host.run(|| (vm("a", A), vm("b", B)));
        if !guarded {
            lab.host.run(|| {
                for port in [&port_a, &port_b] {
                    crate::lab::run(&format!("bridge link set dev {} isolated off", port.tap));
                }
            });
        }
        let dir = tempfile::tempdir().unwrap();
        Self { lab, a, b, heard, dns, evil_dns, metadata_dns, guarded, ports: [port_a, port_b], dir }
    }

    /// Puts the rules for a policy of guest A into force.
    pub fn install(&self, policy: &EgressPolicy) {
        let rules = |port: &Port, egress: Egress, sidecar: Sidecar| VmRules {
            tap: port.tap.clone(),
            mac: port.mac,
            ip: port.ip,
            resolvers: vec![RESOLVER.into()],
            egress,
            sidecar: Some(sidecar),
            rate: None,
        };
        let other = self::policy(&["nothing.example"]);
        let vms = vec![
            rules(&self.ports[0], policy.mode, Sidecar::of(PORT_A, policy)),
            rules(&self.ports[1], Egress::Allow, Sidecar::of(PORT_B, &other)),
        ];
        let text = ruleset(&[(NetworkSpec::default(), vms)], &Options::default());
        self.lab.host.run(|| network().install_firewall(&text).unwrap());
    }

    fn socket(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(format!("{name}.socket"))
    }

    fn start_sidecar(&self, name: &str, guest: [u8; 4], port: u16, orders: Orders, upstreams: &Upstreams) {
        let spec = sidecar::Spec {
            address: SocketAddrV4::new(GATEWAY.into(), port),
            guest: guest.into(),
            resolvers: vec![SocketAddr::from((RESOLVER, 53))],
            socket: self.socket(name),
            usage: self.dir.path().join(format!("{name}.usage")),
            upstreams: upstreams.clone(),
        };
        let (sender, ready) = std::sync::mpsc::channel();
        self.lab.host.run(move || {
            // It keeps the namespace that it begins in, and ends with the process.
            thread::spawn(move || {
                let proxied = ProxySpec::new(port, SocketAddr::from((guest, 18789)));
                let ready = move || sender.send(()).unwrap();
                proxy::serve(&proxied, Some((spec, orders)), None, ready, |_| {}).unwrap();
            });
        });
        ready.recv_timeout(PATIENCE).unwrap();
    }

    /// Gives new orders to guest A's sidecar and puts their rules into force.
    pub fn order(&self, orders: Orders) -> Report {
        self.install(&orders.policy);
        client::order(&self.socket("a"), orders).unwrap().unwrap()
    }

    pub fn report(&self) -> Report {
        client::report(&self.socket("a")).unwrap().unwrap()
    }

    pub fn report_of_b(&self) -> Report {
        client::report(&self.socket("b")).unwrap().unwrap()
    }

    /// Whether a refusal is in the log, by parts of its text.
    pub fn refused(&self, via: &str, what: &str, why: &str) -> bool {
        self.report()
            .refusals
            .iter()
            .any(|one| one.via == via && one.what.contains(what) && one.why.contains(why))
    }

    /// Packets that the firewall refused, and everything that the sidecars did.
    pub fn counted(&self) -> u64 {
        let rules = self.lab.host.run(|| json("nft -j list ruleset"));
        let mut sum = self.report().refused + self.report_of_b().refused;
        for object in rules["nftables"].as_array().unwrap() {
            let rule = &object["rule"];
            for part in rule["expr"].as_array().into_iter().flatten() {
                sum += part["counter"]["packets"].as_u64().unwrap_or_default();
            }
        }
        sum
    }
}

pub fn broker(token: &str, keys: Vec<fireclaw_core::sidecar::BrokerKey>) -> BrokerOrders {
    BrokerOrders { token: fireclaw_core::secret::Secret::new(token), keys, budget: None }
}

/// The first of all tests: whatever fails later, no packet leaves the machine.
pub fn nothing_leads_out(lab: &Lab) {
    for (namespace, most) in [(&lab.host, 3), (&lab.internet, 2)] {
        let links = namespace.run(|| json("ip -j link show"));
        let names: Vec<&str> =
            links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap()).collect();
        let known = ["lo", "up0", "net0", "fc-br0"];
        assert!(names.len() <= most && names.iter().all(|name| known.contains(name)), "{names:?}");
    }
    let routes = lab.internet.run(|| json("ip -j route show default"));
    assert_eq!(routes.as_array().map(Vec::len), Some(0), "the internet of the tests leads nowhere");
}

/// A namespace as a VM. Runs in the host's namespace.
fn vm(id: &str, address: [u8; 4]) -> (Namespace, Port) {
    let instance: InstanceId = id.parse().unwrap();
    let tap = instance.tap_candidates(address.into()).swap_remove(0);
    let mac = MacAddr::for_ip(address.into());
    let inside = Namespace::make();
    ip(&format!("link add {tap} type veth peer name eth0 address {mac} netns {}", inside.path()));
    inside.run(|| {
        ip(&format!("address add {}/24 dev eth0", dotted(address)));
        ip("link set eth0 up");
        ip(&format!("route add default via {}", dotted(GATEWAY)));
    });
    let netlink = Netlink::open().unwrap();
    let link = netlink.find(tap.as_str()).unwrap().unwrap();
    let bridge = netlink.find(NetworkSpec::BRIDGE).unwrap().unwrap();
    netlink.join(&link, &bridge).unwrap();
    netlink.pin_mac(&link, mac).unwrap();
    netlink.set_up(link.index, &link.name).unwrap();
    (inside, Port { instance, tap, mac, ip: address.into(), owner_uid: OWNER })
}
