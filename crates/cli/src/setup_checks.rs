//! What must hold before an instance is made: the host's programs, the image, memory, the VMM. Looks at the host, and with
//! `--yes` mends it.

use std::{collections::BTreeSet, net::Ipv4Addr, path::Path};

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::{ImageName, InstanceId},
    layout::Layout,
    render::nft::may_resolve_at,
    spec::{
        DiskKind, InstanceSpec, KvmFacts, Runtime, Settings, SupervisorKind, VmmKind,
        release::PROGRAMS,
        request::Base,
        vmm_choice::{Arch, Presence, VmmChoice, VmmFacts, choose},
    },
    state::{InstanceRecord, record_defaults as defaults},
};
use fireclaw_host::{disk, exec::Exec, image, vmm::kvm};

use crate::{app::App, doctor, steps::BaseFiles};

/// What may be brought onto the host for an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MayInstall {
    /// The distribution's packages.
    pub packages: bool,
    /// Firecracker from its releases.
    pub firecracker: bool,
}

/// Facts about the VMMs at hand. What may be installed counts as such.
pub fn vmm_facts(app: &App, may_install: MayInstall) -> Result<VmmFacts> {
    let kvm = kvm::facts(Path::new("/"), Arch::named(std::env::consts::ARCH)?);
    Ok(facts(kvm, app.host.exec.as_ref(), may_install))
}

fn facts(kvm: KvmFacts, exec: &dyn Exec, may_install: MayInstall) -> VmmFacts {
    let has = |program: &str| exec.which(program).is_some();
    let presence = |there: bool, may: bool| match (there, may) {
        (true, _) => Presence::Installed,
        (false, true) => Presence::Installable,
        (false, false) => Presence::Missing,
    };
    VmmFacts {
        kvm,
        // One is of no use without the other.
        firecracker: presence(PROGRAMS.into_iter().all(has), may_install.firecracker),
        qemu: presence(has(doctor::QEMU), may_install.packages),
    }
}

/// The VMM that this host would use, for checks that must not fail: what is installed, and where nothing is, what would be.
pub fn likely_vmm(app: &App) -> VmmKind {
    let qemu = app.host.exec.which(doctor::QEMU).is_some();
    vmm_facts(app, MayInstall { packages: true, firecracker: !qemu })
        .and_then(|facts| choose(app.settings.vmm, &facts))
        .map_or(VmmKind::Qemu, |choice| choice.vmm)
}

/// Decides the VMM of a new instance. Firecracker is installed for one only where the user said so: by `--yes`, by naming
/// a source, or by asking for this VMM (and then there is a question before it is done).
pub fn vmm(app: &App, spec: &InstanceSpec, consent: bool) -> Result<VmmChoice> {
    let firecracker = consent || spec.vmm == Some(VmmKind::Firecracker);
    choose(spec.vmm, &vmm_facts(app, MayInstall { packages: true, firecracker })?)
}

/// The supervisor of this host.
pub fn supervisor(app: &App, spec: &InstanceSpec) -> Result<SupervisorKind> {
    let supervisors = &app.host.supervisors;
    match spec.supervisor {
        Some(wanted) if !supervisors.has(wanted) => {
            let why = "it is not PID 1 of this host";
            // Doctor says it of a configuration, as something to be mended there.
            Err(if app.settings.supervisor == spec.supervisor {
                Error::refused("supervisor of config.toml", wanted, why).kind(Kind::HostNotReady).hint(
                    format!("say `supervisor = \"auto\"` in {}, or --supervisor auto", Settings::CONFIG_FILE),
                )
            } else {
                Error::refused("--supervisor", wanted, why).hint("leave the flag out, or say auto")
            })
        }
        Some(wanted) => Ok(wanted),
        None => Ok(supervisors.auto()),
    }
}

/// A VM cannot have more memory than the host.
pub fn memory(app: &App, mem_mib: u32) -> Result<()> {
    let total = disk::space::host_memory_mib(Path::new("/proc"))?;
    if u64::from(mem_mib) > total {
        return Err(Error::refused("--vm-mem-mib", mem_mib, format!("the host has {total} MiB"))
            .hint(format!("for example --vm-mem-mib {}", (total / 2).max(512))));
    }
    if mem_mib < 2048 {
        app.ui.warn(&format!(
            "{mem_mib} MiB is little: OpenClaw needs about 1 GiB after its start, 2048 is comfortable"
        ));
    }
    let promised: u64 = app.store().records()?.iter().map(|record| u64::from(record.mem_mib)).sum();
    if promised + u64::from(mem_mib) > total {
        app.ui.warn(&format!(
            "with this instance VMs may use {} MiB and the host has {total}: when all are busy the host runs out",
            promised + u64::from(mem_mib)
        ));
    }
    Ok(())
}

/// What an instance boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The files.
    pub files: BaseFiles,
    /// What the record names.
    pub image: String,
    /// What its disks are.
    pub disks: DiskKind,
    /// The kernel command line.
    pub cmdline: String,
    /// Whether OpenClaw is in the image.
    pub native: bool,
}

/// The image of a spec, when it is there.
pub fn missing_image<'a>(app: &App, spec: &'a InstanceSpec) -> Option<&'a ImageName> {
    match &spec.base {
        Base::Image(name) if !has_image(app, name) => Some(name),
        _ => None,
    }
}

fn has_image(app: &App, name: &ImageName) -> bool {
    app.settings.layout.image(name).manifest.exists()
        || (name.is_default() && app.settings.layout.top_image().rootfs.exists())
}

/// As [`boot`], where an image that is not there yet is one that would be built.
pub fn expected_boot(app: &App, spec: &InstanceSpec, vmm: VmmKind) -> Result<Boot> {
    let Some(name) = missing_image(app, spec) else { return boot(app, spec, vmm) };
    disk::check_state_size(&spec.disk_size)?;
    let paths = app.settings.layout.image(name);
    let files = BaseFiles { kernel: paths.vmlinuz, rootfs: paths.rootfs, initrd: Some(paths.initrd) };
    let boot = files_boot(files);
    Ok(Boot { image: name.to_string(), disks: DiskKind::Shared, native: true, ..boot })
}

/// Finds and checks what the instance boots from.
pub fn boot(app: &App, spec: &InstanceSpec, vmm: VmmKind) -> Result<Boot> {
    let boot = match &spec.base {
        Base::Image(name) => image_boot(&app.settings.layout, name, vmm)?,
        Base::Files { kernel, rootfs, initrd } => {
            // The default initrd is optional; one that was named must be there.
            let top = app.settings.layout.top_image().initrd;
            let initrd = initrd.clone().filter(|path| *path != top || path.exists());
            files_boot(BaseFiles { kernel: kernel.clone(), rootfs: rootfs.clone(), initrd })
        }
    };
    image::check_kernel(&boot.files.kernel)?;
    image::check_ext4(&boot.files.rootfs)?;
    if let Some(initrd) = &boot.files.initrd
        && !initrd.is_file()
    {
        return Err(Error::refused("--base-initrd", initrd.display(), "is not a file"));
    }
    match boot.disks {
        DiskKind::Copy => disk::check_size(&boot.files.rootfs, &spec.disk_size)?,
        DiskKind::Shared => disk::check_state_size(&spec.disk_size)?,
    }
    Ok(boot)
}

fn image_boot(layout: &Layout, name: &ImageName, vmm: VmmKind) -> Result<Boot> {
    let paths = layout.image(name);
    if !paths.manifest.exists() && name.is_default() {
        // Files that somebody put at the top of BASE_IMAGES_DIR, as the Bash fireclaw wants them.
        let top = layout.top_image();
        let initrd = Some(top.initrd).filter(|path| path.exists());
        return Ok(files_boot(BaseFiles { kernel: top.vmlinux, rootfs: top.rootfs, initrd }));
    }
    let manifest = image::read_manifest(&paths.manifest)?;
    // Every Firecracker takes an unpacked kernel, and only those from 1.17 on one as it is packed. QEMU takes one that has the
    // entry for it, and saves the guest a second of unpacking where that is emulated.
    let unpacked =
        manifest.boot.kernel_elf.as_ref().map(|file| paths.dir.join(file)).filter(|file| match vmm {
            VmmKind::Firecracker => true,
            VmmKind::Qemu => image::has_pvh_entry(file),
        });
    Ok(Boot {
        files: BaseFiles {
            kernel: unpacked.unwrap_or_else(|| paths.dir.join(&manifest.boot.kernel)),
            rootfs: paths.rootfs,
            initrd: manifest.boot.initrd.as_ref().map(|file| paths.dir.join(file)),
        },
        image: name.to_string(),
        disks: manifest.disks(),
        cmdline: manifest.boot.cmdline.clone(),
        native: manifest.has_openclaw(),
    })
}

fn files_boot(files: BaseFiles) -> Boot {
    Boot {
        files,
        image: defaults::CUSTOM_IMAGE.to_owned(),
        disks: DiskKind::Copy,
        cmdline: defaults::CMDLINE.to_owned(),
        native: false,
    }
}

/// The runtime of a new instance.
pub fn runtime(spec: &InstanceSpec, boot: &Boot) -> Result<Runtime> {
    match spec.runtime {
        Some(Runtime::Native) if !boot.native => Err(Error::refused(
            "--runtime",
            "native",
            format!("the image `{}` does not carry OpenClaw", boot.image),
        )
        .hint("use --runtime docker, or an image made by `fireclaw image build`")),
        Some(runtime) => Ok(runtime),
        None if boot.native => Ok(Runtime::Native),
        None => Ok(Runtime::Docker),
    }
}

/// The resolvers of the guest: as asked, else the host's that a guest can reach, else public ones.
pub fn resolvers(spec: &InstanceSpec, resolv_conf: &str, own: &BTreeSet<Ipv4Addr>) -> Vec<Ipv4Addr> {
    if let Some(dns) = &spec.dns {
        return dns.clone();
    }
    let mut servers: Vec<Ipv4Addr> = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
        // A stub on the host's loopback is not there in the guest, and one on another address of the host is walled off.
        .filter(|ip| may_resolve_at(*ip) && !own.contains(ip))
        .collect();
    servers.truncate(3);
    if servers.is_empty() { vec![Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(8, 8, 8, 8)] } else { servers }
}

/// The host's resolvers: systemd-resolved's upstream file first, for its stub is of no use to a guest.
pub fn host_resolv_conf() -> String {
    ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default()
}

/// A gateway without its model's key still serves its UI: that is worth a warning, not a refusal.
pub fn warn_of_missing_key(app: &App, record: &InstanceRecord) {
    if let Some((flag, None)) = record.keys.for_model(&record.model) {
        app.ui.warn(&format!(
            "the model {} has no key: the agent cannot answer until {flag} is given",
            record.model
        ));
    }
}

/// Fails when a disk of an instance is gone.
pub fn disk_is_there(id: &InstanceId, disk: &Path) -> Result<()> {
    if disk.exists() {
        return Ok(());
    }
    Err(Error::new("find", disk.display().to_string())
        .because("a disk of the instance is missing")
        .hint(format!("`fireclaw destroy {id} --force` removes what is left")))
}

/// Refuses to replace an instance. `what` is where the user named it.
pub fn must_be_new(app: &App, id: &InstanceId, what: &str) -> Result<()> {
    if !app.store().exists(id)? {
        return Ok(());
    }
    let hint = format!("`fireclaw provision {id}` changes its settings, `fireclaw destroy {id}` removes it");
    // An unreadable one says why.
    app.store().load(id)?;
    Err(Error::refused(what, id, "exists already").kind(Kind::Refused).hint(hint))
}

#[cfg(test)]
mod tests {
    use fireclaw_core::spec::{RawSetup, Settings};
    use fireclaw_host::exec::fake::FakeExec;

    use super::*;

    fn spec(dns: Option<&str>) -> InstanceSpec {
        let raw = RawSetup { instance: "a".into(), dns: dns.map(str::to_owned), ..RawSetup::default() };
        InstanceSpec::resolve(&raw, &Settings::resolve(&|_| None, None).unwrap()).unwrap()
    }

    #[test]
    fn resolvers_that_a_guest_can_reach() {
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let own = BTreeSet::from([ip("192.168.1.5")]);
        let found = |dns, text| resolvers(&spec(dns), text, &own);
        assert_eq!(found(None, "nameserver 127.0.0.53\n"), [ip("1.1.1.1"), ip("8.8.8.8")]);
        assert_eq!(found(None, "nameserver 192.168.1.5\n"), [ip("1.1.1.1"), ip("8.8.8.8")]);
        assert_eq!(found(None, "# x\nnameserver 10.0.0.2\nnameserver ::1\n"), [ip("10.0.0.2")]);
        assert_eq!(found(Some("9.9.9.9"), "nameserver 10.0.0.2\n"), [ip("9.9.9.9")]);
    }

    /// The Firecracker that is installed by default takes no packed kernel.
    #[test]
    fn firecracker_boots_the_unpacked_kernel_of_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { images_root: dir.path().to_owned(), ..Layout::default() };
        let name = ImageName::default();
        let manifest = |unpacked: serde_json::Value| {
            let paths = layout.image(&name);
            std::fs::create_dir_all(&paths.dir).unwrap();
            let manifest = serde_json::json!({
                "format": 1, "name": "default", "built_at": "", "system": "trixie", "mirror": null,
                "openclaw": "1", "node": "1", "docker": true, "browser": true, "files": {}, "packages": {},
                "npm": {}, "boot": {"kernel": "vmlinuz", "kernel_elf": unpacked, "initrd": null, "cmdline": ""},
            });
            std::fs::write(&paths.manifest, manifest.to_string()).unwrap();
        };
        let kernel = |vmm| image_boot(&layout, &name, vmm).unwrap().files.kernel;
        manifest("vmlinux".into());
        assert_eq!(kernel(VmmKind::Firecracker), layout.image(&name).vmlinux);
        assert_eq!(kernel(VmmKind::Qemu), layout.image(&name).vmlinuz);
        manifest(serde_json::Value::Null);
        assert_eq!(kernel(VmmKind::Firecracker), layout.image(&name).vmlinuz);
    }

    /// Every combination of the device, the processor's flag, and the programs, on real files: what `auto` decides, against
    /// the contract's one sentence. What is asked for by name is in the table of `core::spec::vmm_choice`.
    #[test]
    fn auto_is_firecracker_where_it_is_at_hand_and_kvm_runs_stock_kernels() {
        let flags = [("flags : fpu vmx\n", true), ("flags : fpu svm\n", true), ("flags : fpu\n", false)];
        let mut seen = std::collections::BTreeMap::new();
        for arch in [Arch::X86_64, Arch::Aarch64] {
            for device in [true, false] {
                for (cpuinfo, flag) in flags {
                    let root = tempfile::tempdir().unwrap();
                    for dir in ["dev", "proc"] {
                        std::fs::create_dir(root.path().join(dir)).unwrap();
                    }
                    std::fs::write(root.path().join("proc/cpuinfo"), cpuinfo).unwrap();
                    if device {
                        std::fs::write(root.path().join("dev/kvm"), "").unwrap();
                    }
                    let usable = device && (flag || arch == Arch::Aarch64);
                    for absent in [&[][..], &["firecracker"], &["jailer"], &["firecracker", "jailer"]] {
                        for (qemu, yes) in [(true, true), (true, false), (false, true), (false, false)] {
                            let mut exec = FakeExec::silent();
                            for program in absent.iter().chain((!qemu).then_some(&doctor::QEMU)) {
                                exec = exec.without(program);
                            }
                            let may_install = MayInstall { packages: true, firecracker: yes };
                            let facts = facts(kvm::facts(root.path(), arch), &exec, may_install);
                            let choice = choose(None, &facts).unwrap();
                            let row =
                                format!("{arch:?} {device} {cpuinfo:?} without {absent:?} {qemu} {yes}");
                            let firecracker = usable && (absent.is_empty() || yes);
                            let wanted = if firecracker { VmmKind::Firecracker } else { VmmKind::Qemu };
                            assert_eq!((choice.vmm, choice.kvm), (wanted, usable), "{row}");
                            let there = if firecracker { absent.is_empty() } else { qemu };
                            assert_eq!(choice.install, !there, "{row}");
                            *seen.entry((wanted.to_string(), choice.kvm, choice.install)).or_insert(0) += 1;
                        }
                    }
                }
            }
        }
        // Firecracker as it is and installed; QEMU on KVM and emulating, as it is and installed.
        assert_eq!((seen.len(), seen.values().sum::<i32>()), (6, 192), "{seen:?}");
    }
}
