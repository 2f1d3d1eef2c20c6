//! Real filesystems in files, looked at by e2fsprogs. Needs root, `e2fsprogs` and `xfsprogs`.

use std::os::unix::fs::{FileExt, PermissionsExt};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::exec::{Cmd, SystemExec};

fn disks() -> SystemDisks {
    SystemDisks::new(Arc::new(SystemExec::default()), Interrupt::default())
}

fn run(program: &str, args: &[&str]) -> String {
    let output = SystemExec::default().check(Cmd::new(program).args(args)).unwrap();
    output.text() + &String::from_utf8_lossy(&output.stderr)
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A 32 MiB ext4 with one file of 3 MiB in it.
fn base_in(dir: &Path) -> PathBuf {
    let (tree, base) = (dir.join("tree"), dir.join("base.ext4"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("content"), content()).unwrap();
    run("mke2fs", &["-q", "-t", "ext4", "-d", name(&tree), name(&base), "32M"]);
    std::fs::remove_dir_all(&tree).unwrap();
    base
}

fn content() -> Vec<u8> {
    (0..3_u32 << 20).map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect()
}

struct Bench {
    dir: TempDir,
    disk: RootDisk,
}

impl Bench {
    fn new() -> Self {
        Self::with_base(base_in)
    }

    fn with_base(make: impl FnOnce(&Path) -> PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = make(dir.path());
        Self::within(dir, base, "out")
    }

    fn within(dir: TempDir, base: PathBuf, folder: &str) -> Self {
        let out = dir.path().join(folder);
        std::fs::create_dir_all(&out).unwrap();
        let disk = RootDisk::Copy { base, target: out.join("rootfs.ext4"), size: "128M".parse().unwrap() };
        Self { dir, disk }
    }

    /// The same base with a target elsewhere.
    fn moved(self, folder: &str) -> Self {
        let base = self.base().to_owned();
        Self::within(self.dir, base, folder)
    }

    fn target(&self) -> &Path {
        self.disk.target()
    }

    fn base(&self) -> &Path {
        match &self.disk {
            RootDisk::Copy { base, .. } | RootDisk::Layered { base, .. } => base,
        }
    }

    fn left(&self) -> Vec<String> {
        fs::names(self.target().parent().unwrap()).unwrap()
    }

    /// The disk as other programs see it: of the size asked for, clean, and with the base's content.
    fn assert_good(&self) {
        let target = name(self.target());
        assert_eq!(self.left(), ["rootfs.ext4"]);
        let facts = std::fs::metadata(target).unwrap();
        assert_eq!((facts.permissions().mode() & 0o777, facts.len()), (0o600, 128 << 20));
        run("e2fsck", &["-f", "-n", target]);
        let header = run("dumpe2fs", &["-h", target]);
        let field = |key: &str| -> u64 {
            let line = header.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim().parse().unwrap()
        };
        assert_eq!(field("Block count:") * field("Block size:"), 128 << 20);
        let copy = self.dir.path().join("content");
        run("debugfs", &["-R", &format!("dump /content {}", copy.display()), target]);
        assert!(std::fs::read(copy).unwrap() == content(), "the content changed");
    }
}

/// Mounts made after this are seen by this test only and go with it.
fn private_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

fn full_folder(dir: &Path, size: &str) {
    private_mounts();
    std::fs::create_dir(dir.join("small")).unwrap();
    let options = format!("size={size}");
    mount(Some("none"), &dir.join("small"), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
}

#[test]
fn a_disk_is_copied_grown_and_clean() {
    let bench = Bench::new();
    let DiskOrigin::SparseCopy { bytes } = disks().create_root(&bench.disk).unwrap() else {
        // A machine whose temporary folder has reflinks: the copy is then tested by the property below.
        return bench.assert_good();
    };
    assert!(bytes < 16 << 20, "{bytes} of a mostly empty filesystem were copied");
    assert!(space::allocated_bytes(bench.target()).unwrap() < 16 << 20);
    bench.assert_good();
}

#[test]
fn a_disk_that_is_there_is_left_alone() {
    let bench = Bench::new();
    std::fs::write(bench.target(), "precious").unwrap();
    assert_eq!(disks().create_root(&bench.disk).unwrap(), DiskOrigin::Present);
    assert_eq!(std::fs::read(bench.target()).unwrap(), b"precious");
}

#[test]
fn what_a_killed_run_left_is_replaced() {
    let bench = Bench::new();
    std::fs::write(part::path_for(bench.target()), "half").unwrap();
    disks().create_root(&bench.disk).unwrap();
    bench.assert_good();
}

#[test]
fn removing_takes_the_unfinished_file_too() {
    let bench = Bench::new();
    disks().create_root(&bench.disk).unwrap();
    std::fs::write(part::path_for(bench.target()), "half").unwrap();
    disks().remove_root(&bench.disk).unwrap();
    assert!(bench.left().is_empty());
    disks().remove_root(&bench.disk).unwrap();
}

#[test]
fn on_xfs_the_blocks_are_shared() {
    let dir = tempfile::tempdir().unwrap();
    private_mounts();
    let (image, point) = (dir.path().join("xfs.img"), dir.path().join("xfs"));
    std::fs::create_dir(&point).unwrap();
    File::create(&image).unwrap().set_len(320 << 20).unwrap();
    run("mkfs.xfs", &["-q", "-m", "reflink=1", name(&image)]);
    run("mount", &["-o", "loop", name(&image), name(&point)]);
    let base = base_in(&point);
    let bench = Bench::within(dir, base, "xfs/out");
    assert_eq!(disks().create_root(&bench.disk).unwrap(), DiskOrigin::Reflink);
    bench.assert_good();
    let extents = run("filefrag", &["-v", name(bench.target())]);
    assert!(extents.contains("shared"), "{extents}");
}

#[test]
fn too_little_room_is_said_before_anything_is_written() {
    let bench = Bench::new();
    full_folder(bench.dir.path(), "8M");
    let bench = bench.moved("small/out");
    let error = disks().create_root(&bench.disk).unwrap_err();
    assert_eq!(error.get_kind(), Kind::HostNotReady);
    let text = error.one_line();
    assert!(text.contains("small/out") && text.contains("it needs 67108864 bytes"), "{text}");
    assert!(
        text.contains(" bytes are free there") && error.get_hint().unwrap().contains("FC_ROOT"),
        "{text}"
    );
    assert!(bench.left().is_empty());
}

#[test]
fn a_disk_that_fills_up_in_the_middle_leaves_nothing() {
    let bench = Bench::new();
    full_folder(bench.dir.path(), "1M");
    let bench = bench.moved("small/out");
    let optimistic = SystemDisks { free: |_| Ok(u64::MAX), ..disks() };
    let error = optimistic.create_root(&bench.disk).unwrap_err();
    assert!(error.one_line().contains("No space left"), "{}", error.one_line());
    assert!(error.get_hint().unwrap().contains("free some room"));
    assert!(bench.left().is_empty());
}

#[test]
fn an_interrupt_leaves_nothing() {
    let bench = Bench::new();
    let interrupt = Interrupt::default();
    interrupt.ask();
    let error =
        SystemDisks::new(Arc::new(SystemExec::default()), interrupt).create_root(&bench.disk).unwrap_err();
    assert_eq!(error.get_kind(), Kind::Interrupted);
    assert!(bench.left().is_empty());
}

#[test]
fn a_base_that_was_not_unmounted_cleanly_is_mended_in_the_copy() {
    let bench = Bench::new();
    run("debugfs", &["-w", "-R", "set_super_value state 0", name(bench.base())]);
    let before = std::fs::read(bench.base()).unwrap();
    disks().create_root(&bench.disk).unwrap();
    bench.assert_good();
    assert!(std::fs::read(bench.base()).unwrap() == before, "the base was written to");
}

#[test]
fn a_base_beyond_mending_is_an_error_and_leaves_nothing() {
    let bench = Bench::new();
    run("debugfs", &["-w", "-R", "clri <2>", name(bench.base())]);
    run("debugfs", &["-w", "-R", "set_super_value state 0", name(bench.base())]);
    let error = disks().create_root(&bench.disk).unwrap_err();
    assert!(error.one_line().contains("e2fsck ended with 4"), "{}", error.one_line());
    assert!(error.get_hint().unwrap().contains("another base"));
    assert!(bench.left().is_empty());
}

#[test]
fn a_size_below_the_base_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    run("mke2fs", &["-q", "-t", "ext4", name(&base), "100M"]);
    let error = check_size(&base, &"64M".parse().unwrap()).unwrap_err();
    assert_eq!(error.get_kind(), Kind::Refused);
    assert!(error.one_line().contains("--disk-size `64M`"), "{}", error.one_line());
    assert_eq!(error.get_hint(), Some("choose at least 100M"));
    check_size(&base, &"100M".parse().unwrap()).unwrap();
}

#[test]
fn a_base_that_is_no_filesystem_is_refused_by_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base");
    let mut partitioned = vec![0; 4096];
    partitioned[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (bytes, what) in [
        (Vec::new(), "not an ext4"),
        (b"\x7fELF".to_vec(), "not an ext4"),
        (vec![0xff; 4096], "not an ext4"),
        (b"QFI\xfb".repeat(1024), "qcow2"),
        (partitioned, "partitions"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = check_size(&path, &"64M".parse().unwrap()).unwrap_err();
        assert_eq!(error.get_kind(), Kind::Refused);
        assert!(error.one_line().contains(what), "{}", error.one_line());
    }
    assert_eq!(ext4::inspect(&dir.path().join("none")).unwrap_err().get_kind(), Kind::Failed);
}

const UNIT: u64 = 64 << 10;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Extents come and go as they lie in the source; what is between them stays a hole.
    #[test]
    fn a_copy_keeps_content_and_holes(
        extents in prop::collection::vec((0_u64..200, 1_u64..4, 1_u8..), 0..12),
        tail in 0..2 * UNIT,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let source = File::options().read(true).write(true).create_new(true).open(dir.path().join("a")).unwrap();
        for (at, units, byte) in extents {
            let data = vec![byte; usize::try_from(units * UNIT).unwrap()];
            source.write_all_at(&data, at * UNIT).unwrap();
        }
        source.set_len(source.metadata().unwrap().len() + tail).unwrap();
        let target = File::options().read(true).write(true).create_new(true).open(dir.path().join("b")).unwrap();
        let Ok(bytes) = copy::sparse(&source, &target, &Interrupt::default()) else { panic!("not copied") };
        prop_assert!(std::fs::read(dir.path().join("a")).unwrap() == std::fs::read(dir.path().join("b")).unwrap());
        let (from, to) = (allocated(dir.path(), "a"), allocated(dir.path(), "b"));
        // The filesystem's own blocks count too, and it may need one more of them where it finds less room in a row.
        prop_assert!(to < from + UNIT, "{} bytes became {}", from, to);
        prop_assert!(bytes <= from, "{} bytes are there and {} were copied", from, bytes);
    }
}

fn allocated(dir: &Path, file: &str) -> u64 {
    // Delayed allocation counts when the file is on the disk.
    File::open(dir.join(file)).unwrap().sync_all().unwrap();
    space::allocated_bytes(&dir.join(file)).unwrap()
}
