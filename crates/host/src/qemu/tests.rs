use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
};

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::exec::{SystemExec, fake::FakeExec};

/// An instance's files in a temporary folder.
struct Place {
    dir: tempfile::TempDir,
    spec: VmSpec,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = VmSpec::example();
    spec.kernel = dir.path().join("vmlinux");
    spec.initrd = Some(dir.path().join("initrd.img"));
    spec.disk = dir.path().join("rootfs.ext4");
    spec.seed = dir.path().join("seed.img");
    spec.api_sock = dir.path().join("api.sock");
    for (path, mode) in [
        (&spec.kernel, 0o644),
        (spec.initrd.as_ref().unwrap(), 0o644),
        (&spec.disk, 0o600),
        (&spec.seed, 0o600),
    ] {
        fs::write(path, "content").unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    Place { dir, spec }
}

fn qemu(exec: FakeExec) -> Qemu {
    Qemu { exec: Arc::new(exec), arch: Arch::X86_64, dev_kvm: "/dev/kvm".into() }
}

/// Makes a tap of this name in a network namespace of the calling thread's own. Needs root.
fn in_namespace_with_tap(tap: &str) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    SystemExec::default().check(Cmd::new("ip").args(["tuntap", "add", tap, "mode", "tap"])).unwrap();
}

#[test]
fn a_launch_runs_as_the_vms_user_with_every_descriptor_inherited() {
    let place = place();
    in_namespace_with_tap(place.spec.tap.as_str());
    let launch = qemu(FakeExec::silent()).prepare(&place.spec).unwrap();
    assert_eq!(launch.cmd.user, Some((64_000, 64_000)));
    assert_eq!(launch.keep.len(), 6);
    let line = launch.cmd.line();
    assert!(line.starts_with("/usr/bin/qemu-system-x86_64 -name guest=my-bot_2,"), "{line}");
    // Each descriptor in the command line is one of those that are kept, and leads where it should.
    let target = |fd: &str| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    let after = |mark: &str| {
        let rest = &line[line.find(mark).unwrap_or_else(|| panic!("{mark} in {line}")) + mark.len()..];
        rest.chars().take_while(char::is_ascii_digit).collect::<String>()
    };
    assert_eq!(target(&after("-kernel /proc/self/fd/")), place.spec.kernel);
    assert_eq!(target(&after("-initrd /proc/self/fd/")), place.dir.path().join("initrd.img"));
    assert_eq!(target(&after("-add-fd fd=")), place.spec.disk);
    assert_eq!(target(&after("tap,id=net0,fd=")), Path::new("/dev/net/tun"));
    assert!(target(&after("id=qmp,fd=")).to_string_lossy().starts_with("socket:"));
    assert!(socket::is_listening(&place.spec.api_sock));
    // The tap is taken, and a second VMM is told so before it touches anything.
    let error = tap::open(&place.spec.tap).unwrap_err().one_line();
    assert!(error.contains("another process uses it"), "{error}");
    drop(launch);
    assert!(!socket::is_listening(&place.spec.api_sock));
    crate::vmm::clean(&place.spec.api_sock, &place.spec.jail_dir).unwrap();
    assert!(!place.spec.api_sock.exists());
}

#[test]
fn a_shared_base_is_inherited_for_reading_only() {
    let mut place = place();
    in_namespace_with_tap(place.spec.tap.as_str());
    let base = place.dir.path().join("base.ext4");
    fs::write(&base, "base").unwrap();
    fs::set_permissions(&base, PermissionsExt::from_mode(0o644)).unwrap();
    place.spec.base = Some(base.clone());
    let launch = qemu(FakeExec::silent()).prepare(&place.spec).unwrap();
    let kept = launch
        .keep
        .iter()
        .find(|fd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap() == base);
    let fd = kept.expect("the base is open").as_raw_fd();
    let flags = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
    assert_eq!(u32::from_str_radix(&flags, 8).unwrap() & 0o3, 0, "opened for writing: {flags}");
    assert!(
        launch.cmd.line().contains(&format!("-add-fd fd={fd},set=3,opaque=base")),
        "{}",
        launch.cmd.line()
    );
    drop(launch);
    fs::set_permissions(&base, PermissionsExt::from_mode(0o640)).unwrap();
    let error = qemu(FakeExec::silent()).prepare(&place.spec).unwrap_err().one_line();
    assert!(error.contains("base.ext4, whose mode is 0640"), "{error}");
}

#[test]
fn a_tap_that_is_not_there_is_not_made() {
    let place = place();
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let error = qemu(FakeExec::silent()).prepare(&place.spec).unwrap_err();
    assert!(error.one_line().starts_with("cannot open tap tmybot2"), "{}", error.one_line());
    assert!(!place.spec.api_sock.exists());
    let links = SystemExec::default().check(Cmd::new("ip").args(["-o", "link"])).unwrap().text();
    assert!(!links.contains("tmybot2"), "{links}");
}

#[test]
fn what_is_missing_or_closed_is_named_and_nothing_is_made() {
    type Break = fn(&VmSpec);
    let breaks: [(Break, &str); 6] = [
        (|spec| fs::remove_file(&spec.kernel).unwrap(), "vmlinux: No such file"),
        (|spec| fs::remove_file(&spec.disk).unwrap(), "rootfs.ext4: No such file"),
        (|spec| fs::write(&spec.disk, "").unwrap(), "rootfs.ext4: it is empty"),
        (
            |spec| {
                fs::remove_file(&spec.seed).unwrap();
                fs::create_dir(&spec.seed).unwrap();
            },
            "seed.img: it is not a regular file",
        ),
        (
            |spec| fs::set_permissions(&spec.kernel, PermissionsExt::from_mode(0o600)).unwrap(),
            "its user 64000 may not read",
        ),
        (
            |spec| {
                let initrd = spec.initrd.as_ref().unwrap();
                fs::set_permissions(initrd, PermissionsExt::from_mode(0o640)).unwrap();
            },
            "initrd.img, whose mode is 0640",
        ),
    ];
    for (break_it, said) in breaks {
        let place = place();
        break_it(&place.spec);
        let error = qemu(FakeExec::silent()).prepare(&place.spec).unwrap_err().one_line();
        assert!(error.contains(said), "{said}: {error}");
        assert!(!place.spec.api_sock.exists());
    }
}

#[test]
fn a_file_of_the_users_own_group_is_readable() {
    let place = place();
    fs::set_permissions(&place.spec.kernel, PermissionsExt::from_mode(0o640)).unwrap();
    chown(&place.spec.kernel, None, Some(64_000)).unwrap();
    Files::open(&place.spec, 64_000).unwrap();
    assert!(Files::open(&place.spec, 64_001).is_err());
}

#[test]
fn without_qemu_the_host_is_not_ready() {
    let exec = FakeExec::silent().without("qemu-system-x86_64");
    let error = qemu(exec).prepare(&place().spec).unwrap_err();
    assert_eq!(error.get_kind(), Kind::HostNotReady);
    assert_eq!(error.get_hint(), Some("run `fireclaw doctor --fix`"));
}

#[test]
fn kvm_is_opened_by_everybody_or_by_its_group_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("kvm");
    fs::write(&device, "").unwrap();
    let group = |owner: u32, group: u32, mode: u32| {
        chown(&device, Some(owner), Some(group)).unwrap();
        fs::set_permissions(&device, PermissionsExt::from_mode(mode)).unwrap();
        kvm_group(&device, 64_000, 64_000)
    };
    assert_eq!(group(0, 106, 0o666).unwrap(), 64_000);
    assert_eq!(group(0, 106, 0o660).unwrap(), 106);
    assert_eq!(group(0, 64_000, 0o660).unwrap(), 64_000);
    assert_eq!(group(64_000, 0, 0o600).unwrap(), 64_000);
    for (owner, owning_group, mode) in [(0, 0, 0o600), (0, 0, 0o660), (0, 106, 0o640)] {
        let error = group(owner, owning_group, mode).unwrap_err();
        assert_eq!(error.get_kind(), Kind::HostNotReady);
        assert!(error.get_hint().unwrap().contains("chmod 660"));
    }
}
