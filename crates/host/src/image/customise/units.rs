//! Which units, generators and udev rules a guest has. Pure.
//!
//! Each thing that is switched off was seen to cost boot time on an emulated machine and to do nothing in a VM that has
//! one disk, one network card and a serial console.

use super::{Entry, file, link};

const SYSTEM: &str = "/etc/systemd/system";

/// Units that are never started. Those that a suite does not have are masked all the same: it does no harm.
const MASKED: [&str; 46] = [
    // cloud-init's own stages: fireclaw-seed.service calls what is needed of them.
    "cloud-config.service",
    "cloud-final.service",
    "cloud-init-hotplugd.socket",
    "cloud-init-local.service",
    "cloud-init-main.service",
    "cloud-init-network.service",
    "cloud-init.service",
    // Hardware and boot loaders that a microVM has not.
    "dev-hugepages.mount",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-binfmt.service",
    "modprobe@configfs.service",
    "modprobe@drm.service",
    "modprobe@fuse.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-creds.socket",
    "systemd-hibernate-clear.service",
    "systemd-initctl.socket",
    "systemd-pcrextend.socket",
    "systemd-pcrlock.socket",
    "systemd-pcrmachine.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pcrphase.service",
    "systemd-pstore.service",
    "systemd-sysext.socket",
    "systemd-tpm2-setup-early.service",
    "systemd-tpm2-setup.service",
    "systemd-udev-load-credentials.service",
    // Nobody sits at the console; it is for reading.
    "getty.target",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    // Work of a first boot, done when the image is built.
    "ldconfig.service",
    "sshd-keygen.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-sysusers.service",
    "systemd-update-done.service",
    // Two programs that say which devices there could be, and a third that makes them: files/nodes.conf says so for good.
    "kmod-static-nodes.service",
    "systemd-tmpfiles-setup-dev-early.service",
    // The initial ramdisk mounts the root filesystem as it stays.
    "systemd-remount-fs.service",
    // Waits for a network that is static, and holds everything back that waits for `network-online.target`.
    "systemd-networkd-wait-online.service",
    // Remembers DHCP leases; there are none.
    "systemd-networkd-persistent-storage.service",
    "remote-fs.target",
];

/// Units that packages switch on and that wait for somebody to want them.
const NOT_ENABLED: [&str; 9] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "containerd.service",
    "docker.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "systemd-timesyncd.service",
    "getty@tty1.service",
];

/// Generators that look for what is not there, each a process at every boot.
const NO_GENERATORS: [&str; 14] = [
    "cloud-init-generator",
    "systemd-bless-boot-generator",
    "systemd-cryptsetup-generator",
    "systemd-debug-generator",
    "systemd-getty-generator",
    "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator",
    "systemd-integritysetup-generator",
    "systemd-rc-local-generator",
    "systemd-ssh-generator",
    "systemd-system-update-generator",
    "systemd-sysv-generator",
    "systemd-tpm2-generator",
    "systemd-veritysetup-generator",
];

/// udev rules for hardware that a microVM has not.
const NO_RULES: [&str; 30] = [
    "50-firmware.rules",
    "60-autosuspend.rules",
    "60-cdrom_id.rules",
    "60-dmi-id.rules",
    "60-drm.rules",
    "60-evdev.rules",
    "60-fido-id.rules",
    "60-infiniband.rules",
    "60-persistent-alsa.rules",
    "60-persistent-input.rules",
    "60-persistent-storage-mtd.rules",
    "60-persistent-storage-tape.rules",
    "60-persistent-v4l.rules",
    "60-sensor.rules",
    "64-btrfs.rules",
    "66-azure-ephemeral.rules",
    "70-camera.rules",
    "70-joystick.rules",
    "70-memory.rules",
    "70-mouse.rules",
    "70-touchpad.rules",
    "70-uaccess.rules",
    "71-seat.rules",
    "73-seat-late.rules",
    "75-probe_mtd.rules",
    "78-sound-card.rules",
    "80-debian-compat.rules",
    "81-net-dhcp.rules",
    "90-iocost.rules",
    "96-e2scrub.rules",
];

/// The SSH server need not wait for the network, as it listens on every address: both start at once. And its unit starts it a second
/// time, only to read its configuration, which it reads again when it is started.
fn ssh() -> [Entry; 2] {
    [
        Entry::Without {
            path: "/usr/lib/systemd/system/ssh.service".to_owned(),
            word: "After=network.target".to_owned(),
        },
        file(
            &format!("{SYSTEM}/ssh.service.d/10-fireclaw.conf"),
            0o644,
            "[Unit]\nAfter=nss-user-lookup.target\n\n[Service]\nExecStartPre=\n",
        ),
    ]
}

/// The resolver is up before whoever asks for names (nss-lookup.target), and not before everything else that the boot is about.
fn resolved() -> [Entry; 4] {
    const UNIT: &str = "systemd-resolved.service";
    [
        Entry::Without {
            path: format!("/usr/lib/systemd/system/{UNIT}"),
            word: "Before=sysinit.target".to_owned(),
        },
        file(
            &format!("{SYSTEM}/{UNIT}.d/10-fireclaw.conf"),
            0o644,
            "[Unit]\nAfter=systemd-networkd.service\nBefore=nss-lookup.target shutdown.target\n",
        ),
        Entry::Absent { path: format!("{SYSTEM}/sysinit.target.wants/{UNIT}") },
        link(format!("{SYSTEM}/multi-user.target.wants/{UNIT}"), format!("/usr/lib/systemd/system/{UNIT}")),
    ]
}

/// systemd's own daemons that are ended when they have not shown a sign of life for three minutes. A guest of a host that starts many at
/// once is that slow without anything being wrong, and ending them makes it slower.
const WATCHED: [&str; 6] = [
    "systemd-journald",
    "systemd-logind",
    "systemd-networkd",
    "systemd-resolved",
    "systemd-timesyncd",
    "systemd-udevd",
];

/// What is on and what is off.
pub(super) fn units() -> Vec<Entry> {
    let mut entries = vec![
        file(&format!("{SYSTEM}/fireclaw-seed.service"), 0o644, include_str!("../files/seed.service")),
        file(
            &format!("{SYSTEM}/fireclaw-cloud-init.service"),
            0o644,
            include_str!("../files/cloud-init.service"),
        ),
        file(&format!("{SYSTEM}/fireclaw-clock.timer"), 0o644, include_str!("../files/clock.timer")),
        link(format!("{SYSTEM}/sysinit.target.wants/fireclaw-seed.service"), "../fireclaw-seed.service"),
        link(
            format!("{SYSTEM}/multi-user.target.wants/fireclaw-cloud-init.service"),
            "../fireclaw-cloud-init.service",
        ),
        link(format!("{SYSTEM}/timers.target.wants/fireclaw-clock.timer"), "../fireclaw-clock.timer"),
        link(
            format!("{SYSTEM}/multi-user.target.wants/systemd-networkd.service"),
            "/lib/systemd/system/systemd-networkd.service",
        ),
        link(format!("{SYSTEM}/default.target"), "/lib/systemd/system/multi-user.target"),
        // Only the power button needs it, and nobody presses that while the VM boots.
        file(
            &format!("{SYSTEM}/systemd-logind.service.d/10-fireclaw.conf"),
            0o644,
            "[Unit]\nAfter=ssh.service\n",
        ),
        file("/etc/tmpfiles.d/fireclaw-nodes.conf", 0o644, include_str!("../files/nodes.conf")),
    ];
    entries.extend(ssh());
    entries.extend(resolved());
    entries.extend(WATCHED.map(|unit| {
        file(&format!("{SYSTEM}/{unit}.service.d/20-patience.conf"), 0o644, "[Service]\nWatchdogSec=0\n")
    }));
    for unit in NOT_ENABLED {
        for target in ["multi-user", "timers", "sysinit", "getty"] {
            entries.push(Entry::Absent { path: format!("{SYSTEM}/{target}.target.wants/{unit}") });
        }
    }
    let null = "/dev/null";
    entries.extend(MASKED.iter().map(|unit| link(format!("{SYSTEM}/{unit}"), null)));
    entries.extend(
        NO_GENERATORS.iter().map(|name| link(format!("/etc/systemd/system-generators/{name}"), null)),
    );
    entries.extend(NO_RULES.iter().map(|name| link(format!("/etc/udev/rules.d/{name}"), null)));
    entries
}
