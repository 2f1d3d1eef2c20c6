use std::{fs, os::unix::fs::PermissionsExt, os::unix::net::UnixListener};

use super::*;
use crate::exec::{Output, fake::FakeExec};

/// An instance's folder in a temporary one.
struct Place {
    dir: tempfile::TempDir,
    spec: VmSpec,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for folder in ["images", "config"] {
        fs::create_dir(at(folder)).unwrap();
    }
    let mut spec = VmSpec::example();
    spec.kvm = true;
    spec.kernel = at("images/vmlinux");
    spec.initrd = Some(at("images/initrd.img"));
    spec.disk = at("images/rootfs.ext4");
    spec.seed = at("images/seed.img");
    spec.vmm_config = at("config/vm.json");
    spec.api_sock = at("firecracker.socket");
    spec.jail_dir = at("jail");
    fs::write(&spec.kernel, b"\x7fELF...").unwrap();
    fs::write(at("images/initrd.img"), "initrd").unwrap();
    fs::write(&spec.seed, "seed").unwrap();
    fs::File::create(&spec.disk).unwrap().set_len(40 << 30).unwrap();
    Place { dir, spec }
}

/// Firecracker of one version and a jailer of another.
fn programs(firecracker: &'static str, jailer: &'static str) -> FakeExec {
    FakeExec::new(move |cmd| {
        let line = cmd.line();
        let version = if line.contains("jailer") { jailer } else { firecracker };
        Ok(Output::made(0, &format!("Program v{version}\n"), ""))
    })
}

fn firecracker(version: &'static str) -> Firecracker {
    Firecracker::new(Arc::new(programs(version, version)))
}

#[test]
fn a_launch_finds_everything_in_its_jail() {
    let place = place();
    let spec = &place.spec;
    let launch = firecracker("1.16.1").prepare(spec).unwrap();
    assert!(launch.keep.is_empty(), "the jailer closes what it inherits");
    assert_eq!(launch.cmd.user, None, "the jailer gives up root itself");
    let line = launch.cmd.line().replace(&place.dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!(line.replace(" --", "\n--"));

    let root = place.dir.path().join("jail/firecracker/my--bot-u2/root");
    let mut names: Vec<String> = crate::fs::names(&root).unwrap();
    names.sort();
    assert_eq!(names, ["initrd.img", "rootfs.ext4", "seed.img", "vm.json", "vmlinux"]);
    let owner = |name: &str| {
        let metadata = root.join(name).metadata().unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
    };
    assert_eq!(owner("rootfs.ext4"), (64_000, 64_000, 0o600));
    assert_eq!(owner("seed.img"), (0, 64_000, 0o640));
    assert_eq!(owner("vm.json"), (0, 64_000, 0o640));
    assert_eq!(owner("vmlinux"), (0, 0, 0o644));
    let config: serde_json::Value = serde_json::from_slice(&fs::read(root.join("vm.json")).unwrap()).unwrap();
    assert_eq!(config["network-interfaces"][0]["host_dev_name"], "tmybot2");

    // The jailer makes `run`; a Firecracker that listens there is reached by the instance's own socket path.
    fs::create_dir(root.join("run")).unwrap();
    let listener = UnixListener::bind(root.join("run/firecracker.socket")).unwrap();
    assert!(socket::is_listening(&spec.api_sock));
    let error = firecracker("1.16.1").prepare(spec).unwrap_err();
    assert!(error.one_line().contains("running already"), "{}", error.one_line());

    // After its end the next run begins in a fresh jail.
    drop(listener);
    firecracker("1.16.1").prepare(spec).unwrap();
    assert!(!root.join("run").exists());

    crate::vmm::clean(&spec.api_sock, &spec.jail_dir).unwrap();
    assert!(!spec.jail_dir.exists() && spec.api_sock.symlink_metadata().is_err());
    assert_eq!(fs::metadata(&spec.disk).unwrap().len(), 40 << 30);
}

#[test]
fn a_shared_base_is_in_the_jail_and_stays_everybodys() {
    let mut place = place();
    let base = place.dir.path().join("images/base.ext4");
    fs::write(&base, "base").unwrap();
    fs::set_permissions(&base, PermissionsExt::from_mode(0o644)).unwrap();
    place.spec.base = Some(base.clone());
    firecracker("1.16.1").prepare(&place.spec).unwrap();
    let root = place.dir.path().join("jail/firecracker/my--bot-u2/root");
    let there = root.join("base.ext4").metadata().unwrap();
    assert_eq!((there.uid(), there.gid(), there.mode() & 0o7777), (0, 0, 0o644));
    assert_eq!(there.ino(), base.metadata().unwrap().ino());
    let config: serde_json::Value = serde_json::from_slice(&fs::read(root.join("vm.json")).unwrap()).unwrap();
    let drives = |key: &str| -> Vec<serde_json::Value> {
        config["drives"].as_array().unwrap().iter().map(|drive| drive[key].clone()).collect()
    };
    assert_eq!(drives("path_on_host"), ["/base.ext4", "/rootfs.ext4", "/seed.img"]);
    assert_eq!(drives("is_read_only"), [true, false, true]);
    crate::vmm::clean(&place.spec.api_sock, &place.spec.jail_dir).unwrap();
    assert_eq!(fs::read(&base).unwrap(), b"base");

    fs::set_permissions(&base, PermissionsExt::from_mode(0o600)).unwrap();
    let error = firecracker("1.16.1").prepare(&place.spec).unwrap_err().one_line();
    assert!(error.contains("base.ext4, whose mode is 0600"), "{error}");
}

#[test]
fn the_longest_id_is_reached_by_a_socket_path_that_fits() {
    let mut place = place();
    place.spec.id = "_".repeat(40).parse().unwrap();
    firecracker("1.16.1").prepare(&place.spec).unwrap();
    let target = fs::read_link(&place.spec.api_sock).unwrap();
    fs::create_dir(target.parent().unwrap()).unwrap();
    assert!(!socket::is_listening(&place.spec.api_sock));
    assert!(place.spec.api_sock.as_os_str().len() <= fireclaw_core::layout::SOCKET_PATH_MAX);
}

#[test]
fn a_host_that_is_not_ready_is_told_what_is_missing() {
    let place = place();
    let refused = |exec: FakeExec, spec: &VmSpec| {
        let error = Firecracker::new(Arc::new(exec)).prepare(spec).unwrap_err();
        assert_eq!(error.get_kind(), Kind::HostNotReady, "{}", error.one_line());
        assert!(error.get_hint().is_some());
        assert!(!spec.jail_dir.exists());
        error.one_line()
    };
    for program in ["firecracker", "jailer"] {
        let text = refused(programs("1.16.1", "1.16.1").without(program), &place.spec);
        assert_eq!(text, format!("cannot find program {program}: it is not installed"));
    }
    let text = refused(programs("1.16.1", "1.15.0"), &place.spec);
    assert!(text.contains("1.16.1") && text.contains("1.15.0"), "{text}");
    let text = refused(programs("1.16.1", "1.16.1"), &VmSpec { kvm: false, ..place.spec.clone() });
    assert!(text.contains("KVM"), "{text}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_packed_kernel_needs_a_firecracker_that_unpacks_it() {
    let place = place();
    fs::write(&place.spec.kernel, b"MZ, packed").unwrap();
    let error = firecracker("1.16.1").prepare(&place.spec).unwrap_err();
    assert!(error.one_line().contains("1.16.1 takes an unpacked"), "{}", error.one_line());
    assert!(error.get_hint().unwrap().contains("1.17.0"));
    firecracker("1.17.0-dev").prepare(&place.spec).unwrap();
}

#[test]
fn unusable_files_are_named_before_anything_is_made() {
    type Break = fn(&VmSpec);
    let breaks: [(Break, &str); 3] = [
        (|spec| fs::remove_file(&spec.seed).unwrap(), "seed.img: No such file"),
        (|spec| fs::write(&spec.disk, "").unwrap(), "rootfs.ext4: it is empty"),
        (
            |spec| fs::set_permissions(&spec.kernel, PermissionsExt::from_mode(0o600)).unwrap(),
            "its user 64000 may not read",
        ),
    ];
    for (break_it, said) in breaks {
        let place = place();
        break_it(&place.spec);
        let error = firecracker("1.16.1").prepare(&place.spec).unwrap_err().one_line();
        assert!(error.contains(said), "{said}: {error}");
        assert!(!place.spec.jail_dir.exists());
    }
}
