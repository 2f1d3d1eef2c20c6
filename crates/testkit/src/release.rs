//! A stand-in of Firecracker's release page: tarballs with their checksums, as its releases lay them out, over plain HTTP. The
//! programs in them are scripts that print a version. Listens where it is told.
//!
//! ```text
//! GET /v1.16.1/firecracker-v1.16.1-x86_64.tgz             the tarball
//! GET /v1.16.1/firecracker-v1.16.1-x86_64.tgz.sha256.txt  HEX  firecracker-v1.16.1-x86_64.tgz
//! ```

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Mutex,
};

use fireclaw_core::spec::{
    Arch,
    release::{CHECKSUM_SUFFIX, file, folder, tarball},
};
use sha2::{Digest, Sha256};

use crate::http::{Body, Reply, Server};

/// What a tarball is made of.
#[derive(Debug, Clone)]
pub struct Release {
    version: String,
    arch: Arch,
    entries: Vec<(String, tar::EntryType, Vec<u8>)>,
}

impl Release {
    /// A release as Firecracker makes them: the two programs, and files that nobody installs.
    pub fn new(version: &str, arch: Arch) -> Self {
        let mut release = Self { version: version.to_owned(), arch, entries: Vec::new() };
        let dir = folder(version, arch);
        release.entries.push((format!("{dir}/"), tar::EntryType::Directory, Vec::new()));
        for name in ["LICENSE", "SHA256SUMS", "firecracker_spec.yaml"] {
            release = release.with(&format!("{dir}/{name}"), name.as_bytes());
        }
        for (program, says) in [("firecracker", "Firecracker"), ("jailer", "Jailer")] {
            let name = format!("{dir}/{}", file(program, version, arch));
            release = release
                .with(&format!("{name}.debug"), b"symbols")
                .with(&name, script(&format!("{says} v{version}")).as_bytes());
        }
        release
    }

    /// Puts a file in, in the place of one of the same name.
    #[must_use]
    pub fn with(mut self, name: &str, content: &[u8]) -> Self {
        self = self.without(name);
        self.entries.push((name.to_owned(), tar::EntryType::Regular, content.to_vec()));
        self
    }

    /// Puts a symbolic link in, in the place of a file of the same name.
    #[must_use]
    pub fn with_link(mut self, name: &str, to: &str) -> Self {
        self = self.without(name);
        self.entries.push((name.to_owned(), tar::EntryType::Symlink, to.into()));
        self
    }

    /// Leaves a file out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.entries.retain(|(known, ..)| known != name);
        self
    }

    /// The path of a program in the tarball.
    pub fn member(&self, program: &str) -> String {
        format!("{}/{}", folder(&self.version, self.arch), file(program, &self.version, self.arch))
    }

    /// The tarball's name.
    pub fn name(&self) -> String {
        tarball(&self.version, self.arch)
    }

    /// The tarball.
    pub fn tarball(&self) -> io::Result<Vec<u8>> {
        let packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut archive = tar::Builder::new(packed);
        for (name, kind, content) in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            // Past the checks of the library, which writes no name that leads out.
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            if *kind == tar::EntryType::Symlink {
                header.set_link_name(String::from_utf8_lossy(content).as_ref())?;
                header.set_size(0);
                header.set_cksum();
                archive.append(&header, io::empty())?;
            } else {
                header.set_size(content.len() as u64);
                header.set_cksum();
                archive.append(&header, content.as_slice())?;
            }
        }
        archive.into_inner()?.finish()
    }
}

/// A program that prints one line.
pub fn script(says: &str) -> String {
    format!("#!/bin/sh\necho '{says}'\n")
}

/// A line of a checksum file.
pub fn checksum(content: &[u8], name: &str) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}  {name}\n")
}

/// How the server serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    /// As it should.
    #[default]
    None,
    /// The checksum is another file's.
    WrongChecksum,
    /// There is no checksum.
    NoChecksum,
    /// There is no tarball.
    NoTarball,
    /// The connection ends in the middle of the tarball.
    BrokenOff,
    /// Half the tarball, as if it were all.
    Half,
}

/// The server; it ends when it is dropped.
pub struct ReleasePage {
    server: Server,
    url: String,
    asked: std::sync::Arc<Mutex<Vec<String>>>,
}

impl ReleasePage {
    /// Serves one release at `bind` (port 0 takes a free one).
    pub fn start(bind: impl ToSocketAddrs, release: &Release, fault: Fault) -> io::Result<Self> {
        let (content, name) = (release.tarball()?, release.name());
        let path = format!("/v{}/{name}", release.version);
        let tarball_path = path.clone();
        let asked = std::sync::Arc::<Mutex<Vec<String>>>::default();
        let log = std::sync::Arc::clone(&asked);
        let server = Server::start(bind, move |request| {
            log.lock().expect("no panic while held").push(request.path.clone());
            let ok = |body| Reply { status: "200 OK", headers: Vec::new(), body };
            let sum = |content: &[u8]| ok(Body::Bytes(checksum(content, &name).into_bytes()));
            if request.path == tarball_path {
                match fault {
                    Fault::NoTarball => missing(),
                    Fault::BrokenOff => ok(Body::Half(content.clone())),
                    Fault::Half => ok(Body::Bytes(content[..content.len() / 2].to_vec())),
                    _ => ok(Body::Bytes(content.clone())),
                }
            } else if request.path.strip_suffix(CHECKSUM_SUFFIX) == Some(&tarball_path) {
                match fault {
                    Fault::NoChecksum => missing(),
                    Fault::WrongChecksum => sum(b"something else"),
                    _ => sum(&content),
                }
            } else {
                missing()
            }
        })?;
        let url = format!("http://{}{path}", server.address());
        Ok(Self { server, url, asked })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The tarball's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The paths that were asked for, in their order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic while held").clone()
    }
}

fn missing() -> Reply {
    Reply { status: "404 Not Found", headers: Vec::new(), body: Body::Bytes(b"Not Found".to_vec()) }
}
