//! What this machine's KVM is worth. Opens /dev/kvm and reads /proc/cpuinfo, under a root that tests choose.

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind},
    path::Path,
};

use fireclaw_core::spec::{Arch, KvmFacts};

/// Gathers the facts under `root` (`/` but in tests). What cannot be read counts as not there.
pub fn facts(root: &Path, arch: Arch) -> KvmFacts {
    let device = root.join("dev/kvm");
    let cpuinfo = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    KvmFacts {
        arch,
        device: OpenOptions::new().read(true).write(true).open(device).map(drop).map_err(|error| why(&error)),
        cpu_flag: has_flag(&cpuinfo),
    }
}

/// Whether stock kernels run on this machine's KVM, or else why not.
pub fn usable(root: &Path) -> Result<(), String> {
    match Arch::named(std::env::consts::ARCH) {
        Ok(arch) => facts(root, arch).usable(),
        Err(error) => Err(error.one_line()),
    }
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "/dev/kvm is not there".to_owned(),
        _ => format!("/dev/kvm does not open: {error}"),
    }
}

/// Intel's `vmx` or AMD's `svm` as a word of a `flags` line.
fn has_flag(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.trim() == "flags")
        .any(|(_, flags)| flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn root(device: bool, cpuinfo: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("dev")).unwrap();
        fs::create_dir_all(root.path().join("proc")).unwrap();
        fs::write(root.path().join("proc/cpuinfo"), cpuinfo).unwrap();
        if device {
            fs::write(root.path().join("dev/kvm"), "").unwrap();
        }
        root
    }

    #[test]
    fn the_flag_is_a_word_of_its_own_on_the_flags_line() {
        for (cpuinfo, found) in [
            ("processor\t: 0\nflags\t\t: fpu vmx sse\n", true),
            ("flags : fpu svm\n", true),
            ("flags\t\t: fpu svm_lock vmxnet\n", false),
            ("vmx flags\t: ept vpid\nflags : fpu\n", false),
            ("model name : vmx\n", false),
            ("", false),
        ] {
            assert_eq!(has_flag(cpuinfo), found, "{cpuinfo:?}");
        }
    }

    #[test]
    fn device_and_flag_are_both_needed_on_x86_64() {
        let verdict = |device, cpuinfo| facts(root(device, cpuinfo).path(), Arch::X86_64).usable();
        assert_eq!(verdict(true, "flags : vmx"), Ok(()));
        assert!(verdict(true, "flags : fpu").unwrap_err().contains("neither vmx nor svm"));
        assert_eq!(verdict(false, "flags : vmx").unwrap_err(), "/dev/kvm is not there");
    }

    #[test]
    fn the_device_is_enough_on_aarch64() {
        assert_eq!(facts(root(true, "Features : fp").path(), Arch::Aarch64).usable(), Ok(()));
        assert!(facts(root(false, "").path(), Arch::Aarch64).usable().is_err());
    }

    #[test]
    fn a_device_that_does_not_open_says_so() {
        let root = root(false, "flags : svm");
        fs::create_dir(root.path().join("dev/kvm")).unwrap();
        let why = facts(root.path(), Arch::X86_64).usable().unwrap_err();
        assert!(why.starts_with("/dev/kvm does not open: "), "{why}");
    }
}
