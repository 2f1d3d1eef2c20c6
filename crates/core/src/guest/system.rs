//! What the guest's own files say of it: its distribution and its users. Touches nothing.

use std::path::PathBuf;

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Home folder.
    pub home: PathBuf,
}

/// The account of a user (passwd(5)).
pub fn account(passwd: &str, user: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        if name != user {
            return None;
        }
        Some(Account { uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() })
    })
}

/// What `os-release` says (os-release(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Os {
    /// `debian`, `ubuntu`, …
    pub id: String,
    /// For people: "Debian GNU/Linux 13 (trixie)".
    pub name: String,
}

impl Os {
    /// Reads the file.
    pub fn parse(text: &str) -> Self {
        let find = |key: &str| {
            text.lines()
                .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))
                .map(|value| value.trim_matches(['"', '\'']).to_owned())
                .unwrap_or_default()
        };
        Self { id: find("ID"), name: find("PRETTY_NAME") }
    }

    /// Whether its `chromium` package is a browser. Ubuntu's is a wrapper of a snap, which OpenClaw cannot drive.
    pub fn has_chromium(&self) -> bool {
        self.id == "debian"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nubuntu2:x:9:9::/x:/bin/sh\nubuntu:x:1000:1001:U,,,:/home/ubuntu:/bin/bash\n";
        assert_eq!(
            account(passwd, "ubuntu"),
            Some(Account { uid: 1000, gid: 1001, home: "/home/ubuntu".into() })
        );
        assert_eq!(account(passwd, "ubunt"), None);
        assert_eq!(account("ubuntu:x:y:1::/h:", "ubuntu"), None);
    }

    #[test]
    fn distributions() {
        let debian =
            Os::parse("PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_ID=\"13\"\nID=debian\n");
        assert_eq!((debian.id.as_str(), debian.has_chromium()), ("debian", true));
        assert_eq!(debian.name, "Debian GNU/Linux 13 (trixie)");
        assert!(!Os::parse("ID=ubuntu\nID_LIKE=debian\n").has_chromium());
    }
}
