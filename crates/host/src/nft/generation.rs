//! Whether the kernel's rules are still those that were put in last: by their generation, a number that every change of any table
//! raises by one. Asks over netlink, writes one file.

use std::path::Path;

use fireclaw_core::error::{Context, Error, Result};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use sha2::{Digest, Sha256};

/// `NFNL_SUBSYS_NFTABLES` in the upper byte, see `linux/netfilter/nfnetlink.h`.
const NFTABLES: u16 = 10 << 8;
/// `NFT_MSG_NEWGEN` and `NFT_MSG_GETGEN`, see `linux/netfilter/nf_tables.h`.
const NEW_GENERATION: u16 = NFTABLES | 15;
const GET_GENERATION: u16 = NFTABLES | 16;
/// `NFTA_GEN_ID`: 32 bits, the first byte the highest.
const GENERATION_ID: u16 = 1;
const NLM_F_REQUEST: u16 = 1;
/// Of a netlink message, and of nfnetlink's own after it.
const HEADER: usize = 16;
const OWN_HEADER: usize = 4;

/// A file that tells which ruleset holds, and until when.
#[derive(Debug, Clone, Copy)]
pub struct Mark<'a>(&'a Path);

impl<'a> Mark<'a> {
    /// In this file.
    pub fn at(path: &'a Path) -> Self {
        Self(path)
    }

    /// Has a ruleset installed unless it is in force already. To be called by one at a time. Where the generation cannot be told,
    /// or somebody else changed rules in the same moment, nothing is remembered.
    pub fn keep(self, ruleset: &str, install: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = generation().ok();
        let marked =
            |generation| Ok::<_, Error>(format!("{} {:x}\n", place(generation)?, Sha256::digest(ruleset)));
        if let Some(generation) = before
            && crate::fs::read_if_there(self.0)?.as_deref() == Some(&marked(generation)?)
        {
            return Ok(());
        }
        crate::fs::remove_file(self.0)?;
        install()?;
        match (before, generation()) {
            (Some(before), Ok(after)) if after == following(before) => {
                crate::fs::write(self.0, marked(after)?.as_bytes(), 0o600)
            }
            _ => Ok(()),
        }
    }
}

/// Zero stands for none, and is left out.
const fn following(generation: u32) -> u32 {
    let next = generation.wrapping_add(1);
    if next == 0 { 1 } else { next }
}

/// The count begins anew with every boot, and each network namespace has its own.
fn place(generation: u32) -> Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read", "the boot's id")?;
    let namespace =
        std::fs::read_link("/proc/thread-self/ns/net").context("read", "the network namespace")?;
    Ok(format!("{} {} {generation}", boot.trim_end(), namespace.display()))
}

/// Of the rules of the calling thread's network namespace.
fn generation() -> Result<u32> {
    const WHAT: &str = "the generation of the firewall's rules";
    let socket = Socket::new(NETLINK_NETFILTER).context("ask for", WHAT)?;
    socket.connect(&SocketAddr::new(0, 0)).context("ask for", WHAT)?;
    let mut question = Vec::with_capacity(HEADER + OWN_HEADER);
    question.extend(u32::try_from(HEADER + OWN_HEADER).unwrap_or(u32::MAX).to_ne_bytes());
    question.extend([GET_GENERATION, NLM_F_REQUEST].map(u16::to_ne_bytes).concat());
    // Sequence and port; then a family of none, a version of 0 and no resource.
    question.extend([0; 8 + OWN_HEADER]);
    socket.send(&question, 0).context("ask for", WHAT)?;
    let (answer, _) = socket.recv_from_full().context("ask for", WHAT)?;
    read(&answer).ok_or_else(|| Error::new("read", WHAT))
}

/// The generation in an answer.
fn read(answer: &[u8]) -> Option<u32> {
    let word = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if word(4)? != NEW_GENERATION {
        return None;
    }
    let mut at = HEADER + OWN_HEADER;
    loop {
        let (length, kind) = (usize::from(word(at)?), word(at + 2)?);
        if kind == GENERATION_ID {
            return Some(u32::from_be_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?));
        }
        // Attributes begin at multiples of four.
        at += length.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_anything_else_is_none() {
        let mut answer = vec![0; HEADER + OWN_HEADER];
        answer[4..6].copy_from_slice(&NEW_GENERATION.to_ne_bytes());
        for (kind, value) in [(3_u16, b"nft\0"), (GENERATION_ID, &[0, 0, 1, 2])] {
            answer.extend([8_u16, kind].map(u16::to_ne_bytes).concat());
            answer.extend(value);
        }
        assert_eq!(read(&answer), Some(258));
        for end in 0..answer.len() {
            assert_eq!(read(&answer[..end]), None, "{end} bytes");
        }
        answer[4] = 2;
        assert_eq!(read(&answer), None);
    }
}
