//! How many connections are open at once, and when so many have gone that their memory is worth giving back. Touches nothing.

use std::cell::Cell;

/// From so many on, what they needed is more than a few pages.
const MANY: usize = 50;

/// Counts those that are there. For one thread.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    here: Cell<usize>,
    /// The most that were here at once since a crowd has gone.
    most: Cell<usize>,
}

impl Crowd {
    /// How many are here.
    pub(crate) fn here(&self) -> usize {
        self.here.get()
    }

    /// One more.
    pub(crate) fn enter(&self) {
        self.here.set(self.here.get() + 1);
        self.most.set(self.most.get().max(self.here.get()));
    }

    /// One less.
    pub(crate) fn leave(&self) {
        self.here.set(self.here.get() - 1);
    }

    /// Whether nobody is left of many. True once for each crowd.
    pub(crate) fn has_gone(&self) -> bool {
        let gone = self.here.get() == 0 && self.most.get() >= MANY;
        if gone {
            self.most.set(0);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_goes_once_and_a_few_are_none() {
        let crowd = Crowd::default();
        let come_and_go = |count: usize| {
            for _ in 0..count {
                crowd.enter();
            }
            assert!(!crowd.has_gone(), "{count} are here");
            for _ in 0..count {
                crowd.leave();
            }
        };
        come_and_go(MANY - 1);
        assert!(!crowd.has_gone());
        come_and_go(MANY);
        assert!(crowd.has_gone() && !crowd.has_gone());
        assert_eq!(crowd.here(), 0);
    }
}
