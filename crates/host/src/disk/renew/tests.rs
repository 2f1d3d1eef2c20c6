//! Real filesystems with a guest's files in them, made and looked at by e2fsprogs. Needs root, `e2fsprogs` and `xfsprogs`.

use std::{
    os::unix::fs::{FileExt, MetadataExt, symlink},
    path::PathBuf,
    sync::Arc,
};

use fireclaw_core::{render::cloud_init::GuestHostKey, secret::Secret, spec::DiskKind};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::*;
use crate::{
    disk::{BaseCopy, DiskOrigin, Disks, SystemDisks, WrittenCopy, space},
    exec::SystemExec,
    interrupt::Interrupt,
};

/// What must be nowhere on the renewed disk.
const OLD: [&str; 5] = ["0ldmachine1d", "0ldgatewaytoken", "0ldhostkey", "0ldbrokertoken", "0ldinline"];
const UID: u32 = 61_234;

fn disks() -> SystemDisks {
    SystemDisks::new(Arc::new(SystemExec::default()), Interrupt::default())
}

fn tool(program: &str, args: &[&str]) -> String {
    let output = SystemExec::default().check(Cmd::new(program).args(args)).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

struct Guest {
    dir: TempDir,
    kind: DiskKind,
}

impl Guest {
    /// A disk as a guest leaves it that was provisioned by us.
    fn new(kind: DiskKind) -> Self {
        Self::with(kind, |_| {})
    }

    fn with(kind: DiskKind, more: impl FnOnce(&Self)) -> Self {
        let guest = Self { dir: tempfile::tempdir().unwrap(), kind };
        guest.put("/etc/machine-id", "0ldmachine1d\n");
        guest.put("/etc/hostname", "old\n");
        guest.put("/etc/ssh/ssh_host_ed25519_key", "0ldhostkey\n");
        guest.put("/etc/ssh/ssh_host_ed25519_key.pub", "ssh-ed25519 OLD\n");
        guest.put("/etc/ssh/ssh_host_rsa_key", "0ldhostkey\n");
        guest.put("/var/lib/systemd/random-seed", "seed");
        guest.put("/var/lib/fireclaw/openclaw-old.json", "{\"/gateway/mode\": \"local\"}\n");
        guest.put(
            "/etc/fireclaw/openclaw-old.env",
            "OPENCLAW_GATEWAY_TOKEN=\"0ldgatewaytoken\"\nX=0ldbrokertoken\n",
        );
        guest.put("/etc/systemd/system/openclaw-old.service", "[Service]\n");
        guest.put("/etc/systemd/system/openclaw-old.service.d/override.conf", "[Service]\nNice=5\n");
        let wants = guest.at("/etc/systemd/system/multi-user.target.wants");
        std::fs::create_dir_all(&wants).unwrap();
        symlink("/etc/systemd/system/openclaw-old.service", wants.join("openclaw-old.service")).unwrap();
        guest.users(".openclaw/.env", "OPENCLAW_GATEWAY_TOKEN=0ldgatewaytoken\nMINE=1\n");
        guest.users(".openclaw/openclaw.json", "{gateway: {auth: {token: '0ldinline'}}, mine: 1}\n");
        guest.users(".openclaw/openclaw.json.bak", "0ldinline");
        guest.users(".openclaw/workspace/diary.md", "what the agent has learnt\n");
        more(&guest);
        let (tree, disk) = (guest.dir.path().join("tree"), guest.disk());
        tool("mke2fs", &["-q", "-t", "ext4", "-d", name(&tree), name(&disk), "64M"]);
        std::fs::remove_dir_all(tree).unwrap();
        guest
    }

    fn inside(&self, path: &str) -> String {
        match (self.kind, path.starts_with("/home/")) {
            (DiskKind::Copy, _) => path.to_owned(),
            (DiskKind::Shared, true) => format!("/plain{path}"),
            (DiskKind::Shared, false) => format!("/upper{path}"),
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("tree").join(&self.inside(path)[1..])
    }

    fn put(&self, path: &str, text: &str) {
        std::fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        std::fs::write(self.at(path), text).unwrap();
    }

    /// A file of the user's.
    fn users(&self, path: &str, text: &str) {
        let path = format!("/home/ubuntu/{path}");
        self.put(&path, text);
        std::fs::set_permissions(self.at(&path), Permissions::from_mode(0o600)).unwrap();
        chown(self.at(&path), Some(1000), Some(1000)).unwrap();
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("state.ext4")
    }

    fn renew(&self) -> Result<BTreeSet<String>> {
        self.renew_as(&renewal(self.kind))
    }

    fn renew_as(&self, renewal: &Renewal) -> Result<BTreeSet<String>> {
        disks().renew(&self.disk(), renewal, UID)
    }

    fn read(&self, path: &str) -> String {
        tool("debugfs", &["-R", &format!("cat {}", self.inside(path)), name(&self.disk())])
    }

    fn stat(&self, path: &str) -> String {
        tool("debugfs", &["-R", &format!("stat {}", self.inside(path)), name(&self.disk())])
    }

    fn left(&self) -> Vec<String> {
        fs::names(self.dir.path()).unwrap()
    }
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn renewal(disks: DiskKind) -> Renewal {
    Renewal {
        from: "old".parse().unwrap(),
        to: "new_1".parse().unwrap(),
        disks,
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        host_key: GuestHostKey { private: Secret::new("NEW KEY\n"), public: "ssh-ed25519 NEW".into() },
        token: Secret::new("c0ffee"),
        old_login: None,
        without_channels: false,
    }
}

#[test]
fn another_guest_comes_out_and_nothing_of_the_old_is_left_on_the_disk() {
    for kind in [DiskKind::Shared, DiskKind::Copy] {
        let guest = Guest::new(kind);
        let before = space::allocated_bytes(&guest.disk()).unwrap();
        assert!(guest.renew().unwrap().is_empty());
        // Whole, and root's alone.
        tool("e2fsck", &["-f", "-n", name(&guest.disk())]);
        let facts = std::fs::metadata(guest.disk()).unwrap();
        assert_eq!((facts.uid(), facts.gid(), facts.len()), (0, 0, 64 << 20));
        assert!(space::allocated_bytes(&guest.disk()).unwrap() <= before);
        assert_eq!(guest.left(), ["state.ext4"]);
        // Who it is.
        assert_eq!(guest.read("/etc/machine-id"), "0123456789abcdef0123456789abcdef\n");
        assert_eq!(guest.read("/etc/hostname"), "new-1\n");
        assert_eq!(guest.read("/etc/ssh/ssh_host_ed25519_key"), "NEW KEY\n");
        assert_eq!(guest.read("/home/ubuntu/.openclaw/.env"), "MINE=1\nOPENCLAW_GATEWAY_TOKEN=c0ffee\n");
        let config: serde_json::Value =
            serde_json::from_str(&guest.read("/home/ubuntu/.openclaw/openclaw.json")).unwrap();
        assert_eq!(config, serde_json::json!({"gateway": {"auth": {}}, "mine": 1}));
        for (path, owner, mode) in [
            ("/etc/machine-id", 0, "0444"),
            ("/etc/ssh/ssh_host_ed25519_key", 0, "0600"),
            ("/home/ubuntu/.openclaw/openclaw.json", 1000, "0600"),
        ] {
            let facts = Facts::parse(&guest.stat(path)).unwrap();
            let mode = u32::from_str_radix(mode, 8).unwrap();
            assert_eq!(facts.owner, Owner { uid: owner, gid: owner, mode }, "{path}");
        }
        // What goes, what gets the new name, and what nobody touches.
        for path in [
            "/etc/systemd/system/openclaw-old.service",
            "/etc/systemd/system/multi-user.target.wants/openclaw-old.service",
            "/etc/fireclaw/openclaw-old.env",
            "/etc/ssh/ssh_host_rsa_key",
            "/var/lib/systemd/random-seed",
            "/var/lib/fireclaw/openclaw-old.json",
            "/home/ubuntu/.openclaw/openclaw.json.bak",
        ] {
            assert_eq!(guest.stat(path), "", "{path}");
        }
        assert_eq!(guest.read("/var/lib/fireclaw/openclaw-new_1.json"), "{\"/gateway/mode\": \"local\"}\n");
        assert!(guest.read("/etc/systemd/system/openclaw-new_1.service.d/override.conf").contains("Nice=5"));
        assert_eq!(guest.read("/home/ubuntu/.openclaw/workspace/diary.md"), "what the agent has learnt\n");
        // Not in free blocks either.
        let bytes = std::fs::read(guest.disk()).unwrap();
        for old in OLD {
            let found = bytes.windows(old.len()).position(|window| window == old.as_bytes());
            assert_eq!(found, None, "{old} is still on the disk ({kind:?})");
        }
    }
}

#[test]
fn what_a_power_cut_left_in_the_journal_is_not_lost() {
    let guest = Guest::new(DiskKind::Shared);
    // The journal has a transaction that is not in place yet.
    let block = guest.dir.path().join("block");
    std::fs::write(&block, vec![b'j'; 4096]).unwrap();
    tool("debugfs", &["-w", "-R", "write /dev/null /upper/target", name(&guest.disk())]);
    let commands = guest.dir.path().join("commands");
    std::fs::write(&commands, format!("jo\njw -b 15000 {}\njc\n", block.display())).unwrap();
    tool("debugfs", &["-w", "-f", name(&commands), name(&guest.disk())]);
    assert!(crate::disk::ext4::inspect(&guest.disk()).unwrap().needs_recovery, "the test has no journal");
    guest.renew().unwrap();
    assert!(!crate::disk::ext4::inspect(&guest.disk()).unwrap().needs_recovery);
    tool("e2fsck", &["-f", "-n", name(&guest.disk())]);
    assert_eq!(guest.read("/etc/hostname"), "new-1\n");
}

#[test]
fn channels_are_refused_or_left_behind() {
    let channels = |guest: &Guest| {
        guest.users(
            ".openclaw/openclaw.json",
            "{channels: {telegram: {enabled: true, botToken: '1:0ldinline'}}}",
        );
    };
    let guest = Guest::with(DiskKind::Shared, channels);
    let error = guest.renew().unwrap_err();
    assert!(error.one_line().contains("telegram"), "{}", error.one_line());
    assert!(guest.left().is_empty(), "{:?}", guest.left());
    let guest = Guest::with(DiskKind::Shared, channels);
    let lost = guest.renew_as(&Renewal { without_channels: true, ..renewal(DiskKind::Shared) }).unwrap();
    assert_eq!(lost.into_iter().collect::<Vec<_>>(), ["telegram"]);
    assert!(!guest.read("/home/ubuntu/.openclaw/openclaw.json").contains("1:"));
}

/// What a guest did, and how.
type Malice<'a> = (&'a str, &'a dyn Fn(&Guest));

/// Whatever a guest made of its own disk is an error with its reason, or harmless; it never touches the host's files.
#[test]
fn a_guest_in_bad_faith_gets_an_error() {
    let config = "/home/ubuntu/.openclaw/openclaw.json";
    let cases: [Malice<'_>; 7] = [
        ("a link to a file of the host", &|guest| {
            std::fs::remove_file(guest.at(config)).unwrap();
            symlink("/etc/passwd", guest.at(config)).unwrap();
        }),
        ("a folder", &|guest| {
            std::fs::remove_file(guest.at(config)).unwrap();
            std::fs::create_dir(guest.at(config)).unwrap();
        }),
        ("without end", &|guest| {
            File::create(guest.at(config)).unwrap().set_len(1 << 40).unwrap();
        }),
        ("no text", &|guest| std::fs::write(guest.at(config), b"\xff\xfe").unwrap()),
        ("no JSON", &|guest| std::fs::write(guest.at(config), "{").unwrap()),
        ("a folder where a key goes", &|guest| {
            std::fs::remove_file(guest.at("/etc/machine-id")).unwrap();
            std::fs::create_dir(guest.at("/etc/machine-id")).unwrap();
        }),
        ("a folder of the user's elsewhere", &|guest| {
            let state = guest.at("/home/ubuntu/.openclaw");
            std::fs::remove_dir_all(&state).unwrap();
            symlink("/etc", state).unwrap();
        }),
    ];
    for (what, make) in cases {
        let passwd = std::fs::read("/etc/passwd").unwrap();
        let guest = Guest::with(DiskKind::Copy, make);
        let error = guest.renew().expect_err(what);
        assert!(!error.one_line().contains("root:"), "{what}: {}", error.one_line());
        assert!(guest.left().is_empty(), "{what}: {:?}", guest.left());
        assert_eq!(std::fs::read("/etc/passwd").unwrap(), passwd);
    }
}

#[test]
fn odd_names_beside_the_configuration_are_left_alone() {
    let guest = Guest::with(DiskKind::Copy, |guest| {
        for name in ["openclaw.json.a b", "openclaw.json.\"x", "openclaw.json.\nrm x", "openclaw.json.1"] {
            guest.users(&format!(".openclaw/{name}"), "x");
        }
    });
    guest.renew().unwrap();
    let listed = tool("debugfs", &["-R", "ls -p /home/ubuntu/.openclaw", name(&guest.disk())]);
    assert!(listed.contains("openclaw.json.a b") && !listed.contains("openclaw.json.1"), "{listed}");
}

#[test]
fn what_is_no_filesystem_any_more_is_an_error_and_leaves_nothing() {
    let guest = Guest::new(DiskKind::Copy);
    tool("debugfs", &["-w", "-R", "clri <2>", name(&guest.disk())]);
    let error = guest.renew().unwrap_err();
    assert!(error.one_line().contains("e2fsck ended with 4"), "{}", error.one_line());
    assert!(guest.left().is_empty());
}

/// The programs run as the VM's user, and the disk is its while they do.
#[test]
fn nothing_that_reads_the_disk_is_root() {
    let guest = Guest::new(DiskKind::Copy);
    let bench =
        Bench::open(&SystemExec::default(), &guest.disk(), UID).unwrap().run("stat", &["-L", "-c", "%u"]);
    assert_eq!(bench.unwrap().text(), UID.to_string());
    let guest = Guest::new(DiskKind::Copy);
    let exec = SystemExec::default();
    let bench = Bench::open(&exec, &guest.disk(), UID).unwrap();
    // The way in is the standard input alone: the folder's path is closed to that user.
    std::fs::set_permissions(guest.dir.path(), Permissions::from_mode(0o700)).unwrap();
    let lines = ["-a", "-h", "-e", "^Uid:", "-e", "^CapEff:", "/proc/self/status"];
    let said = bench.run("grep", &[&lines[..], &["/etc/shadow", name(&bench.disk())]].concat()).unwrap();
    let status = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(status.contains(&format!("Uid:\t{UID}\t{UID}\t{UID}\t{UID}")), "not that user");
    assert!(status.contains("CapEff:\t0000000000000000"), "it has capabilities");
    let refused = String::from_utf8_lossy(&said.stderr).matches("Permission denied").count();
    assert_eq!(refused, 2, "{}", said.last_words());
}

struct Copies {
    dir: TempDir,
}

impl Copies {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folders of two instances; the first has a state disk of 1 GiB with little in it, and a base.
    fn new(below: &str) -> Self {
        Self { dir: tempfile::tempdir().unwrap() }.filled(below)
    }

    fn filled(self, below: &str) -> Self {
        for folder in ["one", "two"] {
            std::fs::create_dir_all(self.at(below).join(folder)).unwrap();
        }
        let source = File::create(self.at(below).join("one/state.ext4")).unwrap();
        source.set_len(1 << 30).unwrap();
        for at in [0, 100 << 20, (1 << 30) - 4096] {
            source.write_all_at(&[7; 4096], at).unwrap();
        }
        source.sync_all().unwrap();
        std::fs::write(self.at(below).join("one/base.ext4"), "the base").unwrap();
        self
    }

    fn copy(&self, below: &str) -> WrittenCopy {
        let at = |name: &str| self.at(below).join(name);
        WrittenCopy {
            source: at("one/state.ext4"),
            target: at("two/state.ext4"),
            base: Some(BaseCopy {
                base: at("one/base.ext4"),
                link: at("two/base.ext4"),
                pin: at("pins/two.ext4"),
            }),
        }
    }
}

#[test]
fn a_copy_takes_no_more_room_than_its_source_and_shares_the_base() {
    let copies = Copies::new("");
    let copy = copies.copy("");
    let origin = disks().copy_written(&copy).unwrap();
    let (from, to) = (&copy.source, &copy.target);
    if let DiskOrigin::SparseCopy { bytes } = origin {
        assert!(bytes <= 3 * 4096, "{bytes} bytes were copied");
        let took = |path| space::allocated_bytes(path).unwrap();
        assert!(took(to) <= took(from), "{} became {}", took(from), took(to));
    }
    let facts = std::fs::metadata(to).unwrap();
    assert_eq!((facts.len(), facts.mode() & 0o777, facts.uid()), (1 << 30, 0o600, 0));
    tool("cmp", &[name(from), name(to)]);
    let inode = |name: &str| std::fs::metadata(copies.at(name)).unwrap().ino();
    assert_eq!(inode("one/base.ext4"), inode("two/base.ext4"));
    assert_eq!(disks().copy_written(&copy).unwrap(), DiskOrigin::Present);
}

#[test]
fn a_copy_without_room_leaves_nothing() {
    let copies = Copies::new("");
    let copy = copies.copy("");
    let full = SystemDisks { free: |_| Ok(1 << 20), ..disks() };
    let error = full.copy_written(&copy).unwrap_err();
    assert_eq!(error.get_kind(), Kind::HostNotReady);
    assert!(fs::names(&copies.at("two")).unwrap().is_empty());
}

#[test]
fn on_xfs_a_copy_shares_its_blocks() {
    let copies = Copies { dir: tempfile::tempdir().unwrap() };
    // A mount namespace of this test's own.
    unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    std::fs::create_dir(copies.at("xfs")).unwrap();
    File::create(copies.at("xfs.img")).unwrap().set_len(320 << 20).unwrap();
    tool("mkfs.xfs", &["-q", "-m", "reflink=1", name(&copies.at("xfs.img"))]);
    tool("mount", &["-o", "loop", name(&copies.at("xfs.img")), name(&copies.at("xfs"))]);
    let copies = copies.filled("xfs");
    let copy = copies.copy("xfs");
    assert_eq!(disks().copy_written(&copy).unwrap(), DiskOrigin::Reflink);
    let extents = tool("filefrag", &["-v", name(&copy.target)]);
    assert!(extents.contains("shared"), "{extents}");
}

proptest::proptest! {
    /// Whatever debugfs says of an inode or a folder is read without a panic, and no name comes out that it could misread.
    #[test]
    fn what_debugfs_says_is_only_data(said in "[ -~\n]{0,300}", line in "(/[0-9a-z. \"\\\\-]{0,12}){0,8}/?") {
        let _ = Facts::parse(&said);
        if let Some(name) = listed(&line) {
            let path = format!("/x/{name}");
            proptest::prop_assert!(check_path(&path).is_ok() || name == "..", "{}", path);
        }
    }
}
