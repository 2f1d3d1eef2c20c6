//! Building an image, step by step, each resumable. Starts the distribution's own tools, as root but for npm.
//!
//! Nothing that is mounted is ever seen outside: whatever mounts runs in a mount namespace that ends with it.

mod openclaw;
mod pack;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    guest::{USER, USER_ID},
    layout::Layout,
};
use sha2::{Digest, Sha256};

use super::{
    BuildRequest, Progress,
    customise::{self},
    initrd,
    manifest::{self, Boot, Manifest},
    npm::{self, Registry},
    recipe::{self, CMDLINE, NPM_VERSION, SOURCE_DATE_EPOCH},
    store,
    tree::Tree,
};
use crate::{
    disk::space,
    exec::{Cmd, Exec, Stream},
    interrupt::Interrupt,
};

/// Tree, tools and filesystem together, with everything in the image.
const NEEDED: u64 = 9 << 30;
/// Raised when a step does something else with the same inputs.
const RECIPE: u32 = 3;
/// A build under way.
struct Build<'a> {
    exec: &'a dyn Exec,
    request: &'a BuildRequest,
    progress: &'a mut dyn Progress,
    env: &'a dyn Fn(&str) -> Option<String>,
    work: PathBuf,
    /// A hash over all steps so far: what a later step is built on.
    key: String,
}

/// Builds an image and publishes it. A step that was finished by an earlier run with the same request is not done again.
/// `built_at` is now, RFC 3339; `env` looks a variable of the user's environment up.
pub fn build(
    exec: &dyn Exec,
    layout: &Layout,
    request: &BuildRequest,
    built_at: &str,
    env: &dyn Fn(&str) -> Option<String>,
    progress: &mut dyn Progress,
) -> Result<Manifest> {
    recipe::check(request)?;
    let _lock = store::hold(layout, &request.name)?;
    let work = layout.image_work(&request.name);
    fs::create_dir_all(work.join("stamps")).context("create folder", work.display())?;
    let free = space::free_bytes(&work)?;
    // What an earlier run has written is not needed again.
    if free < NEEDED && free + space::allocated_below(&work)? < NEEDED {
        return Err(Error::new("build", format!("image `{}`", request.name))
            .kind(Kind::HostNotReady)
            .because(format!(
                "{} MiB are needed under {} and {} are free",
                NEEDED >> 20,
                layout.images_root.display(),
                free >> 20
            ))
            .hint("make room, or set BASE_IMAGES_DIR to a larger disk"));
    }
    let mut build = Build { exec, request, progress, env, work: work.clone(), key: String::new() };
    let bootstrap = recipe::bootstrap_args(request, "tree")?.join("\n");
    build.step(
        "fetch node and npm",
        &format!("{} {NPM_VERSION}", request.node_version),
        Build::fetch_tools,
    )?;
    // What is written into the tree later is an input of the tree: it is never written over an older version of itself.
    let entries = customise::entries(&BuildRequest { openclaw_version: String::new(), ..request.clone() });
    build.step("root filesystem", &format!("{bootstrap}\n{entries:?}"), Build::root_filesystem)?;
    build.step("OpenClaw", &request.openclaw_version, Build::openclaw)?;
    let binary = checksum(&request.guest_binary)?;
    build.step("customise", &binary, Build::customise)?;
    build.step("initrd and kernel", initrd::INIT, Build::kernel)?;
    build.step("warm caches", "", Build::warm)?;
    build.step("pack", "", Build::pack)?;
    let manifest = build.timed("publish", |build| {
        let manifest = build.manifest(built_at)?;
        // From here on the folder may hold the image of before, or half of it: no later run is to take that for its own work.
        crate::fs::remove_for_good(&build.work.join("stamps"))?;
        store::publish(layout, &request.name, &build.work.join("out"), &manifest)?;
        Ok(manifest)
    })?;
    crate::fs::remove_tree(&work)?;
    Ok(manifest)
}

impl Build<'_> {
    /// Does a step unless its stamp says that it is done with the same inputs, its own and those of the steps before it.
    fn step(&mut self, name: &str, inputs: &str, work: fn(&mut Self) -> Result<()>) -> Result<()> {
        self.key = format!("{:x}", Sha256::digest(format!("{RECIPE}\n{}\n{name}\n{inputs}", self.key)));
        let stamp = self.work.join("stamps").join(name.replace(' ', "-"));
        if crate::fs::read_if_there(&stamp)?.as_deref() == Some(&self.key) {
            return Ok(());
        }
        crate::fs::remove_file(&stamp)?;
        self.timed(name, work)?;
        crate::fs::write(&stamp, self.key.as_bytes(), 0o644)
    }

    fn timed<T>(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.progress.begin(name);
        let begun = Instant::now();
        let result = work(self);
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.end(name, ms, result.is_ok());
        result.map_err(|error| {
            let hint =
                error.get_hint().unwrap_or("run the command again: it goes on with this step").to_owned();
            Error::new("build", format!("image `{}`", self.request.name)).source(error).hint(hint)
        })
    }

    fn tree(&self) -> PathBuf {
        self.work.join("tree")
    }

    fn tool(&self, name: &str) -> PathBuf {
        self.work.join("tools").join(name)
    }

    /// Runs a program that must succeed and shows its lines.
    fn run(&mut self, cmd: Cmd) -> Result<()> {
        let progress = &mut self.progress;
        self.exec.check_stream(cmd, &mut |_: Stream, line: &str| progress.detail(line)).map(drop)
    }

    fn fetch_tools(&mut self) -> Result<()> {
        let npmrc = match self.npmrc() {
            Some(path) => fs::read_to_string(&path).context("read", path.display())?,
            None => String::new(),
        };
        let registry = Registry::of(self.env, &npmrc);
        let mut integrity = BTreeMap::new();
        for (name, package, version) in [
            ("node", recipe::node_package(), self.request.node_version.as_str()),
            ("npm", "npm", NPM_VERSION),
        ] {
            self.progress.detail(&format!("{package} {version}"));
            let fetched = npm::fetch(self.exec, &registry, package, version, &self.tool(name))?;
            integrity.insert(format!("{package}@{version}"), fetched.integrity);
        }
        let text = serde_json::to_vec(&integrity).context("render", "checksums")?;
        crate::fs::write(&self.tool("integrity.json"), &text, 0o644)
    }

    /// The user's own settings of npm.
    fn npmrc(&self) -> Option<PathBuf> {
        let named =
            ["npm_config_userconfig", "NPM_CONFIG_USERCONFIG"].iter().find_map(|name| (self.env)(name));
        let path =
            named.map(PathBuf::from).or_else(|| Some(PathBuf::from((self.env)("HOME")?).join(".npmrc")))?;
        path.is_file().then_some(path)
    }

    /// mmdebstrap mounts in the tree while it runs: in a namespace of its own, with the processes that it leaves.
    fn root_filesystem(&mut self) -> Result<()> {
        let tree = self.tree();
        crate::fs::remove_tree(&tree)?;
        crate::fs::remove_tree(&self.work.join("boot"))?;
        let cmd = Cmd::new("unshare")
            .inherit_env()
            // The ramdisk is ours; the kernel's package would build another.
            .env("INITRD", "No")
            .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string())
            .args(["--fork", "--pid", "--kill-child", "--mount", "--mount-proc", "mmdebstrap"])
            .args(recipe::bootstrap_args(self.request, &tree.to_string_lossy())?)
            .deadline(Duration::from_hours(1))
            .dies_at_once()
            .about(format!("mmdebstrap of {}", self.request.suite));
        self.run(cmd)
    }

    fn below(&self, path: &str) -> PathBuf {
        self.tree().join(path.trim_start_matches('/'))
    }

    fn customise(&mut self) -> Result<()> {
        let passwd = self.below("/etc/passwd");
        let users = fs::read_to_string(&passwd).context("read", passwd.display())?;
        if !users.lines().any(|line| line.starts_with(&format!("{USER}:"))) {
            let id = USER_ID.to_string();
            let add = [
                "useradd",
                "--create-home",
                "--uid",
                &id,
                "--user-group",
                "--shell",
                "/bin/bash",
                "--groups",
                "sudo",
                USER,
            ];
            self.run(self.chroot().args(add).about("the user of the guest"))?;
        }
        if self.request.docker {
            self.run(
                self.chroot()
                    .args(["usermod", "--append", "--groups", "docker", USER])
                    .about("the group docker"),
            )?;
        }
        let tree = Tree::new(self.tree());
        tree.apply(&customise::entries(self.request))?;
        tree.install(&self.request.guest_binary, customise::AGENT, customise::PROGRAM)
    }

    fn chroot(&self) -> Cmd {
        Cmd::new("chroot").arg(self.tree())
    }

    /// The kernel out of the tree, as it is packed and as every VMM starts it, and a ramdisk with its modules.
    fn kernel(&mut self) -> Result<()> {
        let out = self.work.join("out");
        crate::fs::remove_tree(&out)?;
        fs::create_dir_all(&out).context("create folder", out.display())?;
        let paths = Layout::image_in(out);
        let boot = self.boot()?;
        let names = crate::fs::names(&boot)?;
        let release = names
            .iter()
            .rev()
            .find_map(|name| name.strip_prefix("vmlinuz-"))
            .ok_or_else(|| Error::new("find", "a kernel in the root filesystem"))?;
        let kernel = boot.join(format!("vmlinuz-{release}"));
        fs::copy(&kernel, &paths.vmlinuz).context("copy", kernel.display())?;
        store::unpack_kernel(&paths.vmlinuz, &paths.vmlinux)?;
        let ramdisk = initrd::build(&self.tree(), release)?;
        crate::fs::write(&paths.initrd, &ramdisk, 0o644)
    }

    /// What the packages put into `/boot`, taken out of the tree: it has no business in the image, and is there when this step is
    /// done again.
    fn boot(&self) -> Result<PathBuf> {
        let (inside, boot) = (self.below("/boot"), self.work.join("boot"));
        fs::create_dir_all(&boot).context("create folder", boot.display())?;
        for name in crate::fs::names(&inside)? {
            crate::fs::remove_any(&boot.join(&name))?;
            fs::rename(inside.join(&name), boot.join(&name)).context("move", inside.join(&name).display())?;
        }
        Ok(boot)
    }

    fn manifest(&mut self, built_at: &str) -> Result<Manifest> {
        let request = self.request;
        let query = self.chroot().args(["dpkg-query", "--show", "--showformat=${Package} ${Version}\\n"]);
        let listed = self.exec.check(query.about("the list of packages"))?.text();
        let packages = listed
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .collect();
        let text = fs::read(self.tool("integrity.json")).context("read", "checksums")?;
        let npm = serde_json::from_slice(&text).context("read", "checksums")?;
        let out = self.work.join("out");
        Ok(Manifest {
            format: manifest::SHARED,
            name: request.name.to_string(),
            built_at: built_at.to_owned(),
            system: request.suite.clone(),
            mirror: request.mirror.clone(),
            openclaw: Some(request.openclaw_version.clone()),
            node: Some(request.node_version.clone()),
            docker: request.docker,
            browser: request.browser,
            boot: Boot {
                kernel: "vmlinuz".to_owned(),
                kernel_elf: out.join("vmlinux").exists().then(|| "vmlinux".to_owned()),
                initrd: Some("initrd.img".to_owned()),
                cmdline: CMDLINE.to_owned(),
            },
            files: store::checksums(&out, &Interrupt::default())?,
            packages,
            npm,
        })
    }
}

/// The SHA-256 of a file.
fn checksum(path: &Path) -> Result<String> {
    let bytes = fs::read(path).context("read", path.display())?;
    Ok(format!("{:x}", Sha256::digest(bytes)))
}
