//! The sockets on which a process waits for anybody. Reads `/proc/PID/fd` and `/proc/PID/net`, which is the network that the
//! process is in.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use fireclaw_core::audit::Protocol;

/// `TCP_LISTEN` as these files print it; for UDP 07 is a socket that is bound and not connected.
const TABLES: [(&str, Protocol, &str); 4] = [
    ("net/tcp", Protocol::Tcp, "0A"),
    ("net/tcp6", Protocol::Tcp, "0A"),
    ("net/udp", Protocol::Udp, "07"),
    ("net/udp6", Protocol::Udp, "07"),
];

/// Those of the process whose folder of `/proc` this is.
pub(super) fn of(process: &Path) -> Vec<(Protocol, SocketAddr)> {
    let inodes = inodes(&process.join("fd"));
    let mut sockets = Vec::new();
    for (file, protocol, state) in TABLES {
        let table = fs::read_to_string(process.join(file)).unwrap_or_default();
        sockets.extend(
            table
                .lines()
                .skip(1)
                .filter_map(|line| read(line, state))
                .filter(|(_, inode)| inodes.contains(inode))
                .map(|(address, _)| (protocol, address)),
        );
    }
    sockets.sort_by_key(|(protocol, address)| (*protocol == Protocol::Udp, *address));
    sockets
}

fn inodes(fds: &Path) -> BTreeSet<u64> {
    let names = crate::fs::names(fds).unwrap_or_default();
    names
        .iter()
        .filter_map(|name| fs::read_link(fds.join(name)).ok())
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// Fields of `proc_pid_net(5)`: number, local and remote address and port in hexadecimal, state, …, inode as the tenth.
fn read(line: &str, state: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, inode) = (fields.get(1)?, fields.get(9)?.parse().ok()?);
    if fields.get(3) != Some(&state) {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    Some((SocketAddr::new(ip(address)?, u16::from_str_radix(port, 16).ok()?), inode))
}

/// Words of 32 bits, each printed as a number of the host, whose bytes in memory are the address.
fn ip(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for start in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    if let Ok(four) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes.as_slice()).ok().map(|six| Ipv6Addr::from(six).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_of_both_families_are_read() {
        let line = "   0: 0100007F:49CB 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 x";
        assert_eq!(read(line, "0A"), Some(("127.0.0.1:18891".parse().unwrap(), 4711)));
        assert_eq!(read(line, "07"), None);
        let six = line.replace("0100007F", "00000000000000000000000001000000");
        assert_eq!(read(&six, "0A"), Some(("[::1]:18891".parse().unwrap(), 4711)));
        assert_eq!(read("nonsense", "0A"), None);
    }
}
