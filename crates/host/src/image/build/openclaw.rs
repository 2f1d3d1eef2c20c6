//! The steps of a build that have to do with OpenClaw: its installation, and its compiled code. Runs npm as nobody, and what
//! npm fetched only inside the tree.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    guest::USER_ID,
};

use super::Build;
use crate::{
    exec::{Cmd, SYSTEM_PATH, Stream},
    image::{
        customise::{self, COMPILE_CACHE, ENTRY, NODE_DIR, Owner, PREFIX},
        tree::Tree,
    },
};

/// Whom npm and the install scripts of its packages run as: nobody, above the ranges that systems give out.
const NPM_UID: u32 = 1_899_999_999;

impl Build<'_> {
    /// npm fetches as nobody, in a folder that is nobody's, and runs nothing that it fetched. What packages want to run
    /// when they are installed, they run inside the tree, still as nobody, with no network.
    pub(super) fn openclaw(&mut self) -> Result<()> {
        let staging = self.staging()?;
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

    /// A folder for npm where nobody may go: the one for images may lie below folders that are closed to it. One that an
    /// ended build of this image left is removed.
    fn staging(&self) -> Result<tempfile::TempDir> {
        let parent = Path::new("/var/tmp");
        let prefix = format!("fireclaw-npm-{}-", self.request.name);
        for name in crate::fs::names(parent)? {
            let random = name.strip_prefix(&prefix).unwrap_or_default();
            let ours = random.len() == 6 && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let path = parent.join(&name);
            let owner = fs::symlink_metadata(&path).map_or(u32::MAX, |facts| facts.uid());
            if ours && [0, NPM_UID].contains(&owner) {
                crate::fs::remove_any(&path)?;
            }
        }
        tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).context("create folder", parent.display())
    }

    /// Node of the tree in the tree, at a script of it.
    fn node(&self, ids: (u32, u32), script: &str) -> Cmd {
        Tree::new(self.tree())
            .inside(ids, &format!("{NODE_DIR}/bin/node"))
            .env("PATH", format!("{NODE_DIR}/bin:{SYSTEM_PATH}"))
            .env("HOME", "/tmp")
            .arg(script)
    }

    /// Runs the gateway until it is up, as its user and without a network, so that Node's compiled code is in the image: the
    /// first start in a guest then need not compile. A gateway that does not come up here costs time there, nothing else.
    pub(super) fn warm(&mut self) -> Result<()> {
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
}
