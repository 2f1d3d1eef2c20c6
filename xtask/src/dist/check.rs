//! Whether the packages do what they promise: read by their own tools, packed again and compared, installed in a small Debian
//! and under a prefix of their own, used from there, upgraded and removed under a running process. Makes a Debian tree
//! in a temporary folder, for about a minute.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Child,
    time::{Duration, Instant},
};

use fireclaw_core::error::{Context, Error, Result};
use fireclaw_host::{
    exec::{Cmd, Exec as _, Output, SystemExec, handover},
    interrupt::Interrupt,
    wait::{Probed, Requirement, until},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::{
    Input, Made,
    content::Body,
    deb::{self, OLDER_NAMES},
    make, npm,
};
use crate::{record, say, shell};

/// The release of Debian that the package is installed in: the oldest that fireclaw is for.
const SUITE: &str = "bookworm";

type Check<'a> = Box<dyn Fn() -> Result<()> + 'a>;

/// Runs every check that this machine can. False when one failed.
pub fn run(input: &Input, made: &Made) -> bool {
    let mut checks: Vec<(&str, Check<'_>)> = vec![
        ("packing again gives the same bytes", Box::new(|| again(input, made))),
        ("the .deb holds what it should", Box::new(|| contents(input, made))),
        ("the npm package is installed and used", Box::new(|| npm_package(input, made))),
        ("the .deb is installed, used, upgraded, removed", Box::new(|| debian(input, made))),
    ];
    let mut skipped = Vec::new();
    if shell::has("lintian") {
        checks.insert(2, ("lintian finds no error", Box::new(|| lintian(made))));
    } else {
        skipped.push("lintian: it is not installed");
    }
    let mut good = true;
    for (name, check) in checks {
        let begun = Instant::now();
        let result = check();
        let mark = if result.is_ok() { "ok  " } else { "FAIL" };
        say::line(&format!("{mark} {name}  {:.1} s", begun.elapsed().as_secs_f32()));
        if let Err(error) = result {
            say::line(&format!("     {}", error.one_line()));
            good = false;
        }
    }
    for reason in skipped {
        say::line(&format!("skip {reason}"));
    }
    good
}

fn ensure(holds: bool, what: impl Into<String>) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::new("accept", "the package").because(what.into())) }
}

fn again(input: &Input, made: &Made) -> Result<()> {
    let dir = tempfile::tempdir().context("make", "a temporary folder")?;
    let second = make(input, dir.path())?;
    for (one, other) in [(&made.deb, &second.deb), (&made.npm, &second.npm)] {
        let read = |path: &PathBuf| fs::read(path).context("read", path.display());
        ensure(read(one)? == read(other)?, format!("{} differs", one.display()))?;
    }
    Ok(())
}

fn contents(input: &Input, made: &Made) -> Result<()> {
    let deb = made.deb.display().to_string();
    let info = shell::must("dpkg-deb", &["--info", &deb])?;
    for wanted in [
        format!("Version: {}", input.version),
        format!("Architecture: {}", deb::architecture(input.arch)),
        format!("Depends: {}", deb::dependencies().0.join(", ")),
    ] {
        ensure(info.contains(&wanted), format!("{wanted} is missing"))?;
    }
    for script in ["preinst", "postinst", "prerm"] {
        ensure(!info.contains(script), format!("it has a {script}"))?;
    }
    let listed = shell::must("dpkg-deb", &["--contents", &deb])?;
    for line in listed.lines() {
        ensure(line.contains(" root/root "), format!("not root's: {line}"))?;
    }
    for file in deb::files(input)? {
        let kind = match &file.body {
            Body::Link(to) => format!("./{} -> {to}", file.path),
            Body::Bytes(content) => format!(" {} ", content.len()),
        };
        let line = listed.lines().find(|line| {
            line.split_ascii_whitespace().any(|word| word.strip_prefix("./") == Some(file.path.as_str()))
        });
        let right = line.is_some_and(|line| line.contains(&kind));
        ensure(right, format!("{} is missing or wrong: {line:?}", file.path))?;
    }
    Ok(())
}

fn lintian(made: &Made) -> Result<()> {
    // The program is static on purpose, which lintian takes for a library; and this is no upload to Debian.
    let suppressed = "embedded-library,initial-upload-closes-no-bugs,statically-linked-binary,\
                      shared-library-lacks-prerequisites,debian-changelog-line-too-long";
    let output = shell::ask(
        "lintian",
        &["--no-cfg", "--fail-on", "error", "--suppress-tags", suppressed, &made.deb.display().to_string()],
    )?;
    for line in output.text().lines().filter(|line| !line.starts_with("N:")) {
        say::line(&format!("     {line}"));
    }
    ensure(output.status.success(), output.last_words())
}

/// Installed as `npm install -g` does, but elsewhere.
fn npm_package(input: &Input, made: &Made) -> Result<()> {
    let dir = tempfile::tempdir().context("make", "a temporary folder")?;
    let prefix = dir.path().join("prefix");
    npm::npm(dir.path(), &["install", "--global", "--prefix"], &[&prefix, &made.npm], dir.path())?;
    let root = prefix.join("lib/node_modules/fireclaw");
    for file in npm::files(input)? {
        let path = root.join(&file.path);
        let there = fs::read(&path).context("read", path.display())?;
        ensure(
            matches!(&file.body, Body::Bytes(content) if *content == there),
            format!("{} differs", file.path),
        )?;
    }
    ensure(prefix.join("share/man/man1/fireclaw-setup.1").exists(), "its manual is not found by man")?;
    answers(input, |name, args| Cmd::new(prefix.join("bin").join(name)).args(args))?;
    npm::npm(dir.path(), &["uninstall", "--global", "fireclaw", "--prefix"], &[&prefix], dir.path())?;
    ensure(!prefix.join("bin/fireclaw").exists() && !root.exists(), "npm left something behind")
}

/// The program under its three names.
fn answers(input: &Input, cmd: impl Fn(&str, &[&str]) -> Cmd) -> Result<()> {
    let ask =
        |name: &str, args: &[&str]| SystemExec::default().check(cmd(name, args)).map(|output| output.text());
    for name in ["fireclaw"].into_iter().chain(OLDER_NAMES.into_iter().filter(|name| *name == "vm-ctl")) {
        let said = ask(name, &["--version"])?;
        ensure(said == format!("fireclaw {}", input.version), format!("{name} --version says {said:?}"))?;
    }
    ensure(ask("vm-setup", &["--help"])?.contains("--telegram-token"), "vm-setup is not `fireclaw setup`")?;
    ensure(ask("vm-ctl", &["list", "--json"])?.trim() == "[]", "vm-ctl list does not list")
}

/// A Debian tree, with programs that are run in it.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn cmd(&self, program: &str, args: &[&str]) -> Cmd {
        Cmd::new("chroot")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .arg(&self.root)
            .arg(program)
            .args(args)
            .deadline(Duration::from_mins(5))
            .about(format!("{program} in the tree"))
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<Output> {
        SystemExec::default().check(self.cmd(program, args))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Not there when the tree was not finished.
        let _ = umount2(&self.path("proc"), MntFlags::MNT_DETACH);
    }
}

/// On a thread of its own, whose mounts nobody else sees.
fn debian(input: &Input, made: &Made) -> Result<()> {
    std::thread::scope(|scope| {
        let all = scope.spawn(|| -> Result<()> {
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            unshare(CloneFlags::CLONE_NEWNS)
                .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>))
                .context("make", "a mount namespace")?;
            in_debian(input, made)
        });
        all.join().unwrap_or_else(|_| Err(Error::new("check", "the .deb").because("the check itself broke")))
    })
}

fn in_debian(input: &Input, made: &Made) -> Result<()> {
    let dir = tempfile::tempdir().context("make", "a temporary folder")?;
    let tree = Tree { root: dir.path().join("tree") };
    let make = Cmd::new("mmdebstrap")
        .inherit_env()
        .args([
            "--variant=apt",
            "--mode=root",
            "--quiet",
            "--skip=cleanup/apt/lists",
            "--aptopt=Acquire::Languages \"none\"",
        ])
        .arg(SUITE)
        .arg(&tree.root)
        .about("a small Debian");
    SystemExec::default().check(make)?;
    // A program of ours asks /proc for its own path. Unmounted by `Drop`, before the folder is removed.
    mount(Some("proc"), &tree.path("proc"), Some("proc"), MsFlags::empty(), None::<&str>)
        .context("mount", "/proc of the tree")?;
    // Names are looked up from inside as they are outside.
    fs::copy("/etc/resolv.conf", tree.path("etc/resolv.conf")).context("copy", "/etc/resolv.conf")?;
    fs::copy(&made.deb, tree.path("fireclaw.deb")).context("copy", made.deb.display())?;
    let install = || {
        tree.run(
            "apt-get",
            &["-q", "--yes", "--no-install-recommends", "--reinstall", "install", "/fireclaw.deb"],
        )
    };
    install()?;
    answers(input, |name, args| tree.cmd(&format!("/usr/bin/{name}"), args))?;
    is_ready(&tree)?;

    let mut running = Running::start(&tree)?;
    let config = tree.path("etc/fireclaw/config.toml");
    fs::write(&config, "base_port = 20000\n").context("write", config.display())?;
    install()?;
    let kept = fs::read_to_string(&config).context("read", config.display())?;
    ensure(kept == "base_port = 20000\n", "an upgrade replaced the user's configuration")?;
    running.must_answer("the upgrade")?;

    let said = tree.run("apt-get", &["-q", "--yes", "remove", "fireclaw"])?.text();
    ensure(
        said.contains("1 instance(s) are kept"),
        format!("the removal says nothing of instances: {said}"),
    )?;
    ensure(!tree.path("usr/bin/fireclaw").exists() && config.exists(), "the wrong things were removed")?;
    running.must_answer("the removal")?;
    tree.run("dpkg", &["--purge", "fireclaw"])?;
    ensure(!config.exists(), "purging left the configuration")?;
    ensure(tree.path(RECORD).exists(), "purging removed an instance")?;
    running.must_answer("the purge")?;
    let left: Vec<_> = deb::files(input)?
        .into_iter()
        .filter(|file| tree.path(&file.path).symlink_metadata().is_ok())
        .map(|file| file.path)
        .collect();
    ensure(left.is_empty(), format!("left behind: {left:?}"))
}

/// What the package depends on is what doctor looks for.
fn is_ready(tree: &Tree) -> Result<()> {
    let output = SystemExec::default().run(tree.cmd("/usr/bin/fireclaw", &["doctor", "--json"]))?;
    let report: serde_json::Value =
        serde_json::from_str(&output.text()).context("read", "doctor's report")?;
    for name in ["ssh client", "ext4 tools", "nftables"] {
        let good = report["checks"]
            .as_array()
            .is_some_and(|checks| checks.iter().any(|check| check["name"] == name && check["ok"] == true));
        ensure(good, format!("after the installation doctor misses {name}: {report}"))?;
    }
    Ok(())
}

/// The record of an instance in the tree.
const RECORD: &str = "var/lib/fireclaw/.vm-pack/.env";

/// A process of the installed program: an instance's proxy, with a gateway of ours behind it.
struct Running {
    proxy: Child,
    address: SocketAddr,
}

impl Running {
    fn start(tree: &Tree) -> Result<Self> {
        // A port that is free now; nobody else takes one on this machine's loopback by number.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.context("find", "a free port")?;
        let record = tree.path(RECORD);
        fs::create_dir_all(record.parent().unwrap_or(&record)).context("create folder", record.display())?;
        // The address of its guest is one of loopback, where nothing listens.
        let text = record::text("pack", address.port(), Ipv4Addr::new(127, 0, 0, 9).into());
        fs::write(&record, text).context("write", record.display())?;
        // Where its sidecar listens for orders.
        let folder = tree.path("srv/firecracker/vm-demo/pack");
        fs::create_dir_all(&folder).context("create folder", folder.display())?;
        let proxy = handover::spawn(&tree.cmd("/usr/bin/fireclaw", &["proxy", "pack"]), None)?;
        let mut running = Self { proxy, address };
        running.must_answer("its start")?;
        Ok(running)
    }

    /// The proxy takes a connection, and is the process that was started.
    fn must_answer(&mut self, after: &str) -> Result<()> {
        let requirement = Requirement {
            description: format!("the proxy after {after}"),
            deadline: Duration::from_secs(20),
            hint: "run the check again with nothing else on the machine".into(),
        };
        until(&requirement, &Interrupt::default(), || {
            if let Ok(Some(status)) = self.proxy.try_wait() {
                return Probed::Never(
                    Error::new("run", "the proxy").because(format!("it ended with {status}")),
                );
            }
            match TcpStream::connect_timeout(&self.address, Duration::from_secs(2)) {
                Ok(_) => Probed::Ready(()),
                Err(error) => Probed::NotYet(error.to_string()),
            }
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}
