//! Commands and refusals that need no VM.

use std::fs;

use fireclaw_core::error::{Context, Result};

use super::world::{World, ensure, names, same};

/// `doctor` names every setting and passes here.
pub fn doctor(world: &mut World) -> Result<()> {
    let report = world.json(&["doctor", "--json"])?;
    same("ok", &report["ok"], &true.into())?;
    let text = world.ok(&["doctor"])?.text();
    for name in ["STATE_ROOT", "BRIDGE_NAME", "environment", "BASE_PORT"] {
        ensure(text.contains(name), || format!("doctor does not show {name}: {text}"))?;
    }
    Ok(())
}

/// The image is there with a manifest that says what went in.
pub fn images(world: &mut World) -> Result<()> {
    let list = world.json(&["image", "list", "--json"])?;
    ensure(list.as_array().is_some_and(|all| all.iter().any(|image| image["name"] == "default")), || {
        list.to_string()
    })?;
    let manifest = world.json(&["image", "inspect", "default", "--json"])?;
    let text = manifest.to_string();
    for part in ["sha256", "openclaw", "linux-image", "chromium", "docker"] {
        ensure(text.contains(part), || format!("the manifest does not speak of {part}"))?;
    }
    ensure(world.ok(&["image", "list"])?.text().contains("default"), || "no default in the table".into())?;
    ensure(world.ok(&["image", "inspect"])?.text().contains("openclaw"), || {
        "no openclaw in the text".into()
    })?;
    world.refused(3, &["image", "inspect", "nosuch"], "nosuch")
}

/// Files of somebody else become an image, and the image goes again.
pub fn import_and_remove(world: &mut World) -> Result<()> {
    let base = world.root.join("images/default");
    let file = |name: &str| base.join(name).display().to_string();
    world.ok(&[
        "image",
        "import",
        "mine",
        "--kernel",
        &file("vmlinuz"),
        "--rootfs",
        &file("rootfs.ext4"),
        "--initrd",
        &file("initrd.img"),
    ])?;
    ensure(world.ok(&["image", "list"])?.text().contains("mine"), || "the import is not listed".into())?;
    world.refused(
        2,
        &["image", "import", "bad", "--kernel", &file("rootfs.ext4"), "--rootfs", &file("rootfs.ext4")],
        "kernel",
    )?;
    world.refused(
        2,
        &["image", "import", "bad", "--kernel", &file("vmlinuz"), "--rootfs", &file("vmlinuz")],
        "ext4",
    )?;
    world.ok(&["image", "remove", "mine"])?;
    world.refused(3, &["image", "remove", "mine"], "mine")?;
    ensure(!world.root.join("images/mine").exists() && !world.root.join("images/bad").exists(), || {
        "a folder is left".into()
    })
}

/// What a user may say wrongly: exit 2, by name, with a hint, and nothing has changed.
pub fn refused_values(world: &mut World) -> Result<()> {
    let before = names(&world.root.join("state"));
    let long = "a".repeat(41);
    for id in ["My-Bot", "a.b", "..", "../x", &long, "", "-x", "a b", "é"] {
        let flag = format!("--instance={id}");
        world.refused(2, &["setup", &flag], "id")?;
    }
    let cases: &[(&[&str], &str)] = &[
        (&["--host-port", "80"], "1024"),
        (&["--host-port", "65536"], "65535"),
        (&["--host-port", "x"], "host-port"),
        (&["--vm-mem-mib", "99999999"], "host has"),
        (&["--vm-mem-mib", "1"], "vm-mem-mib"),
        (&["--vm-vcpu", "0"], "vm-vcpu"),
        (&["--vm-vcpu", "33"], "vm-vcpu"),
        (&["--disk-size", "big"], "disk size"),
        (&["--disk-size", "100M"], "100M"),
        (&["--model", "no-slash"], "model"),
        (&["--model", "a/b\nc"], "model"),
        (&["--skills", "a\nb"], "skills"),
        (&["--telegram-token", "123:abc"], "telegram-users"),
        (&["--telegram-token", "hunter2", "--telegram-users", "1"], "bot token"),
        (&["--telegram-users", "@me"], "telegram-users"),
        (&["--anthropic-api-key", "a\nb"], "anthropic-api-key"),
        (&["--anthropic-api-key", "🦀"], "anthropic-api-key"),
        (&["--openai-api-key-file", "/no/such/file"], "openai-api-key-file"),
        (&["--minimax-api-key-file", "/"], "minimax-api-key-file"),
        (&["--openclaw-image", "a b"], "openclaw-image"),
        (&["--openclaw-image", "x", "--runtime", "native"], "runtime"),
        (&["--api-sock", "relative"], "api-sock"),
        (&["--dns", "nowhere"], "dns"),
        (&["--idle-after", "5"], "idle-after"),
        (&["--image", "../x"], "image"),
        (&["--image", "x", "--base-kernel", "/x"], "--image"),
    ];
    for (flags, text) in cases {
        let mut args = vec!["setup", "--instance", "refused"];
        args.extend_from_slice(flags);
        world.refused(2, &args, text)?;
    }
    // Settings that contradict each other.
    let gateway = world.cmd(&["list"]).env("BRIDGE_ADDR", "10.9.9.1/24");
    same(
        "a gateway outside its subnet",
        &world.ask_cmd(gateway, "list (BRIDGE_ADDR=10.9.9.1/24)")?.code(),
        &2,
    )?;
    world.refused(3, &["status", "nosuch"], "nosuch")?;
    for command in ["start", "stop", "restart", "token", "provision", "logs", "shell", "destroy"] {
        world.refused(3, &[command, "nosuch"], "no such instance")?;
    }
    world.expect(2, &["frobnicate"])?;
    same("the state folder", &names(&world.root.join("state")), &before)
}

/// Files that are not what they are given as.
pub fn refused_files(world: &mut World) -> Result<()> {
    let not = world.root.join("not-a-kernel");
    fs::write(&not, "just text").context("write", not.display())?;
    let not = not.display().to_string();
    let base = world.root.join("images/default");
    let (kernel, rootfs) =
        (base.join("vmlinuz").display().to_string(), base.join("rootfs.ext4").display().to_string());
    let setup = ["setup", "--instance", "refused"];
    let with = |flags: &[&str]| {
        [&setup[..], flags].concat().iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    for (flags, text) in [
        (with(&["--base-kernel", &not, "--base-rootfs", &rootfs]), "kernel"),
        (with(&["--base-kernel", &kernel, "--base-rootfs", &not]), "ext4"),
        (with(&["--base-kernel", "/no/such", "--base-rootfs", &rootfs]), "/no/such"),
        (with(&["--base-kernel", &kernel, "--base-rootfs", &rootfs, "--base-initrd", "/no/such"]), "initrd"),
    ] {
        let args: Vec<&str> = flags.iter().map(String::as_str).collect();
        world.refused(2, &args, text)?;
    }
    world.refused(4, &["setup", "--instance", "refused", "--image", "nosuch"], "nosuch")?;
    ensure(!world.root.join("fc/refused").exists(), || "a refused setup left a folder".into())
}

/// `--dry-run` prints the plan and changes nothing.
pub fn dry_runs(world: &mut World) -> Result<()> {
    let before = names(&world.root.join("state"));
    let text = world.ok(&["setup", "--instance", "dry", "--dry-run"])?.text();
    for part in ["save record", "start VM", "provision guest", "172.30.0.2"] {
        ensure(text.contains(part), || format!("the plan does not show {part}: {text}"))?;
    }
    let plan = world.json(&["setup", "--instance", "dry", "--dry-run", "--json"])?;
    ensure(plan["steps"].as_array().is_some_and(|steps| steps.len() > 10), || plan.to_string())?;
    same("the state folder", &names(&world.root.join("state")), &before)
}

/// Completions for every shell, a page for every command that `man` reads.
pub fn completions_and_man(world: &mut World) -> Result<()> {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = world.ok(&["completion", shell])?.text();
        ensure(text.contains("provision"), || format!("the {shell} completions are odd"))?;
    }
    let dir = world.root.join("man");
    let _ = fs::remove_dir_all(&dir);
    world.ok(&["man", "--dir", &dir.display().to_string()])?;
    for page in ["fireclaw.1", "fireclaw-setup.1", "fireclaw-destroy.1"] {
        let page = dir.join(page).display().to_string();
        let text = crate::shell::must("man", &["--warnings", "-l", &page])?;
        ensure(text.contains("NAME"), || format!("man does not read {page}"))?;
    }
    ensure(world.ok(&["--version"])?.text().starts_with("fireclaw "), || "no version".into())?;
    // The older names of the program.
    for (name, args, part) in [("vm-setup", &["--help"][..], "--instance"), ("vm-ctl", &["list"][..], "")] {
        let link = world.root.join(name);
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&world.program, &link).context("link", link.display())?;
        let mut cmd = fireclaw_host::exec::Cmd::new(&link).args(args);
        for (variable, value) in world.environment() {
            cmd = cmd.env(variable, value);
        }
        let output = world.ask_cmd(cmd, &format!("(as {name}) {}", args.join(" ")))?;
        same(name, &output.code(), &0)?;
        ensure(output.text().contains(part), || output.text())?;
    }
    Ok(())
}
