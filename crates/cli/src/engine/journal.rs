//! The journal of one operation on one instance: a file of JSON lines, each on the disk before the step it speaks of goes
//! on. Touches that file.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use fireclaw_core::{
    error::{Context, Error, Result},
    plan::{Action, Plan, Step},
};
use fireclaw_host::fs;
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// The first: what was going to be done.
    Plan(Plan),
    /// The action at this index begins.
    Begun(usize),
    /// It is done.
    Done(usize),
    /// The inverse of a step begins.
    Undoing(Step),
}

/// A journal that is being written.
#[derive(Debug)]
pub struct Journal {
    /// None where the disk had no room for one.
    file: Option<File>,
    path: PathBuf,
}

impl Journal {
    /// Begins a journal. One that is there already is an operation that was not recovered: a defect of the caller.
    pub fn create(path: &Path, plan: &Plan) -> Result<Self> {
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        fs::make_private_dir(folder)?;
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .context("begin journal", path.display())?;
        let mut journal = Self { file: Some(file), path: path.to_owned() };
        if let Err(error) = journal.append(&Entry::Plan(plan.clone())).and_then(|()| fs::sync_dir(folder)) {
            // Nothing has been done: a full disk must not leave a journal that says otherwise.
            fs::remove_file(path)?;
            return Err(error);
        }
        Ok(journal)
    }

    /// Opens a journal that an earlier run left, to go on with it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path).context("open journal", path.display())?;
        Ok(Self { file: Some(file), path: path.to_owned() })
    }

    /// One that keeps nothing, for what may be begun again from any point.
    pub fn none(path: &Path) -> Self {
        Self { file: None, path: path.to_owned() }
    }

    /// Adds a line and waits until it is on the disk. Where it cannot be written no part of it is left: what is read back ends at
    /// the first line that is not whole.
    pub fn append(&mut self, entry: &Entry) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut line = serde_json::to_vec(entry).context("render", "a journal entry")?;
        line.push(b'\n');
        let end = file.metadata().context("look at", self.path.display())?.len();
        let written = file.write_all(&line).and_then(|()| file.sync_data());
        if written.is_err() {
            let _ = file.set_len(end);
        }
        written.context("write journal", self.path.display())
    }

    /// Ends the journal: the operation is over.
    pub fn remove(&self) -> Result<()> {
        fs::remove_file(&self.path)?;
        fs::sync_dir(self.path.parent().unwrap_or_else(|| Path::new(".")))
    }
}

/// What a journal tells of an operation that was cut short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// What was going to be done.
    pub plan: Plan,
    /// The actions that were begun.
    pub begun: Vec<Action>,
    /// The actions that were done.
    pub done: Vec<Action>,
}

impl Past {
    /// Reads a journal; `None` when there is none, or when the crash came before its first line was whole: then nothing
    /// had been done.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let Some(text) = fs::read_if_there(path)? else { return Ok(None) };
        let mut lines = text.lines();
        let Some(Ok(Entry::Plan(plan))) = lines.next().map(serde_json::from_str::<Entry>) else {
            return if text.lines().count() <= 1 {
                fs::remove_file(path)?;
                Ok(None)
            } else {
                Err(Error::new("read journal", path.display().to_string())
                    .because("its first line is not a plan")
                    .hint(format!(
                        "`fireclaw destroy {} --force` clears the instance",
                        path.file_stem().unwrap_or_default().display()
                    )))
            };
        };
        let mut past = Self { plan, begun: Vec::new(), done: Vec::new() };
        for line in lines {
            // The last line may be cut off by the crash; what it would have said had not happened.
            let Ok(entry) = serde_json::from_str(line) else { break };
            let action = |index: usize| past.plan.actions.get(index).copied();
            match entry {
                Entry::Begun(index) => past.begun.extend(action(index)),
                Entry::Done(index) => past.done.extend(action(index)),
                Entry::Plan(_) | Entry::Undoing(_) => {}
            }
        }
        Ok(Some(past))
    }

    /// Whether the operation had passed the step after which its work is kept.
    pub fn is_committed(&self) -> bool {
        match self.plan.commit {
            Some(commit) => self.done.iter().any(|action| action.step == commit),
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_back_to_the_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j/a.jsonl");
        let plan = Plan::setup(&"a".parse().unwrap());
        let mut journal = Journal::create(&path, &plan).unwrap();
        for entry in [Entry::Begun(0), Entry::Done(0), Entry::Begun(1)] {
            journal.append(&entry).unwrap();
        }
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"do").unwrap();
        let past = Past::read(&path).unwrap().unwrap();
        assert_eq!((past.begun.len(), past.done.len(), past.is_committed()), (2, 1, false));
        journal.remove().unwrap();
        assert_eq!(Past::read(&path).unwrap(), None);
    }

    #[test]
    fn a_journal_cut_in_its_first_line_says_that_nothing_was_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, "{\"plan\":{\"oper").unwrap();
        assert_eq!(Past::read(&path).unwrap(), None);
        assert!(!path.exists());
    }
}
