//! Limits how much peers can make this process hold: a budget, and the shares reserved of it. Every
//! module may use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A limit on what is in use at one time. A budget within an outer one reserves its shares there as well.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    outer: Option<Arc<Self>>,
}

/// A reserved part of a budget, released on drop.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    amount: usize,
}

impl Budget {
    /// A budget without an outer one.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), outer: None })
    }

    /// A budget within `outer`: neither limit may be exceeded.
    #[must_use]
    pub fn within(outer: &Arc<Self>, limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), outer: Some(Arc::clone(outer)) })
    }

    /// Reserves a share; `None` if not enough is left.
    #[must_use]
    pub fn take(self: &Arc<Self>, amount: usize) -> Option<Share> {
        self.add(amount).then(|| Share { budget: Arc::clone(self), amount })
    }

    /// The most that may be reserved.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How much is reserved.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn add(&self, amount: usize) -> bool {
        let fits = |used: usize| used.checked_add(amount).filter(|sum| *sum <= self.limit);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return false;
        }
        let fits_outer = self.outer.as_ref().is_none_or(|outer| outer.add(amount));
        if !fits_outer {
            self.used.fetch_sub(amount, Ordering::Relaxed);
        }
        fits_outer
    }

    fn give_back(&self, amount: usize) {
        self.used.fetch_sub(amount, Ordering::Relaxed);
        if let Some(outer) = &self.outer {
            outer.give_back(amount);
        }
    }
}

impl Share {
    /// Enlarges the share; false if not enough is left.
    #[must_use]
    pub fn grow(&mut self, amount: usize) -> bool {
        let grown = self.budget.add(amount);
        if grown {
            self.amount += amount;
        }
        grown
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_budgets_are_never_exceeded_and_are_released_in_full() {
        let outer = Budget::new(10);
        let [one, other] = [0, 1].map(|_| Budget::within(&outer, 7));
        let mut first = one.take(4).unwrap();
        assert!(one.take(4).is_none(), "its own limit");
        assert!(first.grow(3));
        assert!(!first.grow(1), "its own limit");
        let second = other.take(3).unwrap();
        assert!(other.take(1).is_none(), "the outer limit");
        drop(first);
        assert_eq!(outer.used(), 3);
        let third = other.take(4).unwrap();
        assert!(other.take(usize::MAX).is_none(), "no overflow");
        drop((second, third));
        for budget in [&outer, &one, &other] {
            assert_eq!(budget.used(), 0);
        }
    }
}
