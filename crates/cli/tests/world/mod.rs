//! A host of fakes over real files and locks, and commands run on it as from a command line.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use clap::Parser as _;
use fireclaw::{
    app::{App, Host},
    args::{Cli, Command},
    commands::{destroy, setup},
    gates::GatewayProbe,
    ui::Ui,
};
use fireclaw_core::{
    error::Result,
    layout::Layout,
    report::Health,
    spec::{Settings, SupervisorKind},
};
use fireclaw_host::{
    disk::fake::FakeDisks,
    exec::{Cmd, Exec as _, Output, SystemExec, fake::FakeExec},
    interrupt::Interrupt,
    network::fake::FakeNetwork,
    ssh::fake::FakeShell,
    supervisor::{Supervisors, fake::FakeSupervisor},
};

struct AlwaysUp;

impl GatewayProbe for AlwaysUp {
    fn health(&self, gateways: &[SocketAddr], _: Duration) -> Result<Vec<Health>> {
        Ok(vec![Health::Up; gateways.len()])
    }
}

pub struct World {
    _dir: tempfile::TempDir,
    pub app: App,
    pub network: Arc<FakeNetwork>,
    pub exec: FakeExec,
    /// There only on hosts [`World::with_systemd`].
    pub systemd: FakeSupervisor,
    pub embedded: FakeSupervisor,
}

impl World {
    /// Makes it a host whose PID 1 is systemd.
    pub fn with_systemd(mut self) -> Self {
        let (systemd, embedded) = (Arc::new(self.systemd.clone()), Arc::new(self.embedded.clone()));
        self.app.host.supervisors = Supervisors::new(Some(systemd), embedded);
        self
    }
}

/// A host with a base image at the top of its folder, as the Bash fireclaw wants it.
pub fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let at = |name: &str| root.join(name).display().to_string();
    std::fs::create_dir_all(root.join("images")).unwrap();
    let mut kernel = b"\x7fELF".to_vec();
    kernel.resize(4096, 0);
    std::fs::write(root.join("images/vmlinux"), kernel).unwrap();
    rootfs(&root.join("images/rootfs.ext4"));
    let settings = Settings::resolve(
        &|name| match name {
            "STATE_ROOT" => Some(at("state")),
            "FC_ROOT" => Some(at("fc")),
            "BASE_IMAGES_DIR" => Some(at("images")),
            "SSH_KEY_PATH" => Some(at("ssh/key")),
            "DISK_SIZE" => Some("64M".to_owned()),
            _ => None,
        },
        None,
    )
    .unwrap();
    let settings =
        Settings { layout: Layout { run_root: root.join("run"), ..settings.layout.clone() }, ..settings };
    let network = Arc::new(FakeNetwork::new());
    let shell = FakeShell::new(|said| {
        let done = "{\"event\":\"done\",\"changed\":[\"openclaw.json\"],\"restarted\":true}\n";
        Ok(Output::made(0, if said.line.contains("guest provision") { done } else { "" }, ""))
    });
    let exec = FakeExec::silent();
    let embedded = FakeSupervisor::new();
    let systemd = FakeSupervisor::new().of_kind(SupervisorKind::Systemd);
    let app = App {
        settings,
        host: Host {
            exec: Arc::new(exec.clone()),
            network: Arc::clone(&network) as Arc<_>,
            disks: Arc::new(FakeDisks::default()),
            supervisors: Supervisors::new(None, Arc::new(embedded.clone())),
            shell: Arc::new(shell),
            gateway: Arc::new(AlwaysUp),
        },
        interrupt: Interrupt::default(),
        ui: Ui::plain(),
    };
    World { _dir: dir, app, network, exec, systemd, embedded }
}

fn rootfs(path: &Path) {
    std::fs::File::create(path).unwrap().set_len(16 << 20).unwrap();
    SystemExec::default().check(Cmd::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(path)).unwrap();
}

pub fn run_setup(app: &App, id: &str) -> Result<()> {
    run_setup_with(app, id, &[])
}

pub fn run_setup_with(app: &App, id: &str, more: &[&str]) -> Result<()> {
    let flags = ["--quiet", "--runtime", "docker", "--vm-mem-mib", "256", "--dns", "10.0.0.53"];
    let argv = [&["fireclaw", "setup", "--instance", id][..], &flags, more].concat();
    let Command::Setup(args) = Cli::try_parse_from(argv).unwrap().command else { panic!("not setup") };
    setup::run(app, &args)
}

pub fn run_destroy(app: &App, id: &str) -> Result<()> {
    let argv = ["fireclaw", "destroy", id, "--force", "--quiet"];
    let Command::Destroy(args) = Cli::try_parse_from(argv).unwrap().command else { panic!("not destroy") };
    destroy::run(app, &args)
}
