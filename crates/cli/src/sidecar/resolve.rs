//! Names to addresses: asks the host's resolvers, keeps answers for their lifetime, and remembers which addresses the guest was
//! given for which names.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use fireclaw_core::egress::HostName;
use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::udp;

/// One resolver may take so long; then the next is asked, twice around.
const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// The shortest and the longest that an answer is kept.
const LIFETIME: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(5));
/// Clients connect to an address for a while after its answer has ended.
const REMEMBERED: Duration = Duration::from_mins(15);
/// Bounds of memory; a guest that asks for more begins anew.
const NAMES_MAX: usize = 1024;
const ADDRESSES_MAX: usize = 4096;
/// More than these addresses of one name are not used.
const PER_NAME: usize = 16;

pub(super) struct Resolver {
    servers: Vec<SocketAddr>,
    kept: RefCell<HashMap<HostName, Answer>>,
    told: RefCell<HashMap<Ipv4Addr, Vec<(HostName, Instant)>>>,
}

#[derive(Clone)]
struct Answer {
    addresses: Vec<Ipv4Addr>,
    until: Instant,
}

impl Resolver {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, kept: RefCell::default(), told: RefCell::default() }
    }

    /// The addresses of a name; none when it has none. The error says why, for the log of refusals.
    pub(super) async fn lookup(&self, name: &HostName) -> Result<Vec<Ipv4Addr>, String> {
        let now = Instant::now();
        if let Some(answer) = self.kept.borrow().get(name)
            && answer.until > now
        {
            return Ok(answer.addresses.clone());
        }
        let (addresses, lifetime) = self.ask(name).await?;
        let answer = Answer { addresses, until: now + lifetime.clamp(LIFETIME.0, LIFETIME.1) };
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= NAMES_MAX {
            kept.retain(|_, answer| answer.until > now);
            if kept.len() >= NAMES_MAX {
                kept.clear();
            }
        }
        kept.insert(name.clone(), answer.clone());
        Ok(answer.addresses)
    }

    /// Remembers that the guest was told these addresses of a name.
    pub(super) fn tell(&self, name: &HostName, addresses: &[Ipv4Addr]) {
        let now = Instant::now();
        let mut told = self.told.borrow_mut();
        if told.len() >= ADDRESSES_MAX {
            told.retain(|_, names| names.iter().any(|(_, until)| *until > now));
            if told.len() >= ADDRESSES_MAX {
                told.clear();
            }
        }
        for ip in addresses {
            let names = told.entry(*ip).or_default();
            names.retain(|(known, until)| known != name && *until > now);
            if names.len() < PER_NAME {
                names.push((name.clone(), now + REMEMBERED));
            }
        }
    }

    /// The names that the guest was lately told this address for.
    pub(super) fn names_of(&self, ip: Ipv4Addr) -> Vec<HostName> {
        let now = Instant::now();
        let told = self.told.borrow();
        told.get(&ip)
            .into_iter()
            .flatten()
            .filter(|(_, until)| *until > now)
            .map(|(name, _)| name.clone())
            .collect()
    }

    async fn ask(&self, name: &HostName) -> Result<(Vec<Ipv4Addr>, Duration), String> {
        let mut why = "no resolver is known".to_owned();
        for server in self.servers.iter().cycle().take(self.servers.len() * ROUNDS) {
            match timeout(PATIENCE, exchange(*server, name)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => why = format!("resolver {}: {error}", server.ip()),
                Err(_) => why = format!("resolver {} does not answer", server.ip()),
            }
        }
        Err(why)
    }
}

/// Asks one server, by TCP when the answer does not fit a datagram.
async fn exchange(server: SocketAddr, name: &HostName) -> Result<(Vec<Ipv4Addr>, Duration), String> {
    let asked = Name::from_ascii(format!("{name}.")).map_err(|error| error.to_string())?;
    // A random id, and a socket of its own for every question: its port is as random.
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(asked, RecordType::A));
    let bytes = question.to_vec().map_err(|error| error.to_string())?;
    let text = |error: std::io::Error| error.to_string();
    let socket = udp::connected(server).and_then(UdpSocket::from_std).map_err(text)?;
    socket.send(&bytes).await.map_err(text)?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(text)?;
        // What is not the answer to this question is somebody's guess: the true one may still come.
        let Some(answer) = matching(&buffer[..length], &question) else { continue };
        if !answer.metadata.truncation {
            return read(&answer);
        }
        let mut stream = TcpStream::connect(server).await.map_err(text)?;
        let long = u16::try_from(bytes.len()).map_err(|_| "too long a question")?;
        stream.write_all(&[&long.to_be_bytes(), bytes.as_slice()].concat()).await.map_err(text)?;
        let mut whole = vec![0; usize::from(stream.read_u16().await.map_err(text)?)];
        stream.read_exact(&mut whole).await.map_err(text)?;
        return read(&matching(&whole, &question).ok_or("an answer to another question")?);
    }
}

fn matching(bytes: &[u8], question: &Message) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let fits = answer.metadata.id == question.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == question.queries;
    fits.then_some(answer)
}

/// The addresses of the name that was asked for, by way of its aliases, and how long they hold.
fn read(answer: &Message) -> Result<(Vec<Ipv4Addr>, Duration), String> {
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        other => return Err(other.to_string()),
    }
    let mut name = match answer.queries.first() {
        Some(query) => query.name().clone(),
        None => return Err("no question".to_owned()),
    };
    let mut addresses = Vec::new();
    let mut lifetime = LIFETIME.1;
    for record in answer.answers.iter().filter(|record| record.dns_class == DNSClass::IN) {
        if record.name != name {
            continue;
        }
        lifetime = lifetime.min(Duration::from_secs(record.ttl.into()));
        match &record.data {
            RData::CNAME(alias) => name = alias.0.clone(),
            RData::A(address) if addresses.len() < PER_NAME => addresses.push(address.0),
            _ => {}
        }
    }
    if addresses.is_empty() {
        lifetime = LIFETIME.0;
    }
    Ok((addresses, lifetime))
}
