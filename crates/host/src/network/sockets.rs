//! Which TCP ports are listened on. Reads /proc/thread-self/net.

use std::{collections::BTreeSet, fs, io::ErrorKind};

use fireclaw_core::error::{Context, Error, Result};

/// State `TCP_LISTEN` as these files print it.
const LISTEN: &str = "0A";

/// The ports in the calling thread's network namespace, of either family. A kernel without IPv6 has one file only.
pub(super) fn listening() -> Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for path in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        match fs::read_to_string(path) {
            Ok(table) => ports.extend(parse(&table).context("read", path)?),
            Err(error) if error.kind() == ErrorKind::NotFound && path.ends_with('6') => {}
            Err(error) => return Err(Error::new("read", path).source(error)),
        }
    }
    Ok(ports)
}

/// Fields of `proc_pid_net(5)`: number, local address and port in hexadecimal, remote, state.
fn parse(table: &str) -> Result<BTreeSet<u16>, String> {
    let mut ports = BTreeSet::new();
    for line in table.lines().skip(1) {
        let mut fields = line.split_whitespace();
        let (local, state) = (fields.nth(1), fields.nth(1));
        if state != Some(LISTEN) {
            continue;
        }
        let port = local
            .and_then(|local| local.rsplit_once(':'))
            .and_then(|(_, port)| u16::from_str_radix(port, 16).ok())
            .ok_or_else(|| format!("this line has no port: {line}"))?;
        ports.insert(port);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listeners_of_both_families_are_seen_and_connections_are_not() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::1]:0").unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let connection = std::net::TcpStream::connect(four.local_addr().unwrap()).unwrap();
        let seen = listening().unwrap();
        assert!(seen.contains(&port(&four)) && seen.contains(&port(&six)), "{seen:?}");
        assert!(!seen.contains(&connection.local_addr().unwrap().port()), "{seen:?}");
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error() {
        assert!(parse("header\n 0: nonsense 0 0A").is_err());
    }
}
