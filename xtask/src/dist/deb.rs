//! The Debian package. Writes a folder as it will be on the host and has dpkg-deb pack it.
//!
//! It has one maintainer script, which only speaks: nothing is started, stopped or restarted when the package comes, is
//! upgraded or goes. Supervisors and VMs run on from the files that they have open.

use std::path::{Path, PathBuf};

use fireclaw::doctor::Need;
use fireclaw_core::{
    error::{Context, Result},
    spec::{Arch, Settings},
};
use fireclaw_host::{
    download,
    exec::{Cmd, Exec as _, SystemExec},
};

use super::{
    Input, config,
    content::{self, Body, File},
};

/// The older names of the program.
pub const OLDER_NAMES: [&str; 2] = ["vm-setup", "vm-ctl"];

/// Packages that every Debian has, which a package must not depend on.
const ESSENTIAL: [&str; 3] = ["coreutils", "tar", "util-linux"];

const MAINTAINER: &str = "The fireclaw authors <fireclaw@fireclaw.invalid>";
const POSTRM: &str = include_str!("files/postrm");
const SYSCTL: &str = include_str!("files/sysctl.conf");
const MODULES: &str = include_str!("files/modules.conf");

/// Packs it into a folder.
pub fn make(input: &Input, out: &Path) -> Result<PathBuf> {
    let stage = tempfile::tempdir().context("make", "a temporary folder")?;
    let root = stage.path().join("root");
    std::fs::create_dir(&root).context("create folder", root.display())?;
    let mut files = files(input)?;
    let size: usize = files
        .iter()
        .map(|file| if let Body::Bytes(content) = &file.body { content.len().div_ceil(1024) } else { 1 })
        .sum();
    files.push(File::data("DEBIAN/control", control(input, size)));
    files.push(File::data("DEBIAN/conffiles", format!("{}\n", Settings::CONFIG_FILE)));
    files.push(File::program("DEBIAN/postrm", POSTRM));
    content::write(&files, &root, input.time)?;
    let deb = out.join(format!("fireclaw_{}_{}.deb", input.version, architecture(input.arch)));
    let pack = Cmd::new("dpkg-deb")
        .env("SOURCE_DATE_EPOCH", input.time.to_string())
        // More threads cut the data into more blocks.
        .env("DPKG_DEB_THREADS_MAX", "1")
        .args(["--root-owner-group", "-Zxz", "--build"]);
    SystemExec::default().check(pack.arg(&root).arg(&deb).about(deb.display()))?;
    Ok(deb)
}

/// Debian's name of a machine.
pub const fn architecture(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "amd64",
        Arch::Aarch64 => "arm64",
    }
}

/// What is installed.
pub fn files(input: &Input) -> Result<Vec<File>> {
    let mut files = vec![
        File::data(Settings::CONFIG_FILE.trim_start_matches('/'), config::render()?),
        File::program("usr/bin/fireclaw", input.program.clone()),
        File::data("usr/lib/modules-load.d/fireclaw.conf", MODULES),
        File::data("usr/lib/sysctl.d/50-fireclaw.conf", SYSCTL),
        File::data("usr/share/doc/fireclaw/copyright", copyright()),
        File::data("usr/share/doc/fireclaw/changelog.gz", content::gzip(changelog(input)?.as_bytes())?),
    ];
    for (name, text) in [
        ("README.md", include_str!("../../../README.md")),
        ("EXIT_CODES.md", include_str!("../../../docs/EXIT_CODES.md")),
        ("LAYOUT.md", include_str!("../../../docs/LAYOUT.md")),
        ("SECURITY.md", include_str!("../../../docs/SECURITY.md")),
        ("SKILL.md", include_str!("../../../.agents/skills/fireclaw/SKILL.md")),
    ] {
        files.push(File::data(format!("usr/share/doc/fireclaw/{name}"), text));
    }
    for name in OLDER_NAMES {
        files.push(File::link(format!("usr/bin/{name}"), "fireclaw"));
    }
    for (name, page) in content::man_pages()? {
        files.push(File::data(format!("usr/share/man/man1/{name}.gz"), content::gzip(&page)?));
    }
    files.push(File::link("usr/share/man/man1/vm-setup.1.gz", "fireclaw-setup.1.gz"));
    files.push(File::link("usr/share/man/man1/vm-ctl.1.gz", "fireclaw.1.gz"));
    for (shell, path) in [
        (clap_complete::Shell::Bash, "usr/share/bash-completion/completions/fireclaw"),
        (clap_complete::Shell::Zsh, "usr/share/zsh/vendor-completions/_fireclaw"),
        (clap_complete::Shell::Fish, "usr/share/fish/vendor_completions.d/fireclaw.fish"),
    ] {
        files.push(File::data(path, fireclaw::commands::completion::script(shell)));
    }
    Ok(files)
}

/// The packages that instances cannot run without, and those that some hosts do not need: QEMU where there is Firecracker,
/// the image tools where images are brought.
pub fn dependencies() -> (Vec<&'static str>, Vec<&'static str>) {
    let (mut depends, mut recommends) = (Vec::new(), Vec::new());
    for need in Need::ALL {
        let list = match need {
            Need::Ssh | Need::Ext4 | Need::Firewall => &mut depends,
            Need::Qemu | Need::Firecracker | Need::ImageBuild => &mut recommends,
        };
        list.extend(need.programs().iter().map(|(_, package)| *package));
    }
    recommends.extend(download::HOST_PROGRAMS.iter().map(|(_, package)| *package));
    for list in [&mut depends, &mut recommends] {
        list.sort_unstable();
        list.dedup();
    }
    recommends.retain(|package| !ESSENTIAL.contains(package) && !depends.contains(package));
    (depends, recommends)
}

fn control(input: &Input, size: usize) -> String {
    let (depends, recommends) = dependencies();
    format!(
        "Package: fireclaw\n\
         Version: {version}\n\
         Architecture: {architecture}\n\
         Maintainer: {MAINTAINER}\n\
         Installed-Size: {size}\n\
         Depends: {depends}\n\
         Recommends: {recommends}\n\
         Section: admin\n\
         Priority: optional\n\
         Description: OpenClaw gateways, each in its own microVM\n \
         Runs AI agents behind the wall of a virtual machine: one kernel, disk,\n \
         network and Docker daemon for each, on Firecracker or QEMU.\n \
         .\n \
         The command fireclaw makes, starts, stops and looks into instances. It is\n \
         one static program; no daemon is installed.\n",
        version = input.version,
        architecture = architecture(input.arch),
        depends = depends.join(", "),
        recommends = recommends.join(", "),
    )
}

/// The newest part of the changelog in the form that Debian reads.
fn changelog(input: &Input) -> Result<String> {
    let text = include_str!("../../../CHANGELOG.md");
    let date = crate::shell::must("date", &["--utc", "--rfc-email", &format!("--date=@{}", input.time)])?;
    let newest: String = text
        .lines()
        .skip_while(|line| !line.starts_with("## "))
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("- "))
        .map(|line| format!("  * {line}\n"))
        .collect();
    Ok(format!(
        "fireclaw ({}) unstable; urgency=medium\n\n{newest}\n -- {MAINTAINER}  {date}\n",
        input.version
    ))
}

/// The licence in the form that Debian reads.
fn copyright() -> String {
    let licence = include_str!("../../../LICENSE");
    let mut lines = licence.lines().filter(|line| !line.starts_with("MIT License"));
    let holder = lines.find_map(|line| line.strip_prefix("Copyright (c) ")).unwrap_or_default().to_owned();
    let body: String = lines
        .skip_while(|line| line.is_empty())
        .map(|line| if line.is_empty() { " .\n".to_owned() } else { format!(" {line}\n") })
        .collect();
    format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: fireclaw\n\nFiles: *\nCopyright: {holder}\nLicense: MIT\n\nLicense: MIT\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::tests::input;

    #[test]
    fn the_dependencies_are_what_doctor_asks_for() {
        let (depends, recommends) = dependencies();
        assert_eq!(depends, ["e2fsprogs", "nftables", "openssh-client"]);
        assert!(recommends.contains(&"mmdebstrap") && recommends.iter().any(|name| name.starts_with("qemu")));
        assert!(!recommends.contains(&"tar"));
    }

    #[test]
    fn the_maintainer_script_touches_nothing() {
        let script: Vec<&str> = POSTRM.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        for word in ["systemctl", "kill", "rm ", "fireclaw stop", "invoke-rc.d", ">"] {
            assert!(!script.iter().any(|line| line.contains(word)), "it has {word:?}");
        }
    }

    #[test]
    fn the_copyright_is_the_licence() {
        let text = copyright();
        assert!(text.contains("\nCopyright: 2026 The fireclaw authors\n"), "{text}");
        assert!(text.contains("\n .\n THE SOFTWARE IS PROVIDED"), "{text}");
    }

    #[test]
    fn every_file_is_where_its_reader_looks() {
        let paths: Vec<String> = files(&input()).unwrap().into_iter().map(|file| file.path).collect();
        for wanted in [
            "etc/fireclaw/config.toml",
            "usr/bin/vm-ctl",
            "usr/share/man/man1/fireclaw-image-build.1.gz",
            "usr/share/zsh/vendor-completions/_fireclaw",
        ] {
            assert!(paths.iter().any(|path| path == wanted), "{wanted} is not in {paths:?}");
        }
    }
}
