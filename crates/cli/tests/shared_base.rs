//! Instances that share the base of an image, from setup to destroy: real files and links, fakes of everything below.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use fireclaw::{
    args::Output,
    commands::{image, status},
    fleet,
};
use fireclaw_core::{
    layout::{ImagePaths, InstancePaths},
    report::{DiskReport, StatusReport},
    spec::DiskKind,
};
use fireclaw_host::disk::{fake::FakeDisks, same_file};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use world::{World, run_destroy, run_setup_with, world};

const SHARED: (u32, &str) = (2, "root=/dev/vda ro fireclaw.state=/dev/vdb quiet");
const COPIED: (u32, &str) = (1, "root=/dev/vda rw quiet");
const OUTPUT: Output = Output { json: false, quiet: true };

/// A host with an image, made of the files at the top of the images' folder.
fn host((format, cmdline): (u32, &str)) -> World {
    let world = world();
    let image = image_of(&world);
    let top = world.app.settings.layout.top_image();
    fs::create_dir(&image.dir).unwrap();
    fs::copy(top.vmlinux, &image.vmlinuz).unwrap();
    fs::rename(top.rootfs, &image.rootfs).unwrap();
    let manifest = serde_json::json!({
        "format": format, "name": "default", "built_at": "", "system": "trixie", "mirror": null,
        "openclaw": "1", "node": "1", "docker": true, "browser": true, "files": {}, "packages": {}, "npm": {},
        "boot": {"kernel": "vmlinuz", "kernel_elf": null, "initrd": null, "cmdline": cmdline},
    });
    fs::write(&image.manifest, manifest.to_string()).unwrap();
    world
}

fn image_of(world: &World) -> ImagePaths {
    world.app.settings.layout.image(&"default".parse().unwrap())
}

fn paths(world: &World, id: &str) -> InstancePaths {
    world.app.settings.layout.instance(&id.parse().unwrap()).unwrap()
}

fn setup(world: &World, id: &str) -> fireclaw_core::error::Result<()> {
    run_setup_with(&world.app, id, &["--disk-size", "2G"])
}

fn report(world: &World, id: &str) -> StatusReport {
    let record = world.app.store().load(&id.parse().unwrap()).unwrap();
    fleet::status(&world.app, &record).unwrap()
}

fn disk(world: &World, id: &str) -> DiskReport {
    report(world, id).disk.unwrap()
}

/// The line of `status` on the base.
fn said(world: &World, id: &str) -> String {
    let text = status::text(&report(world, id));
    text.lines().find(|line| line.starts_with("base ")).unwrap_or_default().to_owned()
}

fn names(folder: &Path) -> Vec<String> {
    fireclaw_host::fs::names(folder).unwrap()
}

#[test]
fn two_instances_share_one_base_that_outlives_its_image() {
    let world = host(SHARED);
    for id in ["one", "two"] {
        setup(&world, id).unwrap();
        assert_eq!(names(&paths(&world, id).images_dir), ["base.ext4", "seed.img", "state.ext4", "vmlinux"]);
        assert!(same_file(&paths(&world, id).base, &image_of(&world).rootfs));
        let report = disk(&world, id);
        assert_eq!((report.kind.as_str(), report.size_bytes), ("shared", 2 << 30));
        let base = report.base.unwrap();
        assert_eq!((base.size_bytes, base.current), (Some(16 << 20), true));
    }
    assert!(said(&world, "one").ends_with("MiB, read-only and shared; as in the image"));
    image::remove(&world.app, "default", OUTPUT).unwrap();
    let base = disk(&world, "one").base.unwrap();
    assert_eq!((base.size_bytes, base.current), (Some(16 << 20), false));
    assert!(said(&world, "one").ends_with("kept: the image was rebuilt or removed"));
    assert!(same_file(&paths(&world, "one").base, &paths(&world, "two").base));
    run_destroy(&world.app, "one").unwrap();
    assert!(paths(&world, "two").base.exists());
    run_destroy(&world.app, "two").unwrap();
    assert!(names(&world.app.settings.layout.fc_root).is_empty());
}

#[test]
fn an_image_of_before_is_copied() {
    let world = host(COPIED);
    setup(&world, "one").unwrap();
    assert_eq!(names(&paths(&world, "one").images_dir), ["rootfs.ext4", "seed.img", "vmlinux"]);
    let record = world.app.store().load(&"one".parse().unwrap()).unwrap();
    assert_eq!((record.disks, record.cmdline.as_str()), (DiskKind::Copy, COPIED.1));
    let report = disk(&world, "one");
    assert_eq!((report.kind.as_str(), report.base), ("copy", None));
    assert_eq!(said(&world, "one"), "");
}

#[test]
fn files_that_are_named_are_copied_though_they_are_an_images() {
    let world = host(SHARED);
    let image = image_of(&world);
    let named = |flag: &str, path: &PathBuf| [flag.to_owned(), path.display().to_string()];
    let flags = [named("--base-kernel", &image.vmlinuz), named("--base-rootfs", &image.rootfs)].concat();
    run_setup_with(&world.app, "one", &flags.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    assert!(paths(&world, "one").disk.exists() && !paths(&world, "one").base.exists());
}

#[test]
fn a_disk_that_cannot_be_made_leaves_nothing() {
    let mut world = host(SHARED);
    let disks = FakeDisks::default();
    world.app.host.disks = Arc::new(disks.clone());
    disks.fail_next(Errno::ENOSPC);
    let error = setup(&world, "one").unwrap_err();
    assert!(error.one_line().contains("No space left"), "{}", error.one_line());
    assert!(world.app.store().all().unwrap().is_empty());
    assert!(names(&world.app.settings.layout.fc_root).is_empty());
    setup(&world, "one").unwrap();
}

#[test]
fn a_disk_that_is_of_no_use_is_refused_before_anything_is_done() {
    let world = host(SHARED);
    let error = run_setup_with(&world.app, "one", &["--disk-size", "64M"]).unwrap_err();
    assert!(error.one_line().contains("--disk-size"), "{}", error.one_line());
    assert!(!world.app.settings.layout.fc_root.exists());
}

/// It is what makes room.
#[test]
fn an_instance_is_destroyed_on_a_full_disk() {
    let world = host(SHARED);
    let layout = &world.app.settings.layout;
    fs::create_dir(&layout.state_root).unwrap();
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    mount(Some("none"), &layout.state_root, Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
    setup(&world, "one").unwrap();
    let filler = layout.state_root.join("filler");
    let full = std::iter::repeat_n([7; 4096], 65).flatten().collect::<Vec<u8>>();
    assert_eq!(fs::write(&filler, full).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    setup(&world, "two").unwrap_err();
    run_destroy(&world.app, "one").unwrap();
    let paths = paths(&world, "one");
    for path in [&paths.state_dir, &paths.dir, &paths.journal] {
        assert!(!path.exists(), "{}", path.display());
    }
    fs::remove_file(filler).unwrap();
    setup(&world, "two").unwrap();
}

/// Instances on a filesystem of their own: the base is kept beside the images, and goes with its instance.
#[test]
fn a_base_beside_the_images_goes_with_its_instance() {
    let world = host(SHARED);
    let layout = &world.app.settings.layout;
    fs::create_dir(&layout.fc_root).unwrap();
    // A mount namespace of this thread's own.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    mount(Some("none"), &layout.fc_root, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    setup(&world, "one").unwrap();
    assert_eq!(names(&layout.base_pins()), ["one.ext4"]);
    image::remove(&world.app, "default", OUTPUT).unwrap();
    assert_eq!(disk(&world, "one").base.unwrap().size_bytes, Some(16 << 20));
    run_destroy(&world.app, "one").unwrap();
    assert!(names(&layout.base_pins()).is_empty());
}
