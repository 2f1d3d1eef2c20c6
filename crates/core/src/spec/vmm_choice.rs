//! Which VMM runs an instance, and whether the machine's KVM carries it: a pure decision over facts that the host
//! gathers. Touches nothing.

use super::VmmKind;
use crate::error::{Error, Kind, Result};

/// The machine's processor architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// `x86_64`
    X86_64,
    /// `aarch64`
    Aarch64,
}

impl Arch {
    /// The architecture by the name that `std::env::consts::ARCH` and `uname -m` use.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            other => Err(Error::new("run VMs on", format!("a {other} machine"))
                .kind(Kind::HostNotReady)
                .because("only x86_64 and aarch64 are known")),
        }
    }

    /// The name that `uname -m` uses, and QEMU in the names of its programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

/// What is known of this machine's KVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvmFacts {
    /// The architecture.
    pub arch: Arch,
    /// Whether /dev/kvm opens for reading and writing, or else why it does not.
    pub device: Result<(), String>,
    /// Whether /proc/cpuinfo lists `vmx` or `svm`. Looked at on `x86_64` only.
    pub cpu_flag: bool,
}

impl KvmFacts {
    /// Whether a distribution's own kernel runs on this KVM, or else why it does not.
    ///
    /// A /dev/kvm on an `x86_64` processor without `vmx` or `svm` belongs to a paravirtual KVM: it creates VMs, and a
    /// stock kernel dies in it minutes later in an instruction that nobody emulates. So the flag decides, not the device.
    pub fn usable(&self) -> Result<(), String> {
        self.device.clone()?;
        if self.arch == Arch::X86_64 && !self.cpu_flag {
            return Err(
                "/dev/kvm opens but the processor shows neither vmx nor svm, so stock kernels do not run on it"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// Whether a program is at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is installed.
    Installed,
    /// It is not, and the user allows to install it (`--yes`).
    Installable,
    /// It is not.
    Missing,
}

/// What the choice depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmFacts {
    /// The machine's KVM.
    pub kvm: KvmFacts,
    /// Firecracker together with the jailer of the same version.
    pub firecracker: Presence,
    /// QEMU for the machine's architecture.
    pub qemu: Presence,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmChoice {
    /// The VMM.
    pub vmm: VmmKind,
    /// Whether it runs on KVM; false means emulation.
    pub kvm: bool,
    /// Whether it has to be installed first.
    pub install: bool,
    /// Why, as one sentence without a full stop.
    pub reason: String,
}

/// Chooses the VMM. `request` is what `--vmm` names, `None` for `auto`.
///
/// `auto` takes Firecracker where it can run and QEMU elsewhere; on QEMU without KVM the guest is emulated. Fails with
/// [`Kind::HostNotReady`] when what was asked for cannot run here.
pub fn choose(request: Option<VmmKind>, facts: &VmmFacts) -> Result<VmmChoice> {
    let usable = facts.kvm.usable();
    match request {
        Some(VmmKind::Firecracker) => match usable {
            Err(why) => Err(not_ready("firecracker").because(why).hint("use --vmm qemu, which can emulate")),
            Ok(()) => chosen(VmmKind::Firecracker, true, facts.firecracker, "it was asked for".to_owned()),
        },
        Some(VmmKind::Qemu) => {
            let reason = match &usable {
                Ok(()) => "it was asked for".to_owned(),
                Err(why) => format!("it was asked for; it emulates, which is slow: {why}"),
            };
            chosen(VmmKind::Qemu, usable.is_ok(), facts.qemu, reason)
        }
        None => match usable {
            Ok(()) if facts.firecracker != Presence::Missing => {
                let state = if facts.firecracker == Presence::Installed { "is" } else { "can be" };
                let reason = format!("it {state} installed and KVM works");
                chosen(VmmKind::Firecracker, true, facts.firecracker, reason)
            }
            Ok(()) => {
                chosen(VmmKind::Qemu, true, facts.qemu, "KVM works but firecracker is not installed".into())
            }
            Err(why) => {
                let reason = format!("firecracker cannot run here and QEMU emulates, which is slow: {why}");
                chosen(VmmKind::Qemu, false, facts.qemu, reason)
            }
        },
    }
}

fn chosen(vmm: VmmKind, kvm: bool, presence: Presence, reason: String) -> Result<VmmChoice> {
    match presence {
        Presence::Missing => {
            Err(not_ready(vmm.as_str()).because("it is not installed").hint("run `fireclaw doctor --fix`"))
        }
        _ => Ok(VmmChoice { vmm, kvm, install: presence == Presence::Installable, reason }),
    }
}

fn not_ready(vmm: &str) -> Error {
    Error::new("run VMs with", vmm).kind(Kind::HostNotReady)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: [(&str, Option<VmmKind>); 3] =
        [("auto", None), ("firecracker", Some(VmmKind::Firecracker)), ("qemu", Some(VmmKind::Qemu))];
    const PRESENCES: [Presence; 3] = [Presence::Installed, Presence::Installable, Presence::Missing];

    /// Every combination there is, one a line; the snapshot is the table that a reviewer reads.
    #[test]
    fn the_whole_table() {
        let mut table = String::new();
        for arch in [Arch::X86_64, Arch::Aarch64] {
            for device in [true, false] {
                for cpu_flag in [true, false] {
                    for firecracker in PRESENCES {
                        for qemu in PRESENCES {
                            for (name, request) in REQUESTS {
                                let device = if device { Ok(()) } else { Err("no /dev/kvm".to_owned()) };
                                let kvm = KvmFacts { arch, device: device.clone(), cpu_flag };
                                let facts = VmmFacts { kvm, firecracker, qemu };
                                let outcome = match choose(request, &facts) {
                                    Ok(choice) => format!(
                                        "{}{}{}",
                                        choice.vmm,
                                        if choice.kvm { " kvm" } else { " emulated" },
                                        if choice.install { " install" } else { "" },
                                    ),
                                    Err(error) => {
                                        assert_eq!(error.get_kind(), Kind::HostNotReady);
                                        assert!(error.get_hint().is_some());
                                        "refused".to_owned()
                                    }
                                };
                                let row = format!(
                                    "{:8} {:7} {:7} firecracker={firecracker:<12} qemu={qemu:<12} {name:<12} -> {outcome}\n",
                                    arch.as_str(),
                                    if device.is_ok() { "device" } else { "-" },
                                    if cpu_flag { "vmx|svm" } else { "-" },
                                    firecracker = format!("{firecracker:?}"),
                                    qemu = format!("{qemu:?}"),
                                );
                                table.push_str(&row);
                            }
                        }
                    }
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_choice_says_why() {
        let facts = |device: Result<(), String>, cpu_flag, firecracker| VmmFacts {
            kvm: KvmFacts { arch: Arch::X86_64, device, cpu_flag },
            firecracker,
            qemu: Presence::Installed,
        };
        let reason = |facts: &VmmFacts| choose(None, facts).unwrap().reason;
        insta::assert_snapshot!(
            [
                reason(&facts(Ok(()), true, Presence::Installed)),
                reason(&facts(Ok(()), true, Presence::Installable)),
                reason(&facts(Ok(()), true, Presence::Missing)),
                reason(&facts(Ok(()), false, Presence::Installed)),
                reason(&facts(Err("/dev/kvm is not there".into()), true, Presence::Installed)),
            ]
            .join("\n")
        );
        let error =
            choose(Some(VmmKind::Firecracker), &facts(Ok(()), false, Presence::Installed)).unwrap_err();
        assert!(error.one_line().contains("neither vmx nor svm"), "{}", error.one_line());
        assert_eq!(error.get_hint(), Some("use --vmm qemu, which can emulate"));
    }

    #[test]
    fn other_machines_are_refused_by_name() {
        assert_eq!(Arch::named("aarch64").unwrap().as_str(), "aarch64");
        assert!(Arch::named("riscv64").unwrap_err().to_string().contains("riscv64"));
    }
}
