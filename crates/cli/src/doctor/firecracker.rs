//! Firecracker and its jailer: there, of one version, and otherwise installed from a release. Looks for the programs;
//! changes the host only in [`install`].

use std::{path::Path, sync::Arc};

use fireclaw_core::{
    error::Result,
    spec::{
        Arch,
        release::{Source, VERSION},
    },
};
use fireclaw_host::{
    download,
    firecracker::{Firecracker, install as release},
    vmm::kvm,
};

use super::{Finding, Fix};
use crate::{app::App, engine::Observer};

/// What the finding is called.
pub const NAME: &str = "firecracker";

/// Looks for both programs. Where the host cannot run them anyway they are not offered, unless the user asks for them.
pub fn check(app: &App, required: bool, from: Option<&Source>) -> Finding {
    let finding = look(app, required, from, kvm::usable(Path::new("/")));
    // Who names a source wants it installed.
    if required || from.is_some() { finding } else { finding.advice() }
}

fn look(app: &App, required: bool, from: Option<&Source>, kvm: Result<(), String>) -> Finding {
    if let Some(source) = from {
        return Finding::bad(
            NAME,
            format!("to be installed from {source}"),
            Fix::Firecracker(source.clone()),
        );
    }
    let missing: Vec<&str> = fireclaw_core::spec::release::PROGRAMS
        .into_iter()
        .filter(|program| app.host.exec.which(program).is_none())
        .collect();
    let wrong = if missing.is_empty() {
        match Firecracker::new(Arc::clone(&app.host.exec)).installed() {
            Ok(found) => {
                return Finding::good(
                    NAME,
                    format!("{} with its jailer, in {}", found.version, shown(&found)),
                );
            }
            Err(error) => error.one_line(),
        }
    } else {
        format!("missing {}", missing.join(", "))
    };
    match (kvm, Arch::named(std::env::consts::ARCH)) {
        (Ok(()), Ok(arch)) => Finding::bad(
            NAME,
            format!("{wrong}; release {VERSION} is made for this"),
            Fix::Firecracker(Source::pinned(arch)),
        ),
        _ if required => Finding::bad(NAME, wrong, Fix::None),
        // Installing it would not help.
        _ => Finding::good(NAME, format!("{wrong}, and without KVM nothing needs it")),
    }
}

fn shown(found: &fireclaw_host::firecracker::Installed) -> String {
    found.firecracker.parent().unwrap_or(&found.firecracker).display().to_string()
}

/// Packages that fetching from a source takes and that the host lacks.
pub fn packages(app: &App, source: &Source) -> Vec<&'static str> {
    match source {
        Source::Path(_) => Vec::new(),
        Source::Url(_) => download::HOST_PROGRAMS
            .iter()
            .filter(|(program, _)| app.host.exec.which(program).is_none())
            .map(|(_, package)| *package)
            .collect(),
    }
}

/// Installs both programs.
pub fn install(app: &App, source: &Source, watch: &mut dyn Observer) -> Result<()> {
    app.need_root()?;
    let into = &app.settings.layout.programs_root;
    let arch = Arch::named(std::env::consts::ARCH)?;
    let done = release::install(app.host.exec.as_ref(), source, arch, into, &mut |line| watch.detail(line))?;
    if done.changed {
        watch.detail(&format!("Firecracker {} is in {}", done.version, into.display()));
    }
    if !done.checked {
        watch.warn(&format!(
            "no published checksum was at hand for {source}: Firecracker was installed as it is there"
        ));
    }
    Ok(())
}
