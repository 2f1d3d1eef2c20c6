//! An instance that sleeps when nobody connects: asks for its sleep, holds the clients that come meanwhile, has it woken once for
//! all of them. Puts requests into a folder and connects to the gateway.
//!
//! ```text
//!  awake ──nobody for so long──▶ asked ──taken up──▶ (asleep) ──a client──▶ waking ──the gateway accepts──▶ awake
//!                                  └─ a client: taken back ──▶ awake                  └─ it failed: clients are reset
//! ```
//! What is asleep is not known here for certain: others put instances to sleep and wake them. So every client's first try is the
//! gateway itself, where there is no sign of sleep, and only one that does not answer is asked for.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use fireclaw_host::requests::{Requests, Want};
use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, Shared},
};
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{CONNECT, reach::Gateway};

/// A guest that runs accepts within microseconds, one that is emulated on a busy host within this.
const QUICK: Duration = Duration::from_millis(300);
/// How often a request is looked after while clients wait: a file's being there.
const LOOK: Duration = Duration::from_millis(15);
/// How long one try to reach a gateway that wakes may take: the next goes out at once and not with the kernel's patience.
const TRY: Duration = Duration::from_millis(150);
/// How long clients wait, should it come to a cold boot of an emulated guest.
const PATIENCE: Duration = Duration::from_mins(20);
/// So many of those who waited go to the gateway at a time, each batch for this long: its queue of connections is short, and what
/// does not fit into it waits for seconds.
const BATCH: (usize, Duration) = (64, Duration::from_millis(5));
/// How often the idle look whether it is time.
const TURN: Duration = Duration::from_secs(1);

/// When and how an instance sleeps.
pub struct Rest {
    /// After so long without a client; `None` only wakes.
    pub after: Option<Duration>,
    /// Where the requests go.
    pub requests: Requests,
}

type Waking = Shared<LocalBoxFuture<'static, Result<(), String>>>;

/// What all connections of one proxy share about it.
pub(super) struct Sleeper {
    rest: Rest,
    gateway: Gateway,
    used: Cell<Instant>,
    /// A wish to sleep is in the folder.
    asked: Cell<bool>,
    waking: RefCell<Option<Waking>>,
    batch: Semaphore,
}

impl Sleeper {
    pub(super) fn new(rest: Rest, gateway: Gateway) -> Rc<Self> {
        let asked = Cell::new(rest.requests.is_open(Want::Sleep));
        Rc::new(Self {
            rest,
            gateway,
            used: Cell::new(Instant::now()),
            asked,
            waking: RefCell::default(),
            batch: Semaphore::new(BATCH.0),
        })
    }

    /// There is a client, or was until now.
    pub(super) fn touch(&self) {
        self.used.set(Instant::now());
    }

    /// Connects to the gateway, and has it woken before where it sleeps.
    pub(super) async fn connect(self: &Rc<Self>) -> io::Result<TcpStream> {
        // Too late to take the wish back: it falls asleep, and is woken then.
        let too_late = self.asked.replace(false) && !self.rest.requests.withdraw(Want::Sleep);
        let asleep = too_late || self.rest.requests.is_asleep() || self.waking.borrow().is_some();
        if !asleep {
            // Refused is an answer: the guest is awake.
            if let Ok(answered) = timeout(QUICK, self.gateway.connect()).await
                && !answered.as_ref().is_err_and(is_silence)
            {
                return answered;
            }
        }
        self.woken().await.map_err(io::Error::other)?;
        let _turn = self.batch.acquire().await;
        let connected = timeout(CONNECT, self.gateway.connect()).await;
        sleep(BATCH.1).await;
        connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// One waking at a time, however many wait for it.
    fn woken(self: &Rc<Self>) -> Waking {
        let mut waking = self.waking.borrow_mut();
        waking
            .get_or_insert_with(|| {
                let this = Rc::clone(self);
                let work = async move {
                    let woken = this.wake().await;
                    this.waking.replace(None);
                    woken
                };
                work.boxed_local().shared()
            })
            .clone()
    }

    async fn wake(&self) -> Result<(), String> {
        let begun = Instant::now();
        let requests = &self.rest.requests;
        requests.ask(Want::Wake).map_err(|error| format!("cannot ask for it to be woken: {error}"))?;
        // Until then what answers may be a VM that is about to be paused.
        while requests.is_open(Want::Wake) {
            if begun.elapsed() > PATIENCE {
                return Err("nobody wakes it".to_owned());
            }
            sleep(LOOK).await;
        }
        if let Some(why) = requests.failure() {
            return Err(why);
        }
        loop {
            match timeout(TRY, self.gateway.connect()).await {
                Ok(Ok(_)) => return Ok(()),
                _ if begun.elapsed() > PATIENCE => return Err("it was woken, and does not answer".to_owned()),
                // It boots, or its gateway comes up.
                Ok(Err(_)) => sleep(LOOK).await,
                Err(_) => {}
            }
        }
    }

    /// Asks for sleep whenever nobody was there for long. `busy` tells of what is no client and uses the guest all the same.
    pub(super) async fn watch(self: Rc<Self>, busy: impl Fn() -> bool) {
        let Some(after) = self.rest.after else { return };
        loop {
            sleep(TURN.min(after / 4)).await;
            if busy() || self.waking.borrow().is_some() {
                self.touch();
            }
            if self.asked.get() {
                // Dealt with: it sleeps, or it does not rest. In the latter case it is asked again, as long after as before.
                if !self.rest.requests.is_open(Want::Sleep) {
                    self.asked.set(false);
                    self.touch();
                }
            } else if self.used.get().elapsed() >= after && !self.rest.requests.is_asleep() {
                self.asked.set(self.rest.requests.ask(Want::Sleep).is_ok());
            }
        }
    }
}

/// Nobody is there, as opposed to somebody who refuses.
fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::TimedOut
    )
}
