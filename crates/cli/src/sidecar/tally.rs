//! What a sidecar counts: names, connections, refusals, use of keys. The use of keys survives a restart in a file that was opened
//! as root; the rest is of this run.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs::File,
    io::Read,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    rc::Rc,
    time::Duration,
};

use fireclaw_core::{
    broker::Provider,
    error::{Context, Result},
    sidecar::{Refusals, Report, Usage},
};
use fireclaw_host::memory;

use super::Sidecar;

/// How often counters are written down while they change.
const PERIOD: Duration = Duration::from_secs(20);
/// The file is always written whole, at this size: one write that a crash does not leave half of the old one behind.
const SIZE: usize = 2048;

pub(super) struct Tally {
    file: File,
    answered: Cell<u64>,
    connected: Cell<u64>,
    refused: Cell<u64>,
    refusals: RefCell<Refusals>,
    usage: RefCell<BTreeMap<Provider, Usage>>,
    written: RefCell<BTreeMap<Provider, Usage>>,
}

impl Tally {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).context("open", path.display())?;
        let mut text = String::new();
        // Counters that cannot be read begin anew: they are no reason to run no proxy.
        let usage: BTreeMap<Provider, Usage> = match (&file).take(1 << 16).read_to_string(&mut text) {
            Ok(_) => serde_json::from_str(text.trim()).unwrap_or_default(),
            Err(_) => BTreeMap::new(),
        };
        Ok(Self {
            file,
            answered: Cell::default(),
            connected: Cell::default(),
            refused: Cell::default(),
            refusals: RefCell::default(),
            written: RefCell::new(usage.clone()),
            usage: RefCell::new(usage),
        })
    }

    pub(super) fn answer(&self) {
        self.answered.set(self.answered.get() + 1);
    }

    pub(super) fn connect(&self) {
        self.connected.set(self.connected.get() + 1);
    }

    pub(super) fn refuse(&self, via: &str, what: &str, why: &str, now: u64) {
        self.refused.set(self.refused.get() + 1);
        self.refusals.borrow_mut().note(via, what, why, now);
    }

    pub(super) fn count(&self, provider: Provider, change: impl FnOnce(&mut Usage)) {
        change(self.usage.borrow_mut().entry(provider).or_default());
    }

    pub(super) fn report(&self) -> Report {
        Report {
            answered: self.answered.get(),
            connected: self.connected.get(),
            refused: self.refused.get(),
            refusals: self.refusals.borrow().list().to_vec(),
            usage: self.usage.borrow().clone(),
            ..Report::default()
        }
    }

    pub(super) fn save(&self, note: &dyn Fn(&str)) {
        let usage = self.usage.borrow().clone();
        if *self.written.borrow() == usage {
            return;
        }
        let mut text = serde_json::to_string(&usage).unwrap_or_default();
        text.push_str(&" ".repeat(SIZE.saturating_sub(text.len() + 1)));
        text.push('\n');
        match self.file.write_all_at(text.as_bytes(), 0) {
            Ok(()) => *self.written.borrow_mut() = usage,
            Err(error) => note(&format!("the use of keys cannot be written down: {error}")),
        }
    }
}

/// Writes the counters down now and then, and gives back what a crowd needed.
pub(super) async fn keep(sidecar: Rc<Sidecar>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        sidecar.save();
        if sidecar.crowd.has_gone() {
            memory::give_back();
        }
    }
}
