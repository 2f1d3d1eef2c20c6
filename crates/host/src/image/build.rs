//! Building an image, step by step, each resumable. Starts the distribution's own tools, as root but for npm.
//!
//! Nothing that is mounted is ever seen outside: whatever mounts runs in a mount namespace that ends with it.

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
    customise::{self, COMPILE_CACHE, ENTRY, NODE_DIR, Owner, PREFIX},
    initrd,
    manifest::{Boot, FORMAT, Manifest},
    npm::{self, Registry},
    recipe::{self, CMDLINE, NPM_VERSION, SOURCE_DATE_EPOCH},
    store,
    tree::Tree,
};
use crate::{
    disk::space,
    exec::{Cmd, Exec, Stream},
};

/// Tree, tools and filesystem together, with everything in the image.
const NEEDED: u64 = 9 << 30;
/// Raised when a step does something else with the same inputs.
const RECIPE: u32 = 2;
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
    recipe::check(request)?;
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
    let binary = request.guest_binary.as_deref().map(checksum).transpose()?.unwrap_or_default();
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
        let cmd = Cmd::new("unshare")
            .inherit_env()
            // The ramdisk is ours; the kernel's package would build another.
            .env("INITRD", "No")
            .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string())
            .args(["--fork", "--pid", "--kill-child", "--mount", "--mount-proc", "mmdebstrap"])
            .args(recipe::bootstrap_args(self.request, &tree.to_string_lossy())?)
            .deadline(Duration::from_hours(1))
            .about(format!("mmdebstrap of {}", self.request.suite));
        self.run(cmd)
    }

    /// npm fetches as nobody, in a folder that is nobody's, and runs nothing that it fetched. What packages want to run
    /// when they are installed, they run inside the tree, still as nobody, with no network.
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
        if let Some(settings) = self.npmrc() {
            fs::copy(&settings, at("home/.npmrc")).context("copy", settings.display())?;
        }
        let nobody = format!("{NPM_UID}:{NPM_UID}");
        self.run(Cmd::new("chown").args(["--recursive", &nobody]).arg(staging.path()))?;
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", at("node/bin").display());
        let mut cmd = Cmd::new(at("node/bin/node"))
            .inherit_env()
            .env("HOME", at("home"))
            .env("PATH", path)
            .env("npm_config_cache", at("cache"))
            .env("npm_config_userconfig", at("home/.npmrc"))
            .arg(at("npm/bin/npm-cli.js"))
            .args(["install", "--global", "--ignore-scripts", "--prefix"])
            .arg(at("prefix"))
            .args(["--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier"])
            .arg(format!("openclaw@{}", self.request.openclaw_version))
            .cwd(staging.path())
            .user(NPM_UID, NPM_UID)
            .deadline(Duration::from_mins(30))
            .about(format!("npm of OpenClaw {}", self.request.openclaw_version));
        // Node brings certificates of its own; the machine's are those that its owner trusts.
        let bundle = "/etc/ssl/certs/ca-certificates.crt";
        if (self.env)("npm_config_cafile").is_none() && Path::new(bundle).exists() {
            cmd = cmd.env("npm_config_cafile", bundle).env("NODE_EXTRA_CA_CERTS", bundle);
        }
        self.run(cmd)?;
        let into = self.below(PREFIX);
        crate::fs::remove_tree(&into)?;
        for folder in [self.below(NODE_DIR).join("bin"), self.below(NODE_DIR).join("lib/node_modules")] {
            fs::create_dir_all(&folder).context("create folder", folder.display())?;
        }
        let node = self.below(NODE_DIR).join("bin/node");
        self.run(Cmd::new("install").arg("--mode=755").arg(self.tool("node").join("bin/node")).arg(node))?;
        let npm = self.below(NODE_DIR).join("lib/node_modules/npm");
        self.run(Cmd::new("cp").arg("--archive").arg(self.tool("npm")).arg(npm).about("npm"))?;
        for part in ["lib", "bin"] {
            // Moved where the folders share a filesystem, copied where they do not.
            self.run(Cmd::new("mv").arg(at("prefix").join(part)).arg(&into).about("OpenClaw's files"))?;
        }
        self.run(Cmd::new("chown").args(["--recursive", "--no-dereference", &nobody]).arg(&into))?;
        let scripts = self
            .node((NPM_UID, NPM_UID), &format!("{NODE_DIR}/lib/node_modules/npm/bin/npm-cli.js"))
            .env("npm_config_cache", "/tmp/npm")
            .args([
                "rebuild",
                "--global",
                "--offline",
                "--no-update-notifier",
                "--foreground-scripts",
                "--prefix",
                PREFIX,
            ])
            .about("the packages' own installation");
        let ran = self.run(scripts);
        self.run(Cmd::new("chown").args(["--recursive", "--no-dereference", "0:0"]).arg(&into))?;
        ran?;
        let asked =
            self.node(Owner::User.ids(), ENTRY).env("NODE_DISABLE_COMPILE_CACHE", "1").arg("--version");
        let said = self.exec.check(asked.about("OpenClaw"))?.text();
        if said.contains(&self.request.openclaw_version) {
            return Ok(());
        }
        Err(Error::new("install", format!("OpenClaw {}", self.request.openclaw_version))
            .because(format!("it says that it is {said}")))
    }

    /// Node of the tree in the tree, at a script of it.
    fn node(&self, ids: (u32, u32), script: &str) -> Cmd {
        Tree::new(self.tree())
            .inside(ids, &format!("{NODE_DIR}/bin/node"))
            .env("PATH", format!("{NODE_DIR}/bin:/usr/bin:/bin"))
            .env("HOME", "/tmp")
            .arg(script)
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
        Tree::new(self.tree()).apply(&customise::entries(self.request))?;
        if let Some(binary) = &self.request.guest_binary {
            let target = self.below("/usr/local/bin/fireclaw");
            crate::fs::remove_file(&target)?;
            self.run(Cmd::new("install").arg("--mode=755").arg(binary).arg(target))?;
        }
        Ok(())
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
        let boot = self.below("/boot");
        let names = crate::fs::names(&boot)?;
        let release = names
            .iter()
            .rev()
            .find_map(|name| name.strip_prefix("vmlinuz-"))
            .ok_or_else(|| Error::new("find", "a kernel in the root filesystem"))?;
        let kernel = boot.join(format!("vmlinuz-{release}"));
        fs::copy(&kernel, &paths.vmlinuz).context("copy", kernel.display())?;
        store::unpack_kernel(&paths)?;
        let ramdisk = initrd::build(&self.tree(), release)?;
        crate::fs::write(&paths.initrd, &ramdisk, 0o644)
    }

    /// Runs the gateway until it is up, as its user and without a network, so that Node's compiled code is in the image: the
    /// first start in a guest then need not compile. A gateway that does not come up here costs time there, nothing else.
    fn warm(&mut self) -> Result<()> {
        const HOME: &str = "/var/tmp/warm";
        let state = self.below(HOME).join(".openclaw");
        fs::create_dir_all(&state).context("create folder", state.display())?;
        fs::write(state.join("openclaw.json"), customise::warm_config())
            .context("write", "a configuration")?;
        let user = format!("{USER_ID}:{USER_ID}");
        self.run(Cmd::new("chown").args(["--recursive", &user]).arg(self.below(HOME)))?;
        let run = self
            .node(Owner::User.ids(), ENTRY)
            .args(["gateway", "run", "--bind", "lan", "--port", "18789"])
            .env("HOME", HOME)
            .env("TMPDIR", HOME)
            .env("NODE_COMPILE_CACHE", COMPILE_CACHE)
            // The cache is used as it is, as the service in the guest uses it.
            .env("OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED", "1")
            .env("OPENCLAW_NO_RESPAWN", "1")
            .env("OPENCLAW_NO_AUTO_UPDATE", "1")
            .env("OPENCLAW_DISABLE_BONJOUR", "1")
            .env("OPENCLAW_SERVICE_REPAIR_POLICY", "external")
            .stop_after("[gateway] ready")
            .deadline(Duration::from_mins(2));
        let progress = &mut self.progress;
        let ran = self.exec.stream(run, &mut |_: Stream, line: &str| progress.detail(line));
        crate::fs::remove_tree(&self.below(HOME))?;
        match ran {
            Err(error) if error.get_kind() == Kind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    fn pack(&mut self) -> Result<()> {
        let tree = self.tree();
        for folder in ["/boot", "/tmp", "/var/cache/apt", "/var/lib/apt/lists", "/var/tmp"] {
            for name in crate::fs::names(&self.below(folder))? {
                crate::fs::remove_any(&self.below(folder).join(name))?;
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
            // The same tree gives the same filesystem, as far as mke2fs lets it.
            .env("E2FSPROGS_FAKE_TIME", SOURCE_DATE_EPOCH.to_string())
            .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string())
            .args(["-q", "-F", "-t", "ext4", "-L", "rootfs", "-m", "0", "-U", &uuid(&self.key)])
            // Features newer than the tools of the hosts that grow the copies.
            .args(["-O", "^metadata_csum_seed,^orphan_file", "-E"])
            .arg(format!(
                "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0,hash_seed={}",
                uuid(&self.key)
            ))
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

/// The SHA-256 of a file.
fn checksum(path: &Path) -> Result<String> {
    let bytes = fs::read(path).context("read", path.display())?;
    Ok(format!("{:x}", Sha256::digest(bytes)))
}

/// A UUID made of the first digits of a hash.
fn uuid(hash: &str) -> String {
    let part = |from: usize, to: usize| hash.get(from..to).unwrap_or("0");
    // Version 8: made of whatever its maker likes (RFC 9562).
    format!("{}-{}-8{}-8{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
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
