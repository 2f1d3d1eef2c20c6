//! State disks over bases that are kept: real files and filesystems, looked at by e2fsprogs. Needs root and `e2fsprogs`.

use std::os::unix::fs::{FileExt, PermissionsExt};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use proptest::prelude::*;

use super::*;
use crate::exec::{Cmd, SystemExec, fake::FakeExec};

fn disks() -> SystemDisks {
    SystemDisks::new(Arc::new(SystemExec::default()), Interrupt::default())
}

fn run(program: &str, args: &[&str]) -> String {
    SystemExec::default().check(Cmd::new(program).args(args)).unwrap().text()
}

/// An image's folder and an instance's, and what is asked for.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        for folder in ["images", "instance"] {
            std::fs::create_dir(bench.at(folder)).unwrap();
        }
        std::fs::write(bench.at("images/rootfs.ext4"), "the base").unwrap();
        std::fs::set_permissions(bench.at("images/rootfs.ext4"), PermissionsExt::from_mode(0o644)).unwrap();
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn disk(&self, size: &str) -> RootDisk {
        RootDisk::Layered {
            base: self.at("images/rootfs.ext4"),
            link: self.at("instance/base.ext4"),
            pin: self.at("images/.pins/my-bot.ext4"),
            target: self.at("instance/state.ext4"),
            size: size.parse().unwrap(),
        }
    }

    /// A filesystem of its own in a folder, for this test only.
    fn other_filesystem(&self, folder: &str, size: &str) {
        unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let options = format!("size={size}");
        mount(Some("none"), &self.at(folder), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .unwrap();
    }

    /// The image is rebuilt: other files under the same names.
    fn rebuild(&self) {
        std::fs::remove_file(self.at("images/rootfs.ext4")).unwrap();
        std::fs::write(self.at("images/rootfs.ext4"), "the next base").unwrap();
    }

    fn left(&self, folder: &str) -> Vec<String> {
        fs::names(&self.at(folder)).unwrap()
    }
}

fn field(path: &Path, key: &str) -> u64 {
    let header = run("dumpe2fs", &["-h", path.to_str().unwrap()]);
    let line = header.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn a_base_is_linked_and_survives_its_image_untouched() {
    let bench = Bench::new();
    let before = std::fs::metadata(bench.at("images/rootfs.ext4")).unwrap();
    let disk = bench.disk("40G");
    assert_eq!(disks().create_root(&disk).unwrap(), DiskOrigin::Layered(Kept::Linked));
    let link = bench.at("instance/base.ext4");
    assert!(same_file(&link, &bench.at("images/rootfs.ext4")));
    let after = std::fs::symlink_metadata(&link).unwrap();
    assert_eq!((before.ino(), before.mode(), before.uid()), (after.ino(), after.mode(), after.uid()));
    assert_eq!(
        std::fs::metadata(bench.at("instance/state.ext4")).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(bench.left("images"), ["rootfs.ext4"], "nothing is kept twice");
    bench.rebuild();
    assert_eq!(std::fs::read(&link).unwrap(), b"the base");
    assert!(!same_file(&link, &bench.at("images/rootfs.ext4")));
    assert_eq!(disks().create_root(&disk).unwrap(), DiskOrigin::Present);
    assert_eq!(std::fs::read(&link).unwrap(), b"the base", "an instance that is there keeps its base");
    disks().remove_root(&disk).unwrap();
    disks().remove_root(&disk).unwrap();
    assert!(bench.left("instance").is_empty());
}

#[test]
fn a_base_of_another_filesystem_is_kept_beside_its_image() {
    let bench = Bench::new();
    bench.other_filesystem("instance", "64M");
    let optimistic = SystemDisks { free: |_| Ok(u64::MAX), ..disks() };
    let disk = bench.disk("1G");
    assert_eq!(optimistic.create_root(&disk).unwrap(), DiskOrigin::Layered(Kept::Beside));
    let link = bench.at("instance/base.ext4");
    assert_eq!(std::fs::read_link(&link).unwrap(), bench.at("images/.pins/my-bot.ext4"));
    bench.rebuild();
    assert_eq!(std::fs::read(&link).unwrap(), b"the base");
    optimistic.remove_root(&disk).unwrap();
    assert!(bench.left("instance").is_empty() && bench.left("images/.pins").is_empty());
}

#[test]
fn without_hard_links_a_base_is_copied() {
    let bench = Bench::new();
    bench.other_filesystem("instance", "64M");
    let (link, pin) = (bench.at("instance/base.ext4"), bench.at("instance/pins/my-bot.ext4"));
    assert_eq!(pin::keep(&bench.at("images/rootfs.ext4"), &link, &pin).unwrap(), Kept::Copied);
    bench.rebuild();
    assert_eq!(std::fs::read(&link).unwrap(), b"the base");
    let mode = std::fs::symlink_metadata(&link).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o644, "the VM's user reads it");
    assert_eq!(bench.left("instance"), ["base.ext4", "pins"]);
}

#[test]
fn too_small_and_too_little_room_are_said_before_anything_is_made() {
    let bench = Bench::new();
    let error = disks().create_root(&bench.disk("64M")).unwrap_err();
    assert_eq!((error.get_kind(), error.get_hint()), (Kind::Refused, Some("choose at least 512M")));
    bench.other_filesystem("instance", "8M");
    let error = disks().create_root(&bench.disk("1G")).unwrap_err();
    assert_eq!(error.get_kind(), Kind::HostNotReady);
    assert!(error.one_line().contains("it needs 67108864 bytes"), "{}", error.one_line());
    assert!(bench.left("instance").is_empty());
}

#[test]
fn a_filesystem_that_cannot_be_made_leaves_no_disk() {
    let bench = Bench::new();
    let broken = FakeExec::new(|_| Ok(crate::exec::Output::made(1, "", "injected")));
    let disks = SystemDisks::new(Arc::new(broken), Interrupt::default());
    assert!(disks.create_root(&bench.disk("1G")).unwrap_err().one_line().contains("injected"));
    // The base stays for the undo, which removes the folder.
    assert_eq!(bench.left("instance"), ["base.ext4"]);
}

#[test]
fn a_whole_disk_of_any_size_is_written_and_read() {
    let bench = Bench::new();
    disks().create_root(&bench.disk("512M")).unwrap();
    let state = bench.at("instance/state.ext4");
    let tree = bench.at("content");
    std::fs::write(&tree, vec![7; 8 << 20]).unwrap();
    let write = format!("write {} /content", tree.display());
    run("debugfs", &["-w", "-R", &write, state.to_str().unwrap()]);
    run("e2fsck", &["-f", "-n", state.to_str().unwrap()]);
    let mut start = [0; 2];
    File::open(&state).unwrap().read_exact_at(&mut start, 1024 + 0x38).unwrap();
    assert_eq!(start, [0x53, 0xef]);
}

/// What one group of blocks spans.
const GROUP: u64 = 128 << 20;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5))]

    /// Whatever the size: the filesystem fills its disk, is sound, and takes at most 64 MiB.
    #[test]
    fn a_state_disk_takes_little_at_any_size(mib in prop_oneof![512_u64..4096, 4096_u64..1 << 20, 1_u64 << 20..15 << 20]) {
        let bench = Bench::new();
        disks().create_root(&bench.disk(&format!("{mib}M"))).unwrap();
        let state = bench.at("instance/state.ext4");
        let (bytes, size) = (field(&state, "Block count:") * 4096, mib << 20);
        // A last group that could hold little but its own tables is left out.
        prop_assert!(bytes <= size && size - bytes < GROUP, "{} bytes of {}", bytes, size);
        let allocated = space::allocated_bytes(&state).unwrap();
        prop_assert!(allocated <= 64 << 20, "{} MiB take {} bytes", mib, allocated);
        // A check walks all groups: some seconds for the largest.
        if mib < 1 << 15 {
            run("e2fsck", &["-f", "-n", state.to_str().unwrap()]);
        }
    }
}
