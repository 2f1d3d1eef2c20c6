//! Facts of a sound instance, what each fault makes of them, and the JSON of the whole.

use super::*;
use crate::spec::{EgressMode, KeyMode, NetworkSpec, SupervisorKind};

fn record() -> InstanceRecord {
    let env = "FIRECLAW_STATE_FORMAT=plain-v2\nINSTANCE_ID=my-bot\nHOST_PORT=18891\nVM_IP=172.16.0.2\nVM_TAP=tmybot2\n\
               GATEWAY_TOKEN=0123456789abcdef\nMODEL=anthropic/claude-opus-4-6\nRUNTIME=native\nVMM=firecracker\n\
               SUPERVISOR=systemd\nPROVISIONED=true\nKEY_MODE=broker\nBROKER_TOKEN=fireclaw-t0\n\
               ANTHROPIC_API_KEY=sk-anthropic\n";
    InstanceRecord::parse(".env", env, None, &NetworkSpec::default()).unwrap()
}

fn file(path: &str, kind: FileKind, mode: u32) -> FileFact {
    FileFact {
        path: path.into(),
        kind,
        mode,
        uid: 0,
        owners: vec![crate::id::vmm_uid([172, 16, 0, 2].into())],
        gid: 0,
        reader: None,
    }
}

fn process(role: Role, uid: u32) -> ProcessFacts {
    ProcessFacts {
        role,
        pid: 100 + i32::try_from(uid % 7).unwrap(),
        uid,
        no_new_privileges: true,
        seccomp: true,
        capabilities: 0,
        jailed: role == Role::Vm,
        dumps_core: false,
        merged_pages: 0,
        sockets: Vec::new(),
        environment: Vec::new(),
    }
}

/// An instance as fireclaw makes it.
fn sound() -> InstanceFacts {
    let record = record();
    let (vm, mut proxy) = (process(Role::Vm, crate::id::vmm_uid(record.vm_ip)), process(Role::Proxy, 61_184));
    proxy.sockets = ["127.0.0.1:18891", "[::1]:18891", "172.16.0.1:18891"]
        .map(|address| (Protocol::Tcp, address.parse().unwrap()))
        .into();
    proxy.sockets.push((Protocol::Udp, "172.16.0.1:18891".parse().unwrap()));
    InstanceFacts {
        files: vec![
            file("/var/lib/fireclaw/.vm-my-bot", FileKind::Dir, 0o700),
            file("/var/lib/fireclaw/.vm-my-bot/.env", FileKind::Secret, 0o600),
        ],
        processes: vec![vm, proxy],
        told: Vec::new(),
        units: vec![UnitFacts {
            name: "vmdemo-proxy-my-bot.service".into(),
            score: Some(12),
            missing: Vec::new(),
            drift: Vec::new(),
        }],
        vmm: Some((VmmKind::Firecracker, "1.16.1".into())),
        openclaw: Some("2026.9.6".into()),
        record,
    }
}

fn lines(report: &Report) -> String {
    let line = |it: &Finding| {
        let of = it.instance.as_deref().unwrap_or("-");
        let hint = it.hint.as_deref().unwrap_or("-");
        format!("{} {of} {}: {} [{hint}]", it.weight.as_str(), it.check, it.detail)
    };
    report.findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn nothing_is_found_where_everything_is_as_fireclaw_makes_it() {
    let host =
        HostFacts { roots: vec![file("/var/lib/fireclaw", FileKind::Root, 0o700)], ..HostFacts::default() };
    let report = judge(&host, &[sound()]);
    assert_eq!(lines(&report), "");
    assert!(report.ok);
    insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap());
}

/// Each fault alone: exactly one finding, so that none hides behind another.
/// In a jail the VMM reads its seed by a group of which nobody else is a member.
#[test]
fn the_vm_that_has_to_may_read_by_its_own_group() {
    let (own, other) = (1_900_000_002, 1_900_000_003);
    for (gid, reader, mode, fine) in [
        (own, Some(own), 0o640, true),
        (other, Some(own), 0o640, false),
        (own, None, 0o640, false),
        (own, Some(own), 0o660, false),
        (own, Some(own), 0o644, false),
    ] {
        let mut facts = sound();
        facts.files = vec![FileFact { gid, reader, ..file("/srv/seed.img", FileKind::Secret, mode) }];
        let report = judge(&HostFacts::default(), &[facts]);
        let found = report.findings.iter().any(|finding| finding.check == "files");
        assert_eq!(found, !fine, "{gid} {reader:?} {mode:o}");
    }
}

#[test]
fn every_fault_is_found_and_nothing_with_it() {
    type Spoil = fn(&mut InstanceFacts);
    let faults: &[Spoil] = &[
        |it| it.files[0].mode = 0o750,
        |it| it.files[0].mode = 0o711,
        |it| it.files[1].mode = 0o640,
        |it| it.files[1].uid = 1000,
        |it| it.processes[0].uid = 0,
        |it| it.processes[0].uid = 1000,
        |it| it.processes[0].capabilities = 1 << 21,
        |it| it.processes[0].no_new_privileges = false,
        |it| it.processes[0].seccomp = false,
        |it| it.processes[0].jailed = false,
        |it| it.processes[0].dumps_core = true,
        |it| it.processes[0].merged_pages = 12,
        |it| it.processes[0].sockets = vec![(Protocol::Tcp, "0.0.0.0:5900".parse().unwrap())],
        |it| it.processes[1].uid = 0,
        |it| it.processes[1].dumps_core = true,
        |it| it.processes[1].environment = vec!["the Anthropic key"],
        |it| it.processes[1].sockets[0].1 = "0.0.0.0:18891".parse().unwrap(),
        |it| it.processes[1].sockets[0].1 = "127.0.0.1:9000".parse().unwrap(),
        |it| it.processes[1].sockets[3].1 = "0.0.0.0:53".parse().unwrap(),
        |it| it.told = vec![(4711, "the Telegram token")],
        |it| it.units[0].score = Some(58),
        |it| it.units[0].missing = vec!["NoNewPrivileges=yes", "LimitCORE=0"],
        |it| it.units[0].drift = vec!["vmdemo-proxy-my-bot.service is missing".into()],
        |it| it.record.containment.egress.mode = EgressMode::Open,
        |it| it.vmm = Some((VmmKind::Firecracker, "1.15.0".into())),
        |it| it.openclaw = Some("2026.6.4".into()),
    ];
    let mut all = Vec::new();
    for (index, spoil) in faults.iter().enumerate() {
        let mut facts = sound();
        spoil(&mut facts);
        let report = judge(&HostFacts::default(), &[facts]);
        assert_eq!(report.findings.len(), 1, "fault {index}: {}", lines(&report));
        assert!(!report.ok);
        all.push(lines(&report));
    }
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn what_fits_one_instance_is_a_fault_of_another() {
    // Without a sidecar nothing is to listen on the bridge.
    let mut facts = sound();
    facts.record.containment.keys = KeyMode::Guest;
    facts.record.keys = crate::state::ProviderKeys::default();
    assert_eq!(judge(&HostFacts::default(), &[facts.clone()]).findings.len(), 2);
    facts.processes[1].sockets.truncate(2);
    assert!(judge(&HostFacts::default(), &[facts.clone()]).ok, "no key is nowhere");
    facts.record.keys.openai = Some(Secret::new("sk-in-the-guest"));
    let report = judge(&HostFacts::default(), &[facts.clone()]);
    assert_eq!(report.findings[0].weight, Weight::Low);
    assert!(!lines(&report).contains("sk-in"));
    // Under the embedded supervisor the proxy's user is one of ours, and the supervisor is root's.
    let mut facts = sound();
    facts.record.supervisor = SupervisorKind::Embedded;
    facts.processes.push(ProcessFacts {
        no_new_privileges: false,
        capabilities: u64::MAX,
        ..process(Role::Supervisor, 0)
    });
    let report = judge(&HostFacts::default(), &[facts.clone()]);
    assert!(report.findings.len() == 1 && report.findings[0].detail.contains("61184"), "{}", lines(&report));
    facts.processes[1].uid = crate::id::proxy_uid(facts.record.vm_ip);
    assert!(judge(&HostFacts::default(), &[facts]).ok);
    // QEMU has no jail.
    let mut facts = sound();
    facts.record.vmm = VmmKind::Qemu;
    facts.processes[0].jailed = false;
    assert!(judge(&HostFacts::default(), &[facts]).ok);
}

#[test]
fn the_hosts_own_faults_come_first_by_weight() {
    let host = HostFacts {
        roots: vec![file("/srv/firecracker/vm-demo", FileKind::Root, 0o1777)],
        firewall: Some((Weight::High, "rules are gone".into())),
        versions: vec![(Program::Firecracker, "1.13.1".into()), (Program::Qemu, "7.2.22".into())],
        damaged: vec!["old".into()],
        unseen: vec!["units of my-bot: no bus".into()],
    };
    insta::assert_snapshot!(lines(&judge(&host, &[])));
}

#[test]
fn secrets_are_found_by_their_bytes_and_named_without_them() {
    let record = record();
    let secrets = secrets_of(&record);
    let found = secrets_in(b"fireclaw\0setup\0--anthropic-api-key=sk-anthropic\0x", &secrets);
    assert_eq!(found, ["the Anthropic key"]);
    assert!(secrets_in(b"fireclaw\0list\0", &secrets).is_empty() && secrets_in(b"", &secrets).is_empty());
    let short = InstanceRecord { gateway_token: Secret::new("abc"), ..record.clone() };
    assert!(secrets_of(&short).iter().all(|(name, _)| *name != "the gateway token"), "found by chance");
}

#[test]
fn the_score_is_the_last_line_of_what_systemd_says() {
    let said = "  NAME  DESCRIPTION  EXPOSURE\n✗ PrivateNetwork=  x  0.5\n\n→ Overall exposure level for a.service: 3.7 OK 🙂\n";
    assert_eq!(exposure(said), Some(37));
    assert_eq!(exposure("→ Overall exposure level for x: 10.0 DANGEROUS"), Some(100));
    assert_eq!((exposure(""), exposure("Unit x not found.")), (None, None));
}
