//! Files from servers. Starts curl, which reads the user's proxies and certificates from the environment; writes the one
//! file it is told.

use std::{path::Path, time::Duration};

use fireclaw_core::error::Result;

use crate::exec::{Cmd, Exec};

/// The program, and the Debian packages that it takes.
pub const HOST_PROGRAMS: &[(&str, &str)] = &[("curl", "curl"), ("update-ca-certificates", "ca-certificates")];

/// Fetches `url` into `to`. `what` is named in the error; `cafile` replaces the certificates that are trusted.
///
/// A server that cannot be reached for a moment is asked three times. What is asked for by https is not taken from
/// elsewhere without it, wherever the server sends us.
pub fn download(exec: &dyn Exec, url: &str, to: &Path, cafile: Option<&Path>, what: &str) -> Result<()> {
    let mut curl = Cmd::new("curl").inherit_env();
    if let Some(cafile) = cafile {
        curl = curl.arg("--cacert").arg(cafile);
    }
    let schemes = if url.starts_with("https:") { "=https" } else { "=https,http" };
    let curl = curl
        .args(["--fail", "--silent", "--show-error", "--location", "--retry", "3", "--proto", schemes])
        .args(["--connect-timeout", "20", "--output"])
        .arg(to)
        .arg(url)
        .deadline(Duration::from_mins(15))
        .about(what);
    exec.check(curl).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::fake::FakeExec;

    #[test]
    fn https_stays_https_wherever_the_server_sends_us() {
        let exec = FakeExec::silent();
        let to = Path::new("/nonexistent/x");
        download(&exec, "https://h/x", to, Some(Path::new("/ca.pem")), "x").unwrap();
        download(&exec, "http://h/x", to, None, "x").unwrap();
        let lines = exec.lines();
        assert!(lines[0].starts_with("curl --cacert /ca.pem --fail "), "{lines:?}");
        assert!(lines[0].contains("--proto =https --connect"), "{lines:?}");
        assert!(lines[1].contains("--proto =https,http --connect"), "{lines:?}");
        assert!(lines[1].ends_with("--output /nonexistent/x http://h/x"), "{lines:?}");
    }
}
