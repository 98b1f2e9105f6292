//! The watchdog device: resets the host when nobody feeds it.
//!
//! The rule is [`may_feed`]: food only while the host would be reset before the deadline if it were the last, or where
//! nothing writable is here. The magic close, which disarms the device, only where nothing writable is here or the
//! cluster is paused.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::libc;
use nix::unistd::AccessFlags;
use serde::{Deserialize, Serialize};

use crate::guard::gate::{Arm, Posture};
use crate::guard::protocol::{WatchdogDriver, WatchdogMode, WatchdogSettings, WatchdogStatus};
use crate::sys::clock::Tick;
use crate::sys::successor::{Estate, Inherited};

/// Food comes at least so often within the device's timeout.
const MEALS: u32 = 4;

/// The longest time between two meals.
const HUNGER_MAX: Duration = Duration::from_secs(1);

/// How often it is looked whether a device that could not be used can be by now.
const REPAIR_LOOK: Duration = Duration::from_secs(10);

/// Tells whether feeding at `now` keeps the promise: a host whose guard dies right after is reset `timeout` later.
fn may_feed(arm: &Arm, posture: Posture, now: Tick, timeout: Duration) -> bool {
    if posture != Posture::Writable {
        return true;
    }
    match arm.deadline() {
        Some(deadline) => now + timeout <= deadline,
        None => true,
    }
}

/// Tells whether the device may be disarmed.
fn may_close(arm: &Arm, posture: Posture, now: Tick) -> bool {
    match *arm {
        Arm::Released => true,
        Arm::Shut { .. } => posture != Posture::Writable,
        // A living lease without a server is about to have one; a dead one is over.
        Arm::Armed { deadline, .. } => posture != Posture::Writable && now >= deadline,
    }
}

/// The device and what is wanted of it.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    settings: Option<WatchdogSettings>,
    device: Option<Device>,
    problem: Option<String>,
    fed: Tick,
    /// When it was last looked whether a problem is over.
    looked: Tick,
}

#[derive(Debug)]
struct Device {
    file: File,
    timeout: Duration,
}

/// The device as the next program takes it over: open, and as hungry as it is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Leash {
    settings: Option<WatchdogSettings>,
    device: Option<RawFd>,
    timeout_ms: u64,
    problem: Option<String>,
    fed: Tick,
}

impl Watchdog {
    /// Gives the device to the next program. Closed without the magic word, it would reset the host.
    pub(super) fn give(&self, estate: &mut Estate) -> io::Result<Leash> {
        let device = self.device.as_ref();
        Ok(Leash {
            settings: self.settings.clone(),
            device: device.map(|device| estate.give(device.file.as_fd())).transpose()?,
            timeout_ms: device
                .map_or(0, |device| u64::try_from(device.timeout.as_millis()).unwrap_or(u64::MAX)),
            problem: self.problem.clone(),
            fed: self.fed,
        })
    }

    /// Takes the device over from the program before.
    pub(super) fn take(leash: Leash, inherited: &mut Inherited) -> Watchdog {
        let Leash { settings, device, timeout_ms, problem, fed } = leash;
        let file = device.and_then(|number| inherited.take(number)).map(File::from);
        let device = file.map(|file| Device { file, timeout: Duration::from_millis(timeout_ms) });
        Watchdog { settings, device, problem, fed, looked: Tick(0) }
    }

    /// Takes new settings. An open device is given the new timeout, or closed by the next [`Watchdog::look`].
    pub(super) fn set(&mut self, settings: WatchdogSettings) {
        if self.settings.as_ref() == Some(&settings) {
            return;
        }
        let same_device = self.settings.as_ref().is_some_and(|old| {
            old.device == settings.device
                && old.driver == settings.driver
                && settings.mode != WatchdogMode::Off
        });
        if same_device && let Some(device) = &mut self.device {
            match set_timeout(&mut device.file, &settings) {
                Ok(timeout) => device.timeout = timeout,
                Err(problem) => {
                    self.problem = Some(problem);
                    // Fed by the old timeout's rule it might starve, and reset the host of a leader that is allowed to
                    // do without it. One that is not is on its way down.
                    if settings.mode == WatchdogMode::Automatic {
                        self.let_go();
                    }
                }
            }
        }
        if !same_device {
            // What kept another device from being used says nothing of this one.
            self.problem = None;
        }
        self.settings = Some(settings);
    }

    /// Opens the device if one is wanted and it is not open. Fails only where it is required.
    pub(super) fn activate(&mut self, now: Tick) -> Result<(), String> {
        let Some(settings) = self.settings.as_ref().filter(|settings| settings.mode != WatchdogMode::Off)
        else {
            return Ok(());
        };
        if self.device.is_none() {
            match open(settings) {
                Ok(device) => {
                    self.device = Some(device);
                    self.problem = None;
                    self.fed = now;
                }
                Err(problem) => self.problem = Some(problem),
            }
        }
        match (&self.problem, settings.mode) {
            (Some(problem), WatchdogMode::Required) => Err(problem.clone()),
            _ => Ok(()),
        }
    }

    /// Disarms the device where the rules allow it, and feeds it where that is this guard's to do.
    pub(super) fn look(&mut self, arm: &Arm, posture: Posture, now: Tick, feeds: bool) {
        self.look_for_repair(now);
        let Some(device) = &mut self.device else { return };
        let off = self.settings.as_ref().is_none_or(|settings| settings.mode == WatchdogMode::Off);
        if may_close(arm, posture, now) || (off && posture != Posture::Writable) {
            self.let_go();
            return;
        }
        let due = now.since(self.fed) >= hunger(device.timeout);
        if feeds && due && may_feed(arm, posture, now, device.timeout) {
            self.feed(now);
        }
    }

    /// Disarms the device, if it is open: nobody is left here, or who is may write.
    pub(super) fn let_go(&mut self) {
        if let Some(mut device) = self.device.take() {
            let _refused = device.file.write_all(b"V");
        }
    }

    /// Forgets why the device could not be used once it may be opened for all that can be seen without opening it, which
    /// would arm it.
    fn look_for_repair(&mut self, now: Tick) {
        if self.problem.is_none() || self.device.is_some() || now.since(self.looked) < REPAIR_LOOK {
            return;
        }
        self.looked = now;
        let path = self.settings.as_ref().map(|settings| settings.device.as_str());
        let opens = path.is_some_and(|path| nix::unistd::access(path, AccessFlags::W_OK).is_ok());
        if opens {
            self.problem = None;
        }
    }

    /// Feeds the device, if it is open.
    pub(super) fn feed(&mut self, now: Tick) {
        let Some(device) = &mut self.device else { return };
        self.fed = now;
        if let Err(error) = device.file.write_all(b"1") {
            // Opened anew when it is next needed, it may work again.
            self.problem = Some(format!("feeding failed: {error}"));
            self.device = None;
        }
    }

    /// Returns when the next meal is due.
    pub(super) fn next(&self) -> Option<Tick> {
        self.device.as_ref().map(|device| self.fed + hunger(device.timeout))
    }

    pub(super) fn told(&self) -> WatchdogStatus {
        WatchdogStatus {
            active: self.device.is_some(),
            timeout_s: self.device.as_ref().and_then(|d| u32::try_from(d.timeout.as_secs()).ok()),
            problem: self.problem.clone(),
        }
    }
}

fn hunger(timeout: Duration) -> Duration {
    (timeout / MEALS).min(HUNGER_MAX)
}

fn open(settings: &WatchdogSettings) -> Result<Device, String> {
    let mut file = File::options()
        .write(true)
        // A pipe without a reader, or a hung driver, must not hold up the guard.
        .custom_flags(libc::O_NONBLOCK)
        .open(&settings.device)
        .map_err(|error| format!("cannot open {}: {error}", settings.device))?;
    let timeout = set_timeout(&mut file, settings);
    if timeout.is_err() {
        // Opening armed it; it must not reset the host for our refusal.
        let _refused = file.write_all(b"V");
    }
    Ok(Device { timeout: timeout?, file })
}

fn set_timeout(file: &mut File, settings: &WatchdogSettings) -> Result<Duration, String> {
    let asked = settings.timeout_s;
    let granted = match settings.driver {
        WatchdogDriver::Testing => writeln!(file, "Ctimeout={asked}").map(|()| asked),
        WatchdogDriver::Default => kernel_timeout(file, asked),
    }
    .map_err(|error| format!("cannot set the timeout of {} to {asked} s: {error}", settings.device))?;
    if granted > settings.timeout_s_max {
        return Err(format!(
            "the device waits {granted} s, but must not wait longer than {} s for this ttl",
            settings.timeout_s_max
        ));
    }
    Ok(Duration::from_secs(granted.into()))
}

nix::ioctl_readwrite!(watchdog_set_timeout, b'W', 6, libc::c_int);

/// Asks for a timeout; the device answers with the one that it can do.
#[expect(unsafe_code, reason = "an ioctl")]
fn kernel_timeout(file: &File, seconds: u32) -> io::Result<u32> {
    let mut value = i32::try_from(seconds).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the descriptor is open and the kernel reads and writes one int.
    unsafe { watchdog_set_timeout(file.as_raw_fd(), &raw mut value) }?;
    u32::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::protocol::Margins;

    const ARMED: Arm = Arm::Armed { deadline: Tick(20_000), margins: Margins::SHORTEST, lease: 1 };
    const TIMEOUT: Duration = Duration::from_secs(5);

    #[test]
    fn the_last_meal_leaves_time_for_a_reset_before_the_deadline() {
        assert!(may_feed(&ARMED, Posture::Writable, Tick(15_000), TIMEOUT));
        assert!(!may_feed(&ARMED, Posture::Writable, Tick(15_001), TIMEOUT));
        assert!(may_feed(&ARMED, Posture::Nobody, Tick(30_000), TIMEOUT), "nothing is left to be stopped");
        assert!(!may_feed(&Arm::NEW, Posture::Writable, Tick(1), TIMEOUT));
    }

    #[test]
    fn the_device_is_disarmed_only_where_nothing_writable_is() {
        assert!(!may_close(&ARMED, Posture::Writable, Tick(30_000)));
        assert!(!may_close(&ARMED, Posture::Nobody, Tick(10_000)), "a server is about to come");
        assert!(may_close(&ARMED, Posture::Nobody, Tick(20_000)));
        assert!(!may_close(&Arm::NEW, Posture::Writable, Tick(1)));
        assert!(may_close(&Arm::NEW, Posture::ReadOnly, Tick(1)));
        assert!(may_close(&Arm::Released, Posture::Writable, Tick(1)), "pause");
    }

    fn settings(device: &std::path::Path, timeout_s: u32) -> WatchdogSettings {
        WatchdogSettings {
            mode: WatchdogMode::Required,
            device: device.display().to_string(),
            driver: WatchdogDriver::Testing,
            timeout_s,
            timeout_s_max: 10,
        }
    }

    #[test]
    fn a_testing_device_is_told_timeout_food_and_the_magic_close() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let mut watchdog = Watchdog::default();
        watchdog.set(settings(temp.path(), 5));

        watchdog.activate(Tick(0)).unwrap();
        watchdog.look(&ARMED, Posture::Writable, Tick(500), true);
        watchdog.look(&ARMED, Posture::Writable, Tick(1_000), true);
        watchdog.look(&ARMED, Posture::Writable, Tick(16_000), true);
        watchdog.look(&ARMED, Posture::Nobody, Tick(20_000), true);

        assert_eq!(std::fs::read_to_string(temp.path()).unwrap(), "Ctimeout=5\n1V");
        assert!(!watchdog.told().active);
    }

    #[test]
    fn a_problem_is_forgotten_once_the_device_is_there_to_be_opened() {
        let temp = tempfile::tempdir().unwrap();
        let device = temp.path().join("watchdog");
        let mut watchdog = Watchdog::default();
        watchdog.set(settings(&device, 5));
        watchdog.activate(Tick(0)).unwrap_err();

        watchdog.look(&Arm::NEW, Posture::Nobody, Tick(20_000), true);
        assert!(watchdog.told().problem.is_some());
        File::create(&device).unwrap();
        watchdog.look(&Arm::NEW, Posture::Nobody, Tick(25_000), true);
        assert!(watchdog.told().problem.is_some(), "it is not looked at all the time");
        watchdog.look(&Arm::NEW, Posture::Nobody, Tick(30_000), true);
        assert_eq!(watchdog.told().problem, None);
    }

    #[test]
    fn a_guard_that_is_no_fence_feeds_only_when_it_is_told() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let mut watchdog = Watchdog::default();
        watchdog.set(settings(temp.path(), 5));

        watchdog.activate(Tick(0)).unwrap();
        watchdog.look(&ARMED, Posture::Writable, Tick(3_000), false);
        watchdog.feed(Tick(4_000));
        watchdog.look(&ARMED, Posture::Writable, Tick(9_000), false);

        assert_eq!(std::fs::read_to_string(temp.path()).unwrap(), "Ctimeout=5\n1");
        assert!(watchdog.told().active, "it is not disarmed either");
    }

    #[test]
    fn a_device_that_does_not_take_another_timeout_is_left_alone_where_it_is_not_required() {
        for (mode, told) in [(WatchdogMode::Automatic, "V"), (WatchdogMode::Required, "")] {
            let temp = tempfile::NamedTempFile::new().unwrap();
            let mut watchdog = Watchdog::default();
            watchdog.set(WatchdogSettings { mode, ..settings(temp.path(), 5) });
            watchdog.activate(Tick(0)).unwrap();

            watchdog.set(WatchdogSettings { mode, ..settings(temp.path(), 11) });
            assert!(watchdog.told().problem.is_some());
            let written = std::fs::read_to_string(temp.path()).unwrap();
            assert_eq!(written, format!("Ctimeout=5\nCtimeout=11\n{told}"));
        }
    }

    #[test]
    fn what_is_missing_or_too_slow_shuts_the_gate_only_where_it_is_required() {
        let mut watchdog = Watchdog::default();
        let absent = settings(std::path::Path::new("/nowhere/watchdog"), 5);
        watchdog.set(absent.clone());
        assert!(watchdog.activate(Tick(0)).unwrap_err().contains("/nowhere/watchdog"));

        watchdog.set(WatchdogSettings { mode: WatchdogMode::Automatic, ..absent });
        watchdog.activate(Tick(0)).unwrap();
        assert!(watchdog.told().problem.is_some(), "its absence is told");

        let temp = tempfile::NamedTempFile::new().unwrap();
        watchdog.set(settings(temp.path(), 5));
        assert_eq!(watchdog.told().problem, None, "another device is another matter");
        watchdog.set(settings(temp.path(), 11));
        assert!(watchdog.activate(Tick(0)).unwrap_err().contains("11 s"));
        assert_eq!(std::fs::read_to_string(temp.path()).unwrap(), "Ctimeout=11\nV");
    }
}
