//! The lab's second disk: base images, and room for instances on the same filesystem, as a server has them. Starts
//! mmdebstrap and mke2fs; reads the image that the end-to-end tests keep.
//!
//! `default` is a real image with OpenClaw. `tiny` is made by the same recipe of far fewer packages, with a stand-in where
//! OpenClaw would be: it answers the gateway's probes and writes to SQLite, and is up in a fraction of the time. It is for
//! what is about hosts and VMs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fireclaw_core::error::{Context, Error, Result};
use fireclaw_host::{
    exec::{Cmd, Exec, SystemExec},
    image::{
        self, Boot, BuildRequest, Manifest,
        customise::{self, Entry, NODE_DIR},
        recipe,
        tree::Tree,
    },
};
use fireclaw_testkit::oci::Layout;
use serde_json::json;

use super::{disk, stock};
use crate::{container, shell};

/// Raised when the same inputs are to make another image.
const RECIPE: u32 = 2;

const SUITE: &str = "trixie";

/// What the guest's side of fireclaw needs, what plays an attacker, and SQLite.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "dbus",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "kmod",
    "linux-image-cloud-amd64",
    "openssh-server",
    "procps",
    "python3-minimal",
    "sqlite3",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
];

/// The unit that writes rows.
const WRITER: &str = "[Unit]\nDescription=Rows in SQLite\n[Service]\nExecStart=/usr/local/bin/lab-writer\n\
                      Restart=always\n[Install]\nWantedBy=multi-user.target\n";

/// Gives the disk, made when there is none with these images. With a `default`, the folder of a built image, it carries that
/// too, and what else takes room: container images in a registry's layout and a stock root filesystem with its packages.
pub fn disk(below: &Path, program: &Path, default: Option<&Path>) -> Result<PathBuf> {
    let tiny = tiny(below, program)?;
    let Some(default) = default else {
        let dir = disk::kept(below, "images", &tiny.display().to_string(), |dir| {
            link_all(&tiny, &dir.join("tree/base/images/tiny"))?;
            packed(dir)
        })?;
        return Ok(dir.join("images.ext4"));
    };
    let stock = stock::folder(below)?;
    let manifest = default.join("manifest.json");
    let manifest = fs::read_to_string(&manifest).context("read", manifest.display())?;
    let inputs = format!("{RECIPE}\n{}\n{}\n{manifest}", tiny.display(), stock.display());
    let dir = disk::kept(below, "large-images", &inputs, |dir| {
        link_all(&tiny, &dir.join("tree/base/images/tiny"))?;
        link_all(default, &dir.join("tree/base/images/default"))?;
        link_all(&stock, &dir.join("tree/lab/stock"))?;
        link_all(&stock.join("debian"), &dir.join("tree/lab/stock/debian"))?;
        let layout =
            Layout::create(&dir.join("tree/lab/registry")).context("make", "the registry's layout")?;
        container::openclaw(&default.join("rootfs.ext4"), dir, &layout, "real")?;
        small_container(dir, &layout, "tiny")?;
        packed(dir)
    })?;
    Ok(dir.join("images.ext4"))
}

/// The gateway's stand-in as a container image.
pub fn small_container(work: &Path, layout: &Layout, tag: &str) -> Result<()> {
    container::small(
        Path::new("/bin/busybox"),
        include_str!("files/stand-in.sh"),
        &probes(),
        work,
        layout,
        tag,
    )
}

/// Makes the disk of the tree beside it.
fn packed(dir: &Path) -> Result<()> {
    disk::pack(&dir.join("tree"), &dir.join("images.ext4"), "48G")?;
    fireclaw_host::fs::remove_tree(&dir.join("tree"))
}

/// What the gateway's stand-in answers, by path.
fn probes() -> [(&'static str, String); 4] {
    [
        ("startupz", json!({ "ok": true, "status": "started", "version": "0.0.0" })),
        ("readyz", json!({ "ready": true })),
        ("healthz", json!({ "ok": true })),
        ("health", json!({ "ok": true })),
    ]
    .map(|(name, body)| (name, format!("{body}\n")))
}

/// Every file of a folder, its folders left out, under another name and without a copy.
fn link_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).context("create folder", to.display())?;
    for name in fireclaw_host::fs::names(from)? {
        if from.join(&name).is_dir() {
            continue;
        }
        fs::hard_link(from.join(&name), to.join(&name)).context("link", from.join(&name).display())?;
    }
    Ok(())
}

/// The small image, as a folder that `image build` could have made.
fn tiny(below: &Path, program: &Path) -> Result<PathBuf> {
    let request = request(program)?;
    let entries = entries(&request);
    let sum = shell::must("sha256sum", &["--", &program.display().to_string()])?;
    let sum = sum.split_whitespace().next().unwrap_or_default();
    let inputs = format!("{RECIPE}\n{SUITE}\n{PACKAGES:?}\n{entries:?}\n{}\n{sum}", recipe::CMDLINE);
    disk::kept(below, "tiny", &inputs, |dir| {
        let work = below.join("tree-of-tiny");
        fireclaw_host::fs::remove_tree(&work)?;
        disk::bootstrap(&work, SUITE, PACKAGES)?;
        let user =
            ["useradd", "--create-home", "--uid", "1000", "--user-group", "--shell", "/bin/bash", "ubuntu"];
        SystemExec::default().check(Cmd::new("chroot").arg(&work).args(user))?;
        let tree = Tree::new(&work);
        tree.apply(&entries)?;
        tree.install(program, customise::AGENT, customise::PROGRAM)?;
        disk::boot_files(&work, dir)?;
        image::unpack_kernel(&dir.join("vmlinuz"), &dir.join("vmlinux"))?;
        for name in fireclaw_host::fs::names(&work.join("boot"))? {
            fireclaw_host::fs::remove_any(&work.join("boot").join(name))?;
        }
        for folder in ["var/cache/apt", "var/lib/apt/lists"] {
            for name in fireclaw_host::fs::names(&work.join(folder))? {
                fireclaw_host::fs::remove_any(&work.join(folder).join(name))?;
            }
        }
        disk::pack(&work, &dir.join("rootfs.ext4"), "1G")?;
        fireclaw_host::fs::remove_tree(&work)?;
        let text = serde_json::to_vec_pretty(&manifest(&request)).context("render", "the manifest")?;
        fs::write(dir.join("manifest.json"), text).context("write", "the manifest")
    })
}

fn request(program: &Path) -> Result<BuildRequest> {
    let mut request = BuildRequest::new("tiny".parse()?, program.to_owned());
    (request.docker, request.browser) = (false, false);
    "0.0.0".clone_into(&mut request.openclaw_version);
    Ok(request)
}

fn manifest(request: &BuildRequest) -> Manifest {
    Manifest {
        format: 1,
        name: "tiny".to_owned(),
        built_at: "2026-01-01T00:00:00Z".to_owned(),
        system: SUITE.to_owned(),
        mirror: None,
        openclaw: Some(request.openclaw_version.clone()),
        node: None,
        docker: false,
        browser: false,
        boot: Boot {
            kernel: "vmlinuz".to_owned(),
            kernel_elf: Some("vmlinux".to_owned()),
            initrd: Some("initrd.img".to_owned()),
            cmdline: recipe::CMDLINE.to_owned(),
        },
        files: std::collections::BTreeMap::new(),
        packages: std::collections::BTreeMap::new(),
        npm: std::collections::BTreeMap::new(),
    }
}

fn entries(request: &BuildRequest) -> Vec<Entry> {
    let file = |path: &str, mode, content: &str| Entry::File {
        path: path.to_owned(),
        mode,
        content: content.to_owned(),
    };
    let mut entries = customise::entries(request);
    entries.extend([
        file(&format!("{NODE_DIR}/bin/node"), 0o755, include_str!("files/stand-in.sh")),
        file(customise::ENTRY, 0o644, "// nobody reads this\n"),
        file("/opt/openclaw/lib/node_modules/openclaw/package.json", 0o644, "{\"version\":\"0.0.0\"}\n"),
        file("/usr/local/bin/lab-writer", 0o755, include_str!("files/writer.sh")),
        file("/usr/local/bin/lab-hostile", 0o755, include_str!("files/hostile.sh")),
        file("/usr/local/bin/lab-rows", 0o755, include_str!("files/rows.sh")),
        file("/etc/systemd/system/lab-writer.service", 0o644, WRITER),
        Entry::Link {
            path: "/etc/systemd/system/multi-user.target.wants/lab-writer.service".to_owned(),
            target: "../lab-writer.service".to_owned(),
        },
    ]);
    entries.extend(probes().map(|(name, body)| file(&format!("/opt/openclaw/www/{name}"), 0o644, &body)));
    entries
}

/// The image that the end-to-end tests built, or a hint how to have it built.
pub fn default_image(target: &Path) -> Result<PathBuf> {
    let dir = target.join("e2e/images/default");
    if dir.join("manifest.json").exists() {
        return Ok(dir);
    }
    Err(Error::new("find", "a base image with OpenClaw")
        .because(format!("there is none in {}", dir.display()))
        .hint("`cargo xtask e2e` makes one; `cargo xtask ci` runs both"))
}

/// Lays the small image into the folder `to`, as one of its own.
pub fn install_tiny(below: &Path, program: &Path, to: &Path) -> Result<()> {
    fireclaw_host::fs::remove_tree(to)?;
    link_all(&tiny(below, program)?, to)
}
