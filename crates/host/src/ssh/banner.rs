//! Whether an sshd answers, without starting a program: a TCP connect and the first bytes. Opens a connection.

use std::{
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// A guest on a local bridge answers in less than a millisecond or is not up.
const CONNECT: Duration = Duration::from_millis(300);
/// sshd starts a process for each connection; in a guest that works hard, was just woken or is emulated that takes its time. Who
/// gives up sooner takes a busy guest for one that is away: `shell` is refused, and `stop` does without its farewell.
const BANNER: Duration = Duration::from_secs(10);

/// `Err` says what there is instead of an sshd.
pub(super) fn answers(address: SocketAddr) -> Result<(), String> {
    answers_within(address, CONNECT, BANNER)
}

fn answers_within(address: SocketAddr, connect: Duration, banner: Duration) -> Result<(), String> {
    let mut stream = TcpStream::connect_timeout(&address, connect).map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => format!("{address} refuses connections"),
        ErrorKind::TimedOut => format!("{address} does not answer"),
        _ => format!("{address}: {error}"),
    })?;
    let until = Instant::now() + banner;
    let mut said = Vec::new();
    // A server may say other lines before the one that begins with SSH- (RFC 4253, 4.2); ours is brief.
    while said.len() < 4096 {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            break;
        }
        let mut buffer = [0; 256];
        match stream.read(&mut buffer) {
            Ok(0) => return Err(format!("{address} closes connections at once")),
            Ok(length) => said.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => return Err(format!("{address}: {error}")),
        }
        if said.starts_with(b"SSH-") || said.windows(5).any(|part| part == b"\nSSH-") {
            return Ok(());
        }
    }
    Err(format!("{address} takes connections and says nothing of SSH"))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net::TcpListener, thread};

    use nix::sys::socket::{Backlog, listen};

    use super::*;

    fn served(said: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || listener.accept().unwrap().0.write_all(said).unwrap());
        let answer = answers(address);
        server.join().unwrap();
        answer
    }

    #[test]
    fn a_banner_is_told_from_everything_else() {
        served(b"SSH-2.0-OpenSSH_10.0p2 Debian-7\r\n").unwrap();
        served(b"busy today\r\nSSH-2.0-x\r\n").unwrap();
        assert!(served(b"").unwrap_err().contains("closes connections"));
        assert!(served(b"HTTP/1.1 400 Bad Request\r\n").unwrap_err().contains("closes connections"));
        let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(answers(unused).unwrap_err().contains("refuses connections"));
    }

    #[test]
    fn a_guest_that_is_busy_is_not_away() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let slow = thread::spawn(move || {
            let mut client = listener.accept().unwrap().0;
            // As long as a woken guest took under emulation; the client says nothing meanwhile.
            client.set_read_timeout(Some(Duration::from_millis(3500))).unwrap();
            client.read(&mut [0]).unwrap_err();
            client.write_all(b"SSH-2.0-slow\r\n")
        });
        answers(address).unwrap();
        slow.join().unwrap().unwrap();
    }

    #[test]
    fn an_address_that_drops_packets_costs_little() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // With no room in its queue, the kernel drops what asks for a connection.
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let _queued = TcpStream::connect(address).unwrap();
        let begun = Instant::now();
        let why = answers(address).unwrap_err();
        assert!(why.contains("does not answer"), "{why}");
        assert!(begun.elapsed() < CONNECT * 3, "{:?}", begun.elapsed());
    }

    #[test]
    fn a_silent_server_is_not_waited_for_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let begun = Instant::now();
        let why =
            answers_within(listener.local_addr().unwrap(), CONNECT, Duration::from_millis(100)).unwrap_err();
        assert!(why.contains("nothing of SSH"), "{why}");
        assert!(begun.elapsed() < BANNER);
    }
}
