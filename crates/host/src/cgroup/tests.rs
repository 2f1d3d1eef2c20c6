//! The kernel's own groups, on whatever hierarchy the machine has.

use std::time::Duration;

use super::*;
use crate::{
    exec::{Cmd, handover},
    interrupt::Interrupt,
    wait::{Probed, Requirement, until},
};

#[test]
fn both_interfaces_are_found() {
    let one = "31 24 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
               32 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
               40 24 0:36 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    let found = Controllers::read(one, |_| String::new()).unwrap();
    assert_eq!(found.version, Version::One);
    assert_eq!(found.roots[&Controller::Cpu], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    assert!(!found.roots.contains_key(&Controller::Pids));
    let two = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    let found = Controllers::read(two, |_| "cpuset cpu io memory pids\n".into()).unwrap();
    assert_eq!((found.version, found.roots.len()), (Version::Two, 4));
    assert_eq!(Controllers::read(two, |_| String::new()), None);
    assert_eq!(Controllers::read("1 1 0:1 / / rw - ext4 /dev/vda rw\n", |_| String::new()), None);
}

/// A process is held to what was written, and its group is gone after it.
#[test]
fn a_process_is_put_into_a_group_with_limits() {
    let controllers = Controllers::find().unwrap().expect("this test needs a kernel with control groups");
    let id: InstanceId = format!("group-test-{}", std::process::id()).parse().unwrap();
    let mut child = handover::spawn(&Cmd::new("sleep").arg("60"), None).unwrap();
    let file = match controllers.version {
        Version::One => "memory.limit_in_bytes",
        Version::Two => "memory.max",
    };
    let entries = [
        Entry { controller: Controller::Memory, file, value: (64 << 20).to_string() },
        Entry { controller: Controller::Pids, file: "pids.max", value: "7".into() },
    ];
    let told = controllers.join(&id, child.id(), &entries);
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    let limit = controllers.roots[&Controller::Memory].join(OURS).join(id.as_str()).join(file);
    let limit = fs::read_to_string(limit).unwrap_or_default();
    child.kill().unwrap();
    child.wait().unwrap();
    // A group of a process that has just ended may be busy for a moment.
    let gone = Requirement {
        description: "the end of the group".into(),
        deadline: Duration::from_secs(10),
        hint: String::new(),
    };
    until(&gone, &Interrupt::default(), || {
        controllers.leave(&id).unwrap();
        if controllers.has(&id) { Probed::NotYet("it is there".into()) } else { Probed::Ready(()) }
    })
    .unwrap();
    assert_eq!(told, Vec::<String>::new());
    assert_eq!(
        groups.matches(&format!("/{OURS}/{id}")).count(),
        if controllers.version == Version::One { 2 } else { 1 },
        "{groups}"
    );
    assert_eq!(limit.trim(), (64 << 20).to_string());
}

/// What the kernel refuses is told, and the rest holds.
#[test]
fn what_is_refused_is_told() {
    let controllers = Controllers::find().unwrap().expect("this test needs a kernel with control groups");
    let id: InstanceId = format!("group-refused-{}", std::process::id()).parse().unwrap();
    let entries = [Entry { controller: Controller::Pids, file: "pids.max", value: "many".into() }];
    let told = controllers.join(&id, std::process::id(), &entries);
    controllers.leave(&id).unwrap();
    assert!(told.len() == 1 && told[0].contains("pids.max"), "{told:?}");
}
