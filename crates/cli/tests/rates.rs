//! Rates from the flag to the record, the firewall and the tap, on a host of fakes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use clap::Parser as _;
use fireclaw::{
    args::{Cli, Command},
    commands::{provision, status},
    fleet, steps,
};
use fireclaw_core::{
    error::{Kind, Result},
    id::InstanceId,
    spec::{Rates, VmmKind},
};
use fireclaw_host::network::fake::FakeLink;
use world::{World, run_setup_with, world};

fn provision(world: &World, flags: &[&str]) -> Result<()> {
    let argv = [&["fireclaw", "provision", "bot", "--quiet"][..], flags].concat();
    let Command::Provision(args) = Cli::try_parse_from(argv).unwrap().command else {
        panic!("not provision")
    };
    provision::run(&world.app, &args)
}

fn rates(world: &World) -> Rates {
    let id: InstanceId = "bot".parse().unwrap();
    world.app.store().load(&id).unwrap().rates
}

/// What the tap lets through, and the rule of what the VM sends.
fn in_force(world: &World) -> (Option<u64>, Option<String>) {
    let state = world.network.state();
    let Some(FakeLink::Tap { rate, .. }) = state.links.get("tbot2") else { panic!("no tap in {state:?}") };
    let rules = state.firewall.unwrap();
    let rule = rules.lines().find(|line| line.contains("limit rate")).map(|line| line.trim().to_owned());
    (*rate, rule)
}

/// As a supervisor would have it: the fake one starts nothing that attaches the VM.
fn attach(world: &World) {
    let record = world.app.store().load(&"bot".parse().unwrap()).unwrap();
    steps::attach(&world.app, &record).unwrap();
    steps::limit_network(&world.app, &record, record.vmm).unwrap();
}

#[test]
fn rates_are_set_changed_and_lifted_while_it_runs() {
    let world = world();
    run_setup_with(&world.app, "bot", &["--net-mbit", "8", "--disk-iops", "500"]).unwrap();
    assert_eq!(rates(&world), Rates { net_mbit: Some(8), disk_iops: Some(500), disk_mbyte: None });
    attach(&world);
    let rule = |rate| format!("iifname \"tbot2\" limit rate over {rate} bytes/second burst");
    let (tap, from_vm) = in_force(&world);
    assert_eq!(tap, Some(1_000_000));
    assert!(from_vm.unwrap().starts_with(&rule(1_000_000)));

    provision(&world, &["--net-mbit", "80", "--disk-mbyte", "30"]).unwrap();
    assert_eq!(rates(&world), Rates { net_mbit: Some(80), disk_iops: Some(500), disk_mbyte: Some(30) });
    let (tap, from_vm) = in_force(&world);
    assert_eq!(tap, Some(10_000_000));
    assert!(from_vm.unwrap().starts_with(&rule(10_000_000)));
    let record = world.app.store().load(&"bot".parse().unwrap()).unwrap();
    let report = fleet::status(&world.app, &record).unwrap();
    assert!(
        status::text(&report)
            .contains("rates      network 80 Mbit/s each way, disk 500 operations/s, disk 30 MB/s\n")
    );
    assert_eq!(serde_json::to_value(&report).unwrap()["rates"]["net_mbit"], 80);

    // A refused change has changed nothing, and what is not said stays.
    assert_eq!(provision(&world, &["--net-mbit", "fast"]).unwrap_err().get_kind(), Kind::Refused);
    provision(&world, &["--skills", "tmux"]).unwrap();
    assert_eq!(rates(&world).net_mbit, Some(80));
    provision(&world, &["--net-mbit", "none", "--disk-iops", "0", "--disk-mbyte", "none"]).unwrap();
    assert_eq!((rates(&world), in_force(&world)), (Rates::default(), (None, None)));
}

#[test]
fn firecracker_keeps_to_the_networks_rate_by_itself() {
    let world = world();
    run_setup_with(&world.app, "bot", &["--net-mbit", "8"]).unwrap();
    let mut record = world.app.store().load(&"bot".parse().unwrap()).unwrap();
    record.vmm = VmmKind::Firecracker;
    world.app.store().save(&record).unwrap();
    attach(&world);
    assert_eq!(in_force(&world), (None, None));
}
