//! The tests' internet: one host in a network namespace of its own, with a provider's stand-in, a container registry, a site and a
//! name server. Makes links in the tests' namespace and a process that holds the other one.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use clap::Args;
use fireclaw_core::error::{Context, Error, Result};
use fireclaw_host::exec::{Cmd, handover};
use fireclaw_testkit::{
    dns::Dns, http::Received, oci::Layout, provider::Provider, registry::Registry, tls::Authority,
};

use super::world::{World, ensure};
use crate::shell;

/// The address of the one host that there is (TEST-NET-3: documentation, public to the firewall's rules).
pub const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The provider's port.
pub const PROVIDER: u16 = 8080;
/// The same provider over TLS, with an authority of the tests.
pub const PROVIDER_TLS: u16 = 8443;
/// The registry's port.
pub const REGISTRY: u16 = 5000;
const AUTHORITY: &str = "authority.pem";
/// A site's ports, with and without TLS.
const SITE: [u16; 2] = [80, 443];
/// What the name server knows: the site by names that a policy allows and one that it does not, and names that lead astray.
const ZONE: &[(&str, &[[u8; 4]])] = &[
    ("allowed.test", &[HOST.octets()]),
    ("www.wild.test", &[HOST.octets()]),
    ("forbidden.test", &[HOST.octets()]),
    ("breach.test", &[HOST.octets()]),
    ("notallowed.test", &[HOST.octets()]),
    ("lan.wild.test", &[[192, 168, 77, 10]]),
    ("metadata.wild.test", &[[169, 254, 169, 254]]),
    ("host.wild.test", &[[172, 30, 0, 1]]),
    ("own.wild.test", &[[203, 0, 113, 1]]),
];
/// What the provider answers.
pub const ANSWER: &str = "The crab has landed.";

/// The stand-ins, as a program.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Where the requests are recorded, and where an OCI layout may appear
    #[arg(long)]
    dir: PathBuf,
    /// Serve the registry and nothing else
    #[arg(long)]
    registry_only: bool,
}

/// The other namespace; it goes with its process.
pub struct Internet {
    process: Child,
    /// Where the stand-ins record and look.
    pub dir: PathBuf,
}

impl Internet {
    /// Makes the namespace, the link to it and its addresses, and waits until its services answer.
    pub fn open(root: &Path) -> Result<Self> {
        let dir = root.join("internet");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).context("create folder", dir.display())?;
        let log = std::fs::File::create(dir.join("log")).context("create", "a log")?;
        let program = std::env::current_exe().context("find", "this program")?;
        let cmd =
            Cmd::new("unshare").args(["--net", "--"]).arg(program).args(["internet", "--dir"]).arg(&dir);
        let process = handover::spawn(&cmd, Some(&log))?;
        let pid = process.id().to_string();
        let internet = Self { process, dir };
        shell::must("ip", &["link", "set", "lo", "up"])?;
        shell::must("ip", &["link", "add", "inet0", "type", "veth", "peer", "name", "inet1"])?;
        // The process has its namespace once unshare has run.
        fireclaw_host::wait::until(
            &fireclaw_host::wait::Requirement {
                description: "the internet's namespace".into(),
                deadline: Duration::from_secs(10),
                hint: String::new(),
            },
            &fireclaw_host::interrupt::Interrupt::default(),
            || {
                let ours = std::fs::read_link("/proc/self/ns/net");
                let theirs = std::fs::read_link(format!("/proc/{pid}/ns/net"));
                match (ours, theirs) {
                    (Ok(ours), Ok(theirs)) if ours != theirs => fireclaw_host::wait::Probed::Ready(()),
                    _ => fireclaw_host::wait::Probed::NotYet("not separate yet".into()),
                }
            },
        )?;
        shell::must("ip", &["link", "set", "inet1", "netns", &pid])?;
        shell::must("ip", &["address", "add", "203.0.113.1/24", "dev", "inet0"])?;
        shell::must("ip", &["link", "set", "inet0", "up"])?;
        shell::must("ip", &["route", "add", "default", "via", &HOST.to_string()])?;
        let there = |args: &[&str]| {
            let mut all = vec!["--target", &pid, "--net", "ip"];
            all.extend(args);
            shell::must("nsenter", &all)
        };
        there(&["link", "set", "lo", "up"])?;
        for address in ["203.0.113.10/24", "192.168.77.10/24", "169.254.169.254/32"] {
            there(&["address", "add", address, "dev", "inet1"])?;
        }
        there(&["link", "set", "inet1", "up"])?;
        there(&["route", "add", "172.30.0.0/24", "via", "203.0.113.1"])?;
        internet.wait(PROVIDER)?;
        internet.wait(PROVIDER_TLS)?;
        internet.wait(REGISTRY)?;
        Ok(internet)
    }

    /// The process that has its namespace.
    pub fn pid(&self) -> String {
        self.process.id().to_string()
    }

    fn wait(&self, port: u16) -> Result<()> {
        let requirement = fireclaw_host::wait::Requirement {
            description: format!("the stand-in on port {port}"),
            deadline: Duration::from_secs(20),
            hint: format!("see {}", self.dir.join("log").display()),
        };
        fireclaw_host::wait::until(&requirement, &fireclaw_host::interrupt::Interrupt::default(), || {
            match TcpStream::connect_timeout(&SocketAddr::from((HOST, port)), Duration::from_millis(300)) {
                Ok(_) => fireclaw_host::wait::Probed::Ready(()),
                Err(error) => fireclaw_host::wait::Probed::NotYet(error.to_string()),
            }
        })
    }
}

impl Internet {
    /// The certificate of the authority that the provider's own is from.
    pub fn authority(&self) -> PathBuf {
        self.dir.join(AUTHORITY)
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The first case: nothing but the tests' own host can be reached from here. Looks at the routing table only: a packet to a
/// real network is what must not be.
pub fn is_closed(_: &mut World) -> Result<()> {
    let links = shell::must("ip", &["-o", "link"])?;
    for line in links.lines() {
        let known = ["lo:", "inet0@", "fc-e2e0:", "fc-e2e0@"].iter().any(|name| line.contains(name))
            || line.contains(": t");
        ensure(known, || format!("a link that is not ours: {line}"))?;
    }
    let routes = shell::must("ip", &["route", "show", "default"])?;
    ensure(routes.trim() == "default via 203.0.113.10 dev inet0", || {
        format!("another default route: {routes}")
    })?;
    let six = shell::must("ip", &["-6", "route", "show", "default"])?;
    ensure(six.trim().is_empty(), || format!("an IPv6 default route: {six}"))
}

/// Sends every datagram of a port back, until the process ends.
fn echo(port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    Ok(())
}

/// A request as the cases look at it: path, key, body.
fn recorded_line(request: &Received) -> String {
    let key = request.header("x-api-key").unwrap_or("none");
    format!("{} {}\nkey: {key}\n{}", request.method, request.path, String::from_utf8_lossy(&request.body))
}

/// Serves until it is killed. Runs in the internet's own namespace.
pub fn serve(options: &Options) -> Result<()> {
    let layout =
        Layout::open_or_create(&options.dir.join("registry")).context("open", "the registry's layout")?;
    let registry =
        Registry::start((Ipv4Addr::UNSPECIFIED, REGISTRY), layout).context("serve", "the registry")?;
    let forever = fireclaw_host::wait::Requirement {
        description: "the end of the tests".into(),
        deadline: Duration::from_hours(2),
        hint: String::new(),
    };
    let until_killed = |look: &mut dyn FnMut() -> fireclaw_host::wait::Probed<()>| {
        fireclaw_host::wait::until(&forever, &fireclaw_host::interrupt::Interrupt::default(), look)
            .map(|()| drop(registry))
    };
    if options.registry_only {
        return until_killed(&mut || fireclaw_host::wait::Probed::NotYet(String::new()));
    }
    let provider =
        Provider::start((Ipv4Addr::UNSPECIFIED, PROVIDER), ANSWER).context("serve", "the provider")?;
    let authority = Authority::new();
    let pem = options.dir.join(AUTHORITY);
    std::fs::write(&pem, authority.pem()).context("write", pem.display())?;
    let tls = Some(authority.server(&[&HOST.to_string()]));
    let secure = Provider::start_with((Ipv4Addr::UNSPECIFIED, PROVIDER_TLS), tls, ANSWER)
        .context("serve", "the provider over TLS")?;
    let [plain, encrypted] = SITE;
    let site = Provider::start((Ipv4Addr::UNSPECIFIED, plain), ANSWER).context("serve", "the site")?;
    let tls = Some(authority.server(&["allowed.test"]));
    let secure_site = Provider::start_with((Ipv4Addr::UNSPECIFIED, encrypted), tls, ANSWER)
        .context("serve", "the site over TLS")?;
    echo(encrypted).context("serve", "datagrams")?;
    let names = Dns::start((HOST, 53).into(), ZONE).context("serve", "names")?;
    let record = |name: &str, text: String| {
        std::fs::write(options.dir.join(name), text).map_err(|error| Error::new("record", name).source(error))
    };
    let mut recorded = [0; 2];
    until_killed(&mut || {
        let requests = [&provider, &secure, &site, &secure_site].map(Provider::requests).concat();
        let asked = names.asked();
        let seen = [requests.len(), asked.len()];
        if seen != recorded {
            recorded = seen;
            let text: Vec<_> = requests.iter().map(recorded_line).collect();
            let written =
                record("requests", text.join("\n")).and_then(|()| record("names", asked.join("\n")));
            if let Err(error) = written {
                return fireclaw_host::wait::Probed::Never(error);
            }
        }
        fireclaw_host::wait::Probed::NotYet(String::new())
    })
}
