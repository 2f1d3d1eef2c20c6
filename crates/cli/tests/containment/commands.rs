//! The commands themselves, as programs: a record on disk, `fireclaw proxy` as root that becomes nobody, and changes while a guest
//! is at it.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use fireclaw_core::sidecar::Report;
use fireclaw_host::exec::{Cmd, Exec, Output, SystemExec};
use serde_json::Value;

use crate::{
    client::{ask, hello, say},
    stage::{EVIL, GATEWAY, GOOD, PATIENCE, PORT_A, RESOLVER, Stage, comes},
};

const KEY: &str = "sk-secret-of-the-host";

struct Installed {
    stage: Stage,
    root: tempfile::TempDir,
    proxy: Option<Child>,
}

impl Installed {
    /// An instance `a` on the stage's first guest, as a record without any line of ours.
    fn new() -> Self {
        let this = Self { stage: Stage::unserved(), root: tempfile::tempdir().unwrap(), proxy: None };
        std::fs::create_dir_all(this.path("state/.vm-a")).unwrap();
        std::fs::create_dir_all(this.path("fc/a")).unwrap();
        let env = "FIRECLAW_STATE_FORMAT=plain-v2\nINSTANCE_ID=a\nHOST_PORT=18891\nVM_IP=172.16.0.2\nVM_TAP=ta2\n\
                   GATEWAY_TOKEN=abc\nMODEL=anthropic/claude-opus-4-6\nRUNTIME=native\nDNS=203.0.113.53\nVMM=qemu\n\
                   SUPERVISOR=embedded\nPROVISIONED=true\n";
        std::fs::write(this.path("state/.vm-a/.env"), env).unwrap();
        this
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    fn cmd(&self, args: &[&str]) -> Cmd {
        Cmd::new(env!("CARGO_BIN_EXE_fireclaw"))
            .args(args)
            .env("STATE_ROOT", self.path("state"))
            .env("FC_ROOT", self.path("fc"))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .deadline(Duration::from_secs(30))
    }

    fn run(&self, args: &[&str]) -> Output {
        self.stage.lab.host.run(|| SystemExec::default().run(self.cmd(args)).unwrap())
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.text()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// Begins as the supervisor does.
    #[expect(clippy::disallowed_methods, reason = "the test ends it by itself")]
    fn serve(&mut self) {
        // Another build than this one, for figures.
        let program =
            std::env::var("FIRECLAW_TEST_PROGRAM").unwrap_or(env!("CARGO_BIN_EXE_fireclaw").to_owned());
        let child = self.stage.lab.host.run(|| {
            Command::new(program)
                .args(["proxy", "a"])
                .env_clear()
                .env("STATE_ROOT", self.path("state"))
                .env("FC_ROOT", self.path("fc"))
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        });
        self.proxy = Some(child);
        assert!(comes(|| self.report().is_some()));
    }

    fn report(&self) -> Option<Report> {
        fireclaw::sidecar::client::report(&self.path("fc/a/sidecar.socket")).ok().flatten()
    }

    fn status_of_proxy(&self, field: &str) -> String {
        let pid = self.proxy.as_ref().unwrap().id();
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(field))
            .unwrap()
            .trim_start_matches(':')
            .trim()
            .to_owned()
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if let Some(mut child) = self.proxy.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_record_of_before_stays_as_it_is_and_changes_live() {
    let mut world = Installed::new();
    assert_eq!(world.json(&["egress", "a", "show", "--json"])["mode"], "public");
    world.stage.install_public();
    world.serve();
    assert_ne!(world.status_of_proxy("Uid"), "0\t0\t0\t0", "it gave up root");
    assert!(say(&world.stage.a, EVIL, 9000, b"as before").contains("ok"));
    assert_eq!(say(&world.stage.a, GATEWAY, PORT_A, b"GET / HTTP/1.1\r\n\r\n"), "", "nothing new is open");

    // A list, live.
    let refused = world.run(&["egress", "a", "allow", "good.example"]);
    assert_eq!(refused.code(), 2, "a public policy is no list");
    let before = world.proxy.as_ref().unwrap().id();
    world.ok(&["egress", "a", "set", "allow", "--allow", "good.example", "--allow", "10.99.0.0/16:9000"]);
    assert_eq!(say(&world.stage.a, EVIL, 9000, b"no longer"), "");
    assert_eq!(ask(&world.stage.a, RESOLVER, "good.example", 1), Some((0, vec![GOOD.into()])));
    assert!(say(&world.stage.a, [10, 99, 0, 1], 9000, b"a range").contains("ok"));
    say(&world.stage.a, GOOD, 443, &hello(Some("www.wild.example"), "refused-name"));
    world.ok(&["egress", "a", "allow", "*.wild.example"]);
    say(&world.stage.a, GOOD, 443, &hello(Some("www.wild.example"), "allowed-name"));
    assert!(comes(|| world.stage.heard.has("allowed-name")) && !world.stage.heard.has("refused-name"));

    // Who was refused is told, by name and by address.
    let log = world.json(&["egress", "a", "log", "--json"]);
    let has = |via: &str, what: &str| {
        log.as_array()
            .unwrap()
            .iter()
            .any(|one| one["via"] == via && one["what"].as_str().unwrap().contains(what))
    };
    assert!(has("tls", "www.wild.example:443"), "{log}");
    say(&world.stage.a, EVIL, 9000, b"once more");
    let log = world.ok(&["egress", "a", "log"]);
    assert!(log.contains("203.0.113.66:9000") && log.contains("by the firewall"), "{log}");

    // A refused change has changed nothing.
    for bad in [
        &["deny", "nobody.example"][..],
        &["allow", "169.254.0.0/16:80"],
        &["set", "open", "--allow", "a.example"],
    ] {
        assert_eq!(world.run(&[&["egress", "a"][..], bad].concat()).code(), 2, "{bad:?}");
    }
    let shown = world.json(&["egress", "a", "show", "--json"]);
    assert_eq!(shown["allow"], serde_json::json!(["good.example", "10.99.0.0/16:9000", "*.wild.example"]));
    world.ok(&["egress", "a", "deny", "*.wild.example"]);
    assert_eq!(ask(&world.stage.a, RESOLVER, "www.wild.example", 1), Some((3, vec![])));
    world.ok(&["egress", "a", "set", "public"]);
    assert!(say(&world.stage.a, EVIL, 9000, b"public again").contains("ok"));
    assert_eq!(world.proxy.as_ref().unwrap().id(), before);
    assert!(world.proxy.as_mut().unwrap().try_wait().unwrap().is_none(), "all with one process");
    let status = world.json(&["status", "a", "--json"]);
    assert_eq!(
        (&status["containment"]["egress"], &status["containment"]["keys"]),
        (&"public".into(), &"guest".into())
    );
}

#[test]
fn keys_change_live_and_lie_in_one_file() {
    let mut world = Installed::new();
    let key = world.path("key");
    std::fs::write(&key, format!("{KEY}\n")).unwrap();
    let file = key.display().to_string();
    assert_eq!(
        world.run(&["keys", "a", "set", "anthropic", "--file", &file]).code(),
        2,
        "its keys are in the guest"
    );
    // What `provision --keys broker` leaves in the record.
    let env = world.path("state/.vm-a/.env");
    let mut text = std::fs::read_to_string(&env).unwrap();
    text.push_str("KEY_MODE=broker\nBROKER_TOKEN=fireclaw-t\n");
    std::fs::write(&env, text).unwrap();
    world.stage.install_public();
    world.serve();
    let request = b"GET /anthropic/v1/models HTTP/1.1\r\nx-api-key: fireclaw-t\r\n\r\n";
    world.ok(&["keys", "a", "set", "openai", "--file", &file]);
    assert!(say(&world.stage.a, GATEWAY, PORT_A, request).contains("no key for anthropic"));
    world.ok(&["keys", "a", "set", "anthropic", "--file", &file]);
    // The name of the provider is nobody's here: the key is there, and the way is not.
    assert!(say(&world.stage.a, GATEWAY, PORT_A, request).contains("502 Bad Gateway"));
    let keys = world.path("state/.vm-a/keys");
    assert_eq!(std::fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o600);
    for file in [".env", "provision.vars", "usage"] {
        let path = world.path("state/.vm-a").join(file);
        assert!(!std::fs::read_to_string(&path).unwrap_or_default().contains(KEY), "{file}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let socket = std::fs::metadata(world.path("fc/a/sidecar.socket")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    assert_eq!(world.run(&["keys", "a", "rotate", "minimax", "--file", &file]).code(), 2);
    world.ok(&["keys", "a", "remove", "anthropic"]);
    assert!(say(&world.stage.a, GATEWAY, PORT_A, request).contains("no key for anthropic"));
    let status = world.ok(&["status", "a", "--json"]);
    assert!(!status.contains(KEY) && !status.contains("fireclaw-t"), "{status}");
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["containment"]["usage"]["anthropic"]["failed"], 1, "{status}");
    assert_eq!(status["containment"]["providers"], serde_json::json!(["openai"]));
}

/// A foreign `nft flush ruleset` under a running instance, and a rule that somebody added: `doctor` names both; a change of the
/// policy puts the rules back too.
#[test]
fn what_was_done_to_the_rules_is_seen_and_put_back() {
    let world = Installed::new();
    let firewall = || {
        let said: Value = serde_json::from_str(&world.run(&["doctor", "--json"]).text()).unwrap();
        let checks = said["checks"].as_array().unwrap().clone();
        let check = checks.into_iter().find(|check| check["name"] == "firewall").unwrap();
        (check["ok"].as_bool().unwrap(), check["detail"].as_str().unwrap().to_owned())
    };
    let nft = |args: &str| world.stage.lab.host.run(|| crate::lab::run(&format!("nft {args}")));
    world.ok(&["egress", "a", "set", "public"]);
    assert_eq!(firewall(), (true, "fireclaw's tables are in force, as the records demand".into()));
    nft("insert rule inet fireclaw from_vm accept");
    let said = firewall();
    assert!(!said.0 && said.1.ends_with("demand: inet chain from_vm"), "{said:?}");
    nft("flush ruleset");
    let said = firewall();
    assert!(!said.0 && said.1.ends_with("gone: inet fireclaw and bridge fireclaw"), "{said:?}");
    world.ok(&["egress", "a", "set", "none"]);
    assert!(firewall().0);
    // Without its VM nothing is missed.
    nft("flush ruleset");
    world.stage.lab.host.run(|| crate::lab::ip("link del ta2"));
    assert!(firewall().0, "{:?}", firewall());
}

/// The real program on a real proxy, as the embedded supervisor would have started it.
#[test]
fn an_audit_sees_the_proxy_as_it_is() {
    let mut world = Installed::new();
    for (path, mode) in [
        ("state", 0o700),
        ("fc", 0o700),
        ("state/.vm-a", 0o700),
        ("fc/a", 0o700),
        ("state/.vm-a/.env", 0o600),
    ] {
        std::fs::set_permissions(world.path(path), PermissionsExt::from_mode(mode)).unwrap();
    }
    world.ok(&["egress", "a", "set", "allow", "--allow", "good.example"]);
    world.serve();
    let output = world.run(&["audit", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.code(), i32::from(report["ok"] == false), "{report}");
    let of_a: Vec<&Value> =
        report["findings"].as_array().unwrap().iter().filter(|it| it["instance"] == "a").collect();
    assert!(of_a.is_empty(), "{of_a:?}");
    // What a person opened is found by the next look.
    std::fs::set_permissions(world.path("state/.vm-a/.env"), PermissionsExt::from_mode(0o644)).unwrap();
    world.stage.lab.host.run(|| crate::lab::run("nft flush ruleset"));
    let output = world.run(&["audit"]);
    assert_eq!(output.code(), 1);
    let said = output.text();
    assert!(
        said.contains(".env has mode 0644 and should have 0600") && said.contains("run without their rules"),
        "{said}"
    );
}

/// Figures of one real sidecar: `cargo nextest run --run-ignored all --no-capture -E 'test(figures)'`.
#[test]
#[ignore = "figures, not a check"]
#[expect(clippy::print_stdout, clippy::disallowed_macros, reason = "they are its result")]
fn figures() {
    let mut world = Installed::new();
    world.stage.install_public();
    world.serve();
    let memory = |world: &Installed| world.status_of_proxy("VmRSS");
    println!("memory, nothing to do: {}", memory(&world));
    let begun = std::time::Instant::now();
    world.ok(&["egress", "a", "set", "allow", "--allow", "good.example", "--allow", "*.wild.example"]);
    println!("a change of policy, whole command: {:?}", begun.elapsed());
    println!("memory, 0 connections: {}", memory(&world));
    let mut open = Vec::new();
    for target in [100, 1000] {
        while open.len() < target {
            let mut stream = crate::client::connect(&world.stage.a, GOOD, 443, PATIENCE).unwrap();
            stream.write_all(&hello(Some("good.example"), &format!("n{}", open.len()))).unwrap();
            open.push(stream);
        }
        assert!(comes(|| world.report().unwrap().connected >= target as u64));
        println!("memory, {target} connections: {}", memory(&world));
    }
    drop(open);
    assert!(comes(|| world.report().unwrap().open == 0));
    println!("memory, after them: {}", memory(&world));
    let get = b"GET /stream-please HTTP/1.1\r\nHost: good.example\r\n\r\n";
    let marked = hello(Some("good.example"), "stream-please");
    for (name, port, bytes) in [("HTTP", 80, get.to_vec()), ("TLS", 443, marked)] {
        let stream = || {
            let mut stream = crate::client::connect(&world.stage.a, GOOD, port, PATIENCE).unwrap();
            stream.write_all(&bytes).unwrap();
            stream
        };
        let first_byte = || {
            let begun = std::time::Instant::now();
            std::io::Read::read_exact(&mut stream(), &mut [0]).unwrap();
            begun.elapsed()
        };
        let median = |mut all: Vec<Duration>| {
            all.sort();
            all[all.len() / 2]
        };
        let by_name = median((0..200).map(|_| first_byte()).collect());
        let speed_by_name = crate::client::speed(stream());
        world.ok(&["egress", "a", "set", "public"]);
        let direct = median((0..200).map(|_| first_byte()).collect());
        let speed = crate::client::speed(stream());
        world.ok(&["egress", "a", "set", "allow"]);
        println!("{name}, connection to first byte: {by_name:?} through the sidecar, {direct:?} by NAT");
        println!("{name}, one stream: {speed_by_name:.0} MB/s through the sidecar, {speed:.0} MB/s by NAT");
    }
}
