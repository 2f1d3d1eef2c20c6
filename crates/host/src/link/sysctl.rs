//! The kernel's network settings. Writes /proc/sys/net, which shows the namespace of the thread that looks.

use std::{fs, io::ErrorKind, path::Path};

use fireclaw_core::error::{Context, Error, Result};

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Lets the host forward IPv4. Written only when it is off: writing resets other settings of the kernel.
pub fn enable_forwarding() -> Result<()> {
    if fs::read_to_string(IP_FORWARD).context("read", IP_FORWARD)?.trim() != "0" {
        return Ok(());
    }
    fs::write(IP_FORWARD, "1").map_err(|error| {
        Error::new("enable", "IPv4 forwarding")
            .source(error)
            .hint("set net.ipv4.ip_forward=1 on the host, for example in /etc/sysctl.d")
    })
}

/// Switches IPv6 off on a link and makes IPv4 reveal and accept less there. A kernel without IPv6, and a /proc/sys that
/// is read-only (a container), are fine: the firewall lets nothing of it through in any case.
pub fn quieten(link: &str) -> Result<()> {
    for (setting, value) in [
        (format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1"),
        // Answer ARP only for addresses of this link, not for every address of the host.
        (format!("/proc/sys/net/ipv4/conf/{link}/arp_ignore"), "1"),
        (format!("/proc/sys/net/ipv4/conf/{link}/accept_redirects"), "0"),
        (format!("/proc/sys/net/ipv4/conf/{link}/accept_source_route"), "0"),
    ] {
        let path = Path::new(&setting);
        if fs::read_to_string(path).is_ok_and(|present| present.trim() == value) {
            continue;
        }
        match fs::write(path, value) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ReadOnlyFilesystem) => {
                return Err(Error::new("set", setting).source(error));
            }
            _ => {}
        }
    }
    Ok(())
}
