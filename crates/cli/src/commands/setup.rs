//! `setup`

use std::time::Duration;

use fireclaw_core::{
    alloc::Allocation,
    error::{Error, Kind, Result},
    guest::GATEWAY_PORT,
    layout::InstancePaths,
    plan::{Action, Direction, Plan, Step},
    report::{SetupReport, StepTime},
    spec::{InstanceSpec, NetworkSpec, RawSetup, VmmKind, release::Source, vmm_choice::VmmChoice},
    state::InstanceRecord,
};
use fireclaw_host::lock;

use super::{image, show_plan};
use crate::{
    app::App,
    args::{SetupArgs, SupervisorFlag, VmmFlag},
    containment,
    doctor::{self, Need, Purpose},
    draft, fleet, secrets,
    setup_checks::{self as checks, Boot},
    steps::Steps,
    ui::{Progress, seconds},
};

/// How long other setups may hold the allocation.
pub(super) const ALLOCATION: Duration = Duration::from_mins(1);

/// Creates an instance and provisions it.
pub fn run(app: &App, args: &SetupArgs) -> Result<()> {
    let env = |name: &str| std::env::var(name).ok();
    let changes = secrets::raw_changes(&args.changes, &env)?;
    let spec = InstanceSpec::resolve(&raw(args, changes), &app.settings)?;
    let from = args.firecracker_from.as_deref().map(Source::parse).transpose()?;
    if args.dry_run {
        return dry_run(app, args, &spec);
    }
    app.need_root()?;
    let mut progress = app.ui.progress();
    let _held = app.hold(&spec.id)?;
    app.recover(&spec.id, &mut progress)?;
    checks::must_be_new(app, &spec.id, "--instance")?;
    let mut times = Vec::new();
    let choice = checks::vmm(app, &spec, args.yes || from.is_some())?;
    foreseen(app, &spec, &choice)?;
    ready_host(app, args, &spec, &choice, from.as_ref(), &mut progress, &mut times)?;
    let boot = checks::boot(app, &spec, choice.vmm)?;
    let (mut steps, plan, record) = plan(app, &spec, &choice, &boot)?;
    if !choice.kvm {
        app.ui.note(&format!("the VM is emulated and slow: {}", choice.reason));
    }
    times.extend(app.carry_out(&plan, &mut steps, &mut progress)?);
    report(app, args, &record, times)
}

fn raw(args: &SetupArgs, changes: fireclaw_core::spec::RawChanges) -> RawSetup {
    RawSetup {
        instance: args.instance.clone(),
        changes,
        runtime: args.runtime.map(Into::into),
        image: args.image.clone(),
        host_port: args.host_port,
        vm_vcpu: args.vm_vcpu,
        vm_mem_mib: args.vm_mem_mib,
        disk_size: args.disk_size.clone(),
        api_sock: args.api_sock.clone(),
        base_kernel: args.base_kernel.clone(),
        base_rootfs: args.base_rootfs.clone(),
        base_initrd: args.base_initrd.clone(),
        vmm: args.vmm.map(VmmFlag::wanted),
        supervisor: args.supervisor.map(SupervisorFlag::wanted),
        dns: args.dns.clone(),
    }
}

/// Programs and image: there, or with `--yes` (or a yes on the terminal) brought.
fn ready_host(
    app: &App,
    args: &SetupArgs,
    spec: &InstanceSpec,
    choice: &VmmChoice,
    from: Option<&Source>,
    progress: &mut Progress,
    times: &mut Vec<StepTime>,
) -> Result<()> {
    let image = checks::missing_image(app, spec);
    let mut needs = Need::to_run(choice.vmm);
    if image.is_some() {
        needs.push(Need::ImageBuild);
    }
    // A source is for the VMM that is used: on a host that emulates it changes nothing.
    let from = from.filter(|_| choice.vmm == VmmKind::Firecracker);
    let auto = || app.host.supervisors.auto();
    let mut purpose = Purpose { needs, supervisor: spec.supervisor.unwrap_or_else(auto), from };
    let findings = doctor::examine(app, &purpose);
    if doctor::must_be_ready(&findings).is_err() {
        // Who names a source of Firecracker has said yes to it, and to nothing else.
        let said =
            from.is_some() && lacking(&findings).all(|finding| finding.name == doctor::firecracker::NAME);
        // What nobody asked for is not brought along.
        let lacks: Vec<doctor::Finding> = lacking(&findings).cloned().collect();
        if said || consents(app, args, &question(&findings)) {
            let ((), time) =
                progress.step("make the host ready", |watch| doctor::mend(app, &lacks, watch))?;
            times.push(time);
        }
        purpose.from = None;
        doctor::must_be_ready(&doctor::examine(app, &purpose))?;
    }
    if let Some(name) = image {
        if !consents(
            app,
            args,
            &format!("There is no image `{name}`. Build it now? It takes some minutes. [y/N]"),
        ) {
            return Err(Error::new("find", format!("image `{name}`"))
                .kind(Kind::HostNotReady)
                .because("there is no such image")
                .hint(format!(
                    "build it with `fireclaw image build {name}`, or give --yes to have it done"
                )));
        }
        times.extend(image::build_for_setup(app, name, progress)?);
    }
    Ok(())
}

fn lacking(findings: &[doctor::Finding]) -> impl Iterator<Item = &doctor::Finding> {
    findings.iter().filter(|finding| finding.required && !finding.ok)
}

/// What is about to be installed, by name.
fn question(findings: &[doctor::Finding]) -> String {
    let lacks: Vec<&str> = lacking(findings).map(|finding| finding.name.as_str()).collect();
    format!("This host is not ready ({}). Install what it lacks now? [y/N]", lacks.join(", "))
}

fn consents(app: &App, args: &SetupArgs, question: &str) -> bool {
    args.yes || app.ui.ask(question).is_some_and(|answer| matches!(answer.as_str(), "y" | "Y" | "yes"))
}

/// Allocates and puts the record together. The allocation's lock goes with the steps until the record is saved.
fn plan<'a>(
    app: &'a App,
    spec: &InstanceSpec,
    choice: &VmmChoice,
    boot: &Boot,
) -> Result<(Steps<'a>, Plan, InstanceRecord)> {
    let allocation_lock =
        lock::wait_for(&app.settings.layout.allocation_lock(), "addresses", ALLOCATION, &app.interrupt)?;
    let allocation = draft::free_addresses(app, &spec.id, spec.host_port)?;
    let record = draft::of(app, spec, choice.vmm, boot, &allocation)?;
    checks::warn_of_missing_key(app, &record);
    containment::warn(app, &record);
    containment::warn_of_idle(app, &record);
    let steps = Steps::of_new(app, record.clone(), boot.files.clone(), allocation_lock);
    Ok((steps, Plan::setup(&spec.id), record))
}

/// What the instance would be if nothing changed on this host meanwhile. Refuses all that can be refused before the host is made
/// ready and an image is built.
fn foreseen(app: &App, spec: &InstanceSpec, choice: &VmmChoice) -> Result<(Allocation, InstanceRecord)> {
    checks::memory(app, spec.mem_mib)?;
    let boot = checks::expected_boot(app, spec, choice.vmm)?;
    let allocation = draft::free_addresses(app, &spec.id, spec.host_port)?;
    let record = draft::of(app, spec, choice.vmm, &boot, &allocation)?;
    Ok((allocation, record))
}

fn dry_run(app: &App, args: &SetupArgs, spec: &InstanceSpec) -> Result<()> {
    checks::must_be_new(app, &spec.id, "--instance")?;
    let choice = checks::vmm(app, spec, args.yes || args.firecracker_from.is_some())?;
    let (allocation, record) = foreseen(app, spec, &choice)?;
    let paths = app.settings.layout.instance(&spec.id)?;
    let NetworkSpec { bridge, subnet, .. } = &app.settings.network;
    show_plan(app.ui, args.output, &Plan::setup(&spec.id), |action: &Action| {
        match (action.step, action.direction) {
            (Step::CreateDisk, Direction::Apply) => {
                format!("{} of {}", paths.written_disk(record.disks).display(), record.disk_size)
            }
            (Step::JoinNetwork, Direction::Apply) => format!("bridge {bridge}, {subnet}"),
            (Step::StartVm, Direction::Apply) => format!(
                "{} with {} vCPU and {} MiB, {}",
                record.vmm,
                record.vcpu,
                record.mem_mib,
                if choice.kvm { "on KVM" } else { "emulated" }
            ),
            _ => made(*action, &paths, &allocation),
        }
    })
}

/// What a step makes for any new instance, in the words of a dry run; empty for what says enough by its name.
pub(super) fn made(action: Action, paths: &InstancePaths, allocation: &Allocation) -> String {
    let Allocation { host_port, vm_ip, vm_tap, .. } = allocation;
    match (action.step, action.direction) {
        (Step::SaveRecord, Direction::Apply) => {
            format!("{} ({vm_ip}, port {host_port}, tap {vm_tap})", paths.env.display())
        }
        (Step::MakeFolders, Direction::Apply) => paths.dir.display().to_string(),
        (Step::WriteSeed, Direction::Apply) => paths.seed.display().to_string(),
        (Step::StartProxy, Direction::Apply) => {
            format!("127.0.0.1:{host_port} to {vm_ip}:{GATEWAY_PORT}")
        }
        _ => String::new(),
    }
}

/// The address of the UI, how to get the token, and where the time went.
fn report(app: &App, args: &SetupArgs, record: &InstanceRecord, steps: Vec<StepTime>) -> Result<()> {
    let record = app.store().load(&record.id)?;
    if args.output.json {
        let status = fleet::status(app, &record)?;
        return app.ui.json(&SetupReport { status, steps });
    }
    if args.output.quiet {
        return Ok(());
    }
    let total: u64 = steps.iter().map(|step| step.ms).sum();
    let mut longest: Vec<&StepTime> = steps.iter().collect();
    longest.sort_by_key(|step| std::cmp::Reverse(step.ms));
    let spent: Vec<String> = longest
        .iter()
        .take(4)
        .filter(|step| step.ms >= 100)
        .map(|step| format!("{} {}", step.name, seconds(step.ms)))
        .collect();
    let id = &record.id;
    app.ui.result(&format!(
        "\n`{id}` is up.\n\n  UI      http://127.0.0.1:{port}/\n  token   fireclaw token {id}\n  health  curl http://127.0.0.1:{port}/health\n  shell   fireclaw shell {id}\n\n{} in all: {}\n",
        seconds(total),
        spent.join(", "),
        port = record.host_port,
    ))
}
