//! `setup`

use std::time::Duration;

use fireclaw_core::{
    alloc::{Allocation, allocate},
    error::{Error, Kind, Result},
    guest::GATEWAY_PORT,
    id::InstanceId,
    layout::InstancePaths,
    plan::{Action, Direction, Plan, Step},
    report::{SetupReport, StepTime},
    spec::{
        Idle, InstanceSpec, NetworkSpec, Rates, RawSetup, VmmKind, release::Source,
        request::check_bot_is_free, vmm_choice::VmmChoice,
    },
    state::{Containment, Format, InstanceRecord, ProviderKeys, record_defaults as defaults},
};
use fireclaw_host::{keys, lock};

use super::{image, show_plan};
use crate::{
    app::App,
    args::SetupArgs,
    clock, containment,
    doctor::{self, Need},
    fleet, secrets,
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
    checks::memory(app, spec.mem_mib)?;
    let mut times = Vec::new();
    let choice = checks::vmm(app, &spec, args.yes || from.is_some())?;
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
        vmm: args.vmm.wanted(),
        supervisor: args.supervisor.wanted(),
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
    let findings = doctor::examine_with(app, &needs, from);
    if doctor::must_be_ready(&findings).is_err() {
        // Who names a source of Firecracker has said yes to it, and to nothing else.
        let said =
            from.is_some() && lacking(&findings).all(|finding| finding.name == doctor::firecracker::NAME);
        if said || consents(app, args, &question(&findings)) {
            let ((), time) =
                progress.step("make the host ready", |watch| doctor::mend(app, &findings, watch))?;
            times.push(time);
        }
        doctor::must_be_ready(&doctor::examine(app, &needs))?;
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
    let runtime = checks::runtime(spec, boot)?;
    let supervisor = checks::supervisor(app, spec)?;
    let allocation_lock =
        lock::wait_for(&app.settings.layout.allocation_lock(), "addresses", ALLOCATION, &app.interrupt)?;
    let allocation = free_addresses(app, &spec.id, spec.host_port)?;
    let fresh = InstanceRecord {
        format: Format::PlainV2,
        id: spec.id.clone(),
        host_port: allocation.host_port,
        vm_ip: allocation.vm_ip,
        vm_tap: allocation.vm_tap,
        vm_mac: allocation.vm_mac,
        gateway_token: keys::random_token(&keys::SystemEntropy)?,
        model: defaults::MODEL.to_owned(),
        skills: fireclaw_core::spec::value::skills(defaults::SKILLS)?,
        telegram_token: None,
        telegram_users: Vec::new(),
        odd_users: Vec::new(),
        openclaw_image: app.settings.openclaw_image.clone(),
        vcpu: spec.vcpu,
        mem_mib: spec.mem_mib,
        disk_size: spec.disk_size.clone(),
        api_sock: match &spec.api_sock {
            Some(path) => path.clone(),
            None => app.settings.layout.instance(&spec.id)?.api_sock,
        },
        ssh_key_path: app.settings.ssh_key_path.clone(),
        skip_browser_install: false,
        keys: ProviderKeys::default(),
        vmm: choice.vmm,
        vmm_is_chosen: true,
        supervisor,
        runtime,
        image: boot.image.clone(),
        disks: boot.disks,
        cmdline: boot.cmdline.clone(),
        dns: checks::resolvers(spec, &checks::host_resolv_conf(), &app.host.network.own_addresses()?),
        created_at: clock::now_rfc3339(),
        network: app.settings.network.clone(),
        provisioned: false,
        containment: Containment::default(),
        rates: Rates::default(),
        idle: Idle::default(),
        unknown: Vec::new(),
        unknown_vars: Vec::new(),
    };
    let record = containment::completed(spec.changes.apply(&fresh)?, spec.changes.key_mode().is_none())?;
    check_bot_is_free(&record, &app.store().records()?)?;
    checks::warn_of_missing_key(app, &record);
    containment::warn(app, &record);
    containment::warn_of_idle(app, &record);
    let steps = Steps::of_new(app, record.clone(), boot.files.clone(), allocation_lock);
    Ok((steps, Plan::setup(&spec.id), record))
}

/// What a new instance would get. Under the allocation's lock where it is to be kept.
pub(super) fn free_addresses(app: &App, id: &InstanceId, host_port: Option<u16>) -> Result<Allocation> {
    let mut taken = app.store().taken()?;
    taken.links.extend(app.host.network.links()?);
    taken.listening = app.host.network.listening_ports()?;
    allocate(id, &app.settings.network, app.settings.base_port, host_port, &taken)
}

fn dry_run(app: &App, args: &SetupArgs, spec: &InstanceSpec) -> Result<()> {
    checks::must_be_new(app, &spec.id, "--instance")?;
    let allocation = free_addresses(app, &spec.id, spec.host_port)?;
    let choice = checks::vmm(app, spec, args.yes || args.firecracker_from.is_some())?;
    let paths = app.settings.layout.instance(&spec.id)?;
    let NetworkSpec { bridge, subnet, .. } = &app.settings.network;
    show_plan(app.ui, args.output, &Plan::setup(&spec.id), |action: &Action| {
        match (action.step, action.direction) {
            (Step::CreateDisk, Direction::Apply) => {
                let disks = checks::disks(app, spec);
                format!("{} of {}", paths.written_disk(disks).display(), spec.disk_size)
            }
            (Step::JoinNetwork, Direction::Apply) => format!("bridge {bridge}, {subnet}"),
            (Step::StartVm, Direction::Apply) => format!(
                "{} with {} vCPU and {} MiB, {}",
                choice.vmm,
                spec.vcpu,
                spec.mem_mib,
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
