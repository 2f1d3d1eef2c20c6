use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt, path::Path};

use fireclaw_core::{
    id::MacAddr,
    render::cloud_init::{CloudInit, GuestHostKey, GuestNetwork, SeedFiles},
    secret::Secret,
};

use super::{super::*, world::*};

const NETWORK: &str = "/etc/systemd/network/10-fireclaw.network";
const STAMP: &str = "/var/lib/fireclaw/seed.sha256";
const FLAG: &str = "/run/fireclaw/cloud-init";
const KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
const LOGINS: &str = "/home/ubuntu/.ssh/authorized_keys";

fn sample() -> CloudInit {
    let ip = Ipv4Addr::new(172, 16, 0, 2);
    CloudInit {
        instance: "my-bot_2".parse().unwrap(),
        authorized_keys: vec!["ssh-ed25519 AAAAC3Nz fireclaw".into()],
        host_key: Some(GuestHostKey {
            private: Secret::new("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n"),
            public: "ssh-ed25519 AAAAC3Nz my-bot_2".into(),
        }),
        network: GuestNetwork {
            mac: MacAddr::for_ip(ip),
            ip,
            prefix: 24,
            gateway: Ipv4Addr::new(172, 16, 0, 1),
            dns: vec![Ipv4Addr::new(1, 1, 1, 1)],
        },
    }
}

/// A guest that has not been told anything yet.
fn world() -> World {
    let world = World::new();
    world.put("/proc/sys/kernel/hostname", "localhost\n");
    world.put("/etc/hosts", "127.0.0.1 localhost\n");
    world.dir("/etc/ssh");
    world.dir("/etc/systemd/network");
    world.dir("/var/lib/fireclaw");
    world.dir("/dev");
    world
}

/// Attaches a seed in place of the one before.
fn attach(world: &World, files: &SeedFiles) {
    let device = world.path("/dev/vdc");
    fireclaw_host::seed::write(&device, files).unwrap();
    let sectors = fs::metadata(&device).unwrap().len() / 512;
    world.put("/sys/class/block/vdc/size", &format!("{sectors}\n"));
}

fn apply(world: &World) -> String {
    let (lines, result) = world.run(GuestCommand::Seed, "");
    result.unwrap();
    lines.join("\n")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_guest_becomes_what_its_seed_says_and_once() {
    let world = world();
    attach(&world, &sample().render());
    assert_eq!(apply(&world), "seed of /dev/vdc applied");
    assert_eq!(world.text("/etc/hostname"), "my-bot-2\n");
    assert_eq!(world.text("/proc/sys/kernel/hostname"), "my-bot-2");
    assert_eq!(world.text("/etc/hosts").lines().nth(1), Some("127.0.1.1 my-bot-2"));
    assert!(world.text(NETWORK).contains("Address=172.16.0.2/24"));
    assert_eq!(world.text(KEY), "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n");
    assert_eq!(world.text(&format!("{KEY}.pub")), "ssh-ed25519 AAAAC3Nz my-bot_2\n");
    assert_eq!(world.text(LOGINS), "ssh-ed25519 AAAAC3Nz fireclaw\n");
    let modes = [KEY, LOGINS, STAMP, "/home/ubuntu/.ssh"].map(|path| mode(&world.path(path)));
    assert_eq!(modes, [0o600, 0o600, 0o600, 0o700]);
    assert!(world.exec.lines().is_empty(), "{:?}", world.exec.lines());

    // What the guest's owner changed since stays, until the seed is another.
    world.put("/etc/hostname", "mine\n");
    assert_eq!(apply(&world), "this seed is applied already");
    assert_eq!(world.text("/etc/hostname"), "mine\n");
}

#[test]
fn keys_that_the_user_added_stay() {
    let world = world();
    world.put(LOGINS, "ssh-ed25519 MINE me\nssh-ed25519 AAAAC3Nz fireclaw\n");
    attach(&world, &sample().render());
    apply(&world);
    assert_eq!(world.text(LOGINS), "ssh-ed25519 AAAAC3Nz fireclaw\nssh-ed25519 MINE me\n");
}

#[test]
fn a_link_in_the_users_home_is_not_followed() {
    let world = world();
    std::os::unix::fs::symlink("/etc", world.path("/home/ubuntu/.ssh")).unwrap();
    attach(&world, &sample().render());
    let (_, result) = world.run(GuestCommand::Seed, "");
    assert!(result.unwrap_err().one_line().contains("is not a folder"));
    // It can be reached all the same, and the next boot tries again.
    assert!(!world.text(NETWORK).is_empty() && world.text(STAMP).is_empty());
}

#[test]
fn a_guest_without_a_host_key_makes_one_and_keeps_it() {
    let world = world();
    attach(&world, &CloudInit { host_key: None, ..sample() }.render());
    apply(&world);
    let lines = world.exec.lines();
    assert!(lines.len() == 1 && lines[0].starts_with("ssh-keygen -q -t ed25519 -N"), "{lines:?}");

    world.put(KEY, "made\n");
    world.remove(STAMP);
    apply(&world);
    assert_eq!((world.exec.lines().len(), world.text(KEY).as_str()), (1, "made\n"));
}

#[test]
fn what_is_not_ours_is_left_to_cloud_init_whole() {
    let world = world();
    attach(&world, &sample().render());
    apply(&world);
    let mut other = sample().render();
    other.meta_data =
        other.meta_data.replace("\"local-hostname\"", "\"public-keys\": [], \"local-hostname\"");
    attach(&world, &other);
    let said = apply(&world);
    assert!(said.starts_with("cloud-init takes the seed: meta-data, line"), "{said}");
    assert_eq!(world.exec.lines(), ["/usr/bin/cloud-init init --local"]);
    // Nothing of the seed before is in its way.
    assert!(world.path(FLAG).exists() && !world.path(NETWORK).exists() && !world.path(STAMP).exists());
}

#[test]
fn a_guest_without_a_seed_asks_cloud_init() {
    let world = world();
    world.put("/sys/class/block/vda/size", "2048\n");
    world.put("/dev/vda", "something else");
    assert!(apply(&world).ends_with("there is no small vfat disk labelled CIDATA"));
    assert_eq!(world.exec.lines(), ["/usr/bin/cloud-init init --local"]);
}
