//! What systemd's properties of a unit mean. Touches nothing but /proc, for the start time of a process.

use std::collections::HashMap;

use zbus::OwnedVariant;

use crate::{
    proc::ProcessId,
    supervisor::{Service, ServiceStatus, State},
};

/// The properties of a unit that we look at. What is not there counts as nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) load: String,
    pub(super) active: String,
    pub(super) sub: String,
    pub(super) result: String,
    /// `enabled`, `disabled`, `masked`…
    pub(super) file: String,
    pub(super) main_pid: u32,
    pub(super) restarts: u32,
    /// As in `siginfo_t`: 1 exited, 2 killed, 3 dumped.
    pub(super) exit_code: i32,
    pub(super) exit_status: i32,
    /// A job is queued or runs.
    pub(super) has_job: bool,
}

impl Facts {
    pub(super) fn of(properties: &HashMap<String, OwnedVariant>) -> Self {
        let text = |name: &str| -> String {
            properties.get(name).and_then(|value| <&str>::try_from(value).ok()).unwrap_or_default().to_owned()
        };
        let number =
            |name: &str| properties.get(name).and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
        let signed =
            |name: &str| properties.get(name).and_then(|value| i32::try_from(value).ok()).unwrap_or(0);
        let job = properties.get("Job").and_then(|value| value.try_clone().ok());
        let job: Option<(u32, zbus::OwnedObjectPath)> = job.and_then(|value| value.try_into().ok());
        Self {
            load: text("LoadState"),
            active: text("ActiveState"),
            sub: text("SubState"),
            result: text("Result"),
            file: text("UnitFileState"),
            main_pid: number("MainPID"),
            restarts: number("NRestarts"),
            exit_code: signed("ExecMainCode"),
            exit_status: signed("ExecMainStatus"),
            has_job: job.is_some_and(|(id, _)| id != 0),
        }
    }

    pub(super) fn state(&self) -> State {
        match state(&self.active) {
            // Its `clean` runs after a failure; the next try follows, and nobody asked for a stop.
            State::Deactivating if !self.has_job && !matches!(self.result.as_str(), "" | "success") => {
                State::Activating
            }
            state => state,
        }
    }

    /// For reports.
    pub(super) fn status(&self, service: Service) -> ServiceStatus {
        let process = i32::try_from(self.main_pid).ok().filter(|pid| *pid > 0).and_then(ProcessId::of);
        ServiceStatus { state: self.state(), process, restarts: self.restarts, detail: self.detail(service) }
    }

    fn detail(&self, service: Service) -> Option<String> {
        match self.state() {
            State::Failed => Some(self.failure()),
            State::Activating if !matches!(self.result.as_str(), "" | "success") => {
                Some(format!("waits for its next try: {}", self.failure()))
            }
            State::Inactive if self.load == "masked" => Some("its unit is masked".to_owned()),
            // `fireclaw stop` disables. What is enabled and yet down was stopped by something else.
            State::Inactive if service == Service::Vm && self.file.starts_with("enabled") => {
                Some("powered off from inside the guest, or stopped with systemctl".to_owned())
            }
            _ => None,
        }
    }

    /// What went wrong, as the values of `Result=` in systemd.exec(5) tell it.
    pub(super) fn failure(&self) -> String {
        match self.result.as_str() {
            "exit-code" => match self.exit_status {
                203 => "its program could not be started (203/EXEC)".to_owned(),
                226 => "its sandbox could not be set up (226/NAMESPACE)".to_owned(),
                218 => "its capabilities could not be set (218/CAPABILITIES)".to_owned(),
                228 => "its system call filter could not be set (228/SECCOMP)".to_owned(),
                // A unit that forks has no main process yet when what starts it fails.
                0 => "what starts it failed".to_owned(),
                status => format!("ended with exit code {status}"),
            },
            "signal" if self.exit_code >= 2 => format!("ended by signal {}", self.exit_status),
            "signal" => "ended by a signal".to_owned(),
            "core-dump" => format!("crashed by signal {}", self.exit_status),
            "timeout" => "took longer than its unit allows".to_owned(),
            "oom-kill" => "the kernel ended it for want of memory (see memory_max)".to_owned(),
            "start-limit-hit" => "failed too often in a row; systemd gave up".to_owned(),
            "resources" => "systemd could not get what it needs to start it".to_owned(),
            "watchdog" => "its watchdog ran out".to_owned(),
            "" | "success" => "it did not stay up".to_owned(),
            other => format!("systemd says {other}"),
        }
    }
}

/// A unit's active state in our words.
pub(super) fn state(active: &str) -> State {
    match active {
        "active" | "reloading" | "refreshing" => State::Active,
        "inactive" => State::Inactive,
        "activating" => State::Activating,
        "deactivating" | "maintenance" => State::Deactivating,
        "failed" => State::Failed,
        _ => State::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(active: &str, result: &str) -> Facts {
        Facts { active: active.into(), result: result.into(), ..Facts::default() }
    }

    #[test]
    fn a_failure_is_told_in_words() {
        for (facts, words) in [
            (Facts { exit_status: 203, ..facts("failed", "exit-code") }, "203/EXEC"),
            (Facts { exit_status: 7, ..facts("failed", "exit-code") }, "exit code 7"),
            (facts("failed", "exit-code"), "what starts it failed"),
            (Facts { exit_code: 2, exit_status: 9, ..facts("failed", "signal") }, "signal 9"),
            (facts("failed", "oom-kill"), "memory_max"),
            (facts("failed", "start-limit-hit"), "gave up"),
            (facts("failed", "something-new"), "something-new"),
        ] {
            let detail = facts.status(Service::Vm).detail.unwrap();
            assert!(detail.contains(words), "{detail}");
        }
    }

    #[test]
    fn a_vm_that_is_down_and_enabled_went_down_by_itself() {
        let down = Facts { file: "enabled".into(), ..facts("inactive", "success") };
        assert!(down.status(Service::Vm).detail.unwrap().contains("inside the guest"));
        assert_eq!(down.status(Service::Proxy).detail, None);
        let stopped = Facts { file: "disabled".into(), ..down };
        assert_eq!(stopped.status(Service::Vm).detail, None);
    }

    #[test]
    fn a_pause_between_two_tries_is_not_running() {
        for (active, sub) in [("activating", "auto-restart"), ("deactivating", "stop-post")] {
            let resting = Facts { sub: sub.into(), exit_status: 1, ..facts(active, "exit-code") };
            let status = resting.status(Service::Vm);
            assert_eq!(status.state, State::Activating);
            assert!(status.detail.unwrap().contains("next try"));
        }
        let stopping = Facts { has_job: true, ..facts("deactivating", "signal") };
        assert_eq!(stopping.status(Service::Vm).state, State::Deactivating);
    }

    #[test]
    fn this_process_is_found_by_its_pid() {
        let own = Facts { main_pid: std::process::id(), ..facts("active", "success") };
        assert_eq!(own.status(Service::Vm).process, ProcessId::own());
    }
}
