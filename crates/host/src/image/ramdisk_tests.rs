//! The script of the initial ramdisk on this machine's kernel: real filesystems on loop devices, in mount and PID namespaces
//! of its own. Needs root, a static busybox and e2fsprogs. What it hands over to is a script that looks around.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::PathBuf,
};

use super::initrd::INIT;
use crate::exec::{Cmd, Exec, SystemExec};

fn run(program: &str, args: &[&str]) -> String {
    SystemExec::default().check(Cmd::new(program).args(args)).unwrap().text()
}

/// A ramdisk's folder, a base and a state disk.
struct Bench {
    dir: tempfile::TempDir,
}

/// What runs in place of the guest's init.
const LOOK: &str = "bb=/bin/busybox\n\
    $bb cut -d' ' -f2,3 /root/proc/mounts\n\
    $bb cat /root/etc/name /root/home/u/file /root/etc/kept /root/home/u/kept 2>/dev/null\n\
    echo kept-in-etc >/root/etc/kept; echo kept-at-home >/root/home/u/kept\n\
    $bb mv /root/etc /root/etc2 && $bb mv /root/etc2 /root/etc && echo renamed\n";

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        for folder in ["bin", "dev", "modules", "proc", "root", "sys"] {
            fs::create_dir_all(bench.at("ramdisk").join(folder)).unwrap();
        }
        let busybox = SystemExec::default().which("busybox").expect("busybox-static is installed");
        fs::copy(busybox, bench.at("ramdisk/bin/busybox")).unwrap();
        fs::write(bench.at("ramdisk/modules/order"), "").unwrap();
        let script = [
            // This machine's kernel was asked for something else, and its init runs already.
            ("/proc/cmdline", "/cmdline"),
            ("exec $bb switch_root /root /sbin/init", "exec $bb sh /look"),
            ("$bb reboot -f", "exit 9"),
            ("/dev/console", "/said"),
            ("/dev/kmsg", "/said"),
        ]
        .iter()
        .fold(INIT.to_owned(), |script, (from, to)| {
            assert!(script.contains(from), "{from}");
            script.replace(from, to)
        });
        fs::write(bench.at("ramdisk/init"), script).unwrap();
        fs::set_permissions(bench.at("ramdisk/init"), PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(bench.at("ramdisk/look"), LOOK).unwrap();
        bench.make_base();
        bench.make_state();
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A base with a home, a file, and the program that mends filesystems with all that it needs.
    fn make_base(&self) {
        let tree = self.at("tree");
        for folder in ["dev", "proc", "sys", "etc", "home/u", "sbin", "var/lib"] {
            fs::create_dir_all(tree.join(folder)).unwrap();
        }
        fs::write(tree.join("etc/name"), "base\n").unwrap();
        fs::write(tree.join("home/u/file"), "of-the-home\n").unwrap();
        let e2fsck = SystemExec::default().which("e2fsck").unwrap();
        let needed = run("ldd", &[e2fsck.to_str().unwrap()]);
        for library in needed.split_whitespace().filter(|word| word.starts_with('/')) {
            let to = tree.join(library.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(library, to).unwrap();
        }
        fs::copy(e2fsck, tree.join("sbin/e2fsck")).unwrap();
        let (tree, base) = (self.at("tree"), self.at("base"));
        run("mke2fs", &["-q", "-t", "ext4", "-d", tree.to_str().unwrap(), base.to_str().unwrap(), "64M"]);
    }

    fn make_state(&self) {
        fs::File::create(self.at("state")).unwrap().set_len(512 << 20).unwrap();
        crate::disk::ext4::make(&SystemExec::default(), &self.at("state"), 512 << 20, "state").unwrap();
    }

    /// One start of the guest on both disks: what it says, and how it ends.
    fn start(&self) -> (String, i32) {
        let (base, state) = (self.attach(&["--read-only"], "base"), self.attach(&[], "state"));
        self.boot(&format!("root={base} ro fireclaw.state={state} quiet"), &[base, state])
    }

    fn attach(&self, flags: &[&str], name: &str) -> String {
        run("losetup", &[flags, &["--find", "--show", self.at(name).to_str().unwrap()]].concat())
    }

    fn boot(&self, cmdline: &str, devices: &[String]) -> (String, i32) {
        let ramdisk = self.at("ramdisk");
        fs::write(ramdisk.join("cmdline"), cmdline).unwrap();
        let inside = ["--mount", "--pid", "--fork", "--kill-child", "chroot"];
        let cmd = Cmd::new("unshare").args(inside).arg(&ramdisk).arg("/init");
        let output = SystemExec::default().run(cmd).unwrap();
        // Their mounts went with the namespace.
        for device in devices {
            run("losetup", &["--detach", device]);
        }
        for folder in ["base", "state"] {
            let _ = fs::remove_dir(ramdisk.join(folder));
        }
        let said = fs::read_to_string(ramdisk.join("said")).unwrap_or_default();
        let complaints = String::from_utf8_lossy(&output.stderr);
        (format!("{}\n{complaints}\n{said}", output.text()), output.code())
    }

    /// The state disk in the eyes of e2fsprogs.
    fn debugfs(&self, command: &str) -> String {
        run("debugfs", &["-w", "-R", command, self.at("state").to_str().unwrap()])
    }
}

fn assert_root(said: &str) {
    for line in [
        "/root overlay",
        "/root/home ext4",
        "/root/var/lib/docker ext4",
        "/root/var/lib/containerd ext4",
        "renamed",
    ] {
        assert!(said.lines().any(|seen| seen == line), "{line} is not in {said}");
    }
    // Nothing of the parts is left to be seen.
    assert!(!said.contains("\n/base ") && !said.contains("\n/state "), "{said}");
    assert!(said.contains("base\nof-the-home\n"), "{said}");
}

#[test]
fn a_root_is_laid_together_and_keeps_what_is_written() {
    let bench = Bench::new();
    let before = fs::read(bench.at("base")).unwrap();
    let (said, code) = bench.start();
    assert_eq!(code, 0, "{said}");
    assert_root(&said);
    assert!(!said.contains("kept-"), "{said}");
    let (said, _) = bench.start();
    assert_root(&said);
    assert!(said.contains("kept-in-etc\nkept-at-home\n"), "{said}");
    assert!(fs::read(bench.at("base")).unwrap() == before, "the base was written to");
    // Homes are no layer.
    assert_eq!(bench.debugfs("cat /plain/home/u/kept"), "kept-at-home");
    assert_eq!(bench.debugfs("cat /upper/etc/kept"), "kept-in-etc");
}

#[test]
fn a_copy_that_a_power_cut_ended_is_begun_again() {
    let bench = Bench::new();
    for folder in ["/plain", "/plain/home.new", "/plain/home.new/half"] {
        bench.debugfs(&format!("mkdir {folder}"));
    }
    let (said, _) = bench.start();
    assert_root(&said);
    let listed = bench.debugfs("ls -p /plain") + &bench.debugfs("ls -p /plain/home");
    assert!(!listed.contains("home.new") && !listed.contains("half"), "{listed}");
}

#[test]
fn a_noted_error_is_mended_before_the_disk_is_used() {
    let bench = Bench::new();
    bench.start();
    for command in
        ["set_inode_field /plain links_count 9", "set_super_value error_count 3", "set_super_value state 2"]
    {
        bench.debugfs(command);
    }
    let (said, code) = bench.start();
    assert_eq!(code, 0, "{said}");
    assert_root(&said);
    assert!(
        said.contains("kept-in-etc") && said.contains("ref count is 9") && said.contains("FIXED"),
        "{said}"
    );
    let header = run("dumpe2fs", &["-h", bench.at("state").to_str().unwrap()]);
    assert!(!header.contains("Error count") && !header.contains("with errors"), "{header}");
}

#[test]
fn a_lost_superblock_is_taken_from_its_copy() {
    let bench = Bench::new();
    bench.start();
    let state = fs::File::options().write(true).open(bench.at("state")).unwrap();
    state.write_all_at(&[0; 1024], 1024).unwrap();
    drop(state);
    let (said, code) = bench.start();
    assert_eq!(code, 0, "{said}");
    assert_root(&said);
    assert!(said.contains("kept-in-etc\nkept-at-home\n"), "{said}");
    let (said, _) = bench.start();
    assert!(said.contains("kept-in-etc") && !said.contains("Bad magic"), "{said}");
}

#[test]
fn a_disk_that_is_no_filesystem_is_never_booted_without() {
    let bench = Bench::new();
    fs::write(bench.at("state"), vec![0; 1 << 20]).unwrap();
    let (said, code) = bench.start();
    assert_eq!(code, 9, "{said}");
    assert!(said.contains("initrd: cannot mount /dev/loop") && !said.contains("overlay"), "{said}");
}

/// A copy of the base, as `--base-rootfs` and images of before have it.
#[test]
fn one_disk_is_the_whole_root_where_no_state_disk_is_named() {
    let bench = Bench::new();
    for kept in [false, true] {
        let disk = bench.attach(&[], "base");
        let (said, code) = bench.boot(&format!("root={disk} rw quiet"), &[disk]);
        assert_eq!(code, 0, "{said}");
        assert!(
            said.contains("/root ext4") && !said.contains("overlay") && said.contains("renamed"),
            "{said}"
        );
        assert_eq!(said.contains("kept-in-etc\nkept-at-home\n"), kept, "{said}");
    }
}
