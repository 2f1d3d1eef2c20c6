//! The guest's resolver. It answers for allowed names, with addresses only, and says of every other name that there is none:
//! a question that is never passed on carries nothing out.

use std::{cell::Cell, net::IpAddr, rc::Rc, time::Duration};

use fireclaw_core::egress::HostName;
use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::Sidecar;

/// Questions that wait for an answer at once; more are dropped, as a network drops them.
const AT_ONCE: usize = 64;
/// The longest question that is read.
const LONGEST: usize = 1232;
/// How long a TCP connection may be quiet, and how many questions it may bring.
const QUIET: Duration = Duration::from_secs(10);
const PER_STREAM: usize = 64;
/// What the guest is told of an answer's lifetime, in seconds. Short: a change of the policy changes answers.
const LIFETIME: u32 = 30;

pub(super) async fn datagrams(socket: UdpSocket, sidecar: Rc<Sidecar>) {
    let socket = Rc::new(socket);
    let waiting = Rc::<Cell<usize>>::default();
    let mut buffer = [0; LONGEST + 1];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(super::door::SHORTAGE).await;
            continue;
        };
        if from.ip() != IpAddr::V4(sidecar.spec.guest) || length > LONGEST {
            continue;
        }
        let Some(asked) = Asked::new(&waiting) else {
            sidecar.refuse("dns", "questions", "too many at once");
            continue;
        };
        let (question, socket, sidecar) =
            (buffer[..length].to_vec(), Rc::clone(&socket), Rc::clone(&sidecar));
        tokio::task::spawn_local(async move {
            let _asked = asked;
            if let Some(reply) = answer(&sidecar, &question).await {
                // A guest that does not take its answer asks again.
                let _ = socket.send_to(&reply, from).await;
            }
        });
    }
}

/// Counts a question for as long as it waits.
struct Asked(Rc<Cell<usize>>);

impl Asked {
    fn new(waiting: &Rc<Cell<usize>>) -> Option<Self> {
        (waiting.get() < AT_ONCE).then(|| {
            waiting.set(waiting.get() + 1);
            Self(Rc::clone(waiting))
        })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

pub(super) async fn stream(sidecar: &Rc<Sidecar>, mut guest: TcpStream) {
    for _ in 0..PER_STREAM {
        let exchange = async {
            let length = usize::from(guest.read_u16().await.ok()?);
            if length > LONGEST {
                return None;
            }
            let mut question = vec![0; length];
            guest.read_exact(&mut question).await.ok()?;
            let reply = answer(sidecar, &question).await?;
            let long = u16::try_from(reply.len()).ok()?;
            guest.write_all(&[&long.to_be_bytes(), reply.as_slice()].concat()).await.ok()
        };
        if !matches!(timeout(QUIET, exchange).await, Ok(Some(()))) {
            return;
        }
    }
}

/// `None` for what is no question at all.
async fn answer(sidecar: &Sidecar, bytes: &[u8]) -> Option<Vec<u8>> {
    let Some((question, mut reply)) = read(bytes) else {
        sidecar.refuse("dns", "-", "not a question");
        return None;
    };
    reply.metadata.response_code = fill(sidecar, &question, &mut reply).await;
    reply.to_vec().ok()
}

/// A question, and the beginning of its answer.
pub(super) fn read(bytes: &[u8]) -> Option<(Message, Message)> {
    let question =
        Message::from_vec(bytes).ok().filter(|it| it.metadata.message_type == MessageType::Query)?;
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_queries(question.queries.iter().cloned());
    Some((question, reply))
}

async fn fill(sidecar: &Sidecar, question: &Message, reply: &mut Message) -> ResponseCode {
    let [query] = question.queries.as_slice() else { return ResponseCode::FormErr };
    let shown = query.name().to_ascii();
    if question.metadata.op_code != OpCode::Query || query.query_class() != DNSClass::IN {
        sidecar.refuse("dns", &shown, "not a question for a host");
        return ResponseCode::Refused;
    }
    let name = HostName::from_wire(&shown).filter(|name| sidecar.orders().policy.resolves(name));
    let Some(name) = name else {
        // Programs ask for the names of addresses all the time, and nobody would allow those.
        let top = shown.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        if !top.eq_ignore_ascii_case("arpa") {
            sidecar.refuse("dns", shown.trim_end_matches('.'), "not on the list");
        }
        return ResponseCode::NXDomain;
    };
    // Other types have no answer: no IPv6 in the guest, no keys for hidden names, no texts that carry data.
    match query.query_type() {
        RecordType::A => {}
        RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB => return ResponseCode::NoError,
        other => {
            sidecar.refuse("dns", &format!("{name} {other}"), "only addresses are told");
            return ResponseCode::NoError;
        }
    }
    match sidecar.resolver.lookup(&name).await {
        Err(why) => {
            sidecar.refuse("dns", name.as_str(), &why);
            ResponseCode::ServFail
        }
        Ok(addresses) => {
            let policy = &sidecar.orders().policy;
            let (good, bad): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|ip| policy.may_learn(*ip));
            if let Some(bad) = bad.first() {
                sidecar.refuse(
                    "dns",
                    name.as_str(),
                    &format!("its address {bad} is not of the public internet"),
                );
            }
            sidecar.resolver.tell(&name, &good);
            sidecar.tally.answer();
            for ip in &good {
                reply.add_answer(Record::from_rdata(query.name().clone(), LIFETIME, RData::A((*ip).into())));
            }
            ResponseCode::NoError
        }
    }
}
