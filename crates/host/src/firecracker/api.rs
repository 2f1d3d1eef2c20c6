//! The API of a running Firecracker: JSON over HTTP on a Unix socket. Opens that socket.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fireclaw_core::{
    error::{Context, Error, Result},
    render::firecracker::RateChange,
    spec::Rates,
};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::{self, Request, Server};

/// A client of one VM. Each call is a connection of its own.
#[derive(Debug, Clone)]
pub struct Api {
    socket: PathBuf,
    deadline: Duration,
}

/// What Firecracker says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Description {
    /// The id that the jailer was given.
    pub id: String,
    /// `Not started`, `Running` or `Paused`.
    pub state: String,
    /// `1.16.1`
    pub vmm_version: String,
}

/// What a VM can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Boots a machine that was configured over the API.
    InstanceStart,
    /// Types Ctrl-Alt-Del in the guest; `x86_64` only.
    SendCtrlAltDel,
    /// Writes the metrics out now.
    FlushMetrics,
}

/// The states that a VM can be brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmState {
    /// Its virtual CPUs stand.
    Paused,
    /// They run.
    Resumed,
}

/// Where a snapshot lies. All paths are inside the jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot<'a> {
    /// Devices and registers.
    pub state: &'a str,
    /// The guest's memory, with every secret in it.
    pub memory: &'a str,
}

impl Api {
    /// A client of the Firecracker that listens at `socket`. `deadline` is for each call.
    pub fn new(socket: &Path, deadline: Duration) -> Self {
        Self { socket: socket.to_owned(), deadline }
    }

    /// What Firecracker says of itself: `GET /`.
    pub fn describe(&self) -> Result<Description> {
        let answer = self.call(&Method::GET, "/", None)?;
        serde_json::from_value(answer).context("read the description of", self.object())
    }

    /// The whole machine configuration: `GET /vm/config`.
    pub fn config(&self) -> Result<Value> {
        self.call(&Method::GET, "/vm/config", None)
    }

    /// `PUT /actions`.
    pub fn act(&self, action: Action) -> Result<()> {
        let name = match action {
            Action::InstanceStart => "InstanceStart",
            Action::SendCtrlAltDel => "SendCtrlAltDel",
            Action::FlushMetrics => "FlushMetrics",
        };
        self.call(&Method::PUT, "/actions", Some(&json!({ "action_type": name }))).map(drop)
    }

    /// `PATCH /vm`.
    pub fn set_state(&self, state: VmState) -> Result<()> {
        let name = match state {
            VmState::Paused => "Paused",
            VmState::Resumed => "Resumed",
        };
        self.call(&Method::PATCH, "/vm", Some(&json!({ "state": name }))).map(drop)
    }

    /// Changes how fast the root disk and the card may be used: `PATCH /drives/ID`, `PATCH /network-interfaces/ID`.
    pub fn set_rates(&self, rates: &Rates) -> Result<()> {
        RateChange::all(rates).iter().try_for_each(|change| {
            let body = serde_json::to_value(change).context("render", "rates")?;
            self.call(&Method::PATCH, &change.path(), Some(&body)).map(drop)
        })
    }

    /// Writes a full snapshot of a paused VM: `PUT /snapshot/create`. Takes as long as writing its memory does, so the
    /// client's deadline has to be chosen for that.
    pub fn create_snapshot(&self, to: &Snapshot<'_>) -> Result<()> {
        let body = json!({ "snapshot_type": "Full", "snapshot_path": to.state, "mem_file_path": to.memory });
        self.call(&Method::PUT, "/snapshot/create", Some(&body)).map(drop)
    }

    /// Loads a snapshot into a Firecracker that was started without a machine: `PUT /snapshot/load`. The memory file is
    /// mapped, not read, and must not change while the VM lives. On `x86_64` the guest's clock is stepped to now.
    pub fn load_snapshot(&self, from: &Snapshot<'_>, resume: bool) -> Result<()> {
        let mut body = json!({
            "snapshot_path": from.state,
            "mem_backend": { "backend_type": "File", "backend_path": from.memory },
            "resume_vm": resume,
        });
        if cfg!(target_arch = "x86_64") {
            body["clock_realtime"] = json!(true);
        }
        self.call(&Method::PUT, "/snapshot/load", Some(&body)).map(drop)
    }

    fn object(&self) -> String {
        format!("Firecracker at {}", self.socket.display())
    }

    fn call(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let request = Request { method: method.clone(), body, ..Request::get(path, self.deadline) };
        let reply = http::send(&Server::Unix(self.socket.clone()), &request)?;
        if reply.is_success() {
            return Ok(reply.json().unwrap_or(Value::Null));
        }
        let said = reply.json().and_then(|json| json["fault_message"].as_str().map(str::to_owned));
        let why = said.unwrap_or_else(|| format!("status {}", reply.status));
        Err(Error::new("do", format!("{method} {path} at {}", self.object())).because(why))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        os::unix::net::{UnixListener, UnixStream},
        thread,
    };

    use super::*;

    /// Runs `ask` against a server that answers one request, and gives what it saw (first line and body) and the result.
    fn served<T>(status: &'static str, answer: &'static str, ask: impl FnOnce(&Api) -> T) -> (String, T) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (first, body) = received(&mut stream);
            let length = answer.len();
            let head =
                format!("HTTP/1.1 {status}\r\nServer: Firecracker API\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all((head + answer).as_bytes()).unwrap();
            format!("{first} {body}").trim_end().to_owned()
        });
        let result = ask(&Api::new(&path, Duration::from_secs(10)));
        (thread.join().unwrap(), result)
    }

    /// The first line of a request, and its body.
    pub(in crate::firecracker) fn received(stream: &mut UnixStream) -> (String, String) {
        let mut reader = BufReader::new(stream);
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first).unwrap();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        (first.trim_end().to_owned(), String::from_utf8(body).unwrap())
    }

    /// A server that answers so many requests with 204 and gives what it saw.
    fn patched(times: usize, ask: impl FnOnce(&Api) -> Result<()>) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || {
            (0..times)
                .map(|_| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let (first, body) = received(&mut stream);
                    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
                    format!("{first} {body}")
                })
                .collect()
        });
        ask(&Api::new(&path, Duration::from_secs(10))).unwrap();
        thread.join().unwrap()
    }

    #[test]
    fn rates_change_by_one_patch_a_device() {
        let set = Rates { net_mbit: Some(8), disk_iops: None, disk_mbyte: Some(5) };
        let seen = patched(2, |api| api.set_rates(&set));
        let limited = |size| json!({ "bandwidth": { "size": size, "refill_time": 1000 }, "ops": { "size": 0, "refill_time": 0 } });
        let body = |line: &str| serde_json::from_str::<Value>(line.split_once("1.1 ").unwrap().1).unwrap();
        assert!(seen[0].starts_with("PATCH /drives/disk HTTP/1.1 {"), "{seen:?}");
        assert_eq!(body(&seen[0]), json!({ "drive_id": "disk", "rate_limiter": limited(5_000_000) }));
        assert!(seen[1].starts_with("PATCH /network-interfaces/eth0 HTTP/1.1 {"), "{seen:?}");
        let card = limited(1_000_000);
        assert_eq!(
            body(&seen[1]),
            json!({ "iface_id": "eth0", "rx_rate_limiter": card, "tx_rate_limiter": card })
        );
    }

    const DONE: &str = "204 No Content";

    #[test]
    fn every_call_is_what_the_api_describes() {
        let snapshot = Snapshot { state: "/snap/state", memory: "/snap/memory" };
        let seen = [
            served(DONE, "", |api| api.act(Action::InstanceStart)),
            served(DONE, "", |api| api.act(Action::SendCtrlAltDel)),
            served(DONE, "", |api| api.act(Action::FlushMetrics)),
            served(DONE, "", |api| api.set_state(VmState::Paused)),
            served(DONE, "", |api| api.set_state(VmState::Resumed)),
            served(DONE, "", |api| api.create_snapshot(&snapshot)),
            served(DONE, "", |api| api.load_snapshot(&snapshot, true)),
        ];
        let lines: Vec<String> = seen
            .into_iter()
            .map(|(line, result)| {
                result.unwrap();
                line
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_description_is_read() {
        let answer = r#"{"id":"my--bot","state":"Running","vmm_version":"1.16.1","app_name":"Firecracker"}"#;
        let (line, described) = served("200 OK", answer, Api::describe);
        assert_eq!(line, "GET / HTTP/1.1");
        let described = described.unwrap();
        assert_eq!((described.state.as_str(), described.vmm_version.as_str()), ("Running", "1.16.1"));
    }

    #[test]
    fn a_fault_comes_through_in_firecrackers_words() {
        let answer = r#"{"fault_message":"The VM is not here."}"#;
        let (_, result) = served("400 Bad Request", answer, |api| api.set_state(VmState::Paused));
        let text = result.unwrap_err().one_line();
        assert!(text.starts_with("cannot do PATCH /vm at Firecracker at /"), "{text}");
        assert!(text.ends_with(": The VM is not here."), "{text}");
        let (_, result) = served("500 Oh", "", Api::config);
        assert!(result.unwrap_err().one_line().ends_with(": status 500"));
    }
}
