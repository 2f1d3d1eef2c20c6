//! Container images for the tests' registry, made without a daemon: OpenClaw's out of a base image, and a small one that only
//! answers the gateway's probes. Mounts the base image's root filesystem read-only for the time of the copy; writes where it is told.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fireclaw_core::error::{Context, Result};
use fireclaw_testkit::oci::{Layout, Runs};

use crate::shell;

/// A folder that is filled, packed and removed.
struct Tree(PathBuf);

impl Tree {
    fn new(path: PathBuf) -> Result<Self> {
        fireclaw_host::fs::remove_tree(&path)?;
        for dir in ["etc", "home/node", "app", "tmp", "proc", "sys", "dev", "run", "var"] {
            fs::create_dir_all(path.join(dir)).context("create folder", path.join(dir).display())?;
        }
        let tree = Self(path);
        tree.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n")?;
        tree.write("etc/group", "root:x:0:\nnode:x:1000:\n")?;
        tree.write("etc/os-release", "ID=debian\n")?;
        shell::must("chmod", &["1777", &tree.at("tmp")])?;
        shell::must("chown", &["1000:1000", &tree.at("home/node")])?;
        Ok(tree)
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.0.join(name), text).context("write", name)
    }

    fn copy(&self, from: &str, to: &str) -> Result<()> {
        let target = self.0.join(to);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).context("create folder", folder.display())?;
        }
        shell::must("cp", &["-a", from, &target.display().to_string()]).map(drop)
    }

    /// The tree as the one layer of an image.
    fn publish(&self, layout: &Layout, tag: &str) -> Result<()> {
        let tar = self.0.with_extension("tar").display().to_string();
        shell::must(
            "tar",
            &["--create", "--numeric-owner", "--file", &tar, "--directory", &self.at(""), "."],
        )?;
        let file = fs::File::open(&tar).context("read", &tar)?;
        let layer = layout.layer(file).context("make", "the image's layer")?;
        layout.image(tag, &[layer], &Runs::openclaw()).context("make", "the container image")?;
        fs::remove_file(&tar).context("remove", &tar)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fireclaw_host::fs::remove_tree(&self.0);
    }
}

/// Node and OpenClaw cut out of a base image's root filesystem, where OpenClaw's own image has them. `work` is a folder for
/// what is in between, on a filesystem with a gigabyte to spare.
pub fn openclaw(rootfs: &Path, work: &Path, layout: &Layout, tag: &str) -> Result<()> {
    let tree = Tree::new(work.join("container"))?;
    let mount = work.join("mount");
    fs::create_dir_all(&mount).context("create folder", mount.display())?;
    let at = mount.display().to_string();
    shell::must("mount", &["-o", "loop,ro", &rootfs.display().to_string(), &at])?;
    let copied = copy_parts(&at, &tree);
    shell::must("umount", &[&at])?;
    copied?;
    tree.publish(layout, tag)
}

/// What the container needs of the image: the C library and a shell's worth of programs, Node, OpenClaw.
fn copy_parts(from: &str, tree: &Tree) -> Result<()> {
    for link in ["bin", "lib", "lib64", "sbin"] {
        tree.copy(&format!("{from}/{link}"), link)?;
    }
    for dir in ["usr/lib", "usr/bin", "usr/sbin", "usr/lib64"] {
        fs::create_dir_all(tree.0.join(dir)).context("create folder", dir)?;
    }
    for dir in ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu"] {
        if Path::new(&format!("{from}/{dir}")).exists() {
            tree.copy(&format!("{from}/{dir}"), dir)?;
        }
    }
    tree.copy(&format!("{from}/usr/lib64/."), "usr/lib64/")?;
    for program in ["sh", "dash", "bash", "cat", "ls", "env", "id", "sleep"] {
        // Which of them there are is the distribution's choice.
        let _ = tree.copy(&format!("{from}/usr/bin/{program}"), &format!("usr/bin/{program}"));
    }
    tree.copy(&format!("{from}/opt/openclaw/node/bin/node"), "usr/bin/node")?;
    tree.copy(&format!("{from}/opt/openclaw/lib/node_modules/openclaw/."), "app/")
}

/// Busybox and a stand-in where Node would be: `stand_in` is its script, `probes` are what it answers by path.
pub fn small(
    busybox: &Path,
    stand_in: &str,
    probes: &[(&str, String)],
    work: &Path,
    layout: &Layout,
    tag: &str,
) -> Result<()> {
    let tree = Tree::new(work.join("container"))?;
    tree.copy(&busybox.display().to_string(), "bin/busybox")?;
    for (name, text) in probes {
        let at = format!("opt/openclaw/www/{name}");
        fs::create_dir_all(tree.0.join("opt/openclaw/www")).context("create folder", "opt/openclaw/www")?;
        tree.write(&at, text)?;
    }
    fs::create_dir_all(tree.0.join("usr/bin")).context("create folder", "usr/bin")?;
    tree.write("usr/bin/node", stand_in)?;
    // Who configures OpenClaw from outside does it by this one.
    tree.write("bin/bash", "#!/bin/busybox sh\nexec /bin/busybox sh \"$@\"\n")?;
    shell::must("chmod", &["755", &tree.at("usr/bin/node"), &tree.at("bin/bash")])?;
    tree.publish(layout, tag)
}
