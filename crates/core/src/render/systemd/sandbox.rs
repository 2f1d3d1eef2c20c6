//! What the processes of a unit may see and do: as little as each needs. Touches nothing.
//!
//! The VM's unit begins as root, makes tap, rules and jail, and gives root up when it becomes the VMM; everything here
//! holds for the VMM too. The proxy never has a privilege.

use std::path::Path;

use super::{Needs, text::Unit, utf8};
use crate::spec::{ServiceSpec, VmmKind};

/// Folders that `ProtectHome=` empties.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// Folders that `PrivateTmp=` empties.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// System calls that no part of either unit needs.
const NEVER: &str = "~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap";

/// What `run` needs to make tap and rules, to hand the disk to the VM's user, and to become that user.
const NETWORK_AND_USER: &str = "CAP_NET_ADMIN CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE CAP_SETUID CAP_SETGID";
/// What the jailer needs beside: mount and namespace, chroot, device nodes.
const JAILER: &str = "CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_MKNOD";

/// The VM, its helpers `clean` and `halt`, and SSH to the guest.
pub(super) fn of_vm(unit: &mut Unit, needs: &Needs, spec: &ServiceSpec) {
    let jailed = spec.vmm != Some(VmmKind::Qemu);
    let emulating = spec.vmm != Some(VmmKind::Firecracker);
    unit.note("Files: the instance's own, and what is read by all.");
    unit.set("UMask", "0077");
    unit.set("ProtectSystem", "strict");
    unit.words("ReadWritePaths", needs.write.iter().map(|path| utf8(path)));
    runtime_folder(unit, &needs.run);
    hide_homes(unit, needs);
    unit.note("Devices: KVM and taps. The jailer makes nodes of them in the jail.");
    unit.set("DevicePolicy", "closed");
    let access = if jailed { "rwm" } else { "rw" };
    for device in ["/dev/net/tun", "/dev/kvm"] {
        unit.set("DeviceAllow", format!("{device} {access}"));
    }
    if jailed {
        unit.set("DeviceAllow", "/dev/userfaultfd rwm");
    }
    unit.note("The kernel: its network settings, for the bridge and the tap, and nothing else.");
    unit.set("ProtectKernelTunables", "yes");
    unit.set("ReadWritePaths", "/proc/sys/net");
    common(unit);
    unit.set("ProtectProc", "invisible");
    if jailed {
        unit.set("CapabilityBoundingSet", format!("{NETWORK_AND_USER} {JAILER}"));
        unit.set("RestrictNamespaces", "mnt pid");
    } else {
        unit.set("CapabilityBoundingSet", NETWORK_AND_USER);
        unit.set("RestrictNamespaces", "yes");
    }
    if !emulating {
        unit.set("MemoryDenyWriteExecute", "yes");
    }
    unit.set("RestrictAddressFamilies", "AF_UNIX AF_NETLINK AF_INET AF_INET6");
    unit.set("SystemCallFilter", NEVER);
    unit.note("SSH to its own guest is all that leaves by a socket; what the guest sends passes by the tap.");
    unit.set("IPAddressDeny", "any");
    unit.set("IPAddressAllow", spec.vm_ip);
}

/// Where nobody is to be reached from the sidecar whatever a guest asks for: link-local addresses, clouds' metadata
/// among them, and groups.
const NOWHERE: &str = "169.254.0.0/16 224.0.0.0/4 fe80::/10 fd00:ec2::254 ff00::/8";

/// The proxy with its sidecar: a user of its own that exists while it runs, no file but the program and its own counters.
pub(super) fn of_proxy(unit: &mut Unit, needs: &Needs, spec: &ServiceSpec) {
    unit.set("DynamicUser", "yes");
    unit.set("UMask", "0077");
    for (name, path, root) in
        [("RuntimeDirectory", &needs.run, "/run"), ("StateDirectory", &needs.dir, "/var/lib")]
    {
        unit.path(name, path.strip_prefix(root).unwrap_or(path));
        unit.set(&format!("{name}Mode"), "0700");
    }
    hide_homes(unit, needs);
    unit.set("PrivateDevices", "yes");
    unit.set("PrivateUsers", "yes");
    unit.set("ProtectKernelTunables", "yes");
    common(unit);
    unit.set("ProtectProc", "invisible");
    unit.set("ProcSubset", "pid");
    unit.set("CapabilityBoundingSet", "");
    unit.set("RestrictNamespaces", "yes");
    unit.set("MemoryDenyWriteExecute", "yes");
    unit.set("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6");
    unit.set("SystemCallFilter", "@system-service");
    unit.set("SystemCallFilter", "~@privileged @resources");
    unit.note("One port: TCP on loopback and on the bridge, questions for names on the bridge.");
    unit.set("SocketBindAllow", format!("tcp:{}", spec.host_port));
    unit.set("SocketBindAllow", format!("udp:{}", spec.host_port));
    unit.set("SocketBindDeny", "any");
    unit.set("IPAddressDeny", NOWHERE);
}

/// What wakes an instance and puts it to sleep: root, for it speaks with systemd and writes records and snapshots. The kernel is
/// none of its business, nor are programs.
pub(super) fn of_wake(unit: &mut Unit) {
    unit.set("UMask", "0077");
    unit.set("ProtectSystem", "yes");
    common(unit);
    unit.set("MemoryDenyWriteExecute", "yes");
    unit.set("RestrictNamespaces", "yes");
    unit.set("RestrictAddressFamilies", "AF_UNIX AF_NETLINK AF_INET AF_INET6");
    unit.set("SystemCallFilter", NEVER);
}

fn common(unit: &mut Unit) {
    for name in [
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectClock",
        "ProtectHostname",
        "NoNewPrivileges",
        "LockPersonality",
        "RestrictRealtime",
        "RestrictSUIDSGID",
    ] {
        unit.set(name, "yes");
    }
    unit.set("KeyringMode", "private");
    unit.set("SystemCallArchitectures", "native");
    unit.set("SystemCallErrorNumber", "EPERM");
}

/// The folder of sockets: systemd makes it where it lies below /run, which is empty after a boot.
fn runtime_folder(unit: &mut Unit, run: &Path) {
    match run.strip_prefix("/run") {
        Ok(name) => {
            unit.path("RuntimeDirectory", name);
            unit.set("RuntimeDirectoryMode", "0700");
            // Other instances have their sockets there.
            unit.set("RuntimeDirectoryPreserve", "yes");
        }
        Err(_) => unit.path("ReadWritePaths", run),
    }
}

/// Empties home folders and the temporary ones, but for what is needed of them. A program below /root is then reached by
/// the proxy's user as well, who could not enter /root.
fn hide_homes(unit: &mut Unit, needs: &Needs) {
    let within = |path: &Path, folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
    unit.set("ProtectHome", "tmpfs");
    let homes = |paths: &[std::path::PathBuf]| -> Vec<String> {
        // A folder that is gone must not keep the unit from its `clean`.
        paths.iter().filter(|path| within(path, &HOMES)).map(|path| format!("-{}", utf8(path))).collect()
    };
    unit.words("BindPaths", homes(&needs.write).iter().map(String::as_str));
    unit.words("BindReadOnlyPaths", homes(&needs.read).iter().map(String::as_str));
    let temporary =
        needs.read.iter().chain(&needs.write).chain([&needs.run]).any(|path| within(path, &TEMPORARY));
    if !temporary {
        unit.set("PrivateTmp", "yes");
    }
}
