//! Golden units, and what must hold for all of them.

use super::*;
use crate::spec::{Bound, Limits};

fn render(
    change: impl FnOnce(&mut Layout, &mut PathBuf, &mut ServiceSpec),
    features: Features,
) -> [String; 2] {
    let mut layout = Layout::default();
    let mut program = PathBuf::from("/usr/bin/fireclaw");
    let mut spec = ServiceSpec::small();
    change(&mut layout, &mut program, &mut spec);
    let defaults = Layout::default();
    let environment: Vec<(String, String)> = [
        ("STATE_ROOT", &layout.state_root, defaults.state_root),
        ("FC_ROOT", &layout.fc_root, defaults.fc_root),
    ]
    .into_iter()
    .filter(|(_, path, default)| *path != default)
    .map(|(name, path, _)| (name.to_owned(), path.display().to_string()))
    .collect();
    let host = Host { layout: &layout, program: &program, environment: &environment, features };
    let id = "my-bot_2".parse().unwrap();
    [vm_unit(&host, &id, &spec), proxy_unit(&host, &id, &spec)]
}

const OLD: Features = Features { growing_pause: false };

#[test]
fn the_units_with_firecracker() {
    let [vm, proxy] = render(|_, _, _| {}, Features { growing_pause: true });
    insta::assert_snapshot!("firecracker", vm);
    insta::assert_snapshot!("proxy", proxy);
}

#[test]
fn the_unit_with_qemu_on_an_older_systemd() {
    let [vm, _] = render(|_, _, spec| spec.vmm = Some(VmmKind::Qemu), OLD);
    insta::assert_snapshot!("qemu", vm);
}

#[test]
fn the_unit_with_everything_elsewhere_and_every_limit() {
    let [vm, proxy] = render(
        |layout, program, spec| {
            layout.state_root = "/home/me/fire claw/state".into();
            layout.fc_root = "/tmp/50%/fc".into();
            layout.run_root = "/var/lib/run/fireclaw".into();
            *program = "/root/.nvm/bin/fireclaw".into();
            spec.api_sock = Some("/run/vm/a.sock".into());
            spec.vmm = None;
            spec.limits = Limits {
                memory: Bound::At(3 << 30),
                cpu: Bound::Auto,
                tasks: Bound::At(100),
                io_weight: Some(50),
                io_read: Some(100 << 20),
                io_write: Some(1 << 20),
            };
        },
        OLD,
    );
    insta::assert_snapshot!("elsewhere", vm);
    assert!(proxy.contains("BindReadOnlyPaths=-/root/.nvm/bin/fireclaw\n"), "{proxy}");
    assert!(!proxy.contains("STATE_ROOT"), "the proxy reads no record: {proxy}");
}

#[test]
fn the_units_of_an_instance_that_sleeps_by_itself() {
    let [_, proxy] = render(|_, _, spec| spec.wakes = true, OLD);
    assert!(proxy.contains("Wants=vmdemo-wake-my-bot_2.path\n"), "{proxy}");
    let layout = Layout::default();
    let environment = [("STATE_ROOT".to_owned(), "/home/me/state".to_owned())];
    let host = Host {
        layout: &layout,
        program: Path::new("/usr/bin/fireclaw"),
        environment: &environment,
        features: OLD,
    };
    let id = "my-bot_2".parse().unwrap();
    insta::assert_snapshot!("wake", format!("{}\n{}", wake_path_unit(&host, &id), wake_unit(&host, &id)));
}

#[test]
fn limits_can_be_off() {
    let [vm, _] = render(
        |_, _, spec| {
            spec.limits = Limits { memory: Bound::Off, tasks: Bound::Off, ..Limits::default() };
        },
        OLD,
    );
    assert!(!vm.contains("MemoryMax") && !vm.contains("CPUQuota"), "{vm}");
    assert!(vm.contains("TasksMax=infinity\n"), "{vm}");
}

#[test]
fn what_a_version_knows() {
    for (version, growing_pause) in
        [("252.38-1~deb12u1", false), ("254", true), ("v257.7", true), ("259~rc1", true), ("", false)]
    {
        assert_eq!(Features::of_version(version), Features { growing_pause }, "{version}");
    }
}

#[test]
fn units_of_the_bash_fireclaw_are_known_by_what_they_start() {
    let script = Path::new("/srv/firecracker/vm-demo/my-bot/start-vm.sh");
    let starts =
        |command: &str| format!("[Unit]\nDescription=x\n[Service]\nType=simple\nExecStart={command}\n");
    let socat = "/usr/bin/socat TCP-LISTEN:18891,bind=127.0.0.1,reuseaddr,fork TCP:172.16.0.2:18789";
    assert!(is_of_bash(&starts("/srv/firecracker/vm-demo/my-bot/start-vm.sh"), script));
    assert!(is_of_bash(&starts(socat), script));
    assert!(!is_of_bash(&starts("/srv/firecracker/vm-demo/other/start-vm.sh"), script));
    assert!(!is_of_bash(&starts("/usr/local/bin/mine"), script));
    for unit in render(|_, _, _| {}, OLD) {
        assert!(!is_of_bash(&unit, script), "{unit}");
    }
}

#[test]
fn our_units_are_known_by_their_first_line() {
    for unit in render(|_, _, _| {}, OLD) {
        assert!(is_ours(&unit), "{unit}");
    }
    assert!(!is_ours("[Unit]\nDescription=Firecracker VM\n"));
}
