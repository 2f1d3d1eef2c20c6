//! What this machine's KVM is worth. Opens /dev/kvm and reads /proc/cpuinfo, under a root that tests choose.

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind},
    path::Path,
    time::Duration,
};

use fireclaw_core::{
    error::{Error, Result},
    spec::{Arch, KvmFacts},
};

use crate::{
    interrupt::Interrupt,
    wait::{Probed, Requirement, until},
};

/// A machine that is up for longer has loaded all modules that it is going to load.
const COMES_UP: Duration = Duration::from_mins(2);
/// How long its modules are waited for.
const SETTLES: Duration = Duration::from_secs(30);

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

/// Waits for a KVM that is about to be there: when a machine comes up, its services start while modules are still being loaded,
/// and a VM that started a moment too early would be emulated until somebody restarts it. Returns at once on any other machine,
/// and after a while on one that never loads it.
///
/// # Errors
/// It is there by now and does not open: systemd decides what devices a unit may open when it starts it, and one that was not there
/// yet stays closed to it. Whoever fails with this is started again.
pub fn settle(root: &Path, arch: Arch, interrupt: &Interrupt) -> Result<()> {
    let is_coming = || {
        let facts = facts(root, arch);
        facts.device.is_err() && facts.cpu_flag && uptime(root).is_some_and(|up| up < COMES_UP)
    };
    if !is_coming() {
        return Ok(());
    }
    let wanted = Requirement {
        description: "KVM".to_owned(),
        deadline: SETTLES,
        hint: "see `fireclaw doctor`".to_owned(),
    };
    let device = root.join("dev/kvm");
    let came = until(&wanted, interrupt, || {
        if device.exists() { Probed::Ready(()) } else { Probed::NotYet("it is not there".to_owned()) }
    });
    match facts(root, arch).device {
        // Once the machine is up for long, it is as it is.
        Err(why) if came.is_ok() && is_coming() => Err(Error::new("use", "KVM")
            .because(format!("it came after this service was started: {why}"))
            .hint("its supervisor starts it again")),
        _ => Ok(()),
    }
}

/// How long the machine is up.
fn uptime(root: &Path) -> Option<Duration> {
    let text = std::fs::read_to_string(root.join("proc/uptime")).ok()?;
    Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()
}

/// Whether stock kernels run on this machine's KVM, or else why not.
pub fn usable(root: &Path) -> std::result::Result<(), String> {
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
    #[expect(clippy::disallowed_methods, reason = "what is waited for comes after a while")]
    fn a_machine_that_comes_up_is_waited_for() {
        let begun = std::time::Instant::now();
        let root = root(false, "flags : svm");
        // One that is up for long, one without the flag, and one that knows no uptime, are not.
        for (uptime, cpuinfo) in
            [("121.5 10.0\n", "flags : svm"), ("12.8 3.0\n", "flags : fpu"), ("", "flags : svm")]
        {
            fs::write(root.path().join("proc/uptime"), uptime).unwrap();
            fs::write(root.path().join("proc/cpuinfo"), cpuinfo).unwrap();
            settle(root.path(), Arch::X86_64, &Interrupt::default()).unwrap();
        }
        assert!(begun.elapsed() < SETTLES);
        fs::write(root.path().join("proc/uptime"), "12.8 3.0\n").unwrap();
        fs::write(root.path().join("proc/cpuinfo"), "flags : svm").unwrap();
        let device = root.path().join("dev/kvm");
        let loads = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            fs::write(device, "").unwrap();
        });
        settle(root.path(), Arch::X86_64, &Interrupt::default()).unwrap();
        assert_eq!(facts(root.path(), Arch::X86_64).usable(), Ok(()));
        loads.join().unwrap();
        // There, and closed to this process, which root's own rights do not pass.
        fs::remove_file(root.path().join("dev/kvm")).unwrap();
        fs::create_dir(root.path().join("dev/kvm")).unwrap();
        let error = settle(root.path(), Arch::X86_64, &Interrupt::default()).unwrap_err();
        assert!(error.one_line().contains("came after this service was started"), "{}", error.one_line());
    }

    #[test]
    fn a_device_that_does_not_open_says_so() {
        let root = root(false, "flags : svm");
        fs::create_dir(root.path().join("dev/kvm")).unwrap();
        let why = facts(root.path(), Arch::X86_64).usable().unwrap_err();
        assert!(why.starts_with("/dev/kvm does not open: "), "{why}");
    }
}
