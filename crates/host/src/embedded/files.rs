//! The files in the supervisor's folder of an instance, and the logs that it writes.

use std::path::PathBuf;

use fireclaw_core::{error::Result, id::InstanceId, layout::Layout};

use crate::supervisor::Service;

/// Every path that the embedded supervisor touches.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// 0700.
    pub(super) dir: PathBuf,
    /// The control socket, 0600.
    pub(super) socket: PathBuf,
    /// Held by the one supervisor for as long as it lives.
    pub(super) lock: PathBuf,
    /// What the supervisor itself says: its errors, and panics.
    pub(super) own_log: PathBuf,
    /// What `halt` and `clean` say.
    pub(super) helper_log: PathBuf,
    /// What the proxy asks for.
    pub(super) requests: PathBuf,
    console_log: PathBuf,
    proxy_log: PathBuf,
}

impl Files {
    /// The files of an instance.
    pub(super) fn of(layout: &Layout, id: &InstanceId) -> Result<Self> {
        let paths = layout.instance(id)?;
        let dir = paths.supervisor_dir;
        Ok(Self {
            socket: paths.supervisor_sock,
            lock: dir.join("lock"),
            own_log: dir.join("supervisor.log"),
            helper_log: dir.join("helpers.log"),
            dir,
            requests: paths.requests_dir,
            console_log: paths.console_log,
            proxy_log: paths.proxy_log,
        })
    }

    /// What is written down of a service.
    pub(super) fn record(&self, service: Service) -> PathBuf {
        self.dir.join(match service {
            Service::Vm => "vm.json",
            Service::Proxy => "proxy.json",
        })
    }

    /// The pipe from a service's output to us.
    pub(super) fn fifo(&self, service: Service) -> PathBuf {
        self.dir.join(match service {
            Service::Vm => "console.fifo",
            Service::Proxy => "proxy.fifo",
        })
    }

    /// Where its output ends up.
    pub(super) fn log(&self, service: Service) -> PathBuf {
        match service {
            Service::Vm => self.console_log.clone(),
            Service::Proxy => self.proxy_log.clone(),
        }
    }
}
