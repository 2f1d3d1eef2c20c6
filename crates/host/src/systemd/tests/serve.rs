//! How the fake systemd speaks: real D-Bus on one end of a socket pair.

use std::os::unix::net::UnixStream;

use futures_util::StreamExt as _;
use zbus::{Connection, Message, MessageStream, ObjectPath, Variant, connection::Builder, message};

use super::{
    super::bus::{MANAGER, PATH},
    fake::{FakeSystemd, Fault},
};

impl FakeSystemd {
    /// Answers until the other end is closed.
    pub(super) async fn serve(self, stream: UnixStream) {
        let guid = zbus::Guid::generate();
        let Ok(connection) = Builder::unix_stream(stream).server(guid).p2p().build().await else { return };
        let mut messages = MessageStream::from(&connection);
        while let Some(Ok(message)) = messages.next().await {
            if message.message_type() == message::Type::MethodCall
                && self.answer(&connection, &message).await.is_none()
            {
                let _ = connection.close().await;
                return;
            }
        }
    }

    /// `None` closes the connection.
    async fn answer(&self, connection: &Connection, message: &Message) -> Option<()> {
        let header = message.header();
        let method = header.member()?.to_string();
        if self.fault(|fault| matches!(fault, Fault::Close(name) if *name == method)).is_some() {
            return None;
        }
        if self.fault(|fault| matches!(fault, Fault::Ignore(name) if *name == method)).is_some() {
            return Some(());
        }
        let refused = self.fault(|fault| matches!(fault, Fault::Refuse(name, _) if *name == method));
        if let Some(Fault::Refuse(_, error)) = refused {
            let _ = connection.reply_error(&header, error, &"injected.").await;
            return Some(());
        }
        let body = message.body();
        let unit = || body.deserialize::<(String, String)>().map(|(unit, _)| unit).unwrap_or_default();
        let unknown = "org.freedesktop.systemd1.NoSuchUnit";
        match method.as_str() {
            "Get" => {
                let (interface, name): (String, String) = body.deserialize().unwrap();
                if interface == MANAGER {
                    connection.reply(&header, &Variant::from("252.38-1~deb12u1")).await.ok()?;
                } else {
                    let value = self.properties(header.path()?).remove(&name)?;
                    connection.reply(&header, &value).await.ok()?;
                }
            }
            "Subscribe" => connection.reply(&header, &()).await.ok()?,
            "Reload" => {
                self.reload();
                connection.reply(&header, &()).await.ok()?;
            }
            "EnableUnitFiles" | "DisableUnitFiles" => {
                let names: Vec<String> = if method == "EnableUnitFiles" {
                    body.deserialize::<(Vec<String>, bool, bool)>().unwrap().0
                } else {
                    body.deserialize::<(Vec<String>, bool)>().unwrap().0
                };
                let changed = self.change_links(&method, &names[0]);
                let changes: Vec<(String, String, String)> =
                    if changed { vec![("symlink".into(), names[0].clone(), String::new())] } else { vec![] };
                if method == "EnableUnitFiles" {
                    connection.reply(&header, &(true, changes)).await.ok()?;
                } else {
                    connection.reply(&header, &changes).await.ok()?;
                }
            }
            "ListUnitsByPatterns" => {
                let rows = self.list();
                connection.reply(&header, &rows).await.ok()?;
            }
            "GetUnit" | "LoadUnit" => {
                let name: (String,) = body.deserialize().unwrap();
                if method == "GetUnit" && !self.is_loaded(&name.0) {
                    let text = format!("Unit {} not loaded.", name.0);
                    connection.reply_error(&header, unknown, &text).await.ok()?;
                    return Some(());
                }
                let path = self.load(&name.0);
                connection.reply(&header, &path).await.ok()?;
            }
            "GetAll" => {
                let properties = self.properties(header.path()?);
                connection.reply(&header, &properties).await.ok()?;
            }
            "ResetFailedUnit" => {
                let name: (String,) = body.deserialize().unwrap();
                self.note(format!("reset {}", name.0));
                if let Some(unit) = self.state.lock().unwrap().units.get_mut(&name.0) {
                    unit.restarts = 0;
                    if unit.active == "failed" {
                        unit.active = "inactive";
                    }
                }
                connection.reply(&header, &()).await.ok()?;
            }
            "KillUnit" => return self.kill(connection, &header, &body).await,
            "StartUnit" | "StopUnit" => {
                let name = unit();
                self.note(format!("{} {name}", if method == "StartUnit" { "start" } else { "stop" }));
                let known =
                    self.units.join(&name).exists() || self.state.lock().unwrap().units.contains_key(&name);
                if !known {
                    let text = format!("Unit {name} not loaded.");
                    connection.reply_error(&header, unknown, &text).await.ok()?;
                    return Some(());
                }
                return self.job(connection, &header, &name, method == "StartUnit").await;
            }
            other => {
                let _ =
                    connection.reply_error(&header, "org.freedesktop.DBus.Error.UnknownMethod", &other).await;
            }
        }
        Some(())
    }

    async fn kill(
        &self,
        connection: &Connection,
        header: &message::Header<'_>,
        body: &message::Body,
    ) -> Option<()> {
        let (name, whom, signal): (String, String, i32) = body.deserialize().unwrap();
        self.note(format!("kill {name} {whom} {signal}"));
        let hung = {
            let mut state = self.state.lock().unwrap();
            let unit = state.units.get_mut(&name);
            unit.filter(|unit| unit.active == "deactivating").map(|unit| {
                (unit.active, unit.result) = ("failed", "signal");
            })
        };
        connection.reply(header, &()).await.ok()?;
        if hung.is_some() {
            let jobs = self.state.lock().unwrap().jobs;
            removed(connection, jobs, &name, "done").await;
        }
        Some(())
    }

    async fn job(
        &self,
        connection: &Connection,
        header: &message::Header<'_>,
        name: &str,
        start: bool,
    ) -> Option<()> {
        let jobs = {
            let mut state = self.state.lock().unwrap();
            state.jobs += 1;
            state.jobs
        };
        let path = ObjectPath::try_from(format!("{PATH}/job/{jobs}")).unwrap();
        // Somebody else's job ends first: it must not be taken for ours.
        removed(connection, 9999, "other.service", "failed").await;
        connection.reply(header, &path).await.ok()?;
        let (under_way, after) = if start { ("activating", "active") } else { ("deactivating", "inactive") };
        self.set(name, under_way, "success", 0);
        if self.fault(|fault| *fault == Fault::JobHangs).is_some() {
            return Some(());
        }
        if self.fault(|fault| *fault == Fault::JobEndsUnheard).is_some() {
            self.set(name, after, "success", 0);
            return Some(());
        }
        if self.fault(|fault| *fault == Fault::UnitVanishes).is_some() {
            self.state.lock().unwrap().units.remove(name);
            let _ = std::fs::remove_file(self.units.join(name));
            removed(connection, jobs, name, "failed").await;
            return Some(());
        }
        if self.fault(|fault| *fault == Fault::CloseDuringJob).is_some() {
            self.set(name, after, "success", 0);
            return None;
        }
        let ends = self.fault(|fault| matches!(fault, Fault::JobEnds(..)));
        let (result, active) = match ends {
            Some(Fault::JobEnds(result, active)) => (result, active),
            _ => ("done", after),
        };
        self.set(name, active, if result == "done" { "success" } else { "exit-code" }, 0);
        removed(connection, jobs, name, result).await;
        Some(())
    }
}

async fn removed(connection: &Connection, job: u32, unit: &str, result: &str) {
    let path = ObjectPath::try_from(format!("{PATH}/job/{job}")).unwrap();
    let _ =
        connection.emit_signal(None::<&str>, PATH, MANAGER, "JobRemoved", &(job, path, unit, result)).await;
}
