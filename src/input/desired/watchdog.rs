//! The part `watchdog` of `cluster.yml`.

use std::sync::Arc;

use crate::input::desired::shape::{Limit, part, words};

words! {
    /// Whether a member needs a watchdog.
    pub enum WatchdogMode {
        /// None is used.
        Off = "off",
        /// One is used where there is one.
        Automatic = "automatic",
        /// Without one a member does not lead.
        Required = "required",
    }
}

part! {
    /// The watchdog that resets a host whose agent and guard are both stuck.
    pub struct Watchdog {
        /// Whether one is used.
        mode: WatchdogMode = WatchdogMode::Automatic, Limit::None;
        /// The device; without a hardware watchdog `softdog` makes it.
        device: Arc<str> = "/dev/watchdog".into(), Limit::AbsolutePath;
    }
}
