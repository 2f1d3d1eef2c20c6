//! An instance as the Bash fireclaw wrote it: listed, started, stopped and destroyed in place.

use std::fs;

use fireclaw_core::error::{Context, Result};
use serde_json::Value;

use super::{
    lifecycle::is_stopped,
    world::{ID as SHARED, World, ensure, has_started, same},
};

/// The instance of this case, and the image that it is made from.
const ID: &str = "of-bash";
const IMAGE: &str = "before";

/// The files of the image, with a manifest as it was before bases were shared: the root filesystem is its own root disk.
fn image_of_before(world: &World) -> Result<()> {
    let (from, to) = (world.root.join("images/default"), world.root.join("images").join(IMAGE));
    fs::create_dir_all(&to).context("create folder", to.display())?;
    for name in ["vmlinuz", "vmlinux", "initrd.img", "rootfs.ext4"] {
        fs::hard_link(from.join(name), to.join(name)).context("link", to.join(name).display())?;
    }
    let text = fs::read(from.join("manifest.json")).context("read", "the manifest")?;
    let mut manifest: Value = serde_json::from_slice(&text).context("read", "the manifest")?;
    manifest["format"] = 1.into();
    manifest["boot"]["cmdline"] = "root=/dev/vda rw quiet".into();
    fs::write(to.join("manifest.json"), manifest.to_string()).context("write", "the manifest")
}

/// Keys that the Bash fireclaw wrote; the others are ours.
const V1: [&str; 19] = [
    "INSTANCE_ID",
    "HOST_PORT",
    "VM_IP",
    "VM_TAP",
    "VM_MAC",
    "GATEWAY_TOKEN",
    "MODEL",
    "SKILLS",
    "TELEGRAM_USERS",
    "OPENCLAW_IMAGE",
    "VM_VCPU",
    "VM_MEM_MIB",
    "DISK_SIZE",
    "API_SOCK",
    "SSH_KEY_PATH",
    "SKIP_BROWSER_INSTALL",
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "MINIMAX_API_KEY",
];

/// An instance with a root disk of its own is made from an image as it was built before; its record becomes one of format
/// `plain-v1`, as the Bash fireclaw would have left it.
pub fn takes_over(world: &mut World) -> Result<()> {
    image_of_before(world)?;
    // Enough memory for one VM.
    world.ok(&["stop", SHARED])?;
    world.ok(&[
        "setup",
        "--instance",
        ID,
        "--image",
        IMAGE,
        "--vm-vcpu",
        "2",
        "--vm-mem-mib",
        "2560",
        "--quiet",
    ])?;
    same("disks", &world.status(ID)?["disk"]["kind"], &Value::from("copy"))?;
    world.ok(&["stop", ID])?;
    world.ok(&["image", "remove", IMAGE])?;
    let path = world.state(ID, ".env");
    let ours = fs::read_to_string(&path).context("read", path.display())?;
    let mut theirs = "FIRECLAW_STATE_FORMAT=plain-v1\n".to_owned();
    for line in ours.lines().filter(|line| V1.iter().any(|key| line.starts_with(&format!("{key}=")))) {
        theirs.push_str(line);
        theirs.push('\n');
    }
    theirs.push_str("SOMETHING_OF_THEIRS=kept\n");
    fs::write(&path, &theirs).context("write", path.display())?;
    fs::remove_dir_all(world.fc(ID, "supervisor")).context("remove", "our supervisor's folder")?;
    let list = world.json(&["list", "--json"])?;
    let rows = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let row = rows.iter().find(|row| row["id"] == ID).cloned().unwrap_or_default();
    same("vmm", &row["vmm"], &Value::from("firecracker"))?;
    same("vm", &row["vm"], &Value::from("inactive"))?;
    let report = world.json(&["start", ID, "--json"])?;
    ensure(has_started(&report), || report.to_string())?;
    same("the record", &fs::read_to_string(&path).context("read", path.display())?, &theirs)?;
    world.ok(&["stop", ID])?;
    is_stopped(world, ID)?;
    // It is destroyed by the last case; until then it stays theirs.
    ensure(world.ok(&["status", ID])?.text().contains("SOMETHING_OF_THEIRS"), || {
        "the unknown key is not told".into()
    })
}
