//! Building an image, step by step, each resumable. Starts the distribution's own tools, as root but for npm.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
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
    customise::{self, COMPILE_CACHE, ENTRY, NODE_DIR, PREFIX},
    manifest::{Boot, FORMAT, Manifest},
    npm,
    recipe::{self, CMDLINE, LEFT_OUT},
    store,
};
use crate::{
    disk::space,
    exec::{Cmd, Exec, Stream},
};

/// npm itself, which installs OpenClaw.
const NPM_VERSION: &str = "11.6.2";
/// Tree, tools and filesystem together, with everything in the image.
const NEEDED: u64 = 9 << 30;
/// Raised when a step does something else with the same request.
const RECIPE: u32 = 1;
/// Whom npm and the install scripts of its packages run as: nobody, above the ranges that systems give out.
const NPM_UID: u32 = 1_899_999_999;

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
    let _lock = store::hold(layout, &request.name)?;
    let work = layout.image_work(&request.name);
    fs::create_dir_all(work.join("stamps")).context("create folder", work.display())?;
    let free = space::free_bytes(&work)?;
    if free < NEEDED && !work.join("out/rootfs.ext4").exists() {
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
    let packages = recipe::packages(request).join(",");
    let mirror = request.mirror.clone().unwrap_or_default();
    let binary = match &request.guest_binary {
        Some(path) => format!("{}", fs::metadata(path).context("look at", path.display())?.len()),
        None => String::new(),
    };
    build.step(
        "fetch node and npm",
        &format!("{} {NPM_VERSION}", request.node_version),
        Build::fetch_tools,
    )?;
    build.step(
        "root filesystem",
        &format!("{} {mirror} {packages}", request.suite),
        Build::root_filesystem,
    )?;
    build.step("OpenClaw", &request.openclaw_version, Build::openclaw)?;
    build.step("customise", &binary, Build::customise)?;
    build.step("initrd and kernel", "", Build::kernel)?;
    build.step("warm caches", "", Build::warm)?;
    build.step("pack", "", Build::pack)?;
    let manifest = build.timed("publish", |build| {
        let manifest = build.manifest(built_at)?;
        store::publish(layout, &request.name, &build.work.join("out"), &manifest)?;
        Ok(manifest)
    })?;
    crate::fs::remove_tree(&work)?;
    Ok(manifest)
}

impl Build<'_> {
    /// Does a step unless its stamp says that it is done with the same inputs, its own and those of the steps before it.
    fn step(&mut self, name: &str, inputs: &str, work: fn(&mut Self) -> Result<()>) -> Result<()> {
        let digest = Sha256::digest(format!("{RECIPE}\n{}\n{name}\n{inputs}", self.key));
        self.key = digest.iter().map(|byte| format!("{byte:02x}")).collect();
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
        let registry = npm::registry(self.env);
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

    fn root_filesystem(&mut self) -> Result<()> {
        let tree = self.tree();
        crate::fs::remove_tree(&tree)?;
        let mut cmd = Cmd::new("mmdebstrap")
            .inherit_env()
            .args(["--mode=root", "--variant=minbase", "--format=directory"])
            .arg(format!("--include={}", recipe::packages(self.request).join(",")))
            .args(["--aptopt=Apt::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""])
            .args(["--aptopt=Acquire::Retries \"3\"", "--dpkgopt=force-unsafe-io"])
            .args(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")))
            .arg(&self.request.suite)
            .arg(&tree);
        if let Some(mirror) = &self.request.mirror {
            cmd = cmd.arg(mirror);
        }
        let what = format!("{} by mmdebstrap", self.request.suite);
        self.run(cmd.deadline(Duration::from_hours(1)).about(what))
    }

    /// npm runs scripts of packages: it does so as nobody, in a folder that is nobody's, and the result is copied.
    fn openclaw(&mut self) -> Result<()> {
        let staging = tempfile::Builder::new()
            .prefix("fireclaw-npm-")
            .tempdir_in("/var/tmp")
            .context("create folder", "/var/tmp")?;
        let at = |name: &str| staging.path().join(name);
        for tool in ["node", "npm"] {
            self.run(Cmd::new("cp").arg("--archive").arg(self.tool(tool)).arg(at(tool)).about(tool))?;
        }
        fs::create_dir_all(at("home")).context("create folder", "a home for npm")?;
        // The user's own settings of mirrors and certificates.
        let settings =
            (self.env)("HOME").map(|home| PathBuf::from(home).join(".npmrc")).filter(|path| path.is_file());
        if let Some(settings) = settings {
            fs::copy(&settings, at("home/.npmrc")).context("copy", settings.display())?;
        }
        self.run(
            Cmd::new("chown").args(["--recursive", &format!("{NPM_UID}:{NPM_UID}")]).arg(staging.path()),
        )?;
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", at("node/bin").display());
        let mut cmd = Cmd::new(at("node/bin/node"))
            .inherit_env()
            .env("HOME", at("home"))
            .env("PATH", path)
            .env("npm_config_cache", at("cache"))
            .arg(at("npm/bin/npm-cli.js"))
            .args(["install", "--global", "--prefix"])
            .arg(at("prefix"))
            .args(["--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier"])
            .arg(format!("openclaw@{}", self.request.openclaw_version))
            .cwd(staging.path())
            .user(NPM_UID, NPM_UID)
            .deadline(Duration::from_mins(30))
            .about(format!("OpenClaw {}", self.request.openclaw_version));
        // Node brings certificates of its own; the machine's are those that its owner trusts.
        let bundle = "/etc/ssl/certs/ca-certificates.crt";
        if (self.env)("npm_config_cafile").is_none() && Path::new(bundle).exists() {
            cmd = cmd.env("npm_config_cafile", bundle).env("NODE_EXTRA_CA_CERTS", bundle);
        }
        self.run(cmd)?;
        let into = self.below(PREFIX);
        crate::fs::remove_tree(&into)?;
        fs::create_dir_all(self.below(NODE_DIR).join("bin")).context("create folder", into.display())?;
        for part in ["lib", "bin"] {
            self.run(Cmd::new("cp").arg("--archive").arg(at("prefix").join(part)).arg(&into).about(part))?;
        }
        let node = self.below(NODE_DIR).join("bin/node");
        self.run(Cmd::new("install").args(["--mode=755"]).arg(self.tool("node").join("bin/node")).arg(node))?;
        self.run(Cmd::new("chown").args(["--recursive", "--no-dereference", "0:0"]).arg(&into))
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
        customise::apply(&self.tree(), self.request)?;
        if let Some(binary) = &self.request.guest_binary {
            let target = self.below("/usr/local/bin/fireclaw");
            crate::fs::remove_file(&target)?;
            self.run(Cmd::new("install").args(["--mode=755"]).arg(binary).arg(target))?;
        }
        Ok(())
    }

    fn chroot(&self) -> Cmd {
        Cmd::new("chroot").arg(self.tree())
    }

    /// The initrd anew with our list of modules, then both files out of the tree.
    fn kernel(&mut self) -> Result<()> {
        let boot = self.below("/boot");
        for name in crate::fs::names(&boot)?.iter().filter(|name| name.starts_with("initrd.img")) {
            crate::fs::remove_file(&boot.join(name))?;
        }
        self.run(self.chroot().args(["update-initramfs", "-c", "-k", "all"]).about("the initrd"))?;
        let out = self.work.join("out");
        crate::fs::remove_tree(&out)?;
        fs::create_dir_all(&out).context("create folder", out.display())?;
        let paths = Layout::image_in(out);
        for (prefix, target) in [("vmlinuz-", &paths.vmlinuz), ("initrd.img-", &paths.initrd)] {
            let name = crate::fs::names(&boot)?
                .into_iter()
                .rev()
                .find(|name| name.starts_with(prefix))
                .ok_or_else(|| Error::new("find", format!("{prefix}* in the root filesystem")))?;
            fs::copy(boot.join(&name), target).context("copy", name)?;
        }
        store::unpack_kernel(&paths).map(drop)
    }

    /// Runs the gateway until it is up, as its user and without a network, so that Node's compiled code is in the image: the
    /// first start in a guest then need not compile. A gateway that does not come up here costs time there, nothing else.
    fn warm(&mut self) -> Result<()> {
        let home = self.below("/var/tmp/warm");
        let state = home.join(".openclaw");
        fs::create_dir_all(&state).context("create folder", state.display())?;
        let settings = r#"{"gateway":{"mode":"local","port":18789,"bind":"lan","auth":{"mode":"token","token":"warm"}}}"#;
        fs::write(state.join("openclaw.json"), settings).context("write", "a configuration")?;
        self.run(Cmd::new("chown").args(["--recursive", &format!("{USER_ID}:{USER_ID}")]).arg(&home))?;
        let run = Cmd::new("unshare")
            .args(["--fork", "--pid", "--kill-child=SIGTERM", "--net", "--mount"])
            .arg(format!("--mount-proc={}", self.below("/proc").display()))
            .args(["chroot", &format!("--userspec={USER_ID}:{USER_ID}")])
            .arg(self.tree())
            .args([
                "/usr/bin/env",
                "-i",
                "HOME=/var/tmp/warm",
                &format!("NODE_COMPILE_CACHE={COMPILE_CACHE}"),
            ])
            .args([
                &format!("PATH={NODE_DIR}/bin:/usr/bin:/bin"),
                "OPENCLAW_NO_RESPAWN=1",
                "OPENCLAW_NO_AUTO_UPDATE=1",
            ])
            .args([
                "OPENCLAW_DISABLE_BONJOUR=1",
                "OPENCLAW_SERVICE_REPAIR_POLICY=external",
                "OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED=1",
            ])
            .args([
                &format!("{NODE_DIR}/bin/node"),
                ENTRY,
                "gateway",
                "run",
                "--bind",
                "lan",
                "--port",
                "18789",
            ])
            .stop_after("[gateway] ready")
            .deadline(Duration::from_mins(2));
        let progress = &mut self.progress;
        let ran = self.exec.stream(run, &mut |_: Stream, line: &str| progress.detail(line));
        crate::fs::remove_tree(&home)?;
        match ran {
            Err(error) if error.get_kind() == Kind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    fn pack(&mut self) -> Result<()> {
        let tree = self.tree();
        for leftover in ["/var/cache/apt", "/var/lib/apt/lists", "/var/log/apt", "/tmp"] {
            for name in crate::fs::names(&self.below(leftover))? {
                crate::fs::remove_any(&self.below(leftover).join(name))?;
            }
        }
        let (bytes, files) = weigh(&tree)?;
        // Room for the filesystem's own tables and for what a guest writes before its disk is looked at; instances grow it.
        let size = (bytes + bytes / 8 + (256 << 20)) >> 20;
        let image = self.work.join("out/rootfs.ext4");
        crate::fs::remove_file(&image)?;
        let file = fs::File::create(&image).context("create", image.display())?;
        file.set_len(size << 20).context("size", image.display())?;
        let cmd = Cmd::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-L", "rootfs", "-m", "0"])
            // Features newer than the tools of the hosts that grow the copies.
            .args([
                "-O",
                "^metadata_csum_seed,^orphan_file",
                "-E",
                "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0",
            ])
            .args(["-N", &(files + files / 2 + 20_000).to_string(), "-d"])
            .arg(&tree)
            .arg(&image)
            .about(image.display());
        self.run(cmd)
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
            format: FORMAT,
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
            files: store::checksums(&out)?,
            packages,
            npm,
        })
    }
}

/// What a tree takes, hard links counted once, in whole blocks; and its number of files.
fn weigh(tree: &Path) -> Result<(u64, u64)> {
    let (mut bytes, mut files) = (0, 0);
    let mut seen = std::collections::HashSet::new();
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).context("list", folder.display())? {
            let entry = entry.context("list", folder.display())?;
            let facts = entry.metadata().context("look at", entry.path().display())?;
            if !seen.insert(facts.ino()) {
                continue;
            }
            files += 1;
            bytes += facts.len().div_ceil(4096) * 4096;
            if facts.is_dir() {
                bytes += 4096;
                folders.push(entry.path());
            }
        }
    }
    Ok((bytes, files))
}

#[cfg(test)]
mod tests;
