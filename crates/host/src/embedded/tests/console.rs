//! Output: into the log, bounded, and never in the way.

use std::{fs, path::Path, time::Duration};

use super::{Host, eventually, id, within};
use crate::{
    embedded::console::{Buffer, Console, LOG_LIMIT},
    supervisor::{Service, State},
};

const SOON: Duration = Duration::from_secs(5);

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

#[test]
fn an_endless_writer_fills_no_disk_and_keeps_nobody_waiting() {
    let host = Host::new();
    host.script("run", "exec yes 'a guest that writes without end'\n");
    within(SOON, || host.start(Service::Vm));
    let log = host.layout.instance(&id()).unwrap().console_log;
    let old = log.with_extension("log.1");
    eventually("the second log", || if size(&old) > 0 { Ok(()) } else { Err(size(&log).to_string()) });
    within(SOON, || host.start(Service::Proxy));
    assert_eq!(host.vm().state, State::Active);
    assert!(size(&log) <= LOG_LIMIT && size(&old) <= LOG_LIMIT);
    assert!(size(&old) > LOG_LIMIT - (64 << 10));
    within(SOON, || host.stop(Service::Vm, Duration::ZERO));
    assert!(host.console().contains("ended by signal 9"));
    let mut logs = crate::fs::names(log.parent().unwrap()).unwrap();
    logs.retain(|name| name.starts_with("console"));
    assert_eq!(logs, ["console.log", "console.log.1"]);
}

fn console(dir: &Path) -> Console {
    Console::open(dir.join("fifo"), dir.join("log")).unwrap()
}

fn write(console: &Console, text: &str) {
    use std::io::Write;
    console.for_service().unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn last_words_are_one_safe_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut console = console(dir.path());
    let mut said = |text: &str| {
        console.begin();
        write(&console, text);
        console.drain(&mut Buffer::default());
        console.last_words()
    };
    assert_eq!(said(""), None);
    assert_eq!(said("\n \n"), None);
    assert_eq!(said("one\ntwo\n"), Some("two".into()));
    assert_eq!(said("error: a\nhint: b\nerror: c\ncaused by: d\n"), Some("error: c; caused by: d".into()));
    assert_eq!(said("\u{1b}[31mred\u{7}\r\n"), Some("[31mred".into()));
    assert_eq!(said(&"x".repeat(5000)).unwrap().len(), 240);
    assert_eq!(said(&format!("{}\nthe end", "é".repeat(3000))), Some("the end".into()));
}

#[test]
fn a_disk_that_is_full_costs_output_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.path().join("log")).unwrap();
    let mut console = console(dir.path());
    write(&console, "lost");
    console.drain(&mut Buffer::default());
    fs::remove_file(dir.path().join("log")).unwrap();
    write(&console, "kept");
    console.drain(&mut Buffer::default());
    assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "kept");
}

#[test]
fn a_pipe_that_nobody_reads_holds_a_whole_boot() {
    let dir = tempfile::tempdir().unwrap();
    let mut console = console(dir.path());
    let text = "x".repeat(900 << 10);
    write(&console, &text);
    // The next supervisor's.
    let next = Console::open(dir.path().join("fifo"), dir.path().join("log")).unwrap();
    console.drain(&mut Buffer::default());
    drop(next);
    assert_eq!(size(&dir.path().join("log")), 900 << 10);
}

#[test]
fn what_is_not_a_pipe_is_replaced_by_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("fifo"), "a file").unwrap();
    let mut console = console(dir.path());
    write(&console, "through");
    console.drain(&mut Buffer::default());
    assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "through");
}
