//! What a supervisor has to know of an instance to keep its two services running. Touches nothing.

use std::{net::Ipv4Addr, path::PathBuf};

use super::{KeyMode, Limits, Settings, VmmKind};
use crate::state::InstanceRecord;

/// The two services of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// The proxy's port on 127.0.0.1.
    pub host_port: u16,
    /// The guest's address.
    pub vm_ip: Ipv4Addr,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory of the VM in MiB.
    pub mem_mib: u32,
    /// The VMM; `None` where each start decides anew (what the Bash fireclaw made).
    pub vmm: Option<VmmKind>,
    /// The VMM's API socket, where it is not the instance's own.
    pub api_sock: Option<PathBuf>,
    /// The private key for SSH to the guest.
    pub ssh_key_path: Option<PathBuf>,
    /// Whether the keys have a file of their own, for the sidecar.
    pub broker: bool,
    /// Whether the proxy puts the instance to sleep and wakes it.
    pub wakes: bool,
    /// What the host grants the VM.
    pub limits: Limits,
}

impl ServiceSpec {
    /// Those of a recorded instance.
    pub fn of(record: &InstanceRecord, settings: &Settings) -> Self {
        let said = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        Self {
            host_port: record.host_port,
            vm_ip: record.vm_ip,
            vcpu: record.vcpu,
            mem_mib: record.mem_mib,
            vmm: record.vmm_is_chosen.then_some(record.vmm),
            api_sock: said(&record.api_sock),
            ssh_key_path: said(&record.ssh_key_path),
            broker: record.containment.keys == KeyMode::Broker,
            wakes: record.idle.is_watched(),
            limits: settings.limits.clone(),
        }
    }

    /// A small VM, for tests.
    pub fn small() -> Self {
        Self {
            host_port: 18891,
            vm_ip: Ipv4Addr::new(172, 16, 0, 2),
            vcpu: 2,
            mem_mib: 2048,
            vmm: Some(VmmKind::Firecracker),
            api_sock: None,
            ssh_key_path: Some("/home/ubuntu/.ssh/vmdemo_vm".into()),
            broker: false,
            wakes: false,
            limits: Limits::default(),
        }
    }
}
