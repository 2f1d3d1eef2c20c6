//! Requests in the last hour, against a limit. Touches nothing: the time is handed in.

/// Counts by the minute: what was taken in a minute is given back when that minute is an hour old.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    minutes: [u32; 60],
    /// The minute that was counted last.
    now: u64,
}

impl Budget {
    /// Nothing taken yet.
    pub const fn new() -> Self {
        Self { minutes: [0; 60], now: 0 }
    }

    /// Requests of the hour that ends with `minute` (minutes since any fixed point, never less than before).
    pub fn taken(&mut self, minute: u64) -> u32 {
        for gone in (self.now + 1..=minute).take(60) {
            self.minutes[slot(gone)] = 0;
        }
        self.now = self.now.max(minute);
        self.minutes.iter().sum()
    }

    /// Takes one when the limit leaves it; else says after how many minutes it is worth asking again.
    pub fn take(&mut self, minute: u64, limit: Option<u32>) -> Result<(), u64> {
        let taken = self.taken(minute);
        if limit.is_some_and(|limit| taken >= limit) {
            let oldest = (1..=60).find(|back| self.minutes[slot(self.now + back)] > 0);
            return Err(oldest.unwrap_or(60));
        }
        self.minutes[slot(self.now)] += 1;
        Ok(())
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

fn slot(minute: u64) -> usize {
    usize::try_from(minute % 60).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_comes_back_after_an_hour() {
        let mut budget = Budget::new();
        assert_eq!(budget.take(100, Some(2)), Ok(()));
        assert_eq!(budget.take(130, Some(2)), Ok(()));
        assert_eq!(budget.take(131, Some(2)), Err(29));
        assert_eq!(budget.take(159, Some(2)), Err(1));
        assert_eq!(budget.take(160, Some(2)), Ok(()));
        assert_eq!(budget.take(161, Some(2)), Err(29));
        assert_eq!(budget.taken(1_000_000), 0);
        assert!((0..100).all(|_| budget.take(1_000_000, None).is_ok()));
    }

    proptest::proptest! {
        #[test]
        fn no_hour_has_more_than_the_limit(steps in proptest::collection::vec(0..20u64, 1..200), limit in 1..10u32) {
            let (mut budget, mut now, mut taken) = (Budget::new(), 5, Vec::new());
            for step in steps {
                now += step;
                if budget.take(now, Some(limit)).is_ok() {
                    taken.push(now);
                }
                let hour = taken.iter().filter(|at| **at + 60 > now).count();
                proptest::prop_assert!(hour <= limit as usize);
            }
        }
    }
}
