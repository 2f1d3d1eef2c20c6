//! The builder with programs that only leave the files that the next step looks for.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use sha2::Sha512;

use super::*;
use crate::exec::{Output, fake::FakeExec};

struct Silent(Vec<String>);

impl Progress for Silent {
    fn begin(&mut self, step: &str) {
        self.0.push(step.to_owned());
    }
    fn detail(&mut self, _: &str) {}
    fn end(&mut self, _: &str, _: u64, _: bool) {}
}

fn word_after<'a>(line: &'a str, flag: &str) -> &'a str {
    line.split(' ').skip_while(|word| *word != flag).nth(1).unwrap()
}

/// Programs that work, but for the one whose line contains `broken`.
fn programs(work: PathBuf, broken: Arc<Mutex<Option<&'static str>>>) -> FakeExec {
    let integrity =
        format!("sha512-{}", base64::engine::general_purpose::STANDARD.encode(Sha512::digest(b"tarball")));
    FakeExec::new(move |cmd| {
        let line = cmd.line();
        if broken.lock().unwrap().is_some_and(|part| line.contains(part)) {
            return Ok(Output::made(1, "", "injected"));
        }
        let tree = work.join("tree");
        if line.starts_with("curl") {
            let to = word_after(&line, "--output");
            let document = format!(r#"{{"dist":{{"tarball":"https://r/x.tgz","integrity":"{integrity}"}}}}"#);
            fs::write(to, if line.contains("x.tgz") { "tarball" } else { &document }).unwrap();
        } else if line.contains("mmdebstrap") {
            let modules = tree.join("usr/lib/modules/6.12");
            for dir in ["etc/ssh", "boot", "proc", "usr/local/bin", "usr/bin", "tmp", "usr/lib/modules/6.12"]
            {
                fs::create_dir_all(tree.join(dir)).unwrap();
            }
            fs::write(tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
            fs::write(tree.join("boot/vmlinuz-6.12"), [b"\x7fELF".as_slice(), &[0; 64]].concat()).unwrap();
            fs::write(tree.join("usr/bin/busybox"), "busybox").unwrap();
            fs::write(modules.join("modules.dep"), "").unwrap();
            let built_in = recipe::NEEDED_MODULES.iter().map(|name| format!("kernel/{name}.ko\n"));
            fs::write(modules.join("modules.builtin"), built_in.collect::<String>()).unwrap();
        } else if line.ends_with("openclaw.mjs --version") {
            return Ok(Output::made(0, "OpenClaw 2026.9.6 (x)\n", ""));
        } else if line.contains("dpkg-query") {
            return Ok(Output::made(0, "systemd 257\nopenssh-server 1:10\n", ""));
        }
        Ok(Output::made(0, "", ""))
    })
}

struct Place {
    _dir: tempfile::TempDir,
    layout: Layout,
    request: BuildRequest,
    broken: Arc<Mutex<Option<&'static str>>>,
    exec: FakeExec,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            state_root: dir.path().join("state"),
            images_root: dir.path().join("images"),
            ..Layout::default()
        };
        let program = dir.path().join("fireclaw");
        fs::write(&program, "the program").unwrap();
        let request = BuildRequest::new("default".parse().unwrap(), program);
        let broken = Arc::default();
        let exec = programs(layout.image_work(&request.name), Arc::clone(&broken));
        Self { _dir: dir, layout, request, broken, exec }
    }

    /// A build, and the steps that it did.
    fn build(&self) -> (Result<Manifest>, Vec<String>) {
        let mut progress = Silent(Vec::new());
        let made =
            build(&self.exec, &self.layout, &self.request, "2026-01-01T00:00:00Z", &|_| None, &mut progress);
        (made, progress.0)
    }
}

#[test]
fn a_build_is_published_with_a_manifest_that_says_what_went_in() {
    let place = Place::new();
    let (made, steps) = place.build();
    let manifest = made.unwrap();
    assert_eq!(steps.len(), 8);
    assert_eq!(manifest.packages["openssh-server"], "1:10");
    assert!(manifest.npm.keys().any(|name| name.starts_with("node-linux")));
    assert_eq!(
        manifest.files.keys().collect::<Vec<_>>(),
        ["initrd.img", "rootfs.ext4", "vmlinux", "vmlinuz"]
    );
    assert_eq!(store::inspect(&place.layout, &place.request.name).unwrap(), manifest);
    assert!(!place.layout.image_work(&place.request.name).exists());
}

#[test]
fn a_failed_step_is_where_the_next_run_begins() {
    for (part, step, before) in [
        ("mmdebstrap", "root filesystem", 1),
        ("npm-cli.js", "OpenClaw", 2),
        ("npm-cli.js rebuild", "OpenClaw", 2),
        ("openclaw.mjs --version", "OpenClaw", 2),
        ("useradd", "customise", 3),
        ("mke2fs", "pack", 6),
        ("dpkg-query", "publish", 7),
    ] {
        let place = Place::new();
        *place.broken.lock().unwrap() = Some(part);
        let (made, steps) = place.build();
        let error = made.unwrap_err();
        assert!(error.get_hint().unwrap().contains("again"), "{part}: {error:?}");
        assert_eq!(steps.last().unwrap(), step);
        assert_eq!(steps.len(), before + 1);
        *place.broken.lock().unwrap() = None;
        let (made, steps) = place.build();
        made.unwrap();
        assert_eq!((steps[0].as_str(), steps.len()), (step, 8 - before), "{part}");
    }
}

#[test]
fn another_request_does_again_what_depends_on_it() {
    let mut place = Place::new();
    *place.broken.lock().unwrap() = Some("mke2fs");
    place.build().0.unwrap_err();
    *place.broken.lock().unwrap() = None;
    place.request.openclaw_version = "2026.9.7".to_owned();
    let (made, steps) = place.build();
    // What is installed says that it is another version than the one that was asked for.
    assert!(made.unwrap_err().one_line().contains("2026.9.7"));
    assert_eq!(steps, ["OpenClaw"]);
    place.request.openclaw_version = "2026.9.6".to_owned();
    place.request.docker = false;
    let (made, steps) = place.build();
    assert!(!made.unwrap().docker);
    assert_eq!(steps[0], "root filesystem");
}

/// The kernel is taken out of the tree before it is packed, and must be there when only what comes before is another.
#[test]
fn a_newer_program_goes_on_with_a_build_that_failed_at_its_end() {
    let place = Place::new();
    *place.broken.lock().unwrap() = Some("mke2fs");
    place.build().0.unwrap_err();
    *place.broken.lock().unwrap() = None;
    fs::write(&place.request.guest_binary, "a newer program").unwrap();
    let (made, steps) = place.build();
    made.unwrap();
    assert_eq!(steps[0], "customise");
}

/// Once it may be exchanged with the image of before, what lies in the work folder is nobody's work to go on with.
#[test]
fn what_was_published_is_not_taken_for_unfinished_work() {
    let place = Place::new();
    let out = place.layout.image_work(&place.request.name).join("out");
    let spoiled = FakeExec::new({
        let works = place.exec.clone();
        move |cmd| {
            if cmd.line().contains("dpkg-query") {
                fs::create_dir_all(out.join("manifest.json/in the way")).unwrap();
            }
            works.run(Cmd::new(&cmd.program).args(&cmd.args))
        }
    });
    let mut progress = Silent(Vec::new());
    build(&spoiled, &place.layout, &place.request, "now", &|_| None, &mut progress).unwrap_err();
    assert_eq!(progress.0.last().unwrap(), "publish");
    let (made, steps) = place.build();
    made.unwrap();
    assert_eq!(steps.len(), 8);
}

#[test]
fn a_kernel_that_finds_no_disk_is_refused() {
    let place = Place::new();
    *place.broken.lock().unwrap() = Some("useradd");
    place.build().0.unwrap_err();
    *place.broken.lock().unwrap() = None;
    let modules = place.layout.image_work(&place.request.name).join("tree/usr/lib/modules/6.12");
    fs::write(modules.join("modules.builtin"), "").unwrap();
    let (made, steps) = place.build();
    assert!(made.unwrap_err().one_line().contains("virtio_mmio"));
    assert_eq!(steps, ["customise", "initrd and kernel"]);
}

#[test]
fn an_interruption_is_not_taken_for_a_gateway_that_does_not_come_up() {
    let place = Place::new();
    let interrupted = FakeExec::new({
        let works = place.exec.clone();
        move |cmd| {
            if cmd.line().contains("gateway run") {
                return Err(Error::new("finish", "the operation").kind(Kind::Interrupted));
            }
            works.run(Cmd::new(&cmd.program).args(&cmd.args))
        }
    });
    let mut progress = Silent(Vec::new());
    let made = build(&interrupted, &place.layout, &place.request, "now", &|_| None, &mut progress);
    assert_eq!(made.unwrap_err().get_kind(), Kind::Interrupted);
    let (made, steps) = place.build();
    made.unwrap();
    assert_eq!(steps[0], "warm caches");
}

#[test]
fn a_request_that_cannot_be_built_touches_nothing() {
    let mut place = Place::new();
    place.request.suite = "woody".to_owned();
    let (made, steps) = place.build();
    assert_eq!(made.unwrap_err().get_kind(), Kind::Refused);
    assert!(steps.is_empty() && place.exec.lines().is_empty());
    assert!(!place.layout.images_root.exists());
}
#[test]
fn a_gateway_that_does_not_warm_up_fails_no_build() {
    let place = Place::new();
    *place.broken.lock().unwrap() = Some("gateway run");
    place.build().0.unwrap();
}
