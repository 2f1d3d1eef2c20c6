//! `logs`

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Kind, Result},
    id::InstanceId,
    spec::SupervisorKind,
    state::InstanceRecord,
};
use fireclaw_host::{
    exec::Stream,
    fs,
    supervisor::Service,
    systemd::journal::{self, Line},
    wait::{Probed, Requirement, until},
};

use super::shell::reachable;
use crate::{
    app::App,
    args::{LogSource, LogsArgs},
    steps::guest_of,
};

/// Follows the gateway's log in the guest, or the host's files.
pub fn run(app: &App, args: &LogsArgs) -> Result<ExitCode> {
    let record = app.store().load(&args.id.parse()?)?;
    match args.source {
        LogSource::Guest => guest(app, &record, args),
        LogSource::Host => host(app, &record, args),
    }
}

fn guest(app: &App, record: &InstanceRecord, args: &LogsArgs) -> Result<ExitCode> {
    let guest = guest_of(app, record)?;
    reachable(app, &record.id, &guest)?;
    let unit = record.id.guest_unit();
    let lines = args.lines.to_string();
    let mut words: Vec<String> =
        ["sudo", "-n", "journalctl", "--no-pager", "-o", "short-iso", "-n", &lines, "-u", unit.as_str()]
            .map(str::to_owned)
            .to_vec();
    if !args.no_follow {
        words.push("--follow".to_owned());
    }
    let code = app.host.shell.attach(&guest, &words, Some(false));
    app.host.shell.close(&guest)?;
    code.map(ExitCode::from)
}

/// Under systemd the journal of both units; else the host's three logs, each line with the name of its own.
fn host(app: &App, record: &InstanceRecord, args: &LogsArgs) -> Result<ExitCode> {
    if app.supervised_by(record) == SupervisorKind::Systemd {
        return journal(app, &record.id, args);
    }
    let paths = app.settings.layout.instance(&record.id)?;
    let mut followed = Vec::new();
    for (name, path) in [("vmm", paths.vmm_log), ("console", paths.console_log), ("proxy", paths.proxy_log)] {
        let mut log = Followed { name, path, position: 0, part: Vec::new() };
        log.begin(app, args.lines)?;
        followed.push(log);
    }
    if args.no_follow {
        return Ok(ExitCode::SUCCESS);
    }
    let forever = Requirement {
        description: "the end of the logs".to_owned(),
        deadline: Duration::from_secs(u64::from(u32::MAX)),
        hint: String::new(),
    };
    let ended = until::<()>(&forever, &app.interrupt, || {
        for log in &mut followed {
            if let Err(error) = log.go_on(app) {
                return Probed::Never(error);
            }
        }
        Probed::NotYet(String::new())
    });
    match ended {
        // Ctrl-C is how one ends a log that is followed.
        Err(error) if error.get_kind() == Kind::Interrupted => Ok(ExitCode::SUCCESS),
        other => other.map(|()| ExitCode::SUCCESS),
    }
}

fn journal(app: &App, id: &InstanceId, args: &LogsArgs) -> Result<ExitCode> {
    let mut shown = Ok(());
    let command = journal::command(id, &Service::ALL, args.lines, !args.no_follow);
    let ended =
        app.host.exec.check_stream(command, &mut |stream, line| match (stream, Line::read(line, id)) {
            (Stream::Stdout, Some(line)) if shown.is_ok() => shown = app.ui.result(&format!("{line}\n")),
            (Stream::Stderr, _) => app.ui.warn(line),
            _ => {}
        });
    match ended {
        // Ctrl-C is how one ends a log that is followed.
        Err(error) if error.get_kind() == Kind::Interrupted => Ok(ExitCode::SUCCESS),
        other => other.and(shown).map(|()| ExitCode::SUCCESS),
    }
}

struct Followed {
    name: &'static str,
    path: PathBuf,
    position: u64,
    part: Vec<u8>,
}

impl Followed {
    fn begin(&mut self, app: &App, lines: u32) -> Result<()> {
        let Some(text) = fs::tail(&self.path, 4 << 20)? else { return Ok(()) };
        self.position = std::fs::metadata(&self.path).context("read", self.path.display())?.len();
        let all: Vec<&str> = text.lines().collect();
        for line in &all[all.len().saturating_sub(lines as usize)..] {
            self.show(app, line)?;
        }
        Ok(())
    }

    fn go_on(&mut self, app: &App) -> Result<()> {
        let Ok(mut file) = File::open(&self.path) else { return Ok(()) };
        let length = file.metadata().context("read", self.path.display())?.len();
        // A shorter file is a new one: the log was rotated.
        if length < self.position {
            self.position = 0;
        }
        file.seek(SeekFrom::Start(self.position)).context("read", self.path.display())?;
        let mut new = Vec::new();
        file.take(1 << 20).read_to_end(&mut new).context("read", self.path.display())?;
        self.position += new.len() as u64;
        self.part.extend(new);
        while let Some(end) = self.part.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.part.drain(..=end).collect();
            self.show(app, String::from_utf8_lossy(&line).trim_end())?;
        }
        Ok(())
    }

    /// A guest writes its console: control characters, which could repaint the reader's terminal, are not passed on.
    fn show(&self, app: &App, line: &str) -> Result<()> {
        let safe: String = line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
        app.ui.result(&format!("{:<7} {safe}\n", self.name))
    }
}
