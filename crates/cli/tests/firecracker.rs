//! Installing Firecracker and its jailer, against a server with the files of its releases: what is installed is what was
//! published, or nothing is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fireclaw::{
    app::{App, Host},
    doctor::{self, Purpose},
    gates::HttpGates,
    ui::Ui,
};
use fireclaw_core::{
    error::{Error, Result},
    layout::Layout,
    spec::{Arch, Settings, release::Source},
};
use fireclaw_host::{
    disk::fake::FakeDisks,
    exec::{Cmd, Exec as _, SystemExec},
    firecracker::install::{Done, install},
    fs::names,
    interrupt::Interrupt,
    network::fake::FakeNetwork,
    ssh::fake::FakeShell,
    supervisor::{Supervisors, fake::FakeSupervisor},
};
use fireclaw_testkit::release::{Fault, Release, ReleasePage, checksum, script};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

const VERSION: &str = "1.16.1";

fn release() -> Release {
    Release::new(VERSION, Arch::X86_64)
}

/// A folder for programs, and one for what is installed from.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        Self { dir }
    }

    fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn install(&self, source: &Source) -> Result<Done> {
        install(&SystemExec::default(), source, Arch::X86_64, &self.bin(), &mut |_| {})
    }

    fn install_url(&self, page: &ReleasePage) -> Result<Done> {
        self.install(&Source::parse(page.url()).unwrap())
    }

    /// What the programs say of themselves.
    fn versions(&self) -> [String; 2] {
        ["firecracker", "jailer"].map(|name| {
            let path = self.bin().join(name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o755);
            SystemExec::default().check(Cmd::new(path).arg("--version")).unwrap().text()
        })
    }

    /// Fails unless the attempt failed, said `why`, and left the folder of programs as it was.
    #[track_caller]
    fn refuses(&self, source: &Source, why: &str) -> Error {
        let before = snapshot(&self.bin());
        let error = self.install(source).unwrap_err();
        assert!(error.one_line().contains(why), "{} lacks {why:?}", error.one_line());
        assert!(error.get_hint().is_some(), "{} has no hint", error.one_line());
        assert_eq!(snapshot(&self.bin()), before, "{}", error.one_line());
        error
    }
}

fn snapshot(dir: &Path) -> Vec<(String, Vec<u8>)> {
    names(dir).unwrap().into_iter().map(|name| (name.clone(), fs::read(dir.join(name)).unwrap())).collect()
}

fn page(release: &Release, fault: Fault) -> ReleasePage {
    ReleasePage::start("127.0.0.1:0", release, fault).unwrap()
}

#[test]
fn a_release_is_fetched_compared_and_installed() {
    let (place, page) = (Place::new(), page(&release(), Fault::None));
    let done = place.install_url(&page).unwrap();
    assert_eq!((done.version.to_string().as_str(), done.changed, done.checked), (VERSION, true, true));
    assert_eq!(names(&place.bin()).unwrap(), ["firecracker", "jailer"]);
    assert_eq!(place.versions(), ["Firecracker v1.16.1", "Jailer v1.16.1"]);
    let path = "/v1.16.1/firecracker-v1.16.1-x86_64.tgz";
    assert_eq!(page.asked(), [format!("{path}.sha256.txt"), path.to_owned()]);
}

#[test]
fn what_is_there_already_stays_the_same_file() {
    use std::os::unix::fs::MetadataExt as _;
    let (place, page) = (Place::new(), page(&release(), Fault::None));
    place.install_url(&page).unwrap();
    let inode = || fs::metadata(place.bin().join("firecracker")).unwrap().ino();
    let before = inode();
    let again = place.install_url(&page).unwrap();
    assert!(!again.changed);
    assert_eq!((inode(), names(&place.bin()).unwrap().len()), (before, 2));
}

#[test]
fn another_version_is_replaced_and_a_running_one_keeps_its_file() {
    let place = Place::new();
    let old = place.file("bin/firecracker", script("Firecracker v1.10.0").as_bytes());
    place.file("bin/jailer", script("Jailer v1.10.0").as_bytes());
    let mut running = fs::File::open(&old).unwrap();
    assert!(place.install_url(&page(&release(), Fault::None)).unwrap().changed);
    assert_eq!(place.versions(), ["Firecracker v1.16.1", "Jailer v1.16.1"]);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut running, &mut text).unwrap();
    assert!(text.contains("v1.10.0"), "the file of the old program was written into");
}

#[test]
fn what_does_not_arrive_whole_or_right_is_not_installed() {
    for (fault, why) in [
        (Fault::WrongChecksum, "the published one is"),
        (Fault::NoChecksum, "404"),
        (Fault::NoTarball, "404"),
        (Fault::BrokenOff, "curl"),
        (Fault::Half, "the published one is"),
    ] {
        let (place, page) = (Place::new(), page(&release(), fault));
        // Over nothing, and over a version that works.
        place.refuses(&Source::parse(page.url()).unwrap(), why);
        place.file("bin/firecracker", script("Firecracker v1.10.0").as_bytes());
        place.file("bin/jailer", script("Jailer v1.10.0").as_bytes());
        let error = place.refuses(&Source::parse(page.url()).unwrap(), why);
        assert!(error.one_line().contains("firecracker"), "{fault:?}: {}", error.one_line());
    }
}

#[test]
fn nobody_listening_is_an_error_that_names_the_way_around() {
    let place = Place::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let source = Source::parse(&format!("http://{free}/firecracker-v1.16.1-x86_64.tgz")).unwrap();
    let error = place.refuses(&source, "curl");
    assert!(error.get_hint().unwrap().contains("--firecracker-from"), "{:?}", error.get_hint());
}

#[test]
fn a_tarball_that_leads_out_of_its_folder_is_refused_whole() {
    let outside = "release-v1.16.1-x86_64/../../../../tmp/fireclaw-test-outside";
    for release in [
        release().with(outside, b"x"),
        release().with("/tmp/fireclaw-test-outside", b"x"),
        release().with("../jailer-v1.16.1-x86_64", b"x"),
    ] {
        let (place, page) = (Place::new(), page(&release, Fault::None));
        place.refuses(&Source::parse(page.url()).unwrap(), "leads out of its folder");
        assert!(!Path::new("/tmp/fireclaw-test-outside").exists());
    }
}

#[test]
fn links_doubles_strangers_and_misfits_are_refused() {
    let ours = release();
    let (firecracker, jailer) = (ours.member("firecracker"), ours.member("jailer"));
    let aarch64 = Release::new(VERSION, Arch::Aarch64);
    for (release, why) in [
        (ours.clone().with_link(&firecracker, "/etc/passwd"), "is not a regular file"),
        (ours.clone().without(&jailer), "it has no jailer for x86_64"),
        (aarch64, "it has no firecracker for x86_64"),
        (ours.clone().with(&format!("./{jailer}"), b"x"), "more than one jailer"),
        (ours.clone().with(&jailer, script("Jailer v1.15.0").as_bytes()), "and its jailer 1.15.0"),
        (ours.clone().with(&firecracker, script("hello").as_bytes()), "read the version"),
        (ours.clone().with(&firecracker, b"\x7fELF of another machine"), "firecracker of"),
        (ours.with(&firecracker, b"#!/bin/sh\nexit 3\n"), "exit code 3"),
    ] {
        let place = Place::new();
        let tarball = place.file(&release.name(), &release.tarball().unwrap());
        place.refuses(&Source::Path(tarball), why);
    }
}

#[test]
fn a_tarball_at_hand_is_compared_with_the_checksum_beside_it() {
    let (place, release) = (Place::new(), release());
    let content = release.tarball().unwrap();
    let tarball = place.file(&release.name(), &content);
    let sums = format!("{}.sha256.txt", release.name());
    place.file(&sums, checksum(b"other", &release.name()).as_bytes());
    place.refuses(&Source::Path(tarball.clone()), "the published one is");
    place.file(&sums, checksum(&content, "another.tgz").as_bytes());
    place.refuses(&Source::Path(tarball.clone()), "states no sha256");
    place.file(&sums, checksum(&content, &release.name()).as_bytes());
    assert!(place.install(&Source::Path(tarball.clone())).unwrap().checked);
    fs::remove_file(place.dir.path().join(sums)).unwrap();
    assert!(!place.install(&Source::Path(tarball)).unwrap().checked);
}

/// Cut at any length, a tarball without a checksum is refused: what is packed carries its own.
#[test]
fn a_cut_off_tarball_without_a_checksum_is_refused() {
    let (place, release) = (Place::new(), release());
    let content = release.tarball().unwrap();
    for length in [0, 1, content.len() / 2, content.len() - 1] {
        let tarball = place.file(&release.name(), &content[..length]);
        place.refuses(&Source::Path(tarball), "install firecracker and jailer");
    }
    let tarball = place.file("notes.tgz", b"not a tarball");
    place.refuses(&Source::Path(tarball), "unpack");
    place.refuses(&Source::Path(place.dir.path().join("none.tgz")), "neither");
}

#[test]
fn a_folder_gives_the_programs_by_either_name() {
    let named = |program: &str| format!("{program}-v1.16.1-x86_64");
    let [firecracker, jailer] = [script("Firecracker v1.16.1"), script("Jailer v1.16.1")];
    for (folder, names) in [
        ("plain", ["firecracker".to_owned(), "jailer".to_owned()]),
        ("unpacked", [named("firecracker"), named("jailer")]),
        ("above/release-v1.16.1-x86_64", [named("firecracker"), named("jailer")]),
    ] {
        let place = Place::new();
        place.file(&format!("{folder}/{}", names[0]), firecracker.as_bytes());
        place.file(&format!("{folder}/{}", names[1]), jailer.as_bytes());
        let from = place.dir.path().join(folder.split('/').next().unwrap());
        assert!(place.install(&Source::Path(from)).unwrap().changed, "{folder}");
        assert_eq!(place.versions(), ["Firecracker v1.16.1", "Jailer v1.16.1"]);
    }
    let place = Place::new();
    place.file("one/firecracker", firecracker.as_bytes());
    place.refuses(&Source::Path(place.dir.path().join("one")), "neither programs of these names");
}

/// A folder that cannot be written is noticed before anything is fetched.
#[test]
fn a_read_only_folder_is_named_before_anything_is_fetched() {
    // A mount namespace of this thread's own: whatever goes wrong, the machine keeps no mount.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).unwrap();
    let (place, page) = (Place::new(), page(&release(), Fault::None));
    let bin = place.bin();
    mount(Some("tmpfs"), &bin, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
    let error = place.install_url(&page).unwrap_err();
    assert!(error.one_line().to_lowercase().contains("read-only file system"), "{}", error.one_line());
    assert!(error.get_hint().unwrap().contains("must be writable"), "{:?}", error.get_hint());
    assert!(page.asked().is_empty(), "{:?}", page.asked());
    umount2(&bin, MntFlags::MNT_DETACH).unwrap();
}

/// `doctor --fix --firecracker-from`: the finding asks for it whatever is there, mending does it, a failure is the command's.
#[test]
fn doctor_installs_from_the_source_that_is_named() {
    let (place, page) = (Place::new(), page(&release(), Fault::None));
    let settings = Settings::resolve(&|_| None, None).unwrap();
    let layout = Layout {
        state_root: place.dir.path().join("state"),
        programs_root: place.bin(),
        ..settings.layout.clone()
    };
    let app = App {
        settings: Settings { layout, ..settings },
        host: Host {
            exec: std::sync::Arc::new(SystemExec::default()),
            network: std::sync::Arc::new(FakeNetwork::new()),
            disks: std::sync::Arc::new(FakeDisks::default()),
            supervisors: Supervisors::new(None, std::sync::Arc::new(FakeSupervisor::new())),
            shell: std::sync::Arc::new(FakeShell::new(|_| Err(Error::new("ask", "no guest")))),
            gateway: std::sync::Arc::new(HttpGates),
        },
        interrupt: Interrupt::default(),
        ui: Ui::plain(),
    };
    let mend = |source: &Source| {
        let mut findings =
            doctor::examine(&app, &Purpose { from: Some(source), ..Purpose::of_settings(&app, Vec::new()) });
        // The other checks are of the machine that runs the test.
        findings.retain(|finding| finding.name == doctor::firecracker::NAME);
        assert!(findings.len() == 1 && findings[0].required && !findings[0].ok, "{findings:?}");
        app.ui.progress().step("mend", |watch| doctor::mend(&app, &findings, watch)).map(drop)
    };
    let nowhere = place.dir.path().join("none.tgz");
    assert!(mend(&Source::Path(nowhere)).unwrap_err().one_line().contains("none.tgz"));
    mend(&Source::parse(page.url()).unwrap()).unwrap();
    assert_eq!(place.versions(), ["Firecracker v1.16.1", "Jailer v1.16.1"]);
}
