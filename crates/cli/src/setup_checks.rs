//! What must hold before an instance is made: the host's programs, the image, memory, the VMM. Looks at the host, and with
//! `--yes` mends it.

use std::{net::Ipv4Addr, path::Path};

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::ImageName,
    spec::{
        InstanceSpec, Runtime, SupervisorKind, VmmKind,
        request::Base,
        vmm_choice::{Arch, Presence, VmmChoice, VmmFacts, choose},
    },
    state::{InstanceRecord, record_defaults as defaults},
};
use fireclaw_host::{disk, image, vmm::kvm};

use crate::{app::App, doctor, steps::BaseFiles};

/// Facts about the VMMs at hand. `may_install` counts what a package manager brings as there.
pub fn vmm_facts(app: &App, may_install: bool) -> Result<VmmFacts> {
    let has = |program: &str| app.host.exec.which(program).is_some();
    let qemu = if has(doctor::QEMU) {
        Presence::Installed
    } else if may_install {
        Presence::Installable
    } else {
        Presence::Missing
    };
    let firecracker =
        if has("firecracker") && has("jailer") { Presence::Installed } else { Presence::Missing };
    Ok(VmmFacts { kvm: kvm::facts(Path::new("/"), Arch::named(std::env::consts::ARCH)?), firecracker, qemu })
}

/// The VMM that this host would use, for checks that must not fail.
pub fn likely_vmm(app: &App) -> VmmKind {
    vmm_facts(app, true)
        .and_then(|facts| choose(app.settings.vmm, &facts))
        .map_or(VmmKind::Qemu, |choice| choice.vmm)
}

/// Decides the VMM of a new instance.
pub fn vmm(app: &App, spec: &InstanceSpec, may_install: bool) -> Result<VmmChoice> {
    choose(spec.vmm, &vmm_facts(app, may_install)?)
}

/// The supervisor of this host.
pub fn supervisor(app: &App, spec: &InstanceSpec) -> Result<SupervisorKind> {
    let supervisors = &app.host.supervisors;
    match spec.supervisor {
        Some(wanted) if !supervisors.has(wanted) => {
            Err(Error::refused("--supervisor", wanted, "it is not PID 1 of this host")
                .hint("leave the flag out, or say auto"))
        }
        Some(wanted) => Ok(wanted),
        None => Ok(supervisors.auto()),
    }
}

/// A VM cannot have more memory than the host.
pub fn memory(app: &App, spec: &InstanceSpec) -> Result<()> {
    let total = disk::space::host_memory_mib(Path::new("/proc"))?;
    if u64::from(spec.mem_mib) > total {
        return Err(Error::refused("--vm-mem-mib", spec.mem_mib, format!("the host has {total} MiB"))
            .hint(format!("for example --vm-mem-mib {}", (total / 2).max(512))));
    }
    if spec.mem_mib < 2048 {
        app.ui.warn(&format!(
            "{} MiB is little: OpenClaw needs about 1 GiB after its start, 2048 is comfortable",
            spec.mem_mib
        ));
    }
    let promised: u64 = app.store().records()?.iter().map(|record| u64::from(record.mem_mib)).sum();
    if promised + u64::from(spec.mem_mib) > total {
        app.ui.warn(&format!(
            "with this instance VMs may use {} MiB and the host has {total}: when all are busy the host runs out",
            promised + u64::from(spec.mem_mib)
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

/// Finds and checks what the instance boots from.
pub fn boot(app: &App, spec: &InstanceSpec) -> Result<Boot> {
    let boot = match &spec.base {
        Base::Image(name) => image_boot(app, name)?,
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
    disk::check_size(&boot.files.rootfs, &spec.disk_size)?;
    Ok(boot)
}

fn image_boot(app: &App, name: &ImageName) -> Result<Boot> {
    let paths = app.settings.layout.image(name);
    if !paths.manifest.exists() && name.is_default() {
        // Files that somebody put at the top of BASE_IMAGES_DIR, as the Bash fireclaw wants them.
        let top = app.settings.layout.top_image();
        let initrd = Some(top.initrd).filter(|path| path.exists());
        return Ok(files_boot(BaseFiles { kernel: top.vmlinux, rootfs: top.rootfs, initrd }));
    }
    let manifest = image::read_manifest(&paths.manifest)?;
    Ok(Boot {
        files: BaseFiles {
            kernel: paths.dir.join(&manifest.boot.kernel),
            rootfs: paths.rootfs,
            initrd: manifest.boot.initrd.as_ref().map(|file| paths.dir.join(file)),
        },
        image: name.to_string(),
        cmdline: manifest.boot.cmdline.clone(),
        native: manifest.has_openclaw(),
    })
}

fn files_boot(files: BaseFiles) -> Boot {
    Boot {
        files,
        image: defaults::CUSTOM_IMAGE.to_owned(),
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
pub fn resolvers(spec: &InstanceSpec, resolv_conf: &str) -> Vec<Ipv4Addr> {
    if let Some(dns) = &spec.dns {
        return dns.clone();
    }
    let mut servers: Vec<Ipv4Addr> = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
        // A stub on the host's own loopback is not there in the guest.
        .filter(|ip: &Ipv4Addr| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_link_local())
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

/// Refuses to replace an instance.
pub fn must_be_new(app: &App, spec: &InstanceSpec) -> Result<()> {
    if !app.store().exists(&spec.id)? {
        return Ok(());
    }
    let hint =
        format!("`fireclaw provision {0}` changes its settings, `fireclaw destroy {0}` removes it", spec.id);
    // An unreadable one says why.
    app.store().load(&spec.id)?;
    Err(Error::refused("--instance", &spec.id, "exists already").kind(Kind::Refused).hint(hint))
}

#[cfg(test)]
mod tests {
    use fireclaw_core::spec::{RawSetup, Settings};

    use super::*;

    fn spec(dns: Option<&str>) -> InstanceSpec {
        let raw = RawSetup { instance: "a".into(), dns: dns.map(str::to_owned), ..RawSetup::default() };
        InstanceSpec::resolve(&raw, &Settings::resolve(&|_| None, None).unwrap()).unwrap()
    }

    #[test]
    fn resolvers_that_a_guest_can_reach() {
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        assert_eq!(resolvers(&spec(None), "nameserver 127.0.0.53\n"), [ip("1.1.1.1"), ip("8.8.8.8")]);
        assert_eq!(resolvers(&spec(None), "# x\nnameserver 10.0.0.2\nnameserver ::1\n"), [ip("10.0.0.2")]);
        assert_eq!(resolvers(&spec(Some("9.9.9.9")), "nameserver 10.0.0.2\n"), [ip("9.9.9.9")]);
    }
}
