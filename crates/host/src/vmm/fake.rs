//! A [`Vmm`] without a VM: states in memory, failures on demand. Touches nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Mutex,
};

use fireclaw_core::{
    error::{Error, Result},
    spec::{Rates, VmmKind},
};

use super::{Launch, VmSpec, Vmm, VmmInfo};
use crate::exec::Cmd;

/// What the fake remembers.
#[derive(Debug, Default)]
struct Memory {
    calls: Vec<String>,
    failing: BTreeSet<String>,
    /// API sockets of VMs that were prepared, with "running" or "paused".
    states: BTreeMap<PathBuf, &'static str>,
}

/// Prepares, pauses and resumes VMs that do not exist.
#[derive(Debug)]
pub struct FakeVmm {
    kind: VmmKind,
    memory: Mutex<Memory>,
}

impl FakeVmm {
    /// A VMM of this kind with no VM.
    pub fn new(kind: VmmKind) -> Self {
        Self { kind, memory: Mutex::default() }
    }

    /// Makes an operation fail from now on, by the name of its method.
    pub fn fail(&self, operation: &str) {
        self.lock().failing.insert(operation.to_owned());
    }

    /// Makes it work again.
    pub fn mend(&self, operation: &str) {
        self.lock().failing.remove(operation);
    }

    /// The operations so far, each with what it was done to: `pause /x/api.sock`.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().expect("no panic while held")
    }

    fn enter(
        &self,
        operation: &'static str,
        object: &dyn std::fmt::Display,
    ) -> Result<std::sync::MutexGuard<'_, Memory>> {
        let mut memory = self.lock();
        memory.calls.push(format!("{operation} {object}"));
        if memory.failing.contains(operation) {
            return Err(Error::new(operation, object.to_string()).because("the test says so"));
        }
        Ok(memory)
    }

    fn on_vm<T>(
        &self,
        operation: &'static str,
        api_sock: &Path,
        act: impl FnOnce(&mut &'static str) -> T,
    ) -> Result<T> {
        let mut memory = self.enter(operation, &api_sock.display())?;
        match memory.states.get_mut(api_sock) {
            Some(state) => Ok(act(state)),
            None => Err(Error::new(operation, api_sock.display().to_string()).because("no VM is there")),
        }
    }
}

impl Vmm for FakeVmm {
    fn kind(&self) -> VmmKind {
        self.kind
    }

    fn prepare(&self, spec: &VmSpec) -> Result<Launch> {
        self.enter("prepare", &spec.id)?.states.insert(spec.api_sock.clone(), "running");
        Ok(Launch { cmd: Cmd::new("sleep").arg("infinity"), keep: Vec::new() })
    }

    fn press_power_button(&self, api_sock: &Path) -> Result<()> {
        self.on_vm("press_power_button", api_sock, |_| ())?;
        self.lock().states.remove(api_sock);
        Ok(())
    }

    fn pause(&self, api_sock: &Path) -> Result<()> {
        self.on_vm("pause", api_sock, |state| *state = "paused")
    }

    fn resume(&self, api_sock: &Path) -> Result<()> {
        self.on_vm("resume", api_sock, |state| *state = "running")
    }

    fn set_rates(&self, api_sock: &Path, _: &Rates) -> Result<()> {
        self.on_vm("set_rates", api_sock, |_| ())
    }

    fn info(&self, api_sock: &Path) -> Result<VmmInfo> {
        self.on_vm("info", api_sock, |state| VmmInfo {
            state: (*state).to_owned(),
            version: "fake".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fake_vm_pauses_fails_on_demand_and_goes_with_its_power_button() {
        let vmm = FakeVmm::new(VmmKind::Qemu);
        let spec = VmSpec::example();
        let sock = &spec.api_sock;
        assert!(vmm.info(sock).is_err());
        vmm.prepare(&spec).unwrap();
        vmm.pause(sock).unwrap();
        assert_eq!(vmm.info(sock).unwrap().state, "paused");
        vmm.fail("resume");
        assert!(vmm.resume(sock).is_err());
        vmm.mend("resume");
        vmm.resume(sock).unwrap();
        vmm.press_power_button(sock).unwrap();
        assert!(vmm.info(sock).is_err());
        assert_eq!(vmm.calls().len(), 8);
    }
}
