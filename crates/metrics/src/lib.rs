// SPDX-License-Identifier: Apache-2.0
//! What a device or a thread has done, and what can be seen of it while the machine runs.
//!
//! A device keeps [`Counter`]s, together with what else is worth a look, in a struct behind an `Arc`
//! (`metrics.rs` in its folder). The device adds to it; any thread may read it at any time through
//! [`Inspect`], because nothing in it is behind a lock that a vCPU takes.
//!
//! A [`View`] is a snapshot: names and values, in a fixed order, with views of parts inside. Values are read
//! one by one, so two counters of one view may be an event apart.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number of events since the machine was built. It wraps after 2^64.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`, from any thread.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Adds 1, from any thread.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `count` without a locked instruction. Only for a counter to which one thread adds at a time, such
    /// as those of a queue, which has one worker: additions of two threads at once would be lost.
    #[inline]
    pub fn add_unshared(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The number so far.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// Something that can be looked at while it works.
pub trait Inspect: Send + Sync {
    /// Adds what there is to see to `view`. Must not wait for anything.
    fn inspect(&self, view: &mut View);
}

/// A value of a [`View`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number that only grows.
    Counter(u64),
    /// A number that is what it is: a size, a level, a mask.
    Number(u64),
    /// Whether something is so.
    Flag(bool),
    /// A word.
    Text(String),
    /// A part.
    View(View),
}

/// A snapshot of something: names and values in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View(Vec<(String, Value)>);

impl View {
    /// A snapshot of `of`.
    #[must_use]
    pub fn of(of: &dyn Inspect) -> Self {
        let mut view = Self::default();
        of.inspect(&mut view);
        view
    }

    /// Adds a number that only grows.
    pub fn counter(&mut self, name: impl Into<String>, count: u64) {
        self.add(name, Value::Counter(count));
    }

    /// Adds a size, level or mask.
    pub fn number(&mut self, name: impl Into<String>, number: u64) {
        self.add(name, Value::Number(number));
    }

    /// Adds a condition.
    pub fn flag(&mut self, name: impl Into<String>, set: bool) {
        self.add(name, Value::Flag(set));
    }

    /// Adds a word.
    pub fn text(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.add(name, Value::Text(text.into()));
    }

    /// Adds a snapshot of a part.
    pub fn part(&mut self, name: impl Into<String>, part: &dyn Inspect) {
        self.add(name, Value::View(Self::of(part)));
    }

    fn add(&mut self, name: impl Into<String>, value: Value) {
        self.0.push((name.into(), value));
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The value at a path of names.
    #[must_use]
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let (_, value) = self.0.iter().find(|(name, _)| name == first)?;
        match value {
            Value::View(view) if !rest.is_empty() => view.get(rest),
            value => rest.is_empty().then_some(value),
        }
    }

    /// The number at a path of names.
    #[must_use]
    pub fn count(&self, path: &[&str]) -> Option<u64> {
        match self.get(path)? {
            Value::Counter(number) | Value::Number(number) => Some(*number),
            _ => None,
        }
    }
}

/// Defines a struct of [`Counter`]s that shows each under its name.
#[macro_export]
macro_rules! counters {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident {
        $($(#[$doc:meta])* $field:ident,)*
    }) => {
        $(#[$attribute])*
        #[derive(Debug, Default)]
        $visibility struct $name {
            $($(#[$doc])* pub $field: $crate::Counter,)*
        }

        impl $crate::Inspect for $name {
            fn inspect(&self, view: &mut $crate::View) {
                $(view.counter(stringify!($field), self.$field.get());)*
            }
        }
    };
}
#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    counters! {
        /// Of the test.
        struct Sample {
            /// One.
            first,
            /// Two.
            second,
        }
    }

    struct Machine(Sample);

    impl Inspect for Machine {
        fn inspect(&self, view: &mut View) {
            view.flag("on", true);
            view.text("mode", "raw");
            view.number("size", 512);
            view.part("sample", &self.0);
        }
    }

    #[test]
    fn a_view_has_everything_in_order() {
        let machine = Machine(Sample::default());
        machine.0.first.increment();
        machine.0.second.add_unshared(7);
        let view = View::of(&machine);
        let names: Vec<_> = view.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["on", "mode", "size", "sample"]);
        assert_eq!(view.get(&["mode"]), Some(&Value::Text("raw".to_owned())));
        assert_eq!(view.get(&["on"]), Some(&Value::Flag(true)));
        assert_eq!((view.count(&["size"]), view.count(&["sample", "second"])), (Some(512), Some(7)));
        assert_eq!(view.get(&["sample", "first"]), Some(&Value::Counter(1)));
        for absent in [&["sample", "third"][..], &["size", "first"], &["none"], &[]] {
            assert_eq!(view.get(absent), None);
        }
        assert_eq!(view.count(&["mode"]), None);
    }

    #[test]
    fn no_addition_of_any_thread_is_lost() {
        let counter = Arc::new(Counter::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| counter.increment()));
            }
        });
        assert_eq!(counter.get(), 40_000);
        counter.add(u64::MAX);
        assert_eq!(counter.get(), 39_999);
    }
}
