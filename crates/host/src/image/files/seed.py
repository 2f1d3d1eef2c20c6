#!/usr/bin/python3 -IS
"""Applies the NoCloud seed of this virtual machine.

Seeds of fireclaw are JSON and say little: hostname, host key, login keys, one network card. Those are applied here,
in a fraction of the time that cloud-init's start takes. A seed that holds anything else goes to cloud-init whole, so
that every seed means what cloud-init's documents say. A seed that was applied before is not applied again.
"""

import hashlib
import json
import os
import pwd
import re
import subprocess

STAMP = "/var/lib/fireclaw/seed.sha256"
FLAG = "/run/fireclaw/cloud-init"
NETWORK = "/etc/systemd/network/10-fireclaw.network"
SSH_KEY = "/etc/ssh/ssh_host_ed25519_key"
SECTOR_LIMIT = 8 << 20
KNOWN = {
    # What these ask for is what the image is.
    "disable_root": True,
    "ssh_pwauth": False,
    "package_update": False,
    "package_upgrade": False,
    "growpart": {"mode": "off"},
    "resize_rootfs": False,
}
USER = {"name": "ubuntu", "shell": "/bin/bash", "lock_passwd": True, "sudo": "ALL=(ALL) NOPASSWD:ALL"}


class NotOurs(Exception):
    """The seed holds something that cloud-init has to look at."""


def say(text):
    print(text, flush=True)


def seed_disk():
    """The device and the bytes of the vfat disk labelled CIDATA, or None."""
    for name in sorted(os.listdir("/sys/class/block")):
        try:
            with open("/sys/class/block/%s/size" % name) as size:
                if int(size.read()) * 512 > SECTOR_LIMIT:
                    continue
            with open("/dev/" + name, "rb") as device:
                data = device.read()
        except OSError:
            continue
        # The label of FAT12 and FAT16, then that of FAT32.
        if b"CIDATA     " in (data[43:54].upper(), data[71:82].upper()):
            return "/dev/" + name, data
    return None


def files_of(device):
    """The files of the seed and what is in them."""
    folder = "/run/fireclaw/seed"
    os.makedirs(folder, 0o700, exist_ok=True)
    subprocess.run(["mount", "-t", "vfat", "-o", "ro", device, folder], check=True)
    try:
        found = {}
        for name in os.listdir(folder):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                found[name] = file.read()
    finally:
        subprocess.run(["umount", folder], check=True)
        os.rmdir(folder)
    return found


def documents_of(found):
    """The three documents, when they are JSON."""
    if set(found) != {"user-data", "meta-data", "network-config"}:
        raise NotOurs("files %s" % sorted(found))
    header, _, user_data = found["user-data"].partition("\n")
    if header != "#cloud-config":
        raise NotOurs("user-data of the kind " + header)
    return json.loads(user_data), json.loads(found["meta-data"]), json.loads(found["network-config"])


def only(mapping, known, what):
    """Refuses keys that are not known."""
    if not isinstance(mapping, dict) or set(mapping) - set(known):
        raise NotOurs("%s with more than %s" % (what, ", ".join(sorted(known))))
    return mapping


def matching(value, pattern, what):
    if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
        raise NotOurs("%s %r" % (what, value))
    return value


def listed(value, what):
    if not isinstance(value, list):
        raise NotOurs("%s that are no list" % what)
    return value


HOST = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
ADDRESS = r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}"


def plan_of(user_data, meta_data, network):
    """What the seed asks for, as values; NotOurs when it asks for more than is known here."""
    only(meta_data, ["instance-id", "local-hostname", "dsmode"], "meta-data")
    only(user_data, [*KNOWN, "hostname", "manage_etc_hosts", "users", "ssh_keys"], "user-data")
    for key, value in KNOWN.items():
        if user_data.get(key, value) != value:
            raise NotOurs(key)
    if user_data.get("manage_etc_hosts", "localhost") != "localhost":
        raise NotOurs("manage_etc_hosts")
    hostname = matching(user_data.get("hostname", meta_data.get("local-hostname")), HOST, "hostname")

    users = user_data.get("users")
    if not isinstance(users, list) or len(users) != 1:
        raise NotOurs("users")
    user = dict(only(users[0], [*USER, "ssh_authorized_keys"], "user"))
    keys = user.pop("ssh_authorized_keys", None)
    if user != USER or not isinstance(keys, list):
        raise NotOurs("user")
    keys = [matching(key, r"[^\r\n]+", "login key") for key in keys]

    host_keys = only(user_data.get("ssh_keys", {}), ["ed25519_private", "ed25519_public"], "ssh_keys")
    if host_keys and len(host_keys) != 2:
        raise NotOurs("ssh_keys")
    # Not `matching`: its error would show the key.
    if not all(isinstance(key, str) for key in host_keys.values()):
        raise NotOurs("ssh_keys that are no text")

    only(network, ["version", "ethernets"], "network-config")
    cards = network.get("ethernets")
    if network.get("version") != 2 or not isinstance(cards, dict) or list(cards) != ["eth0"]:
        raise NotOurs("network-config")
    card = only(
        cards["eth0"],
        ["match", "set-name", "dhcp4", "dhcp6", "accept-ra", "addresses", "routes", "nameservers"],
        "card",
    )
    off = [card.get(key) for key in ("dhcp4", "dhcp6", "accept-ra")]
    if card.get("set-name") != "eth0" or off != [False, False, False]:
        raise NotOurs("card")
    mac = only(card.get("match"), ["macaddress"], "match").get("macaddress")
    lines = ["[Match]", "MACAddress=" + matching(mac, r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", "MAC address"), ""]
    lines += ["[Network]", "DHCP=no", "IPv6AcceptRA=no", "LinkLocalAddressing=no"]
    for address in listed(card.get("addresses", []), "addresses"):
        lines.append("Address=" + matching(address, ADDRESS + r"/\d{1,2}", "address"))
    names = only(card.get("nameservers", {}), ["addresses"], "nameservers")
    for server in listed(names.get("addresses", []), "nameservers"):
        lines.append("DNS=" + matching(server, ADDRESS, "nameserver"))
    for route in listed(card.get("routes", []), "routes"):
        only(route, ["to", "via"], "route")
        if route.get("to") not in ("0.0.0.0/0", "default"):
            raise NotOurs("route")
        lines += ["", "[Route]", "Gateway=" + matching(route.get("via"), ADDRESS, "gateway")]
    return hostname, keys, host_keys, "\n".join(lines) + "\n"


def put(path, text, mode, owner=None):
    """Writes a file whole or not at all."""
    new = path + ".new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, mode)
        if owner:
            os.fchown(fd, *owner)
        file.write(text)
        file.flush()
        os.fsync(fd)
    os.rename(new, path)


def apply(hostname, keys, host_keys, network):
    put(NETWORK, network, 0o644)
    put("/etc/hostname", hostname + "\n", 0o644)
    put("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost\n" % hostname, 0o644)
    with open("/proc/sys/kernel/hostname", "w") as name:
        name.write(hostname)
    account = pwd.getpwnam(USER["name"])
    owner = (account.pw_uid, account.pw_gid)
    folder = os.path.join(account.pw_dir, ".ssh")
    if os.path.islink(folder):
        raise OSError(folder + " is a link")
    os.makedirs(folder, exist_ok=True)
    os.chown(folder, *owner)
    os.chmod(folder, 0o700)
    authorized = os.path.join(folder, "authorized_keys")
    # As cloud-init does: keys that the user added stay.
    if os.path.exists(authorized):
        with open(authorized, encoding="utf-8") as file:
            keys = [*keys, *(line for line in file.read().splitlines() if line not in keys)]
    put(authorized, "".join(key + "\n" for key in keys), 0o600, owner)
    if host_keys:
        put(SSH_KEY + ".pub", host_keys["ed25519_public"].rstrip("\n") + "\n", 0o644)
        put(SSH_KEY, host_keys["ed25519_private"].rstrip("\n") + "\n", 0o600)


def host_key():
    """A guest that was given no host key makes one."""
    if not os.path.exists(SSH_KEY):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", SSH_KEY], check=True)


def cloud_init(why):
    """Leaves the seed to cloud-init: its first stage now, the others by a unit that waits for the network."""
    say("cloud-init takes the seed: %s" % why)
    for path in (NETWORK, STAMP):
        if os.path.exists(path):
            os.remove(path)
    with open(FLAG, "w"):
        pass
    subprocess.run(["/usr/bin/cloud-init", "init", "--local"], check=True)


def main():
    os.makedirs("/run/fireclaw", 0o755, exist_ok=True)
    found = seed_disk()
    if found is None:
        return cloud_init("there is no small vfat disk labelled CIDATA")
    device, data = found
    digest = hashlib.sha256(data).hexdigest()
    try:
        with open(STAMP) as stamp:
            applied = stamp.read().strip() == digest
    except OSError:
        applied = False
    if applied:
        return say("this seed is applied already")
    try:
        plan = plan_of(*documents_of(files_of(device)))
    except (NotOurs, ValueError, RecursionError) as why:
        return cloud_init(why)
    apply(*plan)
    host_key()
    put(STAMP, digest + "\n", 0o600)
    return say("seed of %s applied" % device)


if __name__ == "__main__":
    main()
