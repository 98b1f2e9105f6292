//! Ports that nobody has: two runs of these tests on one machine do not meet.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that the kernel gives to clients.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static GIVEN: AtomicU16 = AtomicU16::new(0);

/// Returns the first of so many ports in a row. Where a run begins to look is its own.
pub fn free(count: u16) -> u16 {
    let begin = u16::try_from(std::process::id() * 20 % u32::from(COUNT)).unwrap();
    for _ in 0..1000 {
        let offset = GIVEN.fetch_add(count, Ordering::Relaxed);
        let first = FIRST + begin.wrapping_add(offset) % COUNT;
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no {count} free ports in a row from {FIRST} on");
}
