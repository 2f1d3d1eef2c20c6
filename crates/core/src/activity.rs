//! Whether a guest is at work though nobody is connected to it, from what its kernel tells. Touches nothing.

use std::net::Ipv4Addr;

/// What is read in the guest: its load, and its connections over both families.
pub const FILES: [&str; 3] = ["/proc/loadavg", "/proc/net/tcp", "/proc/net/tcp6"];

/// The load of the last minute that is taken for rest, for each of its processors.
const RESTING: f64 = 0.3;
/// `TCP_ESTABLISHED` in the fourth column.
const ESTABLISHED: &str = "01";
/// How `/proc/net/tcp6` begins an IPv4 address.
const MAPPED: &str = "0000000000000000FFFF0000";

/// What a guest works on, in a few words; `None` when it rests. `host` is the bridge's address and `port` the instance's own,
/// at which the guest reaches the keys of its model: a connection there is an answer that is being written. Other connections to
/// the host are the host's own, of SSH and of the proxy.
pub fn work(text: &str, vcpu: u32, host: Ipv4Addr, port: u16) -> Option<String> {
    let mut lines = text.lines();
    let load: f64 = lines.next()?.split(' ').next()?.parse().ok()?;
    let most = RESTING * f64::from(vcpu.max(1));
    if load > most {
        return Some(format!("its load is {load}, above {most:.1}"));
    }
    lines.filter_map(remote).find(|(ip, remote)| !ip.is_loopback() && (*ip != host || *remote == port)).map(
        |(ip, remote)| {
            if ip == host {
                "it uses its model".to_owned()
            } else {
                format!("it is connected to {ip}:{remote}")
            }
        },
    )
}

/// The other end of an established connection. IPv6 does not leave the guest; what is not IPv4 in it is its own.
fn remote(line: &str) -> Option<(Ipv4Addr, u16)> {
    let mut columns = line.split_whitespace().skip(2);
    let (address, state) = (columns.next()?, columns.next()?);
    let (ip, port) = address.split_once(':')?;
    let ip = if ip.len() == 32 { ip.strip_prefix(MAPPED)? } else { ip };
    if state != ESTABLISHED || ip.len() != 8 {
        return None;
    }
    // The kernel prints the four bytes as the processor reads them as one number.
    let ip = u32::from_str_radix(ip, 16).ok()?.to_le_bytes();
    Some((Ipv4Addr::from(ip), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn text(load: &str, tcp: &str) -> String {
        format!("{load} 0.10 0.10 1/80 123\n{HEAD}{tcp}{HEAD}")
    }

    fn line(remote: &str, state: &str) -> String {
        format!(
            "   1: 020010AC:4965 {remote} {state} 00000000:00000000 02:00000F9C 00000000     0        0 1\n"
        )
    }

    #[test]
    fn a_guest_that_only_listens_rests() {
        let idle = line("00000000:0000", "0A") + &line("010010AC:C350", "01") + &line("0100007F:1F90", "01");
        assert_eq!(work(&text("0.05", &idle), 1, HOST, 18891), None);
        // A connection that is over and waits.
        assert_eq!(work(&text("0.05", &line("08080808:01BB", "06")), 1, HOST, 18891), None);
    }

    #[test]
    fn load_and_connections_to_the_world_and_to_the_broker_are_work() {
        assert!(work(&text("0.31", ""), 1, HOST, 1).unwrap().contains("load is 0.31"));
        assert_eq!(work(&text("0.31", ""), 2, HOST, 1), None);
        let telegram = line("DCA79A95:01BB", "01");
        assert_eq!(
            work(&text("0.00", &telegram), 1, HOST, 1).unwrap(),
            "it is connected to 149.154.167.220:443"
        );
        // 18891 is 49CB.
        let broker = line("010010AC:49CB", "01");
        assert_eq!(work(&text("0.00", &broker), 1, HOST, 18891).unwrap(), "it uses its model");
        let mapped = line("0000000000000000FFFF0000DCA79A95:01BB", "01");
        assert!(work(&text("0.00", &mapped), 1, HOST, 1).is_some());
        let six = line("00000000000000000000000001000000:01BB", "01");
        assert_eq!(work(&text("0.00", &six), 1, HOST, 1), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,200}") {
            let _ = work(&text, 1, HOST, 1);
            let _ = work(&format!("0.0 x\n{text}"), 1, HOST, 1);
        }
    }
}
