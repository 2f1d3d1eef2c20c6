//! How fast a link sends: a token bucket filter, tc-tbf(8), as the link's root queue. For a VM's tap that is what goes to its guest;
//! what comes from the guest is held by the firewall. Talks to the kernel's rtnetlink.
//!
//! The library knows the message and not this queue's options, so these are put together here, as `linux/pkt_sched.h` and
//! `net/sched/sch_tbf.c` have them.

use fireclaw_core::error::Result;
use futures_util::StreamExt;
use nix::libc;
use rtnetlink::{
    Error as NetlinkError,
    packet_core::{
        DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcHandle, TcMessage, TcOption},
    },
};

use super::{Link, Netlink};

const KIND: &str = "tbf";
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;

/// What passes at once: fiftieths of a second, and never less than the largest packet that the kernel has not cut yet.
const BURST_PARTS: u64 = 50;
const LEAST_BURST: u64 = 128 << 10;
/// What waits: a tenth of a second, and the burst.
const QUEUE_PARTS: u64 = 10;

/// Our queue's number. Others of a link begin at 8001.
const HANDLE: TcHandle = TcHandle { major: 1, minor: 0 };

impl Netlink {
    /// Lets a link send so many bytes a second, or as many as it can. A queue of ours that is there is changed in place.
    pub fn shape(&self, link: &Link, bytes_per_second: Option<u64>) -> Result<()> {
        let mut message = TcMessage::default();
        message.header.index = i32::try_from(link.index).unwrap_or_default();
        message.header.parent = TcHandle::ROOT;
        message.header.handle = HANDLE;
        let object = format!("the rate of {}", link.name);
        if let Some(rate) = bytes_per_second {
            message.attributes.push(TcAttribute::Kind(KIND.to_owned()));
            message.attributes.push(TcAttribute::Options(options(rate)));
            let flags = NLM_F_CREATE | NLM_F_REPLACE;
            let asked = self.ask(RouteNetlinkMessage::NewQueueDiscipline(message), flags);
            return self.wait("set", &object, asked).map_err(|error| {
                error.hint("the kernel needs the module `sch_tbf`; `--net-mbit none` lifts the limit")
            });
        }
        let asked = self.runtime.block_on(self.ask(RouteNetlinkMessage::DelQueueDiscipline(message), 0));
        match asked {
            // It has the kernel's own queue, or somebody else's: that stays.
            Err(NetlinkError::NetlinkError(message))
                if matches!(-message.raw_code(), libc::ENOENT | libc::EINVAL) =>
            {
                Ok(())
            }
            other => self.wait("lift", &object, std::future::ready(other)),
        }
    }

    /// Sends a request and waits until the kernel says that it is done.
    async fn ask(&self, request: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.handle.clone().request(message)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(NetlinkError::NetlinkError(error));
            }
        }
        Ok(())
    }
}

fn options(rate: u64) -> Vec<TcOption> {
    let burst = narrow((rate / BURST_PARTS).max(LEAST_BURST));
    let queue = narrow(rate / QUEUE_PARTS).saturating_add(burst);
    let other = |kind: u16, bytes: &[u8]| TcOption::Other(DefaultNla::new(kind, bytes.to_vec()));
    vec![
        other(TCA_TBF_PARMS, &parameters(narrow(rate), queue)),
        other(TCA_TBF_RATE64, &rate.to_ne_bytes()),
        // With this the kernel needs neither `buffer` in its own ticks nor a table of them.
        other(TCA_TBF_BURST, &burst.to_ne_bytes()),
    ]
}

/// `struct tc_tbf_qopt`: two of `struct tc_ratespec` (`cell_log`, `linklayer`, `overhead`, `cell_align`, `mpu`, `rate`), the second for a peak
/// rate that there is none of; then limit, buffer, mtu.
fn parameters(rate: u32, queue: u32) -> Vec<u8> {
    let mut bytes = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    bytes.extend(rate.to_ne_bytes());
    bytes.extend([0; 12]);
    for word in [queue, 0, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

/// A larger rate stands beside it in 64 bits.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
