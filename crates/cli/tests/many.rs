//! Many commands at once, on real files and locks with fakes of everything below: nothing collides, nothing is lost.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use clap::Parser as _;
use fireclaw::{
    app::{App, Host},
    args::{Cli, Command},
    commands::{destroy, setup},
    fleet,
    gates::GatewayProbe,
    store::Found,
    ui::Ui,
};
use fireclaw_core::{
    error::{Error, Kind, Result},
    layout::Layout,
    report::Health,
    spec::Settings,
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

struct World {
    _dir: tempfile::TempDir,
    app: App,
    network: Arc<FakeNetwork>,
}

/// A host with a base image at the top of its folder, as the Bash fireclaw wants it.
fn world() -> World {
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
    let app = App {
        settings,
        host: Host {
            exec: Arc::new(FakeExec::silent()),
            network: Arc::clone(&network) as Arc<_>,
            disks: Arc::new(FakeDisks::default()),
            supervisors: Supervisors::new(None, Arc::new(FakeSupervisor::new())),
            shell: Arc::new(shell),
            gateway: Arc::new(AlwaysUp),
        },
        interrupt: Interrupt::default(),
        ui: Ui::plain(),
    };
    World { _dir: dir, app, network }
}

fn rootfs(path: &Path) {
    std::fs::File::create(path).unwrap().set_len(16 << 20).unwrap();
    SystemExec::default().check(Cmd::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(path)).unwrap();
}

fn run_setup(app: &App, id: &str) -> Result<()> {
    let flags = ["--quiet", "--runtime", "docker", "--vm-mem-mib", "256", "--dns", "10.0.0.53"];
    let argv = [&["fireclaw", "setup", "--instance", id][..], &flags].concat();
    let Command::Setup(args) = Cli::try_parse_from(argv).unwrap().command else { panic!("not setup") };
    setup::run(app, &args)
}

fn run_destroy(app: &App, id: &str) -> Result<()> {
    let argv = ["fireclaw", "destroy", id, "--force", "--quiet"];
    let Command::Destroy(args) = Cli::try_parse_from(argv).unwrap().command else { panic!("not destroy") };
    destroy::run(app, &args)
}

#[test]
fn thirty_two_setups_at_once_get_thirty_two_distinct_sets() {
    let world = world();
    let app = &world.app;
    std::thread::scope(|scope| {
        let setups: Vec<_> =
            (0..32).map(|n| scope.spawn(move || run_setup(app, &format!("bot-{n}")))).collect();
        for setup in setups {
            setup.join().unwrap().unwrap();
        }
    });
    let records = app.store().records().unwrap();
    assert_eq!(records.len(), 32);
    let distinct = |values: Vec<String>| values.into_iter().collect::<BTreeSet<_>>().len();
    assert_eq!(distinct(records.iter().map(|record| record.vm_ip.to_string()).collect()), 32);
    assert_eq!(distinct(records.iter().map(|record| record.host_port.to_string()).collect()), 32);
    assert_eq!(distinct(records.iter().map(|record| record.vm_tap.to_string()).collect()), 32);
    assert_eq!(distinct(records.iter().map(|record| record.vm_mac.to_string()).collect()), 32);
    assert!(records.iter().all(|record| record.provisioned));
    assert_eq!(fleet::rows(app).unwrap().len(), 32);
    std::thread::scope(|scope| {
        for n in 0..32 {
            scope.spawn(move || run_destroy(app, &format!("bot-{n}")).unwrap());
        }
    });
    assert!(app.store().all().unwrap().is_empty());
    assert!(world.network.is_clean(), "{:?}", world.network.state());
}

#[test]
fn two_setups_of_one_id_at_once_make_one() {
    let world = world();
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let setups: Vec<_> = (0..2).map(|_| scope.spawn(|| run_setup(&world.app, "bot"))).collect();
        setups.into_iter().map(|setup| setup.join().unwrap()).collect()
    });
    let failed: Vec<Kind> =
        results.iter().filter_map(|result| result.as_ref().err().map(Error::get_kind)).collect();
    // The other one came while the first worked, or after it was done.
    assert!(matches!(failed.as_slice(), [Kind::Held | Kind::Refused]), "{failed:?}");
    assert!(matches!(world.app.store().all().unwrap().as_slice(), [Found::Instance(_)]));
}

#[test]
fn a_failure_below_the_engine_leaves_nothing() {
    for method in ["ensure_bridge", "install_firewall"] {
        let world = world();
        world.network.fail_on(method);
        run_setup(&world.app, "bot").unwrap_err();
        world.network.heal();
        // What could not be undone while the network failed is removed by the next run.
        let _ = run_destroy(&world.app, "bot");
        assert!(world.app.store().all().unwrap().is_empty(), "{method}");
        assert!(world.network.is_clean(), "{method}: {:?}", world.network.state());
    }
}
