//! Namespaces: the host under test, and whatever it is connected to. Everything dies with its thread and descriptors.

use std::{
    fs::File,
    os::fd::AsRawFd,
    sync::{Arc, mpsc},
    thread,
};

use fireclaw_core::{
    id::{InstanceId, MacAddr},
    render::nft::{Egress, Options, VmRules, ruleset},
    spec::NetworkSpec,
};
use fireclaw_host::{
    exec::{Cmd, Exec, SystemExec},
    network::{Network, Port, SystemNetwork},
};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

/// The uid that the taps of these tests belong to.
pub const OWNER: u32 = 4321;
/// Addresses of the lab: the host's uplink, its router, a server on the internet.
pub const UPLINK: [u8; 4] = [198, 51, 100, 2];
pub const ROUTER: [u8; 4] = [198, 51, 100, 1];
pub const SERVER: [u8; 4] = [203, 0, 113, 10];

/// A network namespace.
pub struct Namespace(File);

impl Namespace {
    pub fn make() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let (sender, receiver) = mpsc::channel();
        let made = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            let _ = sender.send(File::open("/proc/thread-self/ns/net").expect("the namespace"));
        });
        let file = receiver.recv().expect("a namespace, or the thread's panic above");
        made.join().expect("no panic");
        let this = Self(file);
        this.run(|| ip("link set lo up"));
        this
    }

    /// Runs in the namespace. Sockets made inside keep belonging to it.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("entering a namespace");
                body()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A path by which `ip` finds it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Runs a program that must succeed. The words of `line` are its arguments.
pub fn run(line: &str) -> String {
    let mut words = line.split(' ');
    let program = words.next().expect("a program");
    SystemExec::default()
        .check(Cmd::new(program).args(words))
        .map_or_else(|error| panic!("{line}: {}", error.one_line()), |output| output.text())
}

pub fn ip(args: &str) {
    run(&format!("ip {args}"));
}

pub fn json(line: &str) -> Value {
    serde_json::from_str(&run(line)).expect("JSON")
}

/// Loads rules of others. `nft` wants a line's end before a closing brace.
pub fn load(rules: &str) {
    let rules = rules.replace('}', "\n}");
    SystemExec::default().check(Cmd::new("nft").args(["-f", "-"]).stdin_bytes(rules)).expect("rules load");
}

pub fn sysctl(setting: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{setting}"), value).expect(setting);
}

/// Runs in a namespace that has nothing but a loopback.
pub fn alone(body: impl FnOnce() + Send) {
    Namespace::make().run(body);
}

pub fn network() -> SystemNetwork {
    SystemNetwork::new(Arc::new(SystemExec::default()))
}

pub fn port(id: &str, ip: [u8; 4]) -> Port {
    let instance: InstanceId = id.parse().expect("an id");
    let tap = instance.tap_candidates(ip.into()).swap_remove(0);
    Port { instance, tap, mac: MacAddr::for_ip(ip.into()), ip: ip.into(), owner_uid: OWNER }
}

pub fn rules_of(port: &Port, egress: Egress) -> VmRules {
    let resolvers = vec![[10, 0, 0, 53].into(), SERVER.into()];
    VmRules {
        tap: port.tap.clone(),
        mac: port.mac,
        ip: port.ip,
        resolvers,
        egress,
        sidecar: None,
        rate: None,
    }
}

/// Puts these ports under guard.
pub fn guard(ports: &[&Port], egress: Egress) {
    let vms: Vec<VmRules> = ports.iter().map(|port| rules_of(port, egress)).collect();
    guard_with(&vms, &Options::default());
}

pub fn guard_with(vms: &[VmRules], options: &Options) {
    network()
        .install_firewall(&ruleset(&[(NetworkSpec::default(), vms.to_vec())], options))
        .expect("the ruleset loads");
}

/// The host with our bridge and an uplink to an internet that has servers in public, private and metadata ranges, and
/// no way back to the bridge's subnet.
pub struct Lab {
    pub host: Namespace,
    pub internet: Namespace,
}

/// Addresses that the lab's internet answers on and that no VM should reach by default.
pub const FORBIDDEN: [[u8; 4]; 9] = [
    [10, 99, 0, 1],
    [10, 0, 0, 53],
    [172, 20, 0, 1],
    [192, 168, 7, 7],
    [100, 64, 0, 5],
    [198, 18, 0, 1],
    [100, 100, 100, 200],
    [168, 63, 129, 16],
    METADATA,
];
pub const METADATA: [u8; 4] = [169, 254, 169, 254];

impl Lab {
    pub fn make() -> Self {
        let (host, internet) = (Namespace::make(), Namespace::make());
        host.run(|| {
            ip(&format!("link add up0 type veth peer name net0 netns {}", internet.path()));
            ip(&format!("address add {}/24 dev up0", dotted(UPLINK)));
            ip("link set up0 up");
        });
        internet.run(|| {
            ip(&format!("address add {}/24 dev net0", dotted(ROUTER)));
            ip("link set net0 up");
            for address in FORBIDDEN.iter().chain([&SERVER]) {
                ip(&format!("address add {}/32 dev lo", dotted(*address)));
            }
        });
        host.run(|| {
            ip(&format!("route add default via {}", dotted(ROUTER)));
            network().ensure_bridge(&NetworkSpec::default()).expect("a bridge");
        });
        Self { host, internet }
    }
}

pub fn dotted(address: [u8; 4]) -> String {
    std::net::Ipv4Addr::from(address).to_string()
}
