//! The facts that `audit` judges: collected from records, files, `/proc`, supervisors, the firewall and the VMMs. Looks; changes
//! nothing. What cannot be looked at is a fact too.

use std::{path::Path, sync::Arc};

use fireclaw_core::{
    audit::{
        self, FileFact, FileKind, HostFacts, InstanceFacts, ProcessFacts, Program, Report, Role, UnitFacts,
        Weight,
    },
    error::Result,
    id::vmm_uid,
    layout::InstancePaths,
    spec::{Runtime, ServiceSpec, SupervisorKind},
    state::InstanceRecord,
};
use fireclaw_host::{
    exec::Cmd,
    firecracker::Firecracker,
    fs, image as images,
    inspect::{self, Proc},
    nft::Rules,
    proc::ProcessId,
    supervisor::Service,
    vmm,
};

use crate::{app::App, commands::run::api_sock, fleet, rates, steps, store::Found};

/// Looks at the host and at all instances, and judges.
pub fn look(app: &App, proc: &Proc) -> Result<Report> {
    let mut host = HostFacts::default();
    let mut records = Vec::new();
    for found in app.store().all()? {
        match found {
            Found::Instance(record) => records.push(*record),
            Found::Damaged { name, .. } => host.damaged.push(name),
        }
    }
    let layout = &app.settings.layout;
    host.roots = [&layout.state_root, &layout.fc_root]
        .into_iter()
        .filter_map(|path| inspect::file(path, FileKind::Root, &[]))
        .collect();
    firewall(app, &records, &mut host);
    if app.host.exec.which("firecracker").is_some() {
        match Firecracker::new(Arc::clone(&app.host.exec)).installed() {
            Ok(found) => host.versions.push((Program::Firecracker, found.version.to_string())),
            Err(error) => host.unseen.push(error.one_line()),
        }
    }
    let lines = proc.command_lines();
    let instances: Vec<InstanceFacts> =
        records.into_iter().map(|record| instance(app, proc, &lines, record, &mut host.unseen)).collect();
    Ok(audit::judge(&host, &instances))
}

/// Rules that are missing matter while a VM hangs on the bridge.
fn firewall(app: &App, records: &[InstanceRecord], host: &mut HostFacts) {
    if records.is_empty() {
        return;
    }
    match steps::rules(app).and_then(|rules| Ok((rules, app.attached(records)? > 0))) {
        Ok((Rules::InForce, _) | (Rules::Gone(_), false)) => {}
        Ok((Rules::Gone(tables), true)) => {
            host.firewall =
                Some((Weight::High, format!("VMs run without their rules; gone: {}", tables.join(" and "))));
        }
        Ok((Rules::Changed(parts), _)) => {
            let detail = format!("the rules are not as the records demand: {}", parts.join(", "));
            host.firewall = Some((Weight::High, detail));
        }
        Ok((Rules::Unsure(why), _)) => host.unseen.push(format!("whether the rules are whole: {why}")),
        Err(error) => host.unseen.push(format!("the firewall: {}", error.one_line())),
    }
}

fn instance(
    app: &App,
    proc: &Proc,
    lines: &[(i32, Vec<u8>)],
    mut record: InstanceRecord,
    unseen: &mut Vec<String>,
) -> InstanceFacts {
    record.vmm = rates::kind_of(app, &record);
    record.supervisor = app.supervised_by(&record);
    let paths = app.settings.layout.instance(&record.id).ok();
    let own = ProcessId::own().map(|process| process.pid);
    let secrets = audit::secrets_of(&record);
    let told = lines
        .iter()
        .filter(|(pid, _)| Some(*pid) != own)
        .flat_map(|(pid, line)| audit::secrets_in(line, &secrets).into_iter().map(|secret| (*pid, secret)))
        .collect();
    let processes = processes(app, proc, lines, &record);
    let units = match &paths {
        Some(paths) if app.supervisor_of(&record).kind() == SupervisorKind::Systemd => {
            units(app, &record, paths, unseen)
        }
        _ => Vec::new(),
    };
    let running = processes.iter().any(|process| process.role == Role::Vm);
    InstanceFacts {
        files: paths.as_ref().map(|paths| files(&record, paths)).unwrap_or_default(),
        vmm: running.then(|| version_of_vmm(app, &record)).flatten().map(|version| (record.vmm, version)),
        openclaw: version_of_openclaw(app, &record),
        processes,
        told,
        units,
        record,
    }
}

fn files(record: &InstanceRecord, paths: &InstancePaths) -> Vec<FileFact> {
    let vmm = [vmm_uid(record.vm_ip)];
    let mut all: Vec<FileFact> = [&paths.state_dir, &paths.dir]
        .into_iter()
        .filter_map(|dir| inspect::file(dir, FileKind::Dir, &[]))
        .collect();
    all.extend(inspect::files_in(&paths.state_dir, &[]));
    // The disk belongs to the VMM's user while a jail is built around it, who also reads the seed and its configuration there.
    let disk = paths.written_disk(record.disks);
    all.extend([disk, &paths.seed].into_iter().filter_map(|it| inspect::file(it, FileKind::Secret, &vmm)));
    all.extend(inspect::file(&paths.snapshot_dir, FileKind::Dir, &[]));
    let memory = [&paths.snapshot_manifest, &paths.snapshot_state, &paths.snapshot_memory];
    all.extend(memory.into_iter().filter_map(|it| inspect::file(it, FileKind::Secret, &[])));
    let sockets = [&paths.sidecar_sock, &paths.supervisor_sock, &paths.vmm_config];
    all.extend(sockets.into_iter().filter_map(|it| inspect::file(it, FileKind::Secret, &[])));
    for fact in all.iter_mut().filter(|fact| fact.path == paths.seed || fact.path == paths.vmm_config) {
        fact.reader = Some(vmm[0]);
    }
    let key = &record.ssh_key_path;
    // It belongs to whose folder it lies in.
    let home = key.parent().and_then(|dir| inspect::file(dir, FileKind::Root, &[])).map(|dir| dir.uid);
    all.extend(inspect::file(key, FileKind::Secret, home.as_slice()));
    all
}

fn processes(app: &App, proc: &Proc, lines: &[(i32, Vec<u8>)], record: &InstanceRecord) -> Vec<ProcessFacts> {
    let pid_of = |service| fleet::service_status(app, record, service).process.map(|process| process.pid);
    let mut all: Vec<(Role, i32)> = Vec::new();
    all.extend(pid_of(Service::Vm).map(|pid| (Role::Vm, pid)));
    all.extend(pid_of(Service::Proxy).map(|pid| (Role::Proxy, pid)));
    all.extend(
        lines
            .iter()
            .filter(|(_, line)| supervises(line, record.id.as_str()))
            .map(|(pid, _)| (Role::Supervisor, *pid)),
    );
    let secrets = audit::secrets_of(record);
    all.into_iter().filter_map(|(role, pid)| proc.process(pid, role, &secrets)).collect()
}

/// Whether this is the command line of an instance's supervisor.
fn supervises(line: &[u8], id: &str) -> bool {
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let program = words.first().map(|word| Path::new(std::str::from_utf8(word).unwrap_or_default()));
    let ours = program.and_then(Path::file_name).is_some_and(|name| name == "fireclaw");
    ours && words.get(1..3) == Some(&[b"supervise".as_slice(), id.as_bytes()])
}

fn units(
    app: &App,
    record: &InstanceRecord,
    paths: &InstancePaths,
    unseen: &mut Vec<String>,
) -> Vec<UnitFacts> {
    let mut facts: Vec<UnitFacts> = [(Service::Vm, &paths.vm_unit), (Service::Proxy, &paths.proxy_unit)]
        .into_iter()
        .map(|(service, path)| {
            let name = service.unit(&record.id).to_string();
            let score = score(app, &name);
            // The score is of what is in force, with what an administrator added.
            let missing = match fs::read_if_there(path) {
                Ok(Some(text)) if score.is_none() => audit::missing_properties(&text),
                _ => Vec::new(),
            };
            UnitFacts { name, score, missing, drift: Vec::new() }
        })
        .collect();
    match app.supervisor_of(record).drift(&record.id, &ServiceSpec::of(record, &app.settings)) {
        Ok(drift) => facts[0].drift = drift,
        Err(error) => unseen.push(format!("the units of `{}`: {}", record.id, error.one_line())),
    }
    facts
}

fn score(app: &App, unit: &str) -> Option<u32> {
    let exec = &app.host.exec;
    exec.which("systemd-analyze")?;
    let cmd = Cmd::new("systemd-analyze").args(["security", "--no-pager", unit]).env("LC_ALL", "C.UTF-8");
    audit::exposure(&exec.run(cmd).ok()?.text())
}

fn version_of_vmm(app: &App, record: &InstanceRecord) -> Option<String> {
    let vmm = vmm::of(record.vmm, Arc::clone(&app.host.exec)).ok()?;
    Some(vmm.info(&api_sock(app, record).ok()?).ok()?.version)
}

/// From the image, or from the container's tag.
fn version_of_openclaw(app: &App, record: &InstanceRecord) -> Option<String> {
    match record.runtime {
        Runtime::Native => images::inspect(&app.settings.layout, &record.image.parse().ok()?).ok()?.openclaw,
        Runtime::Docker => {
            let (_, tag) = record.openclaw_image.rsplit_once(':')?;
            (!tag.contains('/')).then(|| tag.to_owned())
        }
    }
}
