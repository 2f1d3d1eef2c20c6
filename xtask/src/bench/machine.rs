//! The machine that a figure was measured on. Reads /proc.

use std::fs;

/// Processor, cores, memory, kernel, distribution, KVM.
pub fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fireclaw_host::disk::space::host_memory_mib(std::path::Path::new("/proc")).unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("unknown")
        .trim_matches('"')
        .to_owned();
    let kvm = match fireclaw_host::vmm::kvm::usable(std::path::Path::new("/")) {
        Ok(()) => "usable".to_owned(),
        Err(why) => format!("not usable ({why})"),
    };
    format!(
        "Machine: {model}, {cores} cores, {} GiB, Linux {}, {system}. KVM: {kvm}.\n",
        memory / 1024,
        kernel.trim()
    )
}
