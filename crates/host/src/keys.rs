//! SSH keys and tokens. Touches the user's key file and its folder; takes randomness from the system.
//!
//! A key that a user brings is only ever read. One that is missing is made so that of two setups at the same moment both
//! end up with the same key.

use std::{
    ffi::OsString,
    fs::Permissions,
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    render::cloud_init::GuestHostKey,
    secret::Secret,
};
use ssh_key::{LineEnding, PrivateKey, PublicKey, private::Ed25519Keypair};

use crate::fs;

/// Where randomness comes from.
pub trait Entropy: Send + Sync {
    /// Fills the buffer.
    fn fill(&self, buffer: &mut [u8]) -> Result<()>;
}

/// getrandom(2).
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) -> Result<()> {
        getrandom::fill(buffer).context("get", "random bytes from the system")
    }
}

/// Entropy that has none.
#[cfg(any(test, feature = "fakes"))]
pub mod fake {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::{Entropy, Result};

    /// Fills its first buffer with ones, the next with twos, and so on.
    #[derive(Debug, Default)]
    pub struct CountingEntropy(AtomicU8);

    impl Entropy for CountingEntropy {
        fn fill(&self, buffer: &mut [u8]) -> Result<()> {
            buffer.fill(self.0.fetch_add(1, Ordering::SeqCst).wrapping_add(1));
            Ok(())
        }
    }
}

/// A gateway token: 32 random bytes in hexadecimal.
pub fn random_token(entropy: &dyn Entropy) -> Result<Secret> {
    random_hex::<32>(entropy).map(Secret::new)
}

/// A machine id: 16 random bytes in hexadecimal, never all zero (machine-id(5)), which is what "none" looks like.
pub fn machine_id(entropy: &dyn Entropy) -> Result<String> {
    let id = random_hex::<16>(entropy)?;
    if id.bytes().any(|digit| digit != b'0') {
        return Ok(id);
    }
    Err(Error::new("get", "random bytes from the system").because("they are all zero"))
}

fn random_hex<const N: usize>(entropy: &dyn Entropy) -> Result<String> {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes)?;
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or_default();
    Ok(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect())
}

/// A new host key for a guest. `comment` names the guest.
pub fn generate_host_key(entropy: &dyn Entropy, comment: &str) -> Result<GuestHostKey> {
    let (private, public) = generate(entropy, comment)?;
    Ok(GuestHostKey { private, public })
}

/// The line of a `known_hosts` file that pins a host key to an address.
pub fn known_hosts_line(host: &str, port: u16, public: &str) -> String {
    // The comment stays out: the file is OpenSSH's, and it reads on to the end of the line.
    let key: Vec<&str> = public.split_whitespace().take(2).collect();
    let host = if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") };
    format!("{host} {}\n", key.join(" "))
}

/// The key pair by which we log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserKey {
    /// The public half, one line for an `authorized_keys` file.
    pub public: String,
    /// Whether it was made just now.
    pub made: bool,
}

/// Reads the key pair at `path`, or makes an ed25519 one (0600, with `.pub` beside it and a folder 0700). A file that is
/// no key, is protected by a passphrase, or may be read by others is [`Kind::Refused`], as OpenSSH would refuse it later
/// and say less.
pub fn ensure_user_key(path: &Path, entropy: &dyn Entropy) -> Result<UserKey> {
    if let Some(public) = read_user_key(path)? {
        return Ok(UserKey { public, made: false });
    }
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    fs::make_private_dir(folder)?;
    let (private, public) = generate(entropy, "fireclaw")?;
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)
        .context("create", path.display())?;
    file.write_all(private.expose().as_bytes()).context("write", path.display())?;
    file.as_file().sync_all().context("sync", path.display())?;
    if let Err(error) = file.persist_noclobber(path) {
        // Another setup was faster, and its key is the one to use.
        if error.error.kind() == ErrorKind::AlreadyExists
            && let Some(public) = read_user_key(path)?
        {
            return Ok(UserKey { public, made: false });
        }
        return Err(Error::new("create", path.display().to_string()).source(error.error));
    }
    fs::write(&public_path(path), format!("{public}\n").as_bytes(), 0o644)?;
    Ok(UserKey { public, made: true })
}

/// The public half of the key at `path`; `None` when there is no file.
pub fn read_user_key(path: &Path) -> Result<Option<String>> {
    let facts = match std::fs::metadata(path) {
        Ok(facts) => facts,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path).kind(Kind::Failed).source(error)),
    };
    if !facts.is_file() {
        return Err(unusable(path).because("it is not a file"));
    }
    let ours = facts.uid() == nix::unistd::geteuid().as_raw();
    if ours && facts.mode() & 0o077 != 0 {
        return Err(unusable(path)
            .because(format!("other users may read it (mode {:04o})", facts.mode() & 0o7777))
            .hint(format!("run `chmod 600 {}`", path.display())));
    }
    let text = std::fs::read(path).map_err(|error| unusable(path).kind(Kind::Failed).source(error))?;
    let text = Secret::new(String::from_utf8_lossy(&text));
    public_half(path, &text).map(Some)
}

fn public_half(path: &Path, private: &Secret) -> Result<String> {
    let text = private.expose();
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(locked(path));
    }
    let key = match PrivateKey::from_openssh(text) {
        Ok(key) if key.is_encrypted() => return Err(locked(path)),
        Ok(key) => key.public_key().clone(),
        // The formats from before OpenSSH's own; for them ssh-keygen wrote the public half beside.
        Err(_) if text.starts_with("-----BEGIN ") && text.contains(" PRIVATE KEY-----") => beside(path)?,
        Err(_) => {
            return Err(unusable(path).because("it is not a private key").hint(
                "set SSH_KEY_PATH to a private key, or to a path where none is yet and one will be made",
            ));
        }
    };
    one_line(key).context("read", path.display())
}

fn beside(path: &Path) -> Result<PublicKey> {
    let public = public_path(path);
    let text = fs::read_if_there(&public)?.ok_or_else(|| {
        unusable(path)
            .because(format!("its format does not tell the public key and there is no {}", public.display()))
            .hint(format!("run `ssh-keygen -y -f {} > {}`", path.display(), public.display()))
    })?;
    PublicKey::from_openssh(&text)
        .map_err(|error| unusable(path).because(format!("{}: {error}", public.display())))
}

fn public_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(".pub");
    name.into()
}

/// A comment may hold anything; a line break in it would be a second key.
fn one_line(mut key: PublicKey) -> ssh_key::Result<String> {
    if key.comment().chars().any(char::is_control) {
        key.set_comment("");
    }
    Ok(key.to_openssh()?.trim_end().to_owned())
}

fn unusable(path: &Path) -> Error {
    Error::new("use", format!("{} as an SSH key", path.display())).kind(Kind::Refused)
}

fn locked(path: &Path) -> Error {
    unusable(path)
        .because("it is protected by a passphrase, which nobody is there to type")
        .hint("set SSH_KEY_PATH to another path: a key that is missing there is made")
}

fn generate(entropy: &dyn Entropy, comment: &str) -> Result<(Secret, String)> {
    let mut seed = [0; 32];
    entropy.fill(&mut seed)?;
    let mut key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    key.set_comment(comment);
    let private = key.to_openssh(LineEnding::LF).context("render", "a private key")?;
    let public = key.public_key().to_openssh().context("render", "a public key")?;
    Ok((Secret::new(private.as_str()), public))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Barrier};

    use super::{fake::CountingEntropy, *};
    use crate::exec::{Cmd, Exec, SystemExec};

    fn keygen(args: &[&str]) -> String {
        SystemExec::default().check(Cmd::new("ssh-keygen").args(args)).unwrap().text()
    }

    fn key_type_and_data(line: &str) -> Vec<&str> {
        line.split_whitespace().take(2).collect()
    }

    #[test]
    fn tokens_are_64_hexadecimal_digits_and_differ() {
        let (one, other) = (random_token(&SystemEntropy).unwrap(), random_token(&SystemEntropy).unwrap());
        assert_ne!(one, other);
        assert_eq!(one.expose().len(), 64);
        assert!(one.expose().bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(random_token(&CountingEntropy::default()).unwrap().expose(), "01".repeat(32));
    }

    #[test]
    fn a_missing_key_is_made_and_openssh_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ssh/key");
        let key = ensure_user_key(&path, &SystemEntropy).unwrap();
        assert!(key.made);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir.path().join("ssh")), mode(&path)), (0o700, 0o600));
        assert_eq!(keygen(&["-y", "-f", path.to_str().unwrap()]), key.public);
        assert_eq!(std::fs::read_to_string(public_path(&path)).unwrap().trim_end(), key.public);
        let before = std::fs::read(&path).unwrap();
        assert_eq!(ensure_user_key(&path, &SystemEntropy).unwrap(), UserKey { made: false, ..key });
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn setups_at_the_same_moment_share_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ssh/key");
        let start = Barrier::new(16);
        let keys: BTreeSet<String> = std::thread::scope(|scope| {
            let setup = || {
                start.wait();
                ensure_user_key(&path, &SystemEntropy).unwrap().public
            };
            let setups: Vec<_> = (0..16).map(|_| scope.spawn(setup)).collect();
            setups.into_iter().map(|setup| setup.join().unwrap()).collect()
        });
        assert_eq!(keys.len(), 1);
        assert_eq!(fs::names(&dir.path().join("ssh")).unwrap(), ["key", "key.pub"]);
    }

    #[test]
    fn keys_that_a_user_has_are_read_whatever_their_kind() {
        let dir = tempfile::tempdir().unwrap();
        for (kind, format) in [
            ("ed25519", "RFC4716"),
            ("rsa", "RFC4716"),
            ("rsa", "PEM"),
            ("rsa", "PKCS8"),
            ("ecdsa", "RFC4716"),
        ] {
            let path = dir.path().join(format!("{kind}-{format}"));
            let name = path.to_str().unwrap();
            let bits = if kind == "rsa" { "1024" } else { "256" };
            keygen(&["-q", "-t", kind, "-b", bits, "-m", format, "-N", "", "-C", "a user's key", "-f", name]);
            let public = std::fs::read_to_string(public_path(&path)).unwrap();
            if format == "RFC4716" {
                // The private half is enough, and right where the other is stale.
                std::fs::write(public_path(&path), "stale").unwrap();
            }
            let key = ensure_user_key(&path, &SystemEntropy).unwrap();
            assert!(!key.made);
            assert_eq!(key_type_and_data(&key.public), key_type_and_data(&public), "{kind} {format}");
        }
    }

    #[test]
    fn what_ssh_could_not_use_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let make = |name: &str, args: &[&str]| {
            keygen(&[&["-q", "-f", path(name).to_str().unwrap()], args].concat());
        };
        make("locked", &["-t", "ed25519", "-N", "12345"]);
        make("locked-pem", &["-t", "rsa", "-b", "1024", "-m", "PEM", "-N", "12345"]);
        make("locked-pkcs8", &["-t", "rsa", "-b", "1024", "-m", "PKCS8", "-N", "12345"]);
        make("lone", &["-t", "rsa", "-b", "1024", "-m", "PEM", "-N", ""]);
        std::fs::remove_file(path("lone.pub")).unwrap();
        make("open", &["-t", "ed25519", "-N", ""]);
        std::fs::set_permissions(path("open"), Permissions::from_mode(0o644)).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        for (name, content) in
            [("empty", "".as_bytes()), ("noise", &[0xff, 0, 7]), ("pub", b"ssh-ed25519 AAAA")]
        {
            fs::write(&path(name), content, 0o600).unwrap();
        }
        for (name, why) in [
            ("locked", "passphrase"),
            ("locked-pem", "passphrase"),
            ("locked-pkcs8", "passphrase"),
            ("lone", "no "),
            ("open", "mode 0644"),
            ("folder", "not a file"),
            ("empty", "not a private key"),
            ("noise", "not a private key"),
            ("pub", "not a private key"),
        ] {
            let error = ensure_user_key(&path(name), &SystemEntropy).unwrap_err();
            assert_eq!(error.get_kind(), Kind::Refused, "{name}");
            assert!(error.one_line().contains(why), "{name}: {}", error.one_line());
        }
        let error = ensure_user_key(&path("noise/key"), &SystemEntropy).unwrap_err();
        assert!(error.one_line().contains("Not a directory"), "{}", error.one_line());
    }

    #[test]
    fn a_host_key_is_read_by_openssh_and_pinned_without_its_comment() {
        let dir = tempfile::tempdir().unwrap();
        let key = generate_host_key(&SystemEntropy, "my-bot").unwrap();
        let path = dir.path().join("host");
        fs::write(&path, key.private.expose().as_bytes(), 0o600).unwrap();
        assert_eq!(keygen(&["-y", "-f", path.to_str().unwrap()]), key.public);
        let line = known_hosts_line("172.16.0.2", 22, &key.public);
        fs::write(&dir.path().join("known_hosts"), line.as_bytes(), 0o600).unwrap();
        let found = keygen(&["-F", "172.16.0.2", "-f", dir.path().join("known_hosts").to_str().unwrap()]);
        assert!(found.ends_with(line.trim_end()), "{found}");
        assert!(!format!("{key:?}").contains("PRIVATE"));
        assert!(known_hosts_line("::1", 2222, "a b c").starts_with("[::1]:2222 a b\n"));
    }
}
