//! A real sshd on loopback. Needs root and `openssh-server`.

use std::{
    fs::File,
    net::TcpListener,
    path::PathBuf,
    process::Child,
    sync::Arc,
    time::{Duration, Instant},
};

use fireclaw_core::error::Kind;
use nix::{sys::signal::Signal, unistd::Pid};
use tempfile::TempDir;

use super::*;
use crate::{
    exec::{Cmd, Exec, SystemExec, handover},
    fs,
    interrupt::Interrupt,
    keys,
    wait::{Requirement, until},
};

/// An sshd in the foreground, with a `/run` of its own for the folder that it insists on.
struct Sshd {
    dir: TempDir,
    port: u16,
    child: Child,
}

const MINUTE: Duration = Duration::from_mins(1);

impl Sshd {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let host = keys::generate_host_key(&keys::SystemEntropy, "host").unwrap();
        fs::write(&path("host"), host.private.expose().as_bytes(), 0o600).unwrap();
        let user = keys::ensure_user_key(&path("user"), &keys::SystemEntropy).unwrap();
        fs::write(&path("authorized"), user.public.as_bytes(), 0o600).unwrap();
        // There may be no sudo here, and the user is root anyway.
        std::fs::create_dir(path("bin")).unwrap();
        fs::write(&path("bin/sudo"), b"#!/bin/sh\n[ \"$1\" = -n ] && shift && exec \"$@\"\n", 0o755).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        fs::write(
            &path("known_hosts"),
            keys::known_hosts_line("127.0.0.1", port, &host.public).as_bytes(),
            0o600,
        )
        .unwrap();
        let root = dir.path().display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nAuthorizedKeysFile {root}/authorized\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n\
             SetEnv PATH={root}/bin:/usr/bin:/bin\n"
        );
        fs::write(&path("config"), config.as_bytes(), 0o600).unwrap();
        let script = "mount -t tmpfs none /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f \"$0\"";
        let cmd = Cmd::new("unshare").args(["-m", "sh", "-c", script]).arg(path("config"));
        let log = File::create(path("log")).unwrap();
        let child = handover::spawn(&cmd, Some(&log)).unwrap();
        let this = Self { dir, port, child };
        let requirement = Requirement {
            description: "sshd (package openssh-server)".into(),
            deadline: Duration::from_secs(20),
            hint: String::new(),
        };
        until(&requirement, &Interrupt::default(), || match banner::answers(this.guest().address()) {
            Ok(()) => Probed::Ready(()),
            Err(why) => Probed::NotYet(why + &std::fs::read_to_string(this.path("log")).unwrap()),
        })
        .unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn guest(&self) -> Guest {
        Guest {
            ip: [127, 0, 0, 1].into(),
            port: self.port,
            user: "root".into(),
            key: self.path("user"),
            known_hosts: self.path("known_hosts"),
            control: self.path("ssh/control"),
        }
    }

    /// Processes of ours that name this sshd's folder: the client's, masters first of all.
    fn clients(&self) -> Vec<String> {
        let mut found = Vec::new();
        for pid in fs::names(Path::new("/proc")).unwrap() {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.starts_with("ssh")
                && !line.starts_with("sshd")
                && line.contains(self.dir.path().to_str().unwrap())
            {
                found.push(line);
            }
        }
        found
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn shell() -> SystemShell {
    SystemShell::new(Arc::new(SystemExec::default()))
}

fn run(shell: &SystemShell, guest: &Guest, words: &[&str], stdin: &[u8]) -> Output {
    shell.run(guest, words, Stdin::Bytes(stdin.to_vec()), MINUTE, &mut |_, _| {}).unwrap()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn one_connection_serves_all_and_ends_when_it_is_closed() {
    let sshd = Sshd::start();
    let (guest, shell) = (sshd.guest(), shell());
    assert!(matches!(shell.login(&guest).unwrap(), LoginState::In));
    let begun = Instant::now();
    let mut lines = Vec::new();
    let output = shell
        .run(&guest, &["cat"], Stdin::Bytes(b"one\ntwo".to_vec()), MINUTE, &mut |_, line| {
            lines.push(line.to_owned());
        })
        .unwrap();
    assert_eq!((output.stdout.as_slice(), lines), (b"one\ntwo".as_slice(), words(&["one", "two"])));
    assert!(begun.elapsed() < Duration::from_secs(5), "something holds the pipe: {:?}", begun.elapsed());
    assert_eq!(run(&shell, &guest, &["false"], b"").code(), 1);
    let log = std::fs::read_to_string(sshd.path("log")).unwrap();
    assert_eq!(log.matches("Accepted publickey").count(), 1, "{log}");
    assert_eq!(sshd.clients().len(), 1, "{:?}", sshd.clients());
    shell.close(&guest).unwrap();
    assert_eq!(sshd.clients(), Vec::<String>::new());
    assert!(!guest.control.exists());
    shell.close(&guest).unwrap();
    assert_eq!(run(&shell, &guest, &["echo", "again"], b"").text(), "again");
    drop(shell);
    assert_eq!(sshd.clients(), Vec::<String>::new());
}

#[test]
fn an_interrupted_command_leaves_no_process() {
    let sshd = Sshd::start();
    let guest = sshd.guest();
    let interrupt = Interrupt::default();
    let shell = SystemShell::new(Arc::new(SystemExec::new(interrupt.clone())));
    let mut ask = |_: Stream, line: &str| {
        if line == "begun" {
            interrupt.ask();
        }
    };
    let script = b"echo begun\nsleep 60\n".to_vec();
    let error = shell.run(&guest, &["sh"], Stdin::Bytes(script), MINUTE, &mut ask).unwrap_err();
    assert_eq!(error.get_kind(), Kind::Interrupted);
    assert_eq!(sshd.clients().len(), 1, "{:?}", sshd.clients());
    drop(shell);
    assert_eq!(sshd.clients(), Vec::<String>::new());
}

#[test]
fn a_master_that_was_killed_is_replaced() {
    let sshd = Sshd::start();
    let (guest, shell) = (sshd.guest(), shell());
    run(&shell, &guest, &["true"], b"");
    let said = SystemExec::default()
        .run(Cmd::new("ssh").arg("-S").arg(&guest.control).args(["-O", "check", "127.0.0.1"]))
        .unwrap()
        .last_words();
    let pid: i32 = said.split_once("pid=").unwrap().1.split_once(')').unwrap().0.parse().unwrap();
    nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert_eq!(run(&shell, &guest, &["echo", "again"], b"").text(), "again");
}

#[test]
fn a_connection_of_an_invocation_that_was_killed_is_closed_by_the_next() {
    let sshd = Sshd::start();
    let of = |process: u32| Guest { control: sshd.path(&format!("ssh/bot.{process}")), ..sshd.guest() };
    // No process has this number: it is above what the kernel gives out.
    let (killed, living) = (of(0x7fff_0000), of(1));
    let (left, other) = (shell(), shell());
    run(&left, &killed, &["true"], b"");
    run(&other, &living, &["true"], b"");
    std::mem::forget(left);
    std::fs::write(sshd.path("ssh/bot.2147418112.Abc"), b"").unwrap();
    assert_eq!(sshd.clients().len(), 2, "{:?}", sshd.clients());
    let next = shell();
    let guest = of(std::process::id());
    run(&next, &guest, &["true"], b"");
    next.close(&guest).unwrap();
    // The other one belongs to a process that lives.
    assert_eq!(sshd.clients().len(), 1, "{:?}", sshd.clients());
    let names = fs::names(&sshd.path("ssh")).unwrap();
    assert!(names.iter().all(|name| !name.starts_with("bot.2147418112")), "{names:?}");
    other.close(&living).unwrap();
}

#[test]
fn exit_codes_and_bytes_come_through_unchanged() {
    let sshd = Sshd::start();
    let (guest, shell) = (sshd.guest(), shell());
    for code in [0, 3, 255] {
        assert_eq!(shell.attach(&guest, &words(&["exit", &code.to_string()]), Some(false)).unwrap(), code);
        assert_eq!(run(&shell, &guest, &["sh"], format!("exit {code}\n").as_bytes()).code(), i32::from(code));
    }
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let cmd = SystemShell::attached(&guest, &words(&["tee /dev/stderr; exit", "7"]), Some(false)).unwrap();
    let output = SystemExec::default().run(cmd.stdin_bytes(bytes.clone())).unwrap();
    assert!(output.stdout == bytes && output.stderr == bytes);
    assert_eq!(output.code(), 7);
    // What looks like an option is the command's, not the client's.
    let cmd = SystemShell::attached(&guest, &words(&["-V"]), Some(false)).unwrap();
    let said = SystemExec::default().run(cmd).unwrap().last_words();
    assert!(!said.contains("OpenSSH"), "{said}");
}

#[test]
fn a_terminal_is_given_when_it_is_asked_for() {
    let sshd = Sshd::start();
    let (guest, shell) = (sshd.guest(), shell());
    let is_terminal = words(&["test", "-t", "0"]);
    assert_eq!(shell.attach(&guest, &is_terminal, Some(true)).unwrap(), 0);
    assert_eq!(shell.attach(&guest, &is_terminal, Some(false)).unwrap(), 1);
}

#[test]
fn a_connection_that_breaks_is_no_exit_code() {
    let sshd = Sshd::start();
    let (guest, shell) = (sshd.guest(), shell());
    // The parent of the guest's shell is the sshd that serves this connection; the shell of a single command becomes it.
    let error = shell.attach(&guest, &words(&["kill -9 $PPID; sleep 60"]), Some(false)).unwrap_err();
    assert!(error.one_line().contains("keep the connection"), "{}", error.one_line());
    let script = Stdin::Bytes(b"kill -9 $PPID\nsleep 60\n".to_vec());
    let error = shell.run(&guest, &["sh"], script, MINUTE, &mut |_, _| {}).unwrap_err();
    assert!(error.one_line().contains("run `sh` in the guest at 127.0.0.1"), "{}", error.one_line());
}

#[test]
fn another_host_key_is_never_taken() {
    let sshd = Sshd::start();
    let other = keys::generate_host_key(&keys::SystemEntropy, "other").unwrap();
    let line = keys::known_hosts_line("127.0.0.1", sshd.port, &other.public);
    let guest = sshd.guest();
    std::fs::write(&guest.known_hosts, &line).unwrap();
    let shell = shell();
    let LoginState::OtherHostKey(error) = shell.login(&guest).unwrap() else { panic!("taken") };
    assert!(error.get_hint().unwrap().contains(guest.known_hosts.to_str().unwrap()));
    let error = shell.run(&guest, &["true"], Stdin::Null, MINUTE, &mut |_, _| {}).unwrap_err();
    assert!(error.one_line().contains("another host key"), "{}", error.one_line());
    assert!(shell.attach(&guest, &[], Some(false)).is_err());
    assert_eq!(std::fs::read_to_string(&guest.known_hosts).unwrap(), line);
    assert_eq!(sshd.clients(), Vec::<String>::new());
}

#[test]
fn the_first_login_that_succeeds_pins_the_host_key() {
    let sshd = Sshd::start();
    let guest = sshd.guest();
    let expected = std::fs::read_to_string(&guest.known_hosts).unwrap();
    std::fs::remove_file(&guest.known_hosts).unwrap();
    let stranger = Guest { key: sshd.path("stranger"), ..guest.clone() };
    keys::ensure_user_key(&stranger.key, &keys::SystemEntropy).unwrap();
    let shell = shell();
    let LoginState::Denied(error) = shell.login(&stranger).unwrap() else { panic!("let in") };
    assert!(error.one_line().contains("does not let root in"), "{}", error.one_line());
    assert!(!guest.known_hosts.exists(), "pinned by a login that failed");
    assert_eq!(run(&shell, &guest, &["echo", "in"], b"").text(), "in");
    assert_eq!(std::fs::read_to_string(&guest.known_hosts).unwrap(), expected);
    assert!(!sshd.path("known_hosts.new").exists());
}

#[test]
fn a_guest_that_is_not_there_is_not_yet_there() {
    let sshd = Sshd::start();
    let guest = sshd.guest();
    drop(sshd);
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let guest = Guest { key: key.clone(), control: dir.path().join("control"), ..guest };
    let shell = shell();
    let error = shell.login(&guest).unwrap_err();
    assert!(error.one_line().contains("there is no key"), "{}", error.one_line());
    std::fs::write(&key, "").unwrap();
    let LoginState::NotYet(why) = shell.login(&guest).unwrap() else { panic!("in") };
    assert!(why.contains("refuses connections"), "{why}");
    let error = shell.attach(&guest, &[], None).unwrap_err();
    assert!(error.get_hint().unwrap().contains("fireclaw status"), "{}", error.one_line());
}

#[test]
fn a_program_arrives_whole_and_executable() {
    let sshd = Sshd::start();
    let (guest, shell) = (sshd.guest(), shell());
    let source = sshd.path("program");
    let bytes: Vec<u8> =
        (0..24_u32 << 20).map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    std::fs::write(&source, &bytes).unwrap();
    let target = sshd.path("deep/down/program");
    for _ in 0..2 {
        shell.push(&guest, &source, target.to_str().unwrap()).unwrap();
    }
    let sums = SystemExec::default().check(Cmd::new("sha256sum").arg(&source).arg(&target)).unwrap().text();
    let sums: Vec<&str> = sums.lines().map(|line| line.split_once(' ').unwrap().0).collect();
    assert_eq!(sums[0], sums[1]);
    assert_eq!(fs::names(target.parent().unwrap()).unwrap(), ["program"]);
    let facts = SystemExec::default().check(Cmd::new("stat").args(["-c", "%a"]).arg(&target)).unwrap();
    assert_eq!(facts.text(), "755");
    std::fs::write(sshd.path("file"), "").unwrap();
    let error = shell.push(&guest, &source, sshd.path("file/program").to_str().unwrap()).unwrap_err();
    assert!(error.one_line().contains("exit code 1"), "{}", error.one_line());
}

#[test]
fn words_and_paths_that_would_be_read_otherwise_are_refused() {
    for bad in
        [&[][..], &[""], &["a b"], &["$(reboot)"], &["a;b"], &["a'b"], &["~"], &["*"], &["ä"], &["a\nb"]]
    {
        assert!(check_words(bad).is_err(), "{bad:?}");
    }
    check_words(&["journalctl", "-n", "5", "--unit=openclaw-a_b.service", "/usr/local/bin/x"]).unwrap();
    for bad in ["relative", "/with blank", "/per%cent", "/dollar$HOME", "/quo\"te", "/quo'te", "/new\nline"] {
        let guest = Guest { key: bad.into(), ..fake::FakeShell::guest() };
        let error = SystemShell::attached(&guest, &[], None).unwrap_err();
        assert_eq!(error.get_kind(), Kind::Refused, "{bad}");
    }
}
