//! A guest that runs: its shell, its console, its end.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use keddah::sys::clock;

use crate::image::Image;

/// Most that anything in an emulated host may take, beside other tests on a busy machine.
const SLOW: Duration = Duration::from_secs(60);

pub struct Host {
    image: Image,
    emulator: Child,
    shell: ChildStdin,
    said: Receiver<String>,
}

impl Host {
    /// Boots, and waits for the shell.
    pub fn boot(image: Image) -> Host {
        let mut emulator =
            image.emulator().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("an emulator");
        let shell = emulator.stdin.take().expect("piped");
        let answers = BufReader::new(emulator.stdout.take().expect("piped"));
        let (told, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in answers.lines().map_while(Result::ok) {
                let _nobody_listens = told.send(line);
            }
        });
        let host = Host { image, emulator, shell, said };
        // What is typed before somebody reads is lost.
        let first = host.said.recv_timeout(SLOW);
        assert_eq!(first.as_deref().map(str::trim_end), Ok("ready"), "{}", host.console());
        host
    }

    /// Runs a script of one line, and returns what it printed; panics where it fails.
    pub fn sh(&mut self, script: &str) -> String {
        writeln!(self.shell, "{script}").unwrap();
        let (began, mut text) = (clock::now(), String::new());
        loop {
            let left = SLOW.saturating_sub(clock::now().since(began));
            let Ok(line) = self.said.recv_timeout(left) else {
                panic!("`{script}` does not end; it said:\n{text}");
            };
            match line.trim_end().strip_prefix("end ") {
                Some("0") => return text.trim().to_owned(),
                Some(code) => panic!("`{script}` ended with {code}:\n{text}"),
                None => text.extend([line.trim_end(), "\n"]),
            }
        }
    }

    /// Waits until a test of the shell holds.
    pub fn until(&mut self, condition: &str) {
        self.sh(&format!("until {condition}; do sleep 0.2; done"));
    }

    /// Returns all that the kernel has printed, and whoever writes to its console.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.image.console()).unwrap_or_default()).into_owned()
    }

    /// Waits until the console shows `words`.
    pub fn shows(&self, words: &str) {
        let began = clock::now();
        while !self.console().contains(words) {
            assert!(clock::now().since(began) < SLOW, "the console does not show {words:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits for the reset, which ends the emulator.
    pub fn is_reset(&mut self) {
        let began = clock::now();
        while self.emulator.try_wait().unwrap().is_none() {
            assert!(clock::now().since(began) < SLOW, "the host is not reset");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the second, by the kernel's clock, in which it first printed `words`.
    pub fn moment(&self, words: &str) -> f64 {
        let console = self.console();
        let before = console.split_once(words).map(|(before, _)| before);
        let before = before.unwrap_or_else(|| panic!("the console does not show {words:?}"));
        let stamp = before.rsplit('[').next().and_then(|text| text.split(']').next());
        stamp.and_then(|text| text.trim().parse().ok()).expect("the kernel stamps its lines")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("── console ──\n{}", self.console());
        }
        let _gone = self.emulator.kill();
        let _gone = self.emulator.wait();
    }
}
