//! Ctrl-C and SIGTERM as a flag that long work looks at. Touches the process's signal handlers, once.
//!
//! The first signal asks the work under way to end, and the engine then undoes it. While it undoes, [`Interrupt::shield`]
//! hides the flag from children and waits, so that a teardown is not itself cut short.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use fireclaw_core::error::{Context, Error, Kind, Result};

/// A shared "please stop" flag.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
    shields: Arc<AtomicUsize>,
}

impl Interrupt {
    /// A flag set by SIGINT, SIGTERM and SIGHUP of this process.
    pub fn from_signals() -> Result<Self> {
        let this = Self::default();
        for signal in [nix::libc::SIGINT, nix::libc::SIGTERM, nix::libc::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&this.asked))
                .context("handle", format!("signal {signal}"))?;
        }
        Ok(this)
    }

    /// Asks the work under way to stop.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked, shield or not.
    pub fn was_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Fails with [`Kind::Interrupted`] once somebody asked and no shield is up.
    pub fn check(&self) -> Result<()> {
        if self.was_asked() && self.shields.load(Ordering::SeqCst) == 0 {
            return Err(Error::new("finish", "the operation")
                .kind(Kind::Interrupted)
                .because("interrupted by a signal"));
        }
        Ok(())
    }

    /// Hides the flag until the guard, and every other one, is dropped: a teardown runs to its end.
    pub fn shield(&self) -> Shield {
        self.shields.fetch_add(1, Ordering::SeqCst);
        Shield(Arc::clone(&self.shields))
    }
}

/// Keeps an [`Interrupt`] hidden while it lives.
#[derive(Debug)]
pub struct Shield(Arc<AtomicUsize>);

impl Drop for Shield {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shield_hides_the_flag_and_gives_it_back() {
        let interrupt = Interrupt::default();
        interrupt.ask();
        {
            let _shield = interrupt.shield();
            drop(interrupt.shield());
            interrupt.check().unwrap();
        }
        assert_eq!(interrupt.check().unwrap_err().get_kind(), Kind::Interrupted);
    }
}
